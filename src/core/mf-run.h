/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A run of pages: [first, first + count). The unit in which every room speaks of pages. A run with count 0 is empty,
 * and is never a result unless a function says so. Pages, not bytes: the last page of a region counts also when it
 * isn't whole.
 */
#include <stdbool.h>
#include <stdint.h>

typedef struct {
  uint64_t first;
  uint64_t count;
} mf_run;

/* What `a` and `b` share; count 0 when nothing. A run whose end passes 2^64 counts as ending there. */
mf_run mf_run_intersect (mf_run a, mf_run b);

/* The pages that `length` bytes from `offset` on touch, in a region of `n_pages` pages. False, and `out` untouched,
 * when offset + length overflows or passes the last page. A length of 0 gives an empty run. page_bytes is not 0
 * (asserted). */
bool mf_run_from_bytes (uint64_t offset, uint64_t length, uint32_t page_bytes, uint64_t n_pages, mf_run *out);

/* `run` widened to whole multiples of `granule` pages (a power of two, asserted), cut at `n_pages`. An empty run,
 * and one that lies past the end, give an empty one. */
mf_run mf_run_align (mf_run run, uint64_t granule, uint64_t n_pages);

/* The part of a run that lies in its first word, of sets that keep 64 pages in a word. */
typedef struct {
  uint64_t index; /* of the word: page / 64 */
  uint64_t mask;  /* the run's pages in it, bit i for page 64 * index + i */
  uint64_t count; /* how many they are */
} mf_run_word;

/* `run` is not empty. Walk a run with it by cutting `count` pages off at each turn. */
static inline mf_run_word
mf_run_first_word (mf_run run)
{
  unsigned shift = run.first % 64;
  uint64_t room = 64 - shift;
  uint64_t count = run.count < room ? run.count : room;
  uint64_t ones = count == 64 ? UINT64_MAX : (UINT64_C (1) << count) - 1;
  return (mf_run_word){ run.first / 64, ones << shift, count };
}
