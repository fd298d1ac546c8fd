/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-puller-private.h"

#include <errno.h>

#define FAULT_NEIGHBOURHOOD_BYTES (128u * 1024)
#define RATE_PERIOD_USEC          (G_USEC_PER_SEC / 8)
#define QUEUE_SET_BATCH           256 /* runs in one hold of the lock */
/* With a bandwidth limit: what may go out at once after a pause, and how long one request may take. */
#define BURST_PART   100 /* of a second: 10 ms */
#define REQUEST_PART 200 /* 5 ms */

mf_puller *
mf_puller_new (MfRegion *region, const mf_puller_callbacks *callbacks, GError **error)
{
  g_autoptr (mf_puller) puller = g_new0 (mf_puller, 1);

  puller->region = g_object_ref (region);
  puller->page_bytes = mf_region_page_bytes (region);
  if (callbacks != NULL)
    puller->callbacks = *callbacks;
  g_mutex_init (&puller->lock);
  g_cond_init (&puller->changed);
  puller->lanes = g_ptr_array_new_with_free_func (g_free);
  puller->mode = MF_PUT_KEEP;
  puller->idle_since_usec = g_get_monotonic_time ();
  mf_window_init (&puller->window, MF_PULLER_WINDOW_MAX);
  puller->queue = mf_pull_queue_new (mf_region_n_pages (region));
  if (puller->queue == NULL) {
    mf_error_from_errno (error, errno, "making the pull queue of region %s", mf_region_get_name (region));
    return NULL;
  }
  if (puller->page_bytes > MF_PULLER_WINDOW_MAX) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED,
                 "region %s has pages of %u MiB: more than %u is not supported", mf_region_get_name (region),
                 puller->page_bytes >> 20, MF_PULLER_WINDOW_MAX >> 20);
    return NULL;
  }
  return g_steal_pointer (&puller);
}

/* With the lock held. */
static void
kick (mf_puller *puller, gboolean only_hungry)
{
  for (guint i = 0; i < puller->lanes->len; i++) {
    mf_puller_lane *lane = g_ptr_array_index (puller->lanes, i);

    if (lane->lane == NULL || (only_hungry && !lane->hungry))
      continue;
    lane->hungry = FALSE;
    mf_lane_kick (lane->lane);
  }
}

void
mf_puller_free (mf_puller *puller)
{
  if (puller == NULL)
    return;
  g_mutex_lock (&puller->lock);
  puller->stopping = TRUE;
  kick (puller, FALSE);
  /* A flush is the one thing that a kick does not end. */
  for (guint i = 0; i < puller->lanes->len; i++) {
    mf_puller_lane *lane = g_ptr_array_index (puller->lanes, i);

    if (lane->flushing)
      mf_lane_shutdown (lane->lane);
  }
  g_mutex_unlock (&puller->lock);
  /* All have ended before the first is freed: they kick each other. None is added any more. */
  for (guint i = 0; i < puller->lanes->len; i++)
    mf_puller_lane_join (g_ptr_array_index (puller->lanes, i));
  g_ptr_array_unref (puller->lanes);

  mf_pull_queue_free (puller->queue);
  mf_bitmap_free (puller->flying);
  mf_bitmap_free (puller->again);
  g_clear_error (&puller->error);
  g_mutex_clear (&puller->lock);
  g_cond_clear (&puller->changed);
  g_object_unref (puller->region);
  g_free (puller);
}

/* --- Lanes --- */

gboolean
mf_puller_add_lane (mf_puller *puller, mf_lane *lane, GError **error)
{
  mf_puller_lane *added;

  if (mf_lane_size (lane) < mf_region_get_size (puller->region)) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
                 "the remote has %" G_GUINT64_FORMAT " bytes for region %s of %" G_GUINT64_FORMAT, mf_lane_size (lane),
                 mf_region_get_name (puller->region), mf_region_get_size (puller->region));
    mf_lane_close (lane);
    return FALSE;
  }
  /* The lock keeps the new thread from its first look at the queue until all is in place. */
  g_mutex_lock (&puller->lock);
  if (puller->stopping) {
    g_mutex_unlock (&puller->lock);
    g_set_error (error, MF_ERROR, MF_ERROR_CANCELLED, "region %s is not being pulled any more",
                 mf_region_get_name (puller->region));
    mf_lane_close (lane);
    return FALSE;
  }
  added = mf_puller_lane_new (puller, lane, puller->lanes->len, error);
  if (added != NULL) {
    g_ptr_array_add (puller->lanes, added);
    puller->live_lanes++;
    mf_window_set_lanes (&puller->window, puller->live_lanes);
  }
  g_mutex_unlock (&puller->lock);
  return added != NULL;
}

mf_lane *
mf_puller_lane_ended (mf_puller *puller, mf_puller_lane *lane, const GError *error)
{
  gboolean stopping;
  mf_lane *taken;

  g_mutex_lock (&puller->lock);
  stopping = puller->stopping;
  taken = g_steal_pointer (&lane->lane);
  lane->unflushed = lane->flushing = FALSE;
  puller->live_lanes--;
  if (puller->live_lanes > 0)
    mf_window_set_lanes (&puller->window, puller->live_lanes);
  /* Others may have to do what it left; wait_idle looks whether any is left. */
  kick (puller, TRUE);
  g_cond_broadcast (&puller->changed);
  g_mutex_unlock (&puller->lock);

  if (error != NULL && !stopping && puller->callbacks.failed != NULL)
    puller->callbacks.failed (puller, error, puller->callbacks.user_data);
  return taken;
}

guint
mf_puller_n_lanes (mf_puller *puller)
{
  guint n;

  g_mutex_lock (&puller->lock);
  n = puller->live_lanes;
  g_mutex_unlock (&puller->lock);
  return n;
}

/* --- What to do next: the lanes' side --- */

static gboolean
is_idle (mf_puller *puller)
{
  return puller->taken_pages == 0 && puller->again_pages == 0 && mf_pull_queue_count (puller->queue) == 0;
}

/* With the lock held, after pages have been put down or given up. */
static void
note_idle (mf_puller *puller)
{
  if (puller->taken_pages == 0 && puller->idle_since_usec == 0) {
    puller->idle_since_usec = g_get_monotonic_time ();
    mf_window_idle (&puller->window);
  }
  if (puller->waiting == 0 || puller->taken_pages > 0)
    return;
  /* The lanes flush now. */
  if (is_idle (puller))
    kick (puller, TRUE);
  g_cond_broadcast (&puller->changed);
}

/* The time in which nothing was to be done does not count for the rate. */
static void
note_work (mf_puller *puller)
{
  gint64 now;

  if (puller->idle_since_usec == 0)
    return;
  now = g_get_monotonic_time ();
  for (guint i = 0; i < G_N_ELEMENTS (puller->rate); i++)
    puller->rate[i].begun_usec += now - puller->idle_since_usec;
  puller->idle_since_usec = 0;
}

/* How large the next request may be, a power of two in pages; 0 and the time to wait when the bandwidth is used up. */
static uint64_t
allowed_pages (mf_puller *puller, gint64 *timeout_usec)
{
  uint64_t transfer = puller->window.transfer_bytes;

  if (puller->bandwidth > 0) {
    gint64 now = g_get_monotonic_time ();
    double rate = (double) puller->bandwidth / G_USEC_PER_SEC;

    puller->tokens += (double) (now - puller->tokens_usec) * rate;
    puller->tokens = MIN (puller->tokens, (double) MAX (puller->bandwidth / BURST_PART, puller->page_bytes));
    puller->tokens_usec = now;
    if (puller->tokens <= 0) {
      *timeout_usec = (gint64) (-puller->tokens / rate) + 1;
      return 0;
    }
    while (transfer > MF_TRANSFER_MIN && transfer > puller->bandwidth / REQUEST_PART)
      transfer /= 2;
  }
  return CLAMP (transfer / puller->page_bytes, 1, MF_REQUEST_MAX_PAGES);
}

/* In REPLACE: what flies already is put aside. */
static void
take_off (mf_puller *puller, mf_run run, mf_bitmap *fly)
{
  for (uint64_t page = run.first; page < run.first + run.count; page++) {
    if (!mf_bitmap_set (puller->flying, page)) {
      mf_bitmap_set (fly, page - run.first);
      continue;
    }
    puller->taken_pages--;
    puller->again_pages += !mf_bitmap_set (puller->again, page);
  }
}

mf_puller_next
mf_puller_next_take (mf_puller *puller, mf_puller_lane *lane, guint in_flight, mf_puller_take *take, mf_bitmap *fly,
                     gint64 *timeout_usec)
{
  mf_puller_next next = MF_PULLER_WAIT;
  uint64_t pages;

  *timeout_usec = -1;
  g_mutex_lock (&puller->lock);
  if (puller->stopping) {
    next = MF_PULLER_STOP;
  } else if (mf_pull_queue_count (puller->queue) == 0 || puller->error != NULL) {
    lane->hungry = TRUE;
    if (in_flight == 0 && lane->unflushed && puller->waiting > 0 && is_idle (puller))
      next = MF_PULLER_FLUSH;
    lane->flushing = next == MF_PULLER_FLUSH;
  } else if (in_flight >= puller->window.lane_requests &&
             lane->in_flight_bytes + puller->window.transfer_bytes >
                 puller->window.window_bytes / MAX (puller->live_lanes, 1)) {
    /* Each lane has its share, so its own completions bring it back here. */
    mf_window_limited (&puller->window);
  } else if ((pages = allowed_pages (puller, timeout_usec)) > 0 &&
             mf_pull_queue_take (puller->queue, pages, &take->run, &take->class)) {
    next = MF_PULLER_TAKEN;
    take->mode = puller->mode;
    puller->taken_pages += take->run.count;
    if (take->mode == MF_PUT_REPLACE)
      take_off (puller, take->run, fly);
    note_work (puller);
  }
  g_mutex_unlock (&puller->lock);
  return next;
}

void
mf_puller_untake (mf_puller *puller, uint64_t pages)
{
  if (pages == 0)
    return;
  g_mutex_lock (&puller->lock);
  puller->taken_pages -= pages;
  note_idle (puller);
  g_mutex_unlock (&puller->lock);
}

void
mf_puller_submitted (mf_puller *puller, mf_puller_lane *lane, uint32_t bytes)
{
  g_mutex_lock (&puller->lock);
  lane->in_flight_bytes += bytes;
  puller->in_flight_bytes += bytes;
  if (puller->bandwidth > 0)
    puller->tokens -= bytes;
  g_mutex_unlock (&puller->lock);
}

/* With the lock held: what landed, or did not, may be pulled again. */
static void
land_pages (mf_puller *puller, mf_run run, mf_pull_class class, const mf_bitmap *missing)
{
  for (uint64_t page = run.first; page < run.first + run.count; page++) {
    gboolean again = missing != NULL && mf_bitmap_test (missing, page - run.first);

    if (puller->flying != NULL && mf_bitmap_clear (puller->flying, page) && puller->again_pages > 0 &&
        mf_bitmap_clear (puller->again, page)) {
      puller->again_pages--;
      again = TRUE;
    }
    if (again)
      mf_pull_queue_put (puller->queue, (mf_run){ page, 1 }, class);
  }
  puller->taken_pages -= run.count;
}

static void
count_bytes (mf_puller *puller, uint64_t bytes, gint64 now_usec)
{
  if (now_usec - puller->rate[0].begun_usec >= RATE_PERIOD_USEC) {
    puller->rate[1] = puller->rate[0];
    puller->rate[0].begun_usec = now_usec;
    puller->rate[0].bytes = 0;
  }
  puller->rate[0].bytes += bytes;
  puller->stats.bytes += bytes;
}

void
mf_puller_landed (mf_puller *puller, mf_puller_lane *lane, mf_puller_landing *landing, const mf_bitmap *missing)
{
  const mf_request *request = landing->request;

  g_mutex_lock (&puller->lock);
  lane->in_flight_bytes -= request->length;
  puller->in_flight_bytes -= request->length;
  /* What came as holes was not carried. */
  if (puller->bandwidth > 0)
    puller->tokens += (double) (request->length - landing->carried_bytes);
  puller->stats.requests++;
  if (landing->error == NULL && !landing->lost) {
    lane->unflushed = TRUE;
    mf_window_completed (&puller->window, request->submitted_usec, request->done_usec, landing->carried_bytes);
    count_bytes (puller, landing->carried_bytes, request->done_usec);
    puller->stats.pages += landing->take.run.count - landing->kept_pages;
    puller->stats.hole_pages += landing->hole_pages;
    puller->stats.kept_pages += landing->kept_pages;
  } else if (landing->error != NULL) {
    if (puller->error == NULL)
      puller->error = g_steal_pointer (&landing->error);
    g_cond_broadcast (&puller->changed);
  }
  land_pages (puller, landing->take.run, landing->take.class, missing);
  if (mf_pull_queue_count (puller->queue) > 0)
    kick (puller, TRUE);
  note_idle (puller);
  g_mutex_unlock (&puller->lock);
  g_clear_error (&landing->error);
}

void
mf_puller_give_back (mf_puller *puller, mf_run run, mf_pull_class class)
{
  g_mutex_lock (&puller->lock);
  mf_pull_queue_put (puller->queue, run, class);
  land_pages (puller, run, class, NULL);
  kick (puller, TRUE);
  g_mutex_unlock (&puller->lock);
}

void
mf_puller_flushed (mf_puller *puller, mf_puller_lane *lane)
{
  g_mutex_lock (&puller->lock);
  lane->unflushed = lane->flushing = FALSE;
  g_cond_broadcast (&puller->changed);
  g_mutex_unlock (&puller->lock);
}

/* --- The owner's side --- */

void
mf_puller_set_mode (mf_puller *puller, MfPutMode mode)
{
  const uint64_t n_pages = mf_region_n_pages (puller->region);

  g_mutex_lock (&puller->lock);
  if (puller->taken_pages > 0)
    g_critical ("the mode of a puller can't be changed while pages are under way");
  if (mode == MF_PUT_REPLACE && puller->flying == NULL) {
    puller->flying = mf_bitmap_new (n_pages);
    puller->again = mf_bitmap_new (n_pages);
  }
  puller->mode = mode;
  g_mutex_unlock (&puller->lock);
}

void
mf_puller_set_bandwidth (mf_puller *puller, uint64_t bytes_per_second)
{
  g_mutex_lock (&puller->lock);
  puller->bandwidth = bytes_per_second;
  puller->tokens = 0;
  puller->tokens_usec = g_get_monotonic_time ();
  kick (puller, FALSE);
  g_mutex_unlock (&puller->lock);
}

void
mf_puller_queue (mf_puller *puller, mf_run run, mf_pull_class class)
{
  g_mutex_lock (&puller->lock);
  mf_pull_queue_put (puller->queue, run, class);
  kick (puller, TRUE);
  g_mutex_unlock (&puller->lock);
}

void
mf_puller_queue_grounded (mf_puller *puller, mf_run run, mf_pull_class class)
{
  mf_run rest = run, part;

  g_mutex_lock (&puller->lock);
  if (puller->flying == NULL)
    mf_pull_queue_put (puller->queue, run, class);
  while (puller->flying != NULL && rest.count > 0 && mf_bitmap_next_run (puller->flying, rest, false, &part)) {
    mf_pull_queue_put (puller->queue, part, class);
    rest = (mf_run){ part.first + part.count, run.first + run.count - part.first - part.count };
  }
  kick (puller, TRUE);
  g_mutex_unlock (&puller->lock);
}

void
mf_puller_queue_set (mf_puller *puller, const mf_bitmap *pages, mf_pull_class class)
{
  const uint64_t n_pages = mf_region_n_pages (puller->region);
  mf_run rest = { 0, n_pages };
  gboolean more = TRUE;
  mf_run run;

  g_return_if_fail (mf_bitmap_size (pages) == n_pages);

  /* In batches, so that a fault handler gets the lock in between. */
  while (more) {
    g_mutex_lock (&puller->lock);
    for (guint i = 0; i < QUEUE_SET_BATCH && more; i++) {
      more = rest.count > 0 && mf_bitmap_next_run (pages, rest, true, &run);
      if (more) {
        mf_pull_queue_put (puller->queue, run, class);
        rest = (mf_run){ run.first + run.count, n_pages - run.first - run.count };
      }
    }
    kick (puller, TRUE);
    g_mutex_unlock (&puller->lock);
  }
}

void
mf_puller_fault (mf_puller *puller, mf_run run)
{
  uint64_t granule = MAX (FAULT_NEIGHBOURHOOD_BYTES / puller->page_bytes, 1);
  mf_run near = mf_run_align (run, granule, mf_region_n_pages (puller->region));

  g_mutex_lock (&puller->lock);
  mf_window_fault (&puller->window, g_get_monotonic_time ());
  mf_pull_queue_raise (puller->queue, run, MF_PULL_WAITED);
  if (mf_pull_queue_raise (puller->queue, near, MF_PULL_WAITED) > 0)
    kick (puller, TRUE);
  g_mutex_unlock (&puller->lock);
}

void
mf_puller_fetch (mf_run run, gpointer puller)
{
  mf_puller_queue (puller, run, MF_PULL_WAITED);
}

void
mf_puller_remove (mf_puller *puller, mf_run run)
{
  g_mutex_lock (&puller->lock);
  mf_pull_queue_remove (puller->queue, run);
  if (puller->again_pages > 0)
    puller->again_pages -= mf_bitmap_clear_run (puller->again, run);
  note_idle (puller);
  g_mutex_unlock (&puller->lock);
}

void
mf_puller_clear (mf_puller *puller)
{
  mf_puller_remove (puller, (mf_run){ 0, mf_region_n_pages (puller->region) });
}

static void
on_cancelled (GCancellable *cancellable, gpointer user_data)
{
  mf_puller *puller = user_data;

  g_mutex_lock (&puller->lock);
  g_cond_broadcast (&puller->changed);
  g_mutex_unlock (&puller->lock);
}

/* With the lock held. */
static gboolean
all_flushed (mf_puller *puller)
{
  for (guint i = 0; i < puller->lanes->len; i++) {
    if (((mf_puller_lane *) g_ptr_array_index (puller->lanes, i))->unflushed)
      return FALSE;
  }
  return TRUE;
}

typedef enum {
  GO_ON,
  DONE,
  FAILED,
} WaitState;

/* With the lock held: how it stands. `last`: there is no more time. */
static WaitState
look (mf_puller *puller, gboolean last, GCancellable *cancellable, GError **error)
{
  gboolean cancelled = g_cancellable_is_cancelled (cancellable);

  /* What is under way comes in first, or its own failure would meet the next try. */
  if (puller->error != NULL && (puller->taken_pages == 0 || last || cancelled)) {
    puller->told = TRUE;
    g_propagate_error (error, g_error_copy (puller->error));
    return FAILED;
  }
  if (puller->live_lanes == 0 && puller->lanes->len > 0) {
    g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION, "all connections that pull region %s are lost",
                 mf_region_get_name (puller->region));
    return FAILED;
  }
  if (is_idle (puller) && all_flushed (puller))
    return DONE;
  if (cancelled) {
    g_set_error (error, MF_ERROR, MF_ERROR_CANCELLED, "pulling region %s was cancelled",
                 mf_region_get_name (puller->region));
    return FAILED;
  }
  return GO_ON;
}

gboolean
mf_puller_wait_idle (mf_puller *puller, gint64 deadline_usec, GCancellable *cancellable, GError **error)
{
  gboolean last = FALSE;
  WaitState state;
  gulong handler = 0;

  if (cancellable != NULL)
    handler = g_cancellable_connect (cancellable, G_CALLBACK (on_cancelled), puller, NULL);
  g_mutex_lock (&puller->lock);
  puller->waiting++;
  /* Somebody was told why it stands still, and wants to try again. */
  if (puller->told) {
    puller->told = FALSE;
    g_clear_error (&puller->error);
  }
  kick (puller, TRUE);
  while ((state = look (puller, last, cancellable, error)) == GO_ON && !last) {
    if (deadline_usec < 0)
      g_cond_wait (&puller->changed, &puller->lock);
    else
      last = !g_cond_wait_until (&puller->changed, &puller->lock, deadline_usec);
  }
  puller->waiting--;
  g_mutex_unlock (&puller->lock);
  g_cancellable_disconnect (cancellable, handler);

  if (state == GO_ON)
    g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT, "region %s was not pulled in time",
                 mf_region_get_name (puller->region));
  return state == DONE;
}

void
mf_puller_get_stats (mf_puller *puller, mf_puller_stats *stats)
{
  gint64 until, since;

  g_mutex_lock (&puller->lock);
  *stats = puller->stats;
  stats->queued_pages = mf_pull_queue_count (puller->queue) + puller->again_pages;
  stats->in_flight_bytes = puller->in_flight_bytes;
  stats->window_bytes = puller->window.window_bytes;
  stats->min_delay_usec = puller->window.base_usec;
  stats->delay_usec = puller->window.delay_usec;
  until = puller->idle_since_usec != 0 ? puller->idle_since_usec : g_get_monotonic_time ();
  since = puller->rate[1].bytes > 0 ? puller->rate[1].begun_usec : puller->rate[0].begun_usec;
  if (stats->bytes > 0)
    stats->rate = (puller->rate[0].bytes + puller->rate[1].bytes) * G_USEC_PER_SEC / (uint64_t) MAX (until - since, 1);
  g_mutex_unlock (&puller->lock);
}
