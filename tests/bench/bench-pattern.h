/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What pages hold while faults are measured: every word of every page differs, so that a page that isn't there yet, is another
 * one's, or is old shows.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BENCH_PAGE_BYTES 4096u
#define BENCH_PAGE_WORDS (BENCH_PAGE_BYTES / 8)

static inline uint64_t
bench_pattern_word (uint64_t page, size_t word)
{
  return (page * BENCH_PAGE_WORDS + word + 1) * 0x9e3779b97f4a7c15u;
}

static inline void
bench_pattern_fill (void *at, uint64_t page)
{
  uint64_t *words = at;

  for (size_t i = 0; i < BENCH_PAGE_WORDS; i++)
    words[i] = bench_pattern_word (page, i);
}

static inline bool
bench_pattern_is (const void *at, uint64_t page)
{
  const uint64_t *words = at;

  for (size_t i = 0; i < BENCH_PAGE_WORDS; i++)
    if (words[i] != bench_pattern_word (page, i))
      return false;
  return true;
}
