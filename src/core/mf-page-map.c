/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Four bits a page, sixteen pages in a 64-bit word, changed by compare and swap: that is how a page's flags change
 * in one step.
 *
 * An event works on a whole word at once. For each row of its table the pages that are in the row's state are found
 * with a few logical operations, as a 1 in the lowest bit of their nibble; multiplied by (from ^ to), that is what
 * has to be flipped. So the table below is all there is: single pages and runs, and mf_page_next(), go by the same
 * rows.
 */
#include "core/mf-page-map.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#define PAGE_BITS  4u
#define WORD_PAGES 16u
#define LOW_BITS   UINT64_C (0x1111111111111111) /* the lowest bit of every page */

struct mf_page_map {
  uint64_t n_pages;
  uint64_t n_words;
  _Atomic uint64_t words[];
};

/* ---- The table ---- */

enum {
  M = MF_PAGE_MISSING,
  P = MF_PAGE_PRESENT,
  W = MF_PAGE_WANTED,
  D = MF_PAGE_PRESENT | MF_PAGE_DIRTY,
  L = MF_PAGE_LATE,
};

typedef struct {
  uint8_t from, to;
} transition;

#define ROWS_MAX 6

static const struct {
  unsigned n_rows;
  transition rows[ROWS_MAX];
} events[] = {
  [MF_PAGE_CLAIM] = { 1, { { M, W } } },
  [MF_PAGE_ARRIVE] = { 4, { { W, P }, { M | L, M }, { P | L, P }, { D | L, D } } },
  [MF_PAGE_FAIL] = { 4, { { W, M }, { M | L, M }, { P | L, P }, { D | L, D } } },
  [MF_PAGE_WRITE] = { 5, { { M, D }, { P, D }, { W, D | L }, { M | L, D | L }, { P | L, D | L } } },
  [MF_PAGE_READ_TO_SEND] = { 2, { { D, P }, { D | L, P | L } } },
  [MF_PAGE_SEND_FAILED] = { 2, { { P, D }, { P | L, D | L } } },
  [MF_PAGE_INVALIDATE] = { 3, { { P, M }, { P | L, M | L }, { W, M | L } } },
};
#define N_EVENTS (sizeof events / sizeof events[0])

/* Whether a transition only ends a late pull. */
static bool
ends_late (transition row)
{
  return (row.from & MF_PAGE_LATE) != 0 && (row.to & MF_PAGE_LATE) == 0;
}

/* Events after bytes were written have to be a read-modify-write also where they change nothing: see the top of
 * mf-bitmap.c. */
static bool
follows_a_write (mf_page_event event)
{
  return event == MF_PAGE_WRITE;
}

bool
mf_page_next (mf_page_state state, mf_page_event event, mf_page_state *next)
{
  if ((size_t) event >= N_EVENTS)
    return false;
  for (unsigned i = 0; i < events[event].n_rows; i++) {
    if (events[event].rows[i].from != (unsigned) state)
      continue;
    *next = (mf_page_state) events[event].rows[i].to;
    return true;
  }
  return false;
}

/* ---- Sixteen pages at once. A set of pages of a word has the lowest bit of their nibbles set. ---- */

static uint64_t
pages_in_state (uint64_t word, unsigned state)
{
  uint64_t differs = word ^ (LOW_BITS * state);
  differs |= differs >> 1;
  differs |= differs >> 2;
  return ~differs & LOW_BITS;
}

static uint64_t
pages_with_flags (uint64_t word, unsigned flags)
{
  if (flags == MF_PAGE_MISSING)
    return ~(word | word >> 1 | word >> 2) & LOW_BITS;
  uint64_t pages = LOW_BITS;
  for (unsigned bit = 0; bit < PAGE_BITS; bit++)
    if ((flags >> bit) & 1)
      pages &= word >> bit;
  return pages;
}

/* A set of pages as sixteen bits in a row. */
static uint64_t
pages_to_bits (uint64_t pages)
{
  pages = (pages | pages >> 3) & UINT64_C (0x0303030303030303);
  pages = (pages | pages >> 6) & UINT64_C (0x000f000f000f000f);
  pages = (pages | pages >> 12) & UINT64_C (0x000000ff000000ff);
  return (pages | pages >> 24) & UINT64_C (0xffff);
}

/* The word after `event` happened to `pages`; `changed` are those of them to report. */
static uint64_t
word_after (uint64_t word, uint64_t pages, mf_page_event event, uint64_t *changed)
{
  uint64_t flips = 0;

  *changed = 0;
  for (unsigned i = 0; i < events[event].n_rows; i++) {
    transition row = events[event].rows[i];
    uint64_t hit = pages_in_state (word, row.from) & pages;
    flips |= hit * (unsigned) (row.from ^ row.to);
    if (!ends_late (row))
      *changed |= hit;
  }
  return word ^ flips;
}

/* The part of a run (not empty) that lies in its first word. */
typedef struct {
  uint64_t index;
  uint64_t pages;
  uint64_t count;
} word_part;

static word_part
first_part (mf_run run)
{
  unsigned skip = run.first % WORD_PAGES;
  uint64_t count = WORD_PAGES - skip;
  if (count > run.count)
    count = run.count;
  return (word_part){ run.first / WORD_PAGES, (LOW_BITS >> (PAGE_BITS * (WORD_PAGES - count))) << (PAGE_BITS * skip),
                      count };
}

static void
assert_within (const mf_page_map *map, mf_run run)
{
  assert (run.first <= map->n_pages);
  assert (run.count <= map->n_pages - run.first);
  (void) map;
  (void) run;
}

/* ---- The map ---- */

mf_page_map *
mf_page_map_new (uint64_t size_bytes, uint32_t page_bytes)
{
  if (page_bytes == 0 || (page_bytes & (page_bytes - 1)) != 0) {
    errno = EINVAL;
    return NULL;
  }
  uint64_t n_pages = size_bytes / page_bytes + (size_bytes % page_bytes != 0);
  if (n_pages > MF_BITMAP_MAX_BITS) {
    errno = EOVERFLOW;
    return NULL;
  }
  uint64_t n_words = (n_pages + WORD_PAGES - 1) / WORD_PAGES;
  if (n_words > (SIZE_MAX - sizeof (mf_page_map)) / sizeof (uint64_t)) {
    errno = EOVERFLOW;
    return NULL;
  }
  mf_page_map *map = calloc (1, sizeof (mf_page_map) + (size_t) n_words * sizeof (uint64_t));
  if (map == NULL) {
    errno = ENOMEM;
    return NULL;
  }
  map->n_pages = n_pages;
  map->n_words = n_words;
  return map;
}

void
mf_page_map_free (mf_page_map *map)
{
  free (map);
}

uint64_t
mf_page_map_pages (const mf_page_map *map)
{
  return map->n_pages;
}

mf_page_state
mf_page_map_state (const mf_page_map *map, uint64_t page)
{
  assert (page < map->n_pages);
  uint64_t word = atomic_load_explicit (&map->words[page / WORD_PAGES], memory_order_acquire);
  return (mf_page_state) ((word >> (PAGE_BITS * (page % WORD_PAGES))) & 0xf);
}

/* Applies `event` to the pages of a part; returns those to report. */
static uint64_t
apply_to_part (mf_page_map *map, word_part part, mf_page_event event)
{
  _Atomic uint64_t *word = &map->words[part.index];
  uint64_t before = atomic_load_explicit (word, memory_order_acquire), after, changed;

  do {
    after = word_after (before, part.pages, event, &changed);
    if (after == before && !follows_a_write (event))
      break;
  } while (!atomic_compare_exchange_weak_explicit (word, &before, after, memory_order_acq_rel, memory_order_acquire));
  return changed;
}

bool
mf_page_map_apply (mf_page_map *map, uint64_t page, mf_page_event event)
{
  assert (page < map->n_pages);
  assert ((size_t) event < N_EVENTS);
  return apply_to_part (map, first_part ((mf_run){ page, 1 }), event) != 0;
}

uint64_t
mf_page_map_apply_run (mf_page_map *map, mf_run run, mf_page_event event, mf_bitmap *changed)
{
  assert_within (map, run);
  assert ((size_t) event < N_EVENTS);
  assert (changed == NULL || mf_bitmap_size (changed) >= run.count);

  uint64_t n_changed = 0;
  for (mf_run left = run; left.count > 0;) {
    word_part part = first_part (left);
    uint64_t pages = apply_to_part (map, part, event);
    if (pages != 0) {
      n_changed += (uint64_t) __builtin_popcountll (pages);
      if (changed != NULL)
        mf_bitmap_set_word (changed, left.first - run.first, pages_to_bits (pages) >> (left.first % WORD_PAGES));
    }
    left.first += part.count;
    left.count -= part.count;
  }
  return n_changed;
}

void
mf_page_map_reset (mf_page_map *map, mf_page_state state)
{
  assert (state == MF_PAGE_MISSING || state == MF_PAGE_PRESENT);
  for (uint64_t i = 0; i < map->n_words; i++)
    atomic_store_explicit (&map->words[i], LOW_BITS * (unsigned) state, memory_order_release);
}

uint64_t
mf_page_map_count (const mf_page_map *map, mf_page_state flags)
{
  uint64_t count = 0;

  for (mf_run left = { 0, map->n_pages }; left.count > 0;) {
    word_part part = first_part (left);
    uint64_t word = atomic_load_explicit (&map->words[part.index], memory_order_relaxed);
    count += (uint64_t) __builtin_popcountll (pages_with_flags (word, flags) & part.pages);
    left.first += part.count;
    left.count -= part.count;
  }
  return count;
}

/* The first page of `run` that has the flags (or, with `wanted` false, has them not), or the run's end. */
static uint64_t
find_page (const mf_page_map *map, mf_run run, mf_page_state flags, bool wanted)
{
  while (run.count > 0) {
    word_part part = first_part (run);
    uint64_t word = atomic_load_explicit (&map->words[part.index], memory_order_acquire);
    uint64_t hits = pages_with_flags (word, flags);
    hits = (wanted ? hits : ~hits) & part.pages;
    if (hits != 0)
      return part.index * WORD_PAGES + (unsigned) __builtin_ctzll (hits) / PAGE_BITS;
    run.first += part.count;
    run.count -= part.count;
  }
  return run.first;
}

bool
mf_page_map_next_run (const mf_page_map *map, mf_run within, mf_page_state flags, mf_run *out)
{
  assert_within (map, within);
  uint64_t end = within.first + within.count;
  uint64_t first = find_page (map, within, flags, true);
  if (first == end)
    return false;
  /* From the page after: the one found may have changed meanwhile, and a run is never empty. */
  uint64_t after = find_page (map, (mf_run){ first + 1, end - first - 1 }, flags, false);
  *out = (mf_run){ first, after - first };
  return true;
}
