/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory-lane.h"

#include <errno.h>
#include <string.h>

#define DEADLINE_USEC (30 * G_USEC_PER_SEC)
#define LATE_USEC     100

typedef struct {
  mf_request *request;
  uint8_t *early; /* the bytes as they were at submit; NULL: read them when answering */
} Pending;

typedef struct {
  mf_lane lane;
  Remote *remote;
  GRand *dice;
  GArray *pending; /* of Pending, the owner's */
  mf_dirty_reader *reader;
  guint lives;
  gboolean broken;
  gboolean kicked, shut; /* under the remote's lock */
} MemoryLane;

void
remote_init (Remote *remote, uint64_t size, uint32_t page_bytes)
{
  memset (remote, 0, sizeof *remote);
  g_mutex_init (&remote->lock);
  g_cond_init (&remote->changed);
  remote->size = size;
  remote->page_bytes = page_bytes;
  remote->bytes = g_malloc0 (size);
  remote->fail_page = UINT64_MAX;
}

void
remote_clear (Remote *remote)
{
  g_free (remote->bytes);
  g_mutex_clear (&remote->lock);
  g_cond_clear (&remote->changed);
}

void
remote_write (Remote *remote, uint64_t offset, const void *bytes, uint64_t length)
{
  g_mutex_lock (&remote->lock);
  memcpy (remote->bytes + offset, bytes, length);
  g_mutex_unlock (&remote->lock);
}

void
remote_read (Remote *remote, uint64_t offset, void *bytes, uint64_t length)
{
  g_mutex_lock (&remote->lock);
  memcpy (bytes, remote->bytes + offset, length);
  g_mutex_unlock (&remote->lock);
}

void
remote_set_hold (Remote *remote, gboolean hold)
{
  g_mutex_lock (&remote->lock);
  remote->hold = hold;
  g_cond_broadcast (&remote->changed);
  g_mutex_unlock (&remote->lock);
}

void
remote_set_fail_page (Remote *remote, uint64_t page)
{
  g_mutex_lock (&remote->lock);
  remote->fail_page = page;
  g_mutex_unlock (&remote->lock);
}

void
remote_wait_submitted (Remote *remote, guint n)
{
  gint64 deadline = g_get_monotonic_time () + DEADLINE_USEC;

  g_mutex_lock (&remote->lock);
  while (remote->submitted < n)
    g_assert_true (g_cond_wait_until (&remote->changed, &remote->lock, deadline));
  g_mutex_unlock (&remote->lock);
}

static mf_run
run_of (const mf_request *request)
{
  if (request->page_bytes == 0)
    return (mf_run){ 0, 0 };
  uint64_t first = request->offset / request->page_bytes;
  uint64_t end = (request->offset + request->length + request->page_bytes - 1) / request->page_bytes;

  return (mf_run){ first, end - first };
}

static gboolean
is_zero (const uint8_t *bytes, size_t length)
{
  return bytes[0] == 0 && memcmp (bytes, bytes + 1, length - 1) == 0;
}

/* Answers without the lock, as the network does. */
static void
answer (MemoryLane *m, Pending pending, int error)
{
  mf_request *request = pending.request;
  mf_run run = run_of (request);

  if (error == 0 && request->operation == MF_REQUEST_READ) {
    if (pending.early != NULL)
      memcpy (request->buffer, pending.early, request->length);
    for (uint64_t i = 0; i < run.count; i++) {
      uint64_t at = i * request->page_bytes;
      size_t length = MIN (request->page_bytes, request->length - at);

      if (is_zero ((uint8_t *) request->buffer + at, length)) {
        request->holes[i / 64] |= UINT64_C (1) << (i % 64);
        /* Undefined: so something that must not be used. */
        memset ((uint8_t *) request->buffer + at, 0xee, length);
      }
    }
  }
  g_free (pending.early);
  g_mutex_lock (&m->remote->lock);
  m->remote->in_flight_bytes -= request->length;
  g_mutex_unlock (&m->remote->lock);
  request->error = error;
  request->done_usec = g_get_monotonic_time ();
  request->done (request, request->user_data);
}

static uint64_t
lane_size (mf_lane *lane)
{
  return ((MemoryLane *) lane)->remote->size;
}

static void
lane_submit (mf_lane *lane, mf_request *request)
{
  MemoryLane *m = (MemoryLane *) lane;
  Remote *r = m->remote;
  Pending pending = { request };

  g_assert_true (request->length > 0 || request->operation == MF_REQUEST_FLUSH);
  g_assert_cmpuint (request->offset % r->page_bytes, ==, 0);
  g_assert_cmpuint (request->length, <=, r->size - request->offset);
  g_assert_cmpuint (run_of (request).count, <=, MF_REQUEST_MAX_PAGES);

  request->submitted_usec = g_get_monotonic_time ();
  g_mutex_lock (&r->lock);
  r->submitted++;
  r->in_flight_bytes += request->length;
  r->most_in_flight_bytes = MAX (r->most_in_flight_bytes, r->in_flight_bytes);
  r->max_length = MAX (r->max_length, request->length);
  if (r->shuffle && request->operation == MF_REQUEST_READ && g_rand_int_range (m->dice, 0, 2) == 0) {
    /* The dirty bits go before the bytes are read. */
    if (m->reader != NULL)
      mf_dirty_reader_take (m->reader, run_of (request));
    pending.early = g_memdup2 (r->bytes + request->offset, request->length);
  }
  g_cond_broadcast (&r->changed);
  g_mutex_unlock (&r->lock);
  if (m->lives == 0)
    m->broken = TRUE;
  else if (m->lives != G_MAXUINT)
    m->lives--;
  g_array_append_val (m->pending, pending);
}

/* Which request is answered next; -1: none now. With the remote's lock held. */
static int
choose (MemoryLane *m)
{
  if (m->pending->len == 0 || m->remote->hold)
    return -1;
  if (!m->remote->shuffle)
    return 0;
  return g_rand_int_range (m->dice, 0, 4) == 0 ? -1 : g_rand_int_range (m->dice, 0, (int) m->pending->len);
}

/* Waits for a request to answer. With the remote's lock held. */
static int
wait_for_choice (MemoryLane *m, gint64 timeout_usec)
{
  gint64 end = timeout_usec < 0 ? G_MAXINT64 : g_get_monotonic_time () + timeout_usec;

  for (;;) {
    int chosen = choose (m);
    gint64 now = g_get_monotonic_time ();

    if (chosen >= 0 || m->kicked || m->shut || now >= end)
      return chosen;
    /* What the dice made late is looked at again soon; the rest comes with a signal. */
    if (m->remote->shuffle && m->pending->len > 0 && !m->remote->hold)
      g_cond_wait_until (&m->remote->changed, &m->remote->lock, MIN (now + LATE_USEC, end));
    else if (end == G_MAXINT64)
      g_cond_wait (&m->remote->changed, &m->remote->lock);
    else
      g_cond_wait_until (&m->remote->changed, &m->remote->lock, end);
  }
}

static void
break_off (MemoryLane *m, int error)
{
  while (m->pending->len > 0) {
    Pending pending = g_array_index (m->pending, Pending, 0);

    g_array_remove_index (m->pending, 0);
    answer (m, pending, error);
  }
}

static gboolean
fail_all (MemoryLane *m, GError **error)
{
  break_off (m, ENOTCONN);
  g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION, "the lane broke");
  return FALSE;
}

/* With the remote's lock held. Returns an errno value. */
static int
carry_out (MemoryLane *m, const mf_request *request)
{
  Remote *r = m->remote;
  const uint64_t fail_at = r->fail_page != UINT64_MAX ? r->fail_page * r->page_bytes : UINT64_MAX;

  if (fail_at >= request->offset && fail_at - request->offset < request->length)
    return EIO;
  switch (request->operation) {
  case MF_REQUEST_WRITE:
    memcpy (r->bytes + request->offset, request->buffer, request->length);
    r->written_bytes += request->length;
    break;
  case MF_REQUEST_ZERO:
    memset (r->bytes + request->offset, 0, request->length);
    r->zeroed_bytes += request->length;
    break;
  case MF_REQUEST_FLUSH:
    r->flushes++;
    break;
  case MF_REQUEST_READ:
    break;
  }
  return 0;
}

static gboolean
lane_poll (mf_lane *lane, struct pollfd *extra, guint n_extra, gint64 timeout_usec, GError **error)
{
  MemoryLane *m = (MemoryLane *) lane;
  Remote *r = m->remote;
  Pending pending;
  int chosen, failure = 0;

  if (m->broken)
    return fail_all (m, error);
  g_mutex_lock (&r->lock);
  chosen = wait_for_choice (m, timeout_usec);
  m->kicked = FALSE;
  m->broken = m->shut;
  if (m->broken) {
    g_mutex_unlock (&r->lock);
    return fail_all (m, error);
  }
  if (chosen < 0) {
    g_mutex_unlock (&r->lock);
    return TRUE;
  }
  pending = g_array_index (m->pending, Pending, chosen);
  g_array_remove_index (m->pending, (guint) chosen);
  failure = carry_out (m, pending.request);
  if (failure == 0 && pending.early == NULL && pending.request->operation == MF_REQUEST_READ) {
    if (m->reader != NULL)
      mf_dirty_reader_take (m->reader, run_of (pending.request));
    memcpy (pending.request->buffer, r->bytes + pending.request->offset, pending.request->length);
  }
  g_mutex_unlock (&r->lock);
  answer (m, pending, failure);
  return TRUE;
}

static guint
lane_in_flight (mf_lane *lane)
{
  return ((MemoryLane *) lane)->pending->len;
}

static void
lane_kick (mf_lane *lane)
{
  MemoryLane *m = (MemoryLane *) lane;

  g_mutex_lock (&m->remote->lock);
  m->kicked = TRUE;
  g_cond_broadcast (&m->remote->changed);
  g_mutex_unlock (&m->remote->lock);
}

static void
lane_shutdown (mf_lane *lane)
{
  MemoryLane *m = (MemoryLane *) lane;

  g_mutex_lock (&m->remote->lock);
  m->shut = TRUE;
  g_cond_broadcast (&m->remote->changed);
  g_mutex_unlock (&m->remote->lock);
}

static gboolean
lane_flush (mf_lane *lane, GError **error)
{
  MemoryLane *m = (MemoryLane *) lane;
  Remote *r = m->remote;

  g_assert_cmpuint (m->pending->len, ==, 0);
  g_mutex_lock (&r->lock);
  r->flushes++;
  g_cond_broadcast (&r->changed);
  while (r->hold_flush && !m->shut)
    g_cond_wait (&r->changed, &r->lock);
  m->broken |= m->shut;
  g_mutex_unlock (&r->lock);
  if (m->broken) {
    g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION, "the lane broke");
    return FALSE;
  }
  if (m->reader != NULL)
    mf_dirty_reader_acknowledge (m->reader);
  return TRUE;
}

static gboolean
lane_extents (mf_lane *lane, const char *context, uint64_t offset, uint64_t length, GArray *extents, GError **error)
{
  g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED, "no contexts here");
  return FALSE;
}

static void
lane_close (mf_lane *lane)
{
  MemoryLane *m = (MemoryLane *) lane;

  break_off (m, ECANCELED);
  mf_dirty_reader_free (m->reader);
  g_array_unref (m->pending);
  g_rand_free (m->dice);
  g_free (m);
}

static const mf_lane_ops memory_lane_ops = {
  .size = lane_size,
  .submit = lane_submit,
  .poll = lane_poll,
  .in_flight = lane_in_flight,
  .kick = lane_kick,
  .shutdown = lane_shutdown,
  .flush = lane_flush,
  .extents = lane_extents,
  .close = lane_close,
};

mf_lane *
memory_lane_new (Remote *remote, guint32 seed, guint lives)
{
  MemoryLane *m = g_new0 (MemoryLane, 1);

  m->lane.ops = &memory_lane_ops;
  m->remote = remote;
  m->dice = g_rand_new_with_seed (seed);
  m->pending = g_array_new (FALSE, FALSE, sizeof (Pending));
  m->lives = lives;
  if (remote->dirty != NULL)
    m->reader = mf_dirty_reader_new (remote->dirty);
  return &m->lane;
}
