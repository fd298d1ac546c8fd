/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A set of page numbers in which the next one is found at once, however few there are.
 *
 * Level 0 has a bit a page. Each level above has a bit a word of the level below, set while that word is not 0; the
 * topmost level is one word. Finding the next page climbs over empty words and comes down again: a few words a
 * level, five levels for 2^30 pages. Changing a run touches the words of the run, and one above for each that
 * becomes empty or stops being so.
 *
 * Not thread safe. Only new allocates. Runs lie within the size (asserted).
 */
#include "mf-run.h"

typedef struct mf_bit_tree mf_bit_tree;

/* An empty set of pages below `n_pages`. NULL: errno is ENOMEM, or EOVERFLOW when n_pages is more than
 * MF_BITMAP_MAX_BITS. */
mf_bit_tree *mf_bit_tree_new (uint64_t n_pages);
/* NULL is allowed. */
void mf_bit_tree_free (mf_bit_tree *tree);

/* How many pages are in the set. */
uint64_t mf_bit_tree_count (const mf_bit_tree *tree);

/* Return how many pages this changed. */
uint64_t mf_bit_tree_add (mf_bit_tree *tree, mf_run run);
uint64_t mf_bit_tree_remove (mf_bit_tree *tree, mf_run run);
void mf_bit_tree_clear (mf_bit_tree *tree);

/* The first page of the set at or after `from` (any number); false when there is none. */
bool mf_bit_tree_next (const mf_bit_tree *tree, uint64_t from, uint64_t *page);
/* How many pages in a row from `first` on, at most `limit`, are in the set. */
uint64_t mf_bit_tree_length (const mf_bit_tree *tree, uint64_t first, uint64_t limit);

/* 64 pages at once, for walking a run of both of two sets: which pages of the word of `page` (page / 64) are in it. */
uint64_t mf_bit_tree_word (const mf_bit_tree *tree, uint64_t page);
/* Adds or removes the pages of `bits` in that word; returns how many this changed. */
uint64_t mf_bit_tree_add_word (mf_bit_tree *tree, uint64_t page, uint64_t bits);
uint64_t mf_bit_tree_remove_word (mf_bit_tree *tree, uint64_t page, uint64_t bits);
