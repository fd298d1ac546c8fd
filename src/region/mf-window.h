/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The window: how many bytes the puller keeps in flight over all its lanes, and how large one request is.
 *
 * What is wanted: the link full, and no more waiting in its queues than that takes, because a fault shares them. Little's law says what
 * that is: rate x smallest delay, and a little more. Both are measured from the requests themselves. Arithmetic only: the caller gives the time, nothing here
 * blocks, and there is no lock.
 *
 *   round     from a moment until a request that was submitted after it completes: one delay. Decisions are made once a round.
 *   base      the smallest delay seen: the link with nothing queued.
 *   queue     the smallest delay of the round - base: what stands in the queues all the time (a single late one is jitter).
 *   spare     the bytes that may stand in the queues: what the link carries in max (1 ms, base / 4), at least two
 *             small and at most three large requests a lane. So the total delay stays below what a base + 1 ms, or 1.25 x base, makes of it,
 *             and a fast link, which is full with a few requests, gets no window that outgrows the CPU's cache.
 *
 * At first, and whenever nothing queues up for some rounds though the window was used up, the window doubles every round until something
 * does. Then it goes to window x base / delay + spare, whose fixed point is rate x base + spare, and from there on half of the way to it each round. It never
 * falls below two small requests a lane: there it would starve on a link that is only uneven.
 *
 * Base is measured anew, with one small request a lane for two rounds, when no request has been as quick as that for ten
 * seconds (a shorter route hides behind the queue), or when the window has lain near its floor for a second and the delay is still far above base (a longer
 * route looks like a queue).
 */
#include <glib.h>
#include <stdint.h>

/* A request carries this much at least and at most (but always one page): below, the cost of a request shows; above, nothing is gained and buffers fall out
 * of the CPU's cache. Powers of two. */
#define MF_TRANSFER_MIN (16u * 1024)
#define MF_TRANSFER_MAX (256u * 1024)

typedef struct {
  uint64_t window_bytes;   /* out: in flight at most, over all lanes */
  uint32_t transfer_bytes; /* out: how large a request should be, a power of two */
  guint lane_requests;     /* out: so many requests every lane may have in flight whatever the window */

  /* The rest is its own. Times are monotonic microseconds. */
  uint64_t max_bytes;
  guint lanes;
  gint64 base_usec;  /* 0: none yet */
  gint64 delay_usec; /* smoothed */
  gboolean startup;
  guint empty_rounds; /* in a row, window used up and nothing queued */

  gint64 round_start_usec; /* 0: none begun */
  gint64 round_min_usec;
  uint64_t round_bytes;
  gboolean round_limited;
  uint64_t best_rate; /* bytes a second, of the best rounds lately */

  gint64 base_seen_usec; /* when a request was last about as quick as base */
  gint64 low_since_usec; /* since when the window lies near the floor and the delay far above base */
  guint probe_rounds;    /* to go; 0: no probe */

  uint32_t calm_bytes;   /* transfer size that faults leave */
  gint64 calmer_at_usec; /* when that doubles next */
} mf_window;

void mf_window_init (mf_window *window, uint64_t max_bytes);
void mf_window_set_lanes (mf_window *window, guint lanes);
/* Somebody would have sent more if the window were larger. */
void mf_window_limited (mf_window *window);
/* A request completed that carried `bytes` over the link (of a hole: none). */
void mf_window_completed (mf_window *window, gint64 submitted_usec, gint64 done_usec, uint64_t bytes);
/* Nothing is in flight: what is measured next starts anew. */
void mf_window_idle (mf_window *window);
/* A fault: requests are small from now on, and grow again while no other one comes. */
void mf_window_fault (mf_window *window, gint64 now_usec);
