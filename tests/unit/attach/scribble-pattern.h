/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What a page holds: words that no other page, and no other seed, has. Seed 0 is a page of zeroes.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline uint64_t
pattern_word (uint32_t seed, uint64_t page, size_t word)
{
  uint64_t x = ((uint64_t) seed << 40) ^ (page << 12) ^ word;

  if (seed == 0)
    return 0;
  x = (x ^ (x >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  x = (x ^ (x >> 27)) * UINT64_C (0x94d049bb133111eb);
  return x ^ (x >> 31);
}

static inline void
pattern_fill (void *at, size_t bytes, uint32_t seed, uint64_t page)
{
  uint64_t *words = at;

  for (size_t i = 0; i < bytes / sizeof (uint64_t); i++)
    words[i] = pattern_word (seed, page, i);
}

static inline bool
pattern_holds (const void *at, size_t bytes, uint32_t seed, uint64_t page)
{
  const uint64_t *words = at;

  for (size_t i = 0; i < bytes / sizeof (uint64_t); i++) {
    if (words[i] != pattern_word (seed, page, i))
      return false;
  }
  return true;
}
