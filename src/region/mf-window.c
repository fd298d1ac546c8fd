/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-window.h"

#define SPARE_MIN_USEC  1000
#define SPARE_BASE_PART 4
#define FLOOR_REQUESTS  2 /* small ones, a lane */
#define SPARE_REQUESTS  3 /* large ones, a lane */
#define START_BYTES     (4u * MF_TRANSFER_MIN)
#define REOPEN_ROUNDS   3
#define LOW_PROBE_USEC  G_USEC_PER_SEC
#define PROBE_USEC      (10 * G_USEC_PER_SEC)
#define PROBE_ROUNDS    2
#define SEEN_USEC       50
#define CALM_USEC       5000 /* without a fault, until requests double */
#define DELAY_SMOOTHING 8
#define BEST_RATE_FADES 64 /* rounds, about */

static uint64_t
floor_bytes (const mf_window *window)
{
  return (uint64_t) MAX (window->lanes, 1) * FLOOR_REQUESTS * MF_TRANSFER_MIN;
}

/* What the link carries in the time that may stand in its queues. */
static uint64_t
spare_of_rate (const mf_window *window, uint64_t bytes_per_second)
{
  uint64_t usec = (uint64_t) MAX (SPARE_MIN_USEC, window->base_usec / SPARE_BASE_PART);

  return bytes_per_second * usec / G_USEC_PER_SEC;
}

/* The largest power of two that lets every lane have two requests in the window. What a request takes to pass counts as
 * queue, so the requests that the lanes send at once have to fit into the spare bytes, too. */
static void
choose_transfer (mf_window *window)
{
  guint lanes = MAX (window->lanes, 1);
  uint64_t share = window->window_bytes / (lanes * FLOOR_REQUESTS);
  uint32_t transfer = MF_TRANSFER_MIN;

  if (window->best_rate > 0)
    share = MIN (share, spare_of_rate (window, window->best_rate) / lanes);
  while (transfer < window->calm_bytes && transfer * 2 <= share)
    transfer *= 2;
  window->transfer_bytes = transfer;
}

static void
set_window (mf_window *window, uint64_t bytes)
{
  window->window_bytes = CLAMP (bytes, MIN (floor_bytes (window), window->max_bytes), window->max_bytes);
  choose_transfer (window);
}

void
mf_window_init (mf_window *window, uint64_t max_bytes)
{
  *window = (mf_window){
    .max_bytes = max_bytes, .lanes = 1, .startup = TRUE, .calm_bytes = MF_TRANSFER_MAX, .lane_requests = FLOOR_REQUESTS
  };
  set_window (window, START_BYTES);
}

void
mf_window_set_lanes (mf_window *window, guint lanes)
{
  window->lanes = lanes;
  set_window (window, MAX (window->window_bytes, (uint64_t) lanes * START_BYTES));
}

void
mf_window_limited (mf_window *window)
{
  window->round_limited = TRUE;
}

void
mf_window_idle (mf_window *window)
{
  window->round_start_usec = 0;
  window->probe_rounds = 0;
  window->lane_requests = FLOOR_REQUESTS;
}

void
mf_window_fault (mf_window *window, gint64 now_usec)
{
  window->calm_bytes = MF_TRANSFER_MIN;
  window->calmer_at_usec = now_usec + CALM_USEC;
  choose_transfer (window);
}

static void
grow_calm (mf_window *window, gint64 now_usec)
{
  if (window->calm_bytes >= MF_TRANSFER_MAX || now_usec < window->calmer_at_usec)
    return;
  window->calm_bytes *= 2;
  window->calmer_at_usec = now_usec + CALM_USEC;
  choose_transfer (window);
}

static uint64_t
spare_bytes (const mf_window *window, uint64_t bytes_per_second)
{
  uint64_t lanes = MAX (window->lanes, 1);

  return CLAMP (spare_of_rate (window, bytes_per_second), lanes * FLOOR_REQUESTS * MF_TRANSFER_MIN,
                lanes * SPARE_REQUESTS * window->calm_bytes);
}

/* Whether base has to be measured anew: nothing has been that quick for a long time, or the window has come down to almost nothing and
 * the delay is still far from base. */
static gboolean
base_is_doubtful (mf_window *window, gint64 now_usec, uint64_t bytes_per_second)
{
  gboolean low = window->window_bytes <= 2 * floor_bytes (window);
  gboolean far = window->round_min_usec > 2 * window->base_usec + SPARE_MIN_USEC;

  /* A slow link is full with that little: then the delay is the window's own. */
  if (!low || !far || bytes_per_second > window->best_rate / 2)
    window->low_since_usec = now_usec;
  return now_usec - window->low_since_usec >= LOW_PROBE_USEC || now_usec - window->base_seen_usec >= PROBE_USEC;
}

/* A probe: one round with a small request a lane, in which the queues empty, one more to measure. On a slow link even that is a queue, and
 * is taken for delay; to subtract what it takes would be wrong where it matters more, on a long one. */
static void
begin_probe (mf_window *window)
{
  window->probe_rounds = PROBE_ROUNDS;
  window->startup = FALSE;
  window->lane_requests = 1;
  window->window_bytes = (uint64_t) MAX (window->lanes, 1) * MF_TRANSFER_MIN;
  choose_transfer (window);
}

static void
end_probe_round (mf_window *window, gint64 now_usec)
{
  if (--window->probe_rounds > 0)
    return;
  window->lane_requests = FLOOR_REQUESTS;
  window->base_usec = window->round_min_usec;
  window->base_seen_usec = window->low_since_usec = now_usec;
  set_window (window, window->best_rate * (uint64_t) window->base_usec / G_USEC_PER_SEC +
                          spare_bytes (window, window->best_rate));
}

static void
end_round (mf_window *window, gint64 now_usec, gint64 last_delay_usec)
{
  gint64 elapsed = MAX (now_usec - window->round_start_usec, 1);
  uint64_t bytes_per_second = window->round_bytes * G_USEC_PER_SEC / (uint64_t) elapsed;
  /* By Little's law again, and not by the rate, which a round that was held up once has wrong. While the window opens, most of the round's
   * requests are from when it was smaller: the last one tells best what it has come to. */
  gint64 delay = window->startup ? last_delay_usec : window->round_min_usec;
  uint64_t queued = window->window_bytes * (uint64_t) (delay - window->base_usec) / (uint64_t) delay;
  uint64_t spare = spare_bytes (window, bytes_per_second);
  gboolean was_startup = window->startup;
  uint64_t aim;

  window->best_rate = MAX (window->best_rate - window->best_rate / BEST_RATE_FADES, bytes_per_second);
  if (queued >= spare)
    window->startup = FALSE;
  window->empty_rounds = queued < spare / 4 && window->round_limited ? window->empty_rounds + 1 : 0;
  if (window->empty_rounds >= REOPEN_ROUNDS)
    window->startup = TRUE;

  aim = window->startup ? window->window_bytes * 2
                        : window->window_bytes * (uint64_t) window->base_usec / (uint64_t) delay + spare;
  if (!window->startup && !was_startup)
    aim = (window->window_bytes + aim) / 2;
  /* What nobody used says nothing of what more would do. */
  if (window->round_limited || aim < window->window_bytes)
    set_window (window, aim);
  if (base_is_doubtful (window, now_usec, bytes_per_second))
    begin_probe (window);
}

void
mf_window_completed (mf_window *window, gint64 submitted_usec, gint64 done_usec, uint64_t bytes)
{
  gint64 delay = MAX (done_usec - submitted_usec, 1);

  if (window->base_usec == 0 || delay < window->base_usec)
    window->base_usec = delay;
  if (delay <= window->base_usec + window->base_usec / 16 + SEEN_USEC)
    window->base_seen_usec = done_usec;
  window->delay_usec += window->delay_usec == 0 ? delay : (delay - window->delay_usec) / DELAY_SMOOTHING;
  grow_calm (window, done_usec);

  if (window->round_start_usec != 0) {
    window->round_bytes += bytes;
    window->round_min_usec = window->round_min_usec == 0 ? delay : MIN (window->round_min_usec, delay);
    if (submitted_usec < window->round_start_usec)
      return;
    if (window->probe_rounds > 0)
      end_probe_round (window, done_usec);
    else if (window->round_bytes > 0)
      end_round (window, done_usec, delay);
  } else {
    window->base_seen_usec = window->low_since_usec = done_usec;
  }
  window->round_start_usec = done_usec;
  window->round_min_usec = 0;
  window->round_bytes = 0;
  window->round_limited = FALSE;
}
