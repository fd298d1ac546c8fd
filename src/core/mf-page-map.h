/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The page map: what is known of every page of a region.
 *
 *   PRESENT  the local bytes are the right ones
 *   WANTED   a pull of the page is under way
 *   DIRTY    the page was written locally after it was last read for sending
 *
 * A pull may put its bytes down only where WANTED is still set; a local write clears it. That one rule is why a late
 * pull can never overwrite a write (invariant 2). DIRTY without PRESENT, and WANTED with PRESENT, are impossible:
 * the table below, mf_page_next(), says which event leads where, and tests/model checks it with concurrent pullers,
 * writers and pushers.
 *
 * Every function may be called from any thread. None blocks, allocates (but new) or touches the region's memory. A
 * page's three bits change in one atomic step.
 */
#include "mf-bitmap.h"

typedef enum {
  MF_PAGE_MISSING = 0,
  MF_PAGE_PRESENT = 1 << 0,
  MF_PAGE_WANTED = 1 << 1,
  MF_PAGE_DIRTY = 1 << 2,
} mf_page_state; /* a set of flags */

typedef enum {
  MF_PAGE_CLAIM,        /* a pull begins */
  MF_PAGE_ARRIVE,       /* the pull's bytes are in and put down */
  MF_PAGE_FAIL,         /* the pull came to nothing */
  MF_PAGE_WRITE,        /* the program wrote the whole page or had it present */
  MF_PAGE_READ_TO_SEND, /* the page is about to be read for sending */
  MF_PAGE_SEND_FAILED,  /* what was read was not acknowledged */
  MF_PAGE_INVALIDATE,   /* the other side has newer bytes */
} mf_page_event;

/* The transition table. Returns true and the state after `event`, or false when the event is not legal (or is without
 * effect, as a CLAIM of a page that is present) in `state`. */
bool mf_page_next (mf_page_state state, mf_page_event event, mf_page_state *next);

typedef struct mf_page_map mf_page_map;

/* Makes a map of ceil (size_bytes / page_bytes) pages, all MISSING. page_bytes is a power of two. NULL: errno is
 * ENOMEM, EINVAL or EOVERFLOW. */
mf_page_map *mf_page_map_new (uint64_t size_bytes, uint32_t page_bytes);
void mf_page_map_free (mf_page_map *map);

uint64_t mf_page_map_pages (const mf_page_map *map);
mf_page_state mf_page_map_state (const mf_page_map *map, uint64_t page);

/* Applies `event` to one page. True when the table allowed it and the state was changed by this call. */
bool mf_page_map_apply (mf_page_map *map, uint64_t page, mf_page_event event);
/* Applies `event` to every page of `run`, those that the table doesn't allow are left. Returns how many were
 * changed. When `changed` is not NULL, the bits of those pages are set in it (bit 0 = run.first). */
uint64_t mf_page_map_apply_run (mf_page_map *map, mf_run run, mf_page_event event, mf_bitmap *changed);

/* How many pages have all of `flags` set (flags 0: how many are MISSING and not WANTED). Exact when nobody changes
 * the map. */
uint64_t mf_page_map_count (const mf_page_map *map, mf_page_state flags);
/* The first maximal run within `within` whose pages have all of `flags` set, or (MF_PAGE_MISSING) have no flag set. */
bool mf_page_map_next_run (const mf_page_map *map, mf_run within, mf_page_state flags, mf_run *out);
