/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A fixed-size array of bits changed by atomic operations: one bit a page.
 *
 * Every function may be called from any thread at once, none blocks or allocates (but new). A single bit's change is
 * one atomic step with acquire-release order, so that who clears a bit sees what was written before it was set; a
 * range is changed word by word, each word in one step, so another thread may see a range half changed.
 */
#include "mf-run.h"
#include <stddef.h>

typedef struct mf_bitmap mf_bitmap;

/* The most bits a bitmap takes: an EiB of 4 KiB pages. */
#define MF_BITMAP_MAX_BITS (UINT64_C (1) << 48)

/* Makes a bitmap of `n_bits` zeroes, in memory that costs nothing until a bit is set. NULL: errno is ENOMEM, or
 * EOVERFLOW when n_bits is more than MF_BITMAP_MAX_BITS. n_bits 0 is allowed. */
mf_bitmap *mf_bitmap_new (uint64_t n_bits);
/* NULL is allowed. Nobody else uses the bitmap any more. */
void mf_bitmap_free (mf_bitmap *bitmap);
uint64_t mf_bitmap_size (const mf_bitmap *bitmap);

/* All of these: `bit` and `run` lie within the size (asserted). */
bool mf_bitmap_test (const mf_bitmap *bitmap, uint64_t bit);
/* Return what the bit was before. A set is a release and a clear an acquire also when the bit had that value
 * already: who sets a bit after writing bytes, and who clears it before reading them, never miss each other. */
bool mf_bitmap_set (mf_bitmap *bitmap, uint64_t bit);
bool mf_bitmap_clear (mf_bitmap *bitmap, uint64_t bit);
/* Return how many bits this call changed: of two racing calls, each changed bit is counted by one. */
uint64_t mf_bitmap_set_run (mf_bitmap *bitmap, mf_run run);
uint64_t mf_bitmap_clear_run (mf_bitmap *bitmap, mf_run run);

/* 64 bits at once, lowest first: bit i of the result is bit `first` + i. `first` lies within the size (asserted);
 * bits past the end are 0. Not one atomic step when `first` is not a multiple of 64. */
uint64_t mf_bitmap_get_word (const mf_bitmap *bitmap, uint64_t first);
/* Sets bit `first` + i wherever bit i of `bits` is 1. None of those lies past the end (asserted). */
void mf_bitmap_set_word (mf_bitmap *bitmap, uint64_t first, uint64_t bits);

/* Exact when nobody changes the bits meanwhile. */
uint64_t mf_bitmap_count (const mf_bitmap *bitmap);
uint64_t mf_bitmap_count_run (const mf_bitmap *bitmap, mf_run run);

/* Finds the first maximal run of bits equal to `value` within `within`; false, and `out` untouched, when there is
 * none. */
bool mf_bitmap_next_run (const mf_bitmap *bitmap, mf_run within, bool value, mf_run *out);

/* dst |= src; the sizes are equal (asserted). */
void mf_bitmap_or (mf_bitmap *dst, const mf_bitmap *src);
/* dst |= src, and src becomes empty: a bit set in src during the call is either moved or stays in src, never lost. A
 * bit leaves src before it appears in dst, so that a set in src after dst was cleared is never taken for the older
 * one; in between, who looks at both may see it in neither. The sizes are equal (asserted). */
void mf_bitmap_move (mf_bitmap *dst, mf_bitmap *src);
