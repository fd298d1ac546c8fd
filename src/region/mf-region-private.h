/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the files of MfRegion share.
 *
 * Locks. `stripes`: a mutex for every STRIPE_PAGES pages in a row, many chunks to one mutex. It keeps the bytes of the store and the
 * state of the page in step: who changes both, or goes by the state when it touches the bytes, holds the page's stripe. Nobody
 * holds two (but mf_region_reset(), which takes all in order); a longer range is worked through chunk by chunk, and is not one atomic
 * step. No stripe is held across a callback.
 *
 * While there is an attachment its put() is what makes bytes and program agree, by the kernel: a page appears whole,
 * and only where none is. The states follow it: a page is in the store before the map says PRESENT, never after.
 *
 * `wait_lock` is for `arrived` and what the waiters look at. It is never taken together with a stripe.
 */
#include "mf-gate.h"
#include "mf-region.h"

#define MF_REGION_STRIPE_PAGES 64
#define MF_REGION_STRIPES      32

struct _MfRegion {
  GObject parent_instance;

  char *name;
  MfStore *store;
  mf_page_map *map;
  mf_dirty_log *log;
  uint64_t size_bytes;
  uint64_t n_pages;
  uint32_t page_bytes;
  mf_gate attachment; /* mf_attachment_ops */

  GMutex stripes[MF_REGION_STRIPES];

  /* Atomic. Raised, in this order, before the first page's state changes; `invalidating` is lowered after the last hole was punched. So who sees nobody
   * invalidating after he took `invalidations` sees all that those did which he counted, and any other raises the count before a page of his
   * can be PRESENT again. */
  gint invalidating;
  gint invalidations;

  const mf_region_journal_ops *journal; /* NULL: none */
  gpointer journal_data;

  gint64 wait_limit_usec; /* wait_lock; -1: none */
  mf_gate fetcher;        /* data: a FetcherCall */
  GMutex wait_lock;
  GCond arrived;
  gint waiters;          /* atomic */
  guint fetcher_changes; /* wait_lock */
  gboolean has_fetcher;  /* wait_lock */
};

/* The part of `run` from `page` on that lies in one stripe. */
mf_run mf_region_stripe_part (mf_run run, uint64_t page);
void mf_region_stripe_lock (MfRegion *region, uint64_t page);
void mf_region_stripe_unlock (MfRegion *region, uint64_t page);

/* Every page of `run` has its own bytes in the store. */
gboolean mf_region_is_present (MfRegion *region, mf_run run);
/* Pages became PRESENT: lets those go on that wait in read or write. With no lock held. */
void mf_region_wake_waiters (MfRegion *region);
/* Tell the journal, if there is one. Under the stripe's lock. */
void mf_region_note_writing (MfRegion *region, mf_run run);
void mf_region_note_settled (MfRegion *region, mf_run run);
/* A write has failed half-way: what is not PRESENT has to be a hole again, so that nobody takes it for a page. Under the stripe's lock. */
void mf_region_discard_missing (MfRegion *region, mf_run run);

void mf_region_io_init (MfRegion *region);
void mf_region_io_clear (MfRegion *region);
