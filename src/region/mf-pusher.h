/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The pusher: sends pages that were written out, in the background.
 *
 * It works in rounds. A round looks once at each page that is dirty, takes it from the dirty log *before* it reads it (invariant 3), sends it, and
 * flushes when all have arrived; only then are they given up. When a round fails, what it took is dirty again. So a page is under way at most once,
 * and of two versions of it the older one can't come last. A round is made every interval in which something was written, and for each sync.
 *
 * How much is in flight is found by measuring, as by the puller.
 *
 * Threads: every function from any thread; the callbacks come from the pusher's own.
 */
#include "backend/mf-lane.h"
#include "region/mf-region.h"

G_BEGIN_DECLS

typedef struct _mf_pusher mf_pusher;

typedef struct {
  /* The lane was lost: nothing is sent until there is another one. */
  void (*lost) (const GError *error, gpointer user_data);
  /* A round failed though the lane lives. It is tried again after the interval. */
  void (*failed) (const GError *error, gpointer user_data);
  /* The pages of `run` are about to be read; with the lock of their stripe. */
  void (*taking) (mf_run run, gpointer user_data);
  /* The remote has them, and has flushed them; with the lock of their stripe. */
  void (*sent) (mf_run run, gpointer user_data);
  gpointer user_data;
} mf_pusher_callbacks; /* each may be NULL */

typedef struct {
  uint64_t dirty_pages; /* not known to be safe at the remote */
  uint64_t bytes;       /* sent, zeroes not counted */
  uint64_t pages;       /* sent, zeroes included */
  uint64_t rounds;
} mf_pusher_stats;

/* Tracks what is written to `region` from now on. `initial` (may be NULL; of n_pages bits) are pages that are dirty already. A round every `interval_usec`; 0: only
 * for a sync. */
mf_pusher *mf_pusher_new (MfRegion *region, const mf_bitmap *initial, gint64 interval_usec,
                          const mf_pusher_callbacks *callbacks, GError **error);
/* Stops at once: what has not been sent stays unsent. Closes the lane. */
void mf_pusher_free (mf_pusher *pusher);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_pusher, mf_pusher_free)

/* Gives it a lane (taken over) whose requests begin and end at pages. Only when it has none: at first, and after `lost`. */
void mf_pusher_set_lane (mf_pusher *pusher, mf_lane *lane);
gboolean mf_pusher_has_lane (mf_pusher *pusher);

/* Invariant 4: all that was written before the call is at the remote and flushed when this returns TRUE. While there is no lane it waits for one. MF_ERROR_TIMED_OUT after
 * the deadline (monotonic usec; -1 none), MF_ERROR_CANCELLED, or why the remote didn't take it. */
gboolean mf_pusher_sync (mf_pusher *pusher, gint64 deadline_usec, GCancellable *cancellable, GError **error);
/* Asks for a round and doesn't wait. */
void mf_pusher_begin_sync (mf_pusher *pusher);

void mf_pusher_get_stats (mf_pusher *pusher, mf_pusher_stats *stats);

G_END_DECLS
