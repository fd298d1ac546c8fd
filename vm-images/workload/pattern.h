/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the guest's pages and the test disk's blocks contain: bytes that anyone who knows the seed can compute again.
 *
 * Random content is one xorshift sequence a page, started from the seed and the page's number, so that a page is checked
 * by itself and no two pages are alike. It has to be cheap: the guest that computes it is emulated.
 *
 * tests/vm/mfvm/pattern.py computes the same in Python; change both together.
 */
#include <stdint.h>

enum {
  PAGE_BYTES = 4096,
  PAGE_WORDS = PAGE_BYTES / 8,
  /* A dirtied page carries this many words that change with each pass, spread evenly over it. */
  POINTS = 8,
  POINT_STRIDE_WORDS = PAGE_WORDS / POINTS,
};

/* The first word of item `number`'s sequence; never 0, where the sequence would stay. */
static inline uint64_t
pattern_start (uint64_t seed, uint64_t number)
{
  uint64_t x = seed * 0x9e3779b97f4a7c15u + number + 1;

  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  return x ? x : 1;
}

static inline uint64_t
pattern_next (uint64_t x)
{
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return x;
}

/* The word at point `k` of page `page` after pass `pass` of the dirtying has been there. Pass 0 is the fill. */
static inline uint64_t
pattern_point (uint64_t pass, uint64_t page, unsigned k)
{
  return (pass << 32 | page) + k;
}

/*
 * A disk block: its number, the seed, words of the sequence, and a hash of all words before it. All little-endian.
 */
enum {
  BLOCK_HASH_WORD = PAGE_WORDS - 1
};

static inline uint64_t
pattern_block_hash (const uint64_t block[PAGE_WORDS])
{
  uint64_t hash = 0xcbf29ce484222325u;

  for (unsigned i = 0; i < BLOCK_HASH_WORD; i++) {
    hash = (hash ^ block[i]) * 0x100000001b3u;
    hash ^= hash >> 32;
  }
  return hash;
}
