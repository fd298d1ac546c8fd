/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-backend-io.h"

#include <errno.h>

/* How long one attempt to connect may take. */
#define CONNECT_USEC (10 * G_USEC_PER_SEC)

struct _mf_backend_io {
  MfBackend *backend; /* a reference */
  uint32_t granule;
  guint max_lanes;
  gint64 limit_usec;

  GMutex lock; /* protects all that follows */
  GCond changed;
  GPtrArray *free_lanes;
  guint n_lanes; /* free, in use, and being connected */
  gboolean connecting;
  gint64 retry_usec; /* not before this time */
  gint64 backoff_usec;
  GError *why;               /* the latest attempt failed */
  uint64_t written, flushed; /* writes that were done; how many of them a flush covers */
  gboolean may_be_lost;
};

mf_backend_io *
mf_backend_io_new (MfBackend *backend, uint32_t granule, guint lanes, gint64 limit_usec)
{
  mf_backend_io *io = g_new0 (mf_backend_io, 1);

  io->backend = mf_backend_ref (backend);
  io->granule = granule;
  io->max_lanes = MAX (lanes, 1);
  io->limit_usec = limit_usec;
  io->backoff_usec = MF_BACKOFF_MIN_USEC;
  g_mutex_init (&io->lock);
  g_cond_init (&io->changed);
  io->free_lanes = g_ptr_array_new_with_free_func ((GDestroyNotify) mf_lane_close);
  return io;
}

void
mf_backend_io_free (mf_backend_io *io)
{
  if (io == NULL)
    return;
  g_ptr_array_unref (io->free_lanes);
  g_clear_error (&io->why);
  g_mutex_clear (&io->lock);
  g_cond_clear (&io->changed);
  mf_backend_unref (io->backend);
  g_free (io);
}

void
mf_backend_io_add_lane (mf_backend_io *io, mf_lane *lane)
{
  g_mutex_lock (&io->lock);
  g_ptr_array_add (io->free_lanes, lane);
  io->n_lanes++;
  g_mutex_unlock (&io->lock);
}

static void
on_cancelled_waiting (GCancellable *cancellable, gpointer user_data)
{
  mf_backend_io *io = user_data;

  g_mutex_lock (&io->lock);
  g_cond_broadcast (&io->changed);
  g_mutex_unlock (&io->lock);
}

/* With the lock held: the next attempt is made later, and later each time until a request is done. */
static void
pause_attempts (mf_backend_io *io)
{
  io->retry_usec = g_get_monotonic_time () + io->backoff_usec;
  io->backoff_usec = MIN (io->backoff_usec * 2, MF_BACKOFF_MAX_USEC);
}

/* With the lock held, which is let go meanwhile. NULL: it failed, and `why` says so. */
static mf_lane *
connect_lane (mf_backend_io *io, gint64 deadline_usec)
{
  gint64 left = deadline_usec < 0 ? CONNECT_USEC : MAX (deadline_usec - g_get_monotonic_time (), 0);
  g_autoptr (GError) why = NULL;
  mf_lane *lane;

  io->connecting = TRUE;
  io->n_lanes++;
  g_mutex_unlock (&io->lock);
  lane = mf_backend_open_lane (io->backend, io->granule, MIN (left, CONNECT_USEC), &why);
  g_mutex_lock (&io->lock);
  io->connecting = FALSE;
  g_clear_error (&io->why);
  if (lane == NULL) {
    io->n_lanes--;
    io->why = g_steal_pointer (&why);
    pause_attempts (io);
  }
  g_cond_broadcast (&io->changed);
  return lane;
}

static mf_lane *
take_lane (mf_backend_io *io, gint64 deadline_usec, GCancellable *cancellable, GError **error)
{
  mf_lane *lane = NULL;
  gulong handler = 0;

  if (cancellable != NULL)
    handler = g_cancellable_connect (cancellable, G_CALLBACK (on_cancelled_waiting), io, NULL);
  g_mutex_lock (&io->lock);
  while (lane == NULL) {
    gint64 now = g_get_monotonic_time (), until = deadline_usec;

    if (io->free_lanes->len > 0) {
      lane = g_ptr_array_steal_index_fast (io->free_lanes, io->free_lanes->len - 1);
      break;
    }
    if (g_cancellable_is_cancelled (cancellable)) {
      g_set_error (error, MF_ERROR, MF_ERROR_CANCELLED, "a request to %s was cancelled", io->backend->name);
      break;
    }
    if (deadline_usec >= 0 && now >= deadline_usec) {
      g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT, "%s could not be reached in time%s%s", io->backend->name,
                   io->why != NULL ? ": " : "", io->why != NULL ? io->why->message : "");
      break;
    }
    if (io->n_lanes < io->max_lanes && !io->connecting && now >= io->retry_usec) {
      lane = connect_lane (io, deadline_usec);
      continue;
    }
    if (io->n_lanes < io->max_lanes && !io->connecting)
      until = deadline_usec < 0 ? io->retry_usec : MIN (deadline_usec, io->retry_usec);
    if (until < 0)
      g_cond_wait (&io->changed, &io->lock);
    else
      g_cond_wait_until (&io->changed, &io->lock, until);
  }
  g_mutex_unlock (&io->lock);
  g_cancellable_disconnect (cancellable, handler);
  return lane;
}

static void
give_lane_back (mf_backend_io *io, mf_lane *lane)
{
  g_mutex_lock (&io->lock);
  io->backoff_usec = MF_BACKOFF_MIN_USEC;
  g_ptr_array_add (io->free_lanes, lane);
  g_cond_signal (&io->changed);
  g_mutex_unlock (&io->lock);
}

/* The lane is of no use any more. The first attempt to get another one is made at once, unless the backend says that it `is_away`. */
static void
drop_lane (mf_backend_io *io, mf_lane *lane, gboolean is_away)
{
  mf_lane_close (lane);
  g_mutex_lock (&io->lock);
  io->n_lanes--;
  io->may_be_lost |= io->written > io->flushed;
  if (is_away || io->backoff_usec > MF_BACKOFF_MIN_USEC)
    pause_attempts (io);
  else
    io->backoff_usec *= 2;
  g_cond_broadcast (&io->changed);
  g_mutex_unlock (&io->lock);
}

static void
on_done (mf_request *request, gpointer is_done)
{
  *(gboolean *) is_done = TRUE;
}

static void
on_cancelled_asking (GCancellable *cancellable, gpointer lane)
{
  mf_lane_kick (lane);
}

typedef enum {
  ASK_DONE, /* request->error says how */
  ASK_LOST,
  ASK_LATE,
  ASK_CANCELLED,
} AskEnd;

/* Unless it is ASK_DONE the lane has to be dropped, and until then has the request. */
static AskEnd
ask (mf_lane *lane, mf_request *request, gboolean *is_done, gint64 deadline_usec, GCancellable *cancellable)
{
  *is_done = FALSE;
  request->done = on_done;
  request->user_data = is_done;
  mf_lane_submit (lane, request);
  while (!*is_done) {
    gint64 left = deadline_usec < 0 ? -1 : MAX (deadline_usec - g_get_monotonic_time (), 0);

    if (!mf_lane_poll (lane, NULL, 0, left, NULL))
      return ASK_LOST;
    if (!*is_done && g_cancellable_is_cancelled (cancellable))
      return ASK_CANCELLED;
    if (!*is_done && left == 0)
      return ASK_LATE;
  }
  return request->error == ENOTCONN || request->error == EAGAIN ? ASK_LOST : ASK_DONE;
}

/* Before a flush goes out: `covered` is what it covers when it comes back. FALSE: something may be lost. */
static gboolean
begin_flush (mf_backend_io *io, uint64_t *covered, GError **error)
{
  gboolean lost;

  g_mutex_lock (&io->lock);
  lost = io->may_be_lost;
  io->may_be_lost = FALSE;
  *covered = io->written;
  g_mutex_unlock (&io->lock);
  if (lost)
    g_set_error (error, MF_ERROR, MF_ERROR_IO,
                 "the connection to %s was lost before it had flushed what was written: some of it may be gone",
                 io->backend->name);
  return !lost;
}

static gboolean
finish (mf_backend_io *io, const mf_request *request, uint64_t covered, GError **error)
{
  static const char *const names[] = { "reading", "writing", "making zeroes", "flushing" };

  g_mutex_lock (&io->lock);
  if (request->error == 0 && request->operation == MF_REQUEST_FLUSH)
    io->flushed = MAX (io->flushed, covered);
  else if (request->error == 0 && request->operation != MF_REQUEST_READ)
    io->written++;
  g_mutex_unlock (&io->lock);
  if (request->error == 0)
    return TRUE;
  mf_error_from_errno (error, request->error, "%s at %" G_GUINT64_FORMAT " of %s", names[request->operation],
                       request->offset, io->backend->name);
  return FALSE;
}

gboolean
mf_backend_io_do (mf_backend_io *io, mf_request *request, GCancellable *cancellable, GError **error)
{
  gint64 deadline = io->limit_usec < 0 ? -1 : g_get_monotonic_time () + io->limit_usec;
  uint64_t covered = 0;
  gboolean is_done;

  for (;;) {
    mf_lane *lane = take_lane (io, deadline, cancellable, error);
    gulong handler = 0;
    AskEnd end;

    if (lane == NULL)
      return FALSE;
    if (request->operation == MF_REQUEST_FLUSH && !begin_flush (io, &covered, error)) {
      give_lane_back (io, lane);
      return FALSE;
    }
    if (cancellable != NULL)
      handler = g_cancellable_connect (cancellable, G_CALLBACK (on_cancelled_asking), lane, NULL);
    end = ask (lane, request, &is_done, deadline, cancellable);
    g_cancellable_disconnect (cancellable, handler);
    if (end == ASK_DONE) {
      gboolean ok = finish (io, request, covered, error);

      give_lane_back (io, lane);
      return ok;
    }
    drop_lane (io, lane, request->error == EAGAIN);
    if (end == ASK_LOST)
      continue;
    if (end == ASK_LATE)
      g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT, "%s did not answer in time", io->backend->name);
    else
      g_set_error (error, MF_ERROR, MF_ERROR_CANCELLED, "a request to %s was cancelled", io->backend->name);
    return FALSE;
  }
}
