/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The puller: brings missing (or dirty) pages in, in the background.
 *
 * It owns bulk lanes, a thread each, and the region's pull queue. A thread takes a run from the queue, claims its pages (KEEP), asks, and puts
 * down what comes through mf_region_put(). How much is in flight over all lanes is found by measuring: the window grows while the rate
 * grows with it and shrinks when requests only wait longer (delay well above the smallest seen), so that bulk keeps the link full and its queues
 * short: a fault on its own connection shares the link with what bulk has in flight. Bytes in flight never exceed
 * MF_PULLER_WINDOW_MAX. Transfer size shrinks while faults come and grows while they don't.
 *
 * Threads: every function from any thread but `failed` and `idle`, which are called from a lane's thread with no lock held.
 */
#include "backend/mf-lane.h"
#include "core/mf-pull-queue.h"
#include "region/mf-region.h"

G_BEGIN_DECLS

/* Bytes in flight over all lanes of a puller at most, and so its buffers: enough for 1 Gbit/s over 100 ms or 10 Gbit/s over 10 ms, and below
 * what the service may use for itself. Only a link that is that long makes use of it: the buffers are there only as far as the window
 * has opened, and are given back when it closes. */
#define MF_PULLER_WINDOW_MAX (16u * 1024 * 1024)

typedef struct _mf_puller mf_puller;

typedef struct {
  uint64_t bytes;      /* carried over the link, holes not counted */
  uint64_t pages;      /* put down, holes included */
  uint64_t hole_pages; /* of these, holes */
  uint64_t kept_pages; /* arrived when they were there already */
  uint64_t requests;
  uint64_t queued_pages; /* still to be asked for */
  uint64_t in_flight_bytes;
  uint64_t window_bytes;
  uint64_t rate;         /* bytes a second over the last quarter second of work; 0 unknown */
  gint64 min_delay_usec; /* smallest request delay seen */
  gint64 delay_usec;     /* recent */
} mf_puller_stats;

typedef struct {
  /* A lane was lost and does not count any more; what it had in flight is queued again. Once a lane. May come after wait_idle has
   * found that all lanes are lost. */
  void (*failed) (mf_puller *puller, const GError *error, gpointer user_data);
  gpointer user_data;
} mf_puller_callbacks;

mf_puller *mf_puller_new (MfRegion *region, const mf_puller_callbacks *callbacks, GError **error);
/* Stops and joins all threads, closes the lanes. */
void mf_puller_free (mf_puller *puller);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_puller, mf_puller_free)

/* Takes the lane over, in any case. MF_ERROR_INVALID: the remote is smaller than the region; MF_ERROR_CANCELLED: the puller is being freed.
 * May be called from `failed`. */
gboolean mf_puller_add_lane (mf_puller *puller, mf_lane *lane, GError **error);
guint mf_puller_n_lanes (mf_puller *puller);

/* How pages are put down from here on; only while idle. In REPLACE nobody else may pull pages of the region at the same time: the puller
 * keeps two pulls of one page apart by itself, and does not claim pages. KEEP is what it begins with. */
void mf_puller_set_mode (mf_puller *puller, MfPutMode mode);
/* Bytes a second at most, 0 no limit. */
void mf_puller_set_bandwidth (mf_puller *puller, uint64_t bytes_per_second);

/* In KEEP, pages that are PRESENT by then, or claimed by somebody else, are dropped: who claimed them sees to them. In REPLACE, a page that is
 * under way is pulled once more after it has come in. */
void mf_puller_queue (mf_puller *puller, mf_run run, mf_pull_class class);
/* The same without those pages that are under way already: for who asks again and again what is left, while it is being pulled (pre-copy). */
void mf_puller_queue_grounded (mf_puller *puller, mf_run run, mf_pull_class class);
/* The same without those pages that are under way already: for who asks again and again what is left while it is being pulled (the end of
 * pre-copy). A page that was written after it was read for the answer under way is found by the next look. */
void mf_puller_queue_grounded (mf_puller *puller, mf_run run, mf_pull_class class);
/* A set at once: every page of `pages` into `class`. */
void mf_puller_queue_set (mf_puller *puller, const mf_bitmap *pages, mf_pull_class class);
/* Somebody touched a page of `run`: its queued neighbourhood comes next, and requests get smaller for a while. From a fault handler: never blocks
 * for longer than a queue operation. */
void mf_puller_fault (mf_puller *puller, mf_run run);
/* An mf_region_fetcher, `user_data` is the puller: queues `run` as WAITED. */
void mf_puller_fetch (mf_run run, gpointer puller);
/* Another way brought these pages (the fault lane): not to be asked for any more. */
void mf_puller_remove (mf_puller *puller, mf_run run);
void mf_puller_clear (mf_puller *puller);

/* Waits until nothing is queued or in flight and every lane has flushed (so that the source knows that what was read has arrived), or
 * the deadline (monotonic usec; -1 none) or the cancellable, or all lanes are lost (MF_ERROR_CONNECTION), or a put or a read failed (its
 * error, MF_ERROR_NO_SPACE for example). What failed is queued again, no more is asked for, and when
 * what is under way has come in, the error is returned here. The next call tries again. */
gboolean mf_puller_wait_idle (mf_puller *puller, gint64 deadline_usec, GCancellable *cancellable, GError **error);

void mf_puller_get_stats (mf_puller *puller, mf_puller_stats *stats);

G_END_DECLS
