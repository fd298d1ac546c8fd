/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "core/mf-bit-tree.h"
#include "core/mf-bitmap.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WORD_BITS  64u
#define LEVELS_MAX 9 /* 64^9 is more than MF_BITMAP_MAX_BITS */

struct mf_bit_tree {
  uint64_t n_pages;
  uint64_t count;
  unsigned n_levels;
  uint64_t n_words[LEVELS_MAX];
  uint64_t *level[LEVELS_MAX]; /* parts of `words` */
  uint64_t words[];
};

mf_bit_tree *
mf_bit_tree_new (uint64_t n_pages)
{
  uint64_t n_words[LEVELS_MAX], sum = 0;
  unsigned n_levels = 0;

  if (n_pages > MF_BITMAP_MAX_BITS) {
    errno = EOVERFLOW;
    return NULL;
  }
  uint64_t bits = n_pages > 0 ? n_pages : 1;
  do {
    bits = (bits + WORD_BITS - 1) / WORD_BITS;
    n_words[n_levels++] = bits;
    sum += bits;
  } while (bits > 1);

  if (sum > (SIZE_MAX - sizeof (mf_bit_tree)) / sizeof (uint64_t)) {
    errno = EOVERFLOW;
    return NULL;
  }
  mf_bit_tree *tree = calloc (1, sizeof (mf_bit_tree) + (size_t) sum * sizeof (uint64_t));
  if (tree == NULL) {
    errno = ENOMEM;
    return NULL;
  }
  tree->n_pages = n_pages;
  tree->n_levels = n_levels;
  uint64_t *words = tree->words;
  for (unsigned l = 0; l < n_levels; l++) {
    tree->n_words[l] = n_words[l];
    tree->level[l] = words;
    words += n_words[l];
  }
  return tree;
}

void
mf_bit_tree_free (mf_bit_tree *tree)
{
  free (tree);
}

uint64_t
mf_bit_tree_count (const mf_bit_tree *tree)
{
  return tree->count;
}

uint64_t
mf_bit_tree_word (const mf_bit_tree *tree, uint64_t page)
{
  assert (page / WORD_BITS < tree->n_words[0]);
  return tree->level[0][page / WORD_BITS];
}

uint64_t
mf_bit_tree_add_word (mf_bit_tree *tree, uint64_t page, uint64_t bits)
{
  assert (page / WORD_BITS < tree->n_words[0]);
  uint64_t index = page / WORD_BITS;
  uint64_t before = tree->level[0][index];
  uint64_t added = (uint64_t) __builtin_popcountll (bits & ~before);

  if (bits == 0)
    return 0;
  tree->level[0][index] = before | bits;
  tree->count += added;
  /* Only a word that was empty has something to tell the level above. */
  for (unsigned l = 1; l < tree->n_levels && before == 0; l++) {
    uint64_t bit = UINT64_C (1) << (index % WORD_BITS);
    index /= WORD_BITS;
    before = tree->level[l][index];
    tree->level[l][index] = before | bit;
  }
  return added;
}

uint64_t
mf_bit_tree_remove_word (mf_bit_tree *tree, uint64_t page, uint64_t bits)
{
  assert (page / WORD_BITS < tree->n_words[0]);
  uint64_t index = page / WORD_BITS;
  uint64_t before = tree->level[0][index];
  uint64_t removed = (uint64_t) __builtin_popcountll (bits & before);

  if (removed == 0)
    return 0;
  uint64_t after = before & ~bits;
  tree->level[0][index] = after;
  tree->count -= removed;
  for (unsigned l = 1; l < tree->n_levels && after == 0; l++) {
    uint64_t bit = UINT64_C (1) << (index % WORD_BITS);
    index /= WORD_BITS;
    after = tree->level[l][index] & ~bit;
    tree->level[l][index] = after;
  }
  return removed;
}

static uint64_t
change_run (mf_bit_tree *tree, mf_run run, uint64_t (*change) (mf_bit_tree *tree, uint64_t page, uint64_t bits))
{
  uint64_t changed = 0;

  assert (run.first <= tree->n_pages);
  assert (run.count <= tree->n_pages - run.first);
  while (run.count > 0) {
    mf_run_word part = mf_run_first_word (run);
    changed += change (tree, run.first, part.mask);
    run.first += part.count;
    run.count -= part.count;
  }
  return changed;
}

uint64_t
mf_bit_tree_add (mf_bit_tree *tree, mf_run run)
{
  return change_run (tree, run, mf_bit_tree_add_word);
}

uint64_t
mf_bit_tree_remove (mf_bit_tree *tree, mf_run run)
{
  return change_run (tree, run, mf_bit_tree_remove_word);
}

void
mf_bit_tree_clear (mf_bit_tree *tree)
{
  if (tree->count == 0)
    return;
  for (unsigned l = 0; l < tree->n_levels; l++)
    memset (tree->level[l], 0, tree->n_words[l] * sizeof (uint64_t));
  tree->count = 0;
}

bool
mf_bit_tree_next (const mf_bit_tree *tree, uint64_t from, uint64_t *page)
{
  uint64_t index = from; /* the first bit of level `l` that may be the answer or stand over it */

  for (unsigned l = 0; l < tree->n_levels; l++) {
    uint64_t word = index / WORD_BITS;
    if (word >= tree->n_words[l])
      return false;
    uint64_t bits = tree->level[l][word] & (UINT64_MAX << (index % WORD_BITS));
    if (bits == 0) {
      index = word + 1;
      continue;
    }
    index = word * WORD_BITS + (unsigned) __builtin_ctzll (bits);
    while (l-- > 0)
      index = index * WORD_BITS + (unsigned) __builtin_ctzll (tree->level[l][index]);
    *page = index;
    return true;
  }
  return false;
}

uint64_t
mf_bit_tree_length (const mf_bit_tree *tree, uint64_t first, uint64_t limit)
{
  uint64_t length = 0;

  if (first >= tree->n_pages)
    return 0;
  if (limit > tree->n_pages - first)
    limit = tree->n_pages - first;
  while (length < limit) {
    mf_run_word part = mf_run_first_word ((mf_run){ first + length, limit - length });
    uint64_t missing = ~tree->level[0][part.index] & part.mask;
    if (missing != 0)
      return part.index * WORD_BITS + (unsigned) __builtin_ctzll (missing) - first;
    length += part.count;
  }
  return length;
}
