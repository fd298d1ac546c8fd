/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The page map: what is known of every page of a region.
 *
 *   PRESENT  the local bytes are the right ones
 *   WANTED   a pull of the page is under way
 *   DIRTY    the page was written locally after it was last read for sending
 *   LATE     a pull of the page is under way that nobody wants any more: a write or an invalidation came in between
 *
 * A pull may put its bytes down only where WANTED is still set; a local write clears it. That one rule is why a late
 * pull can never overwrite a write (invariant 2). DIRTY without PRESENT, and WANTED with PRESENT or LATE, are
 * impossible: the table below, mf_page_next(), says which event leads where, and tests/model checks it with
 * concurrent pullers, writers and pushers.
 *
 * What LATE is for: a page whose pull is under way is invalidated because the other side wrote it. The bytes that
 * come may be older than that write. If the page could be claimed again at once, they would find it WANTED, by the
 * newer pull, and go down as if they were its bytes. So the page can't be claimed until the late pull has ended.
 *
 * What a user of the map owes it:
 *  - Who CLAIMs pages ends the pull of each of them once, with ARRIVE or FAIL, whatever became of them meanwhile; what
 *    is MISSING after that still has to be pulled and goes back into the queue. A CLAIM that is refused because the
 *    page is LATE can therefore be forgotten: the end of the late pull sees to it.
 *  - To look for WANTED, to put bytes down and to ARRIVE are three steps: a lock that writers and invalidators of these
 *    pages also take makes them one. So are a writer's putting its bytes down and WRITE, in this order (or the page
 *    could be read for sending in between, and the write would be lost), and INVALIDATE and whatever makes the store
 *    forget the bytes.
 *  - A DIRTY page is not INVALIDATEd: that would lose a write. Who knows that the write is void says READ_TO_SEND
 *    first.
 *  - The reader for sending needs no lock: READ_TO_SEND, then read. If a write comes in between, the page is DIRTY
 *    again.
 *  - Bytes that nobody claimed (a fault that overtakes a bulk pull of the same page) may ARRIVE as well, as long as
 *    nothing INVALIDATEs the page: its two pulls can't be told apart.
 *
 * Every function may be called from any thread. None blocks, allocates (but new) or touches the region's memory. A
 * page's flags change in one atomic step with acquire-release order; a run changes sixteen pages in a step. Half a
 * byte a page.
 */
#include "mf-bitmap.h"

typedef enum {
  MF_PAGE_MISSING = 0,
  MF_PAGE_PRESENT = 1 << 0,
  MF_PAGE_WANTED = 1 << 1,
  MF_PAGE_DIRTY = 1 << 2,
  MF_PAGE_LATE = 1 << 3,
} mf_page_state; /* a set of flags: compare with &, LATE can come with MISSING, PRESENT and DIRTY */

typedef enum {
  MF_PAGE_CLAIM,        /* a pull begins: MISSING and not LATE becomes WANTED */
  MF_PAGE_ARRIVE,       /* the pull's bytes are in and put down: WANTED becomes PRESENT. Clears LATE */
  MF_PAGE_FAIL,         /* the pull came to nothing: WANTED becomes MISSING. Clears LATE */
  MF_PAGE_WRITE,        /* the program wrote the whole page or had it present: PRESENT and DIRTY. A pull becomes LATE */
  MF_PAGE_READ_TO_SEND, /* the page is about to be read for sending: not DIRTY any more */
  MF_PAGE_SEND_FAILED,  /* what was read was not acknowledged: a PRESENT page is DIRTY again */
  MF_PAGE_INVALIDATE,   /* the other side has newer bytes: MISSING; a pull becomes LATE. Not legal for a DIRTY page */
} mf_page_event;

/* The transition table. Returns true and the state after `event`, or false when the event is not legal (or is without
 * effect, as a CLAIM of a page that is present) in `state`. */
bool mf_page_next (mf_page_state state, mf_page_event event, mf_page_state *next);

typedef struct mf_page_map mf_page_map;

/* Makes a map of ceil (size_bytes / page_bytes) pages, all MISSING. page_bytes is a power of two. NULL: errno is
 * ENOMEM, EINVAL, or EOVERFLOW when the pages are more than MF_BITMAP_MAX_BITS. */
mf_page_map *mf_page_map_new (uint64_t size_bytes, uint32_t page_bytes);
/* NULL is allowed. */
void mf_page_map_free (mf_page_map *map);

uint64_t mf_page_map_pages (const mf_page_map *map);
/* Pages and runs lie within the map (asserted), here and below. */
mf_page_state mf_page_map_state (const mf_page_map *map, uint64_t page);

/* Applies `event` to one page. True when the table allowed it and the state was changed by this call. That ARRIVE or
 * FAIL ended a LATE pull is not reported: nothing came of that pull. */
bool mf_page_map_apply (mf_page_map *map, uint64_t page, mf_page_event event);
/* Applies `event` to every page of `run`, those that the table doesn't allow are left. Returns how many were changed
 * (as apply() reports it). When `changed` is not NULL, the bits of those pages are set in it (bit 0 = run.first; of
 * run.count bits or more, asserted). */
uint64_t mf_page_map_apply_run (mf_page_map *map, mf_run run, mf_page_event event, mf_bitmap *changed);

/* Makes every page MISSING or PRESENT, whatever it was: a new beginning. Only while no pull is under way and nobody
 * else uses the map. */
void mf_page_map_reset (mf_page_map *map, mf_page_state state);

/* How many pages have all of `flags` set (flags 0: how many are MISSING and not WANTED, LATE or not). Exact when
 * nobody changes the map. */
uint64_t mf_page_map_count (const mf_page_map *map, mf_page_state flags);
/* The first maximal run within `within` whose pages have all of `flags` set, or (MF_PAGE_MISSING) have no flag but LATE
 * set. False, and `out` untouched, when there is none. */
bool mf_page_map_next_run (const mf_page_map *map, mf_run within, mf_page_state flags, mf_run *out);
