/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-pusher.h"
#include "mf-schedule.h"
#include "mf-window.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/*
 * Who owns what. The thread: the lane while it uses it, the slots, the reader, `window`, the round's bitmap. Under `lock`: the rest, and the
 * pointer to the lane, so that others can kick it and shut it down.
 *
 * Syncs are numbered. `wanted` is the number of the latest one; a round that begins notes it, and when the round has ended that number is `done`, well or not. A sync
 * waits until `done` has reached its own number: then a round that began after it was called has ended.
 */

#define SLOTS        64
#define SLOT_BYTES   MF_TRANSFER_MAX
#define WINDOW_BYTES (SLOTS * SLOT_BYTES)

typedef struct {
  mf_pusher *pusher;
  mf_request request;
  mf_run run;
  gboolean used;
} Slot;

struct _mf_pusher {
  MfRegion *region; /* a reference */
  mf_pusher_callbacks callbacks;
  gint64 interval_usec;
  uint32_t page_bytes;
  GThread *thread;

  /* The thread's. */
  mf_dirty_session *session;
  mf_dirty_reader *reader;
  mf_bitmap *round; /* what this round has taken */
  mf_window window;
  Slot slots[SLOTS];
  uint8_t *buffers;
  uint64_t in_flight_bytes;
  gboolean flushed; /* the flush has come back */
  int error;        /* of a request of this round */
  uint64_t error_offset;
  GError *read_error; /* of the store */

  GMutex lock;
  GCond changed;
  mf_lane *lane;
  gboolean stopping;
  uint64_t wanted, done, failed; /* `failed`: the number of the latest round that failed for good */
  GError *failure;
  uint64_t round_pages;
  mf_pusher_stats stats;
};

static mf_run
all_pages (mf_pusher *p)
{
  return (mf_run){ 0, mf_region_n_pages (p->region) };
}

/* --- A round: requests --- */

static void
on_done (mf_request *request, gpointer user_data)
{
  Slot *slot = user_data;
  mf_pusher *p = slot->pusher;
  uint64_t carried = request->operation == MF_REQUEST_WRITE ? request->length : 0;

  slot->used = FALSE;
  p->in_flight_bytes -= request->length;
  if (request->error != 0) {
    if (p->error == 0) {
      p->error = request->error;
      p->error_offset = request->offset;
    }
    return;
  }
  mf_schedule_carried ();
  mf_window_completed (&p->window, request->submitted_usec, request->done_usec, carried);
  g_mutex_lock (&p->lock);
  p->stats.bytes += carried;
  p->stats.pages += slot->run.count;
  g_mutex_unlock (&p->lock);
}

static void
on_flushed (mf_request *request, gpointer user_data)
{
  mf_pusher *p = user_data;

  p->flushed = TRUE;
  if (request->error != 0 && p->error == 0)
    p->error = request->error;
}

static gboolean
is_stopping (mf_pusher *p)
{
  gboolean stopping;

  g_mutex_lock (&p->lock);
  stopping = p->stopping;
  g_mutex_unlock (&p->lock);
  return stopping;
}

/* Waits for something to complete. FALSE: the lane is lost (`error`), or the round failed, or all of it is to end. */
static gboolean
wait_some (mf_pusher *p, GError **error)
{
  return mf_lane_poll (p->lane, NULL, 0, -1, error) && p->error == 0 && !is_stopping (p);
}

/* A slot that is free, when the window has room. NULL: wait_some() said no. */
static Slot *
get_slot (mf_pusher *p, GError **error)
{
  for (;;) {
    if (p->in_flight_bytes + p->window.transfer_bytes <= p->window.window_bytes || p->in_flight_bytes == 0) {
      for (guint i = 0; i < SLOTS; i++) {
        if (!p->slots[i].used)
          return &p->slots[i];
      }
    } else {
      mf_window_limited (&p->window);
    }
    if (!wait_some (p, error))
      return NULL;
  }
}

/* Sends pages that have been taken, are PRESENT, and are all hole or not. */
static gboolean
send_run (mf_pusher *p, mf_run run, gboolean hole, GError **error)
{
  Slot *slot = get_slot (p, error);
  uint64_t offset, length;

  if (slot == NULL)
    return FALSE;
  mf_region_bytes_of (p->region, run, &offset, &length);
  if (!hole && !mf_store_read (mf_region_store (p->region), offset, slot->request.buffer, length, &p->read_error))
    return FALSE;
  slot->used = TRUE;
  slot->run = run;
  slot->request.operation = hole ? MF_REQUEST_ZERO : MF_REQUEST_WRITE;
  slot->request.offset = offset;
  slot->request.length = (uint32_t) length;
  p->in_flight_bytes += length;
  mf_lane_submit (p->lane, &slot->request);
  return p->error == 0;
}

/* --- A round: pages --- */

/* How much of `run`, from its first page on, is hole, or data. What is hole when it is looked at and written afterwards is dirty again. */
static mf_run
alike (mf_pusher *p, mf_run run, gboolean *hole)
{
  uint64_t offset, length, data, holes;

  mf_region_bytes_of (p->region, run, &offset, &length);
  data = mf_store_data_from (mf_region_store (p->region), offset);
  holes = data <= offset ? 0 : data >= offset + length ? run.count : (data - offset) / p->page_bytes;
  *hole = holes > 0;
  return holes > 0 ? (mf_run){ run.first, holes } : run;
}

static void
take_part (mf_run part, gpointer data)
{
  mf_pusher *p = data;

  if (p->callbacks.taking != NULL)
    p->callbacks.taking (part, p->callbacks.user_data);
  /* From here on a write makes them dirty again. */
  mf_dirty_reader_take (p->reader, part);
}

/* What is dirty and not PRESENT is what a write left behind that failed: it has no bytes to send. */
static gboolean
push_run (mf_pusher *p, mf_run run, GError **error)
{
  mf_run rest = run, present;

  mf_bitmap_set_run (p->round, run);
  g_mutex_lock (&p->lock);
  p->round_pages += run.count;
  g_mutex_unlock (&p->lock);
  mf_region_visit_stripes (p->region, run, take_part, p);
  while (rest.count > 0 && mf_page_map_next_run (mf_region_map (p->region), rest, MF_PAGE_PRESENT, &present)) {
    for (mf_run left = present; left.count > 0;) {
      gboolean hole;
      mf_run part = alike (p, left, &hole);

      if (!send_run (p, part, hole, error))
        return FALSE;
      left = (mf_run){ part.first + part.count, left.count - part.count };
    }
    rest = (mf_run){ present.first + present.count, run.first + run.count - present.first - present.count };
  }
  return TRUE;
}

static gboolean
push_all (mf_pusher *p, GError **error)
{
  const mf_bitmap *dirty = mf_dirty_session_bits (p->session);
  mf_run rest = all_pages (p), run;

  while (rest.count > 0 && mf_bitmap_next_run (dirty, rest, true, &run)) {
    uint64_t most = MAX (p->window.transfer_bytes / p->page_bytes, 1);

    run.count = MIN (run.count, most);
    if (!push_run (p, run, error))
      return FALSE;
    rest = (mf_run){ run.first + run.count, all_pages (p).count - run.first - run.count };
  }
  while (p->in_flight_bytes > 0) {
    if (!wait_some (p, error))
      return FALSE;
  }
  return p->error == 0;
}

static gboolean
flush (mf_pusher *p, GError **error)
{
  mf_request request = { .operation = MF_REQUEST_FLUSH, .done = on_flushed, .user_data = p };

  p->flushed = FALSE;
  mf_lane_submit (p->lane, &request);
  while (!p->flushed) {
    /* The request is on this stack: until it is done nothing but the lane's end gets us out of here, and that completes it. */
    if (!mf_lane_poll (p->lane, NULL, 0, -1, error))
      return FALSE;
  }
  return p->error == 0;
}

static void
sent_part (mf_run part, gpointer data)
{
  mf_pusher *p = data;

  p->callbacks.sent (part, p->callbacks.user_data);
}

/* All of the round is safe. */
static void
acknowledge (mf_pusher *p)
{
  mf_run rest = all_pages (p), run;

  mf_dirty_reader_acknowledge (p->reader);
  while (rest.count > 0 && mf_bitmap_next_run (p->round, rest, true, &run)) {
    if (p->callbacks.sent != NULL)
      mf_region_visit_stripes (p->region, run, sent_part, p);
    mf_bitmap_clear_run (p->round, run);
    rest = (mf_run){ run.first + run.count, all_pages (p).count - run.first - run.count };
  }
}

/* What was taken is dirty again. Nothing is under way any more. */
static void
give_back (mf_pusher *p)
{
  mf_dirty_reader_free (p->reader);
  p->reader = mf_dirty_reader_new (p->session);
  mf_bitmap_clear_run (p->round, all_pages (p));
}

/* --- Rounds --- */

typedef enum {
  ROUND_DONE,
  ROUND_FAILED, /* the remote didn't take it, or the store can't be read */
  ROUND_LOST,   /* the lane is of no use any more */
} RoundEnd;

/* Waits for what is still under way. FALSE: the lane is lost. */
static gboolean
drain (mf_pusher *p, GError **error)
{
  while (p->in_flight_bytes > 0) {
    if (!mf_lane_poll (p->lane, NULL, 0, -1, error))
      return FALSE;
  }
  return TRUE;
}

static RoundEnd
push_round (mf_pusher *p, GError **error)
{
  g_autoptr (GError) why = NULL;
  gboolean ok;

  p->error = 0;
  p->error_offset = 0;
  ok = push_all (p, &why) && flush (p, &why);
  mf_window_idle (&p->window);
  if (ok) {
    acknowledge (p);
    return ROUND_DONE;
  }
  if (why == NULL && drain (p, &why) && p->error != ENOTCONN && p->error != EAGAIN) {
    give_back (p);
    if (p->read_error != NULL)
      g_propagate_error (error, g_steal_pointer (&p->read_error));
    else if (p->error != 0)
      mf_error_from_errno (error, p->error, "writing at %" G_GUINT64_FORMAT, p->error_offset);
    else
      g_set_error (error, MF_ERROR, MF_ERROR_CANCELLED, "it was stopped");
    return ROUND_FAILED;
  }
  g_clear_error (&p->read_error);
  if (why == NULL)
    g_set_error (&why, MF_ERROR, MF_ERROR_CONNECTION, "the connection was lost");
  g_propagate_error (error, g_steal_pointer (&why));
  return ROUND_LOST;
}

static void
lose_lane (mf_pusher *p)
{
  mf_lane *lane;

  g_mutex_lock (&p->lock);
  lane = g_steal_pointer (&p->lane);
  g_mutex_unlock (&p->lock);
  mf_lane_close (lane);
  give_back (p);
}

/* With the lock held: waits until there is something to do. FALSE: the end. */
static gboolean
wait_for_round (mf_pusher *p, gint64 next_usec)
{
  while (!p->stopping) {
    gboolean due = p->interval_usec > 0 && g_get_monotonic_time () >= next_usec;

    if (p->lane != NULL && (p->wanted > p->done || due))
      return TRUE;
    if (p->lane == NULL || p->interval_usec == 0)
      g_cond_wait (&p->changed, &p->lock);
    else
      g_cond_wait_until (&p->changed, &p->lock, next_usec);
  }
  return FALSE;
}

/* With the lock held. */
static void
note_end (mf_pusher *p, uint64_t number, RoundEnd end, const GError *why)
{
  p->round_pages = 0;
  p->stats.rounds++;
  if (end == ROUND_LOST)
    return; /* the syncs wait for the next lane */
  p->done = number;
  g_clear_error (&p->failure);
  if (end == ROUND_FAILED) {
    p->failed = number;
    p->failure = g_error_copy (why);
  }
  g_cond_broadcast (&p->changed);
}

static void
tell (mf_pusher *p, RoundEnd end, const GError *why)
{
  if (end == ROUND_LOST && p->callbacks.lost != NULL)
    p->callbacks.lost (why, p->callbacks.user_data);
  if (end == ROUND_FAILED && p->callbacks.failed != NULL)
    p->callbacks.failed (why, p->callbacks.user_data);
}

static gpointer
run_pusher (gpointer data)
{
  mf_pusher *p = data;
  gint64 next_usec = g_get_monotonic_time () + p->interval_usec;

  mf_schedule_bulk ();
  g_mutex_lock (&p->lock);
  while (wait_for_round (p, next_usec)) {
    uint64_t number = p->wanted;
    gboolean asked = number > p->done;
    g_autoptr (GError) why = NULL;
    RoundEnd end = ROUND_DONE;
    gboolean stopping;

    g_mutex_unlock (&p->lock);
    /* A sync flushes also when nothing is dirty: what was sent before may have been sent by a lane that was lost. */
    if (asked || mf_dirty_session_count (p->session) > 0)
      end = push_round (p, &why);
    if (end == ROUND_LOST)
      lose_lane (p);
    next_usec = g_get_monotonic_time () + p->interval_usec;
    g_mutex_lock (&p->lock);
    note_end (p, number, end, why);
    stopping = p->stopping;
    g_mutex_unlock (&p->lock);
    if (!stopping)
      tell (p, end, why);
    g_mutex_lock (&p->lock);
  }
  g_mutex_unlock (&p->lock);
  return NULL;
}

/* --- The owner's side --- */

static void
copy_initial (mf_bitmap *dirty, gpointer initial)
{
  if (initial != NULL)
    mf_bitmap_or (dirty, initial);
}

static gboolean
make_parts (mf_pusher *p, const mf_bitmap *initial, GError **error)
{
  const char *name = mf_region_get_name (p->region);

  if (p->page_bytes > SLOT_BYTES) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED, "region %s has pages of %u KiB: they can't be pushed", name,
                 p->page_bytes >> 10);
    return FALSE;
  }
  p->session = mf_dirty_session_open (mf_region_dirty_log (p->region), copy_initial, (gpointer) initial, error);
  if (p->session == NULL)
    return FALSE;
  p->reader = mf_dirty_reader_new (p->session);
  p->round = mf_bitmap_new (mf_region_n_pages (p->region));
  p->buffers = mmap (NULL, WINDOW_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p->buffers == MAP_FAILED)
    p->buffers = NULL;
  if (p->reader == NULL || p->round == NULL || p->buffers == NULL)
    return mf_error_from_errno (error, ENOMEM, "making buffers to push region %s", name);
  for (guint i = 0; i < SLOTS; i++) {
    Slot *slot = &p->slots[i];

    slot->pusher = p;
    slot->request.buffer = p->buffers + i * SLOT_BYTES;
    slot->request.done = on_done;
    slot->request.user_data = slot;
  }
  return TRUE;
}

mf_pusher *
mf_pusher_new (MfRegion *region, const mf_bitmap *initial, gint64 interval_usec, const mf_pusher_callbacks *callbacks,
               GError **error)
{
  g_autoptr (mf_pusher) p = g_new0 (mf_pusher, 1);

  p->region = g_object_ref (region);
  p->page_bytes = mf_region_page_bytes (region);
  p->interval_usec = interval_usec;
  if (callbacks != NULL)
    p->callbacks = *callbacks;
  g_mutex_init (&p->lock);
  g_cond_init (&p->changed);
  mf_window_init (&p->window, WINDOW_BYTES);
  mf_window_set_lanes (&p->window, 1);
  if (!make_parts (p, initial, error))
    return NULL;
  p->thread = g_thread_new ("mf-push", run_pusher, p);
  return g_steal_pointer (&p);
}

void
mf_pusher_free (mf_pusher *p)
{
  if (p == NULL)
    return;
  g_mutex_lock (&p->lock);
  p->stopping = TRUE;
  g_cond_broadcast (&p->changed);
  if (p->lane != NULL)
    mf_lane_shutdown (p->lane);
  g_mutex_unlock (&p->lock);
  if (p->thread != NULL)
    g_thread_join (p->thread);
  g_clear_pointer (&p->lane, mf_lane_close);
  mf_dirty_reader_free (p->reader);
  g_clear_pointer (&p->session, mf_dirty_session_unref);
  mf_bitmap_free (p->round);
  if (p->buffers != NULL)
    munmap (p->buffers, WINDOW_BYTES);
  g_clear_error (&p->failure);
  g_clear_error (&p->read_error);
  g_mutex_clear (&p->lock);
  g_cond_clear (&p->changed);
  g_object_unref (p->region);
  g_free (p);
}

void
mf_pusher_set_lane (mf_pusher *p, mf_lane *lane)
{
  g_mutex_lock (&p->lock);
  if (p->lane == NULL && !p->stopping)
    p->lane = g_steal_pointer (&lane);
  g_cond_broadcast (&p->changed);
  g_mutex_unlock (&p->lock);
  if (lane != NULL)
    mf_lane_close (lane);
}

gboolean
mf_pusher_has_lane (mf_pusher *p)
{
  gboolean has;

  g_mutex_lock (&p->lock);
  has = p->lane != NULL;
  g_mutex_unlock (&p->lock);
  return has;
}

static void
on_cancelled (GCancellable *cancellable, gpointer user_data)
{
  mf_pusher *p = user_data;

  g_mutex_lock (&p->lock);
  g_cond_broadcast (&p->changed);
  g_mutex_unlock (&p->lock);
}

void
mf_pusher_begin_sync (mf_pusher *p)
{
  g_mutex_lock (&p->lock);
  p->wanted++;
  g_cond_broadcast (&p->changed);
  g_mutex_unlock (&p->lock);
}

gboolean
mf_pusher_sync (mf_pusher *p, gint64 deadline_usec, GCancellable *cancellable, GError **error)
{
  const char *name = mf_region_get_name (p->region);
  gboolean late = FALSE, ok = FALSE;
  gulong handler = 0;
  uint64_t number;

  if (cancellable != NULL)
    handler = g_cancellable_connect (cancellable, G_CALLBACK (on_cancelled), p, NULL);
  g_mutex_lock (&p->lock);
  number = ++p->wanted;
  g_cond_broadcast (&p->changed);
  while (p->done < number && !late && !g_cancellable_is_cancelled (cancellable)) {
    if (deadline_usec < 0)
      g_cond_wait (&p->changed, &p->lock);
    else
      late = !g_cond_wait_until (&p->changed, &p->lock, deadline_usec);
  }
  if (p->done < number && late)
    g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT, "region %s was not pushed in time", name);
  else if (p->done < number)
    g_set_error (error, MF_ERROR, MF_ERROR_CANCELLED, "pushing region %s was cancelled", name);
  else if (p->failed >= number && p->failure != NULL)
    g_propagate_error (error, g_error_copy (p->failure));
  else
    ok = TRUE;
  g_mutex_unlock (&p->lock);
  g_cancellable_disconnect (cancellable, handler);
  return ok;
}

void
mf_pusher_get_stats (mf_pusher *p, mf_pusher_stats *stats)
{
  g_mutex_lock (&p->lock);
  *stats = p->stats;
  stats->dirty_pages = p->round_pages;
  g_mutex_unlock (&p->lock);
  stats->dirty_pages = MIN (stats->dirty_pages + mf_dirty_session_count (p->session), mf_region_n_pages (p->region));
}
