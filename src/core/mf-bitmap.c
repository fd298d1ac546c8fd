/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An array of 64-bit words, bit i in word i / 64. The bits of the last word past the size are always 0, so that
 * counting and moving need no mask.
 *
 * A change is always a read-modify-write, also where a look first would show that the bit has the value already. The
 * shortcut would be wrong: a writer's store of its bytes may still wait in the CPU's store buffer when its plain
 * load sees the bit set; a reader that clears the bit right then and reads the bytes gets the old ones, and nothing
 * is left to say so.
 */
#include "core/mf-bitmap.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#define WORD_BITS 64u

struct mf_bitmap {
  uint64_t n_bits;
  uint64_t n_words;
  _Atomic uint64_t words[];
};

static void
assert_within (const mf_bitmap *bitmap, mf_run run)
{
  assert (run.first <= bitmap->n_bits);
  assert (run.count <= bitmap->n_bits - run.first);
  (void) bitmap;
  (void) run;
}

static uint64_t
popcount (uint64_t word)
{
  return (uint64_t) __builtin_popcountll (word);
}

mf_bitmap *
mf_bitmap_new (uint64_t n_bits)
{
  if (n_bits > MF_BITMAP_MAX_BITS) {
    errno = EOVERFLOW;
    return NULL;
  }
  uint64_t n_words = (n_bits + WORD_BITS - 1) / WORD_BITS;
  if (n_words > (SIZE_MAX - sizeof (mf_bitmap)) / sizeof (uint64_t)) {
    errno = EOVERFLOW;
    return NULL;
  }
  /* calloc, not malloc and memset: big blocks come from the kernel as zero pages that are not there until they are
   * written. */
  mf_bitmap *bitmap = calloc (1, sizeof (mf_bitmap) + (size_t) n_words * sizeof (uint64_t));
  if (bitmap == NULL) {
    errno = ENOMEM;
    return NULL;
  }
  bitmap->n_bits = n_bits;
  bitmap->n_words = n_words;
  return bitmap;
}

void
mf_bitmap_free (mf_bitmap *bitmap)
{
  free (bitmap);
}

uint64_t
mf_bitmap_size (const mf_bitmap *bitmap)
{
  return bitmap->n_bits;
}

bool
mf_bitmap_test (const mf_bitmap *bitmap, uint64_t bit)
{
  assert (bit < bitmap->n_bits);
  uint64_t word = atomic_load_explicit (&bitmap->words[bit / WORD_BITS], memory_order_acquire);
  return (word >> (bit % WORD_BITS)) & 1;
}

bool
mf_bitmap_set (mf_bitmap *bitmap, uint64_t bit)
{
  assert (bit < bitmap->n_bits);
  uint64_t mask = UINT64_C (1) << (bit % WORD_BITS);
  return (atomic_fetch_or_explicit (&bitmap->words[bit / WORD_BITS], mask, memory_order_acq_rel) & mask) != 0;
}

bool
mf_bitmap_clear (mf_bitmap *bitmap, uint64_t bit)
{
  assert (bit < bitmap->n_bits);
  uint64_t mask = UINT64_C (1) << (bit % WORD_BITS);
  return (atomic_fetch_and_explicit (&bitmap->words[bit / WORD_BITS], ~mask, memory_order_acq_rel) & mask) != 0;
}

uint64_t
mf_bitmap_set_run (mf_bitmap *bitmap, mf_run run)
{
  assert_within (bitmap, run);
  uint64_t changed = 0;
  while (run.count > 0) {
    mf_run_word part = mf_run_first_word (run);
    uint64_t before = atomic_fetch_or_explicit (&bitmap->words[part.index], part.mask, memory_order_acq_rel);
    changed += popcount (~before & part.mask);
    run.first += part.count;
    run.count -= part.count;
  }
  return changed;
}

uint64_t
mf_bitmap_clear_run (mf_bitmap *bitmap, mf_run run)
{
  assert_within (bitmap, run);
  uint64_t changed = 0;
  while (run.count > 0) {
    mf_run_word part = mf_run_first_word (run);
    uint64_t before = atomic_fetch_and_explicit (&bitmap->words[part.index], ~part.mask, memory_order_acq_rel);
    changed += popcount (before & part.mask);
    run.first += part.count;
    run.count -= part.count;
  }
  return changed;
}

uint64_t
mf_bitmap_get_word (const mf_bitmap *bitmap, uint64_t first)
{
  assert (first < bitmap->n_bits);
  uint64_t index = first / WORD_BITS;
  unsigned shift = first % WORD_BITS;
  uint64_t bits = atomic_load_explicit (&bitmap->words[index], memory_order_acquire) >> shift;
  if (shift != 0 && index + 1 < bitmap->n_words)
    bits |= atomic_load_explicit (&bitmap->words[index + 1], memory_order_acquire) << (WORD_BITS - shift);
  return bits;
}

void
mf_bitmap_set_word (mf_bitmap *bitmap, uint64_t first, uint64_t bits)
{
  if (bits == 0)
    return;
  assert (first < bitmap->n_bits);
  assert (WORD_BITS - 1 - (unsigned) __builtin_clzll (bits) < bitmap->n_bits - first);
  uint64_t index = first / WORD_BITS;
  unsigned shift = first % WORD_BITS;
  uint64_t low = bits << shift;
  uint64_t high = shift == 0 ? 0 : bits >> (WORD_BITS - shift);
  if (low != 0)
    atomic_fetch_or_explicit (&bitmap->words[index], low, memory_order_acq_rel);
  if (high != 0)
    atomic_fetch_or_explicit (&bitmap->words[index + 1], high, memory_order_acq_rel);
}

uint64_t
mf_bitmap_count (const mf_bitmap *bitmap)
{
  return mf_bitmap_count_run (bitmap, (mf_run){ 0, bitmap->n_bits });
}

uint64_t
mf_bitmap_count_run (const mf_bitmap *bitmap, mf_run run)
{
  assert_within (bitmap, run);
  uint64_t count = 0;
  while (run.count > 0) {
    mf_run_word part = mf_run_first_word (run);
    count += popcount (atomic_load_explicit (&bitmap->words[part.index], memory_order_relaxed) & part.mask);
    run.first += part.count;
    run.count -= part.count;
  }
  return count;
}

/* The first bit equal to `value` in `run`, or the run's end. */
static uint64_t
find_bit (const mf_bitmap *bitmap, mf_run run, bool value)
{
  while (run.count > 0) {
    mf_run_word part = mf_run_first_word (run);
    uint64_t word = atomic_load_explicit (&bitmap->words[part.index], memory_order_acquire);
    uint64_t hits = (value ? word : ~word) & part.mask;
    if (hits != 0)
      return part.index * WORD_BITS + (unsigned) __builtin_ctzll (hits);
    run.first += part.count;
    run.count -= part.count;
  }
  return run.first;
}

bool
mf_bitmap_next_run (const mf_bitmap *bitmap, mf_run within, bool value, mf_run *out)
{
  assert_within (bitmap, within);
  uint64_t end = within.first + within.count;
  uint64_t first = find_bit (bitmap, within, value);
  if (first == end)
    return false;
  /* From the bit after: the one found may have been changed back meanwhile, and a run is never empty. */
  uint64_t after = find_bit (bitmap, (mf_run){ first + 1, end - first - 1 }, !value);
  *out = (mf_run){ first, after - first };
  return true;
}

void
mf_bitmap_or (mf_bitmap *dst, const mf_bitmap *src)
{
  assert (dst->n_bits == src->n_bits);
  for (uint64_t i = 0; i < src->n_words; i++) {
    uint64_t word = atomic_load_explicit (&src->words[i], memory_order_acquire);
    if (word != 0)
      atomic_fetch_or_explicit (&dst->words[i], word, memory_order_acq_rel);
  }
}

void
mf_bitmap_move (mf_bitmap *dst, mf_bitmap *src)
{
  assert (dst->n_bits == src->n_bits);
  for (uint64_t i = 0; i < src->n_words; i++) {
    /* A bit that is set after this look has not been moved: it stays in src, as promised. */
    if (atomic_load_explicit (&src->words[i], memory_order_relaxed) == 0)
      continue;
    uint64_t word = atomic_exchange_explicit (&src->words[i], 0, memory_order_acq_rel);
    if (word != 0)
      atomic_fetch_or_explicit (&dst->words[i], word, memory_order_acq_rel);
  }
}
