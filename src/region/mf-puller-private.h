/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the files of the puller share.
 *
 * mf-puller.c has the queue and all that is counted, under one lock, held for nothing but operations on these. mf-puller-lane.c has
 * the lanes' threads; what a thread owns (its slots and buffers) needs no lock.
 *
 * The life of a page: queued > taken (`taken_pages`) > claimed, or given back > in flight > put down, or given back. Idle is: nothing
 * queued, nothing taken. Given back means queued again, in the class it came from.
 *
 * What keeps two pulls of one page apart: in KEEP the page map, where only one can claim it. In REPLACE there are no claims, and of
 * two reads the one with older bytes could come last; so `flying` has the pages that are under way, and what is taken while it
 * flies waits in `again` for the first one to land.
 */
#include "mf-puller.h"
#include "mf-window.h"

typedef struct _mf_puller_lane mf_puller_lane;

struct _mf_puller {
  MfRegion *region; /* a reference */
  mf_puller_callbacks callbacks;
  uint32_t page_bytes;

  GMutex lock; /* protects all that follows */
  GCond changed;
  GPtrArray *lanes; /* of mf_puller_lane; also those whose thread has ended */
  guint live_lanes;
  gboolean stopping;
  guint waiting; /* callers of wait_idle */

  mf_pull_queue *queue;
  MfPutMode mode;
  mf_bitmap *flying; /* NULL until the first REPLACE */
  mf_bitmap *again;
  uint64_t again_pages;
  uint64_t taken_pages;

  GError *error; /* of a put or a read: while there is one nothing more is asked for */
  gboolean told; /* a wait_idle has returned it: the next one tries again */

  mf_window window;
  uint64_t in_flight_bytes;

  uint64_t bandwidth; /* bytes a second; 0: no limit */
  double tokens;      /* bytes that may be asked for now; below 0 when one was let go early */
  gint64 tokens_usec; /* as of then */

  mf_puller_stats stats;
  struct {
    gint64 begun_usec;
    uint64_t bytes;
  } rate[2];              /* the latest, and the one before it */
  gint64 idle_since_usec; /* 0: something is taken */
};

/* What a lane is to ask for next. */
typedef struct {
  mf_run run;
  mf_pull_class class;
  MfPutMode mode;
} mf_puller_take;

typedef enum {
  MF_PULLER_TAKEN, /* `take` is filled */
  MF_PULLER_WAIT,  /* for a completion, a kick, or the time that is given */
  MF_PULLER_FLUSH, /* all is down: flush now */
  MF_PULLER_STOP,
} mf_puller_next;

/* For a lane with `in_flight` requests. In REPLACE, `fly` gets the bits (bit 0 = take->run.first) of the pages to ask for. `timeout_usec`
 * is -1 when no time is to be waited for. */
mf_puller_next mf_puller_next_take (mf_puller *puller, mf_puller_lane *lane, guint in_flight, mf_puller_take *take,
                                    mf_bitmap *fly, gint64 *timeout_usec);
/* `pages` of what was taken are not asked for after all. */
void mf_puller_untake (mf_puller *puller, uint64_t pages);
/* A request goes out. */
void mf_puller_submitted (mf_puller *puller, mf_puller_lane *lane, uint32_t bytes);

typedef struct {
  const mf_request *request;
  mf_puller_take take; /* run: of the request */
  uint64_t carried_bytes;
  uint64_t hole_pages;
  uint64_t kept_pages;
  GError *error; /* why it failed; taken over */
  gboolean lost; /* the lane is gone: no reason to halt */
} mf_puller_landing;
/* `missing` (bit 0 = run.first; NULL: none) are the pages that still have to be pulled. */
void mf_puller_landed (mf_puller *puller, mf_puller_lane *lane, mf_puller_landing *landing, const mf_bitmap *missing);
/* A claimed page was never asked for. */
void mf_puller_give_back (mf_puller *puller, mf_run run, mf_pull_class class);
void mf_puller_flushed (mf_puller *puller, mf_puller_lane *lane);

/* --- A lane --- */

struct _mf_puller_lane {
  mf_puller *puller;
  GThread *thread;

  /* Under the puller's lock. */
  mf_lane *lane;      /* NULL: closed */
  gboolean hungry;    /* found nothing to do: to be kicked when there is */
  gboolean unflushed; /* read something since the last flush */
  gboolean flushing;  /* is in mf_lane_flush() */
  uint64_t in_flight_bytes;
};

/* Starts the thread. */
mf_puller_lane *mf_puller_lane_new (mf_puller *puller, mf_lane *lane, guint number, GError **error);
/* Waits for the end of the thread, which has been told to stop or has stopped by itself. What is left is freed with g_free(). */
void mf_puller_lane_join (mf_puller_lane *lane);
/* From the lane's thread, at its end: takes the lane away from the puller. `error` NULL: it was told to stop. */
mf_lane *mf_puller_lane_ended (mf_puller *puller, mf_puller_lane *lane, const GError *error);
