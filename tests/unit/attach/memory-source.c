/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory-source.h"
#include "scribble-pattern.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

typedef struct {
  mf_lane lane;
  memory_source *source;
  GQueue requests;
} memory_lane;

void
memory_source_init (memory_source *source, uint64_t size_bytes, uint32_t page_bytes, uint32_t seed)
{
  *source = (memory_source){ .size_bytes = size_bytes, .page_bytes = page_bytes, .seed = seed };
  source->kick_fd = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
  g_assert_cmpint (source->kick_fd, >=, 0);
}

void
memory_source_clear (memory_source *source)
{
  close (source->kick_fd);
}

void
memory_source_kick (memory_source *source)
{
  const uint64_t one = 1;

  g_assert_cmpint (write (source->kick_fd, &one, sizeof (one)), ==, sizeof (one));
}

bool
memory_source_is_hole (const memory_source *source, uint64_t page)
{
  return source->hole_every > 0 && page % source->hole_every == 0;
}

static void
answer (memory_source *source, mf_request *request)
{
  const uint64_t first = request->offset / source->page_bytes;
  uint8_t page_data[2 * 1024 * 1024];

  request->error = 0;
  if (atomic_load (&source->fail_pages) > 0) {
    atomic_fetch_sub (&source->fail_pages, 1);
    request->error = EIO;
  }
  for (uint64_t at = 0; at < request->length; at += source->page_bytes) {
    const uint64_t page = first + at / source->page_bytes;
    uint8_t *to = (uint8_t *) request->buffer + at;

    if (memory_source_is_hole (source, page)) {
      /* What is there is undefined. */
      request->holes[at / source->page_bytes / 64] |= UINT64_C (1) << (at / source->page_bytes % 64);
      memset (to, 0xee, MIN (source->page_bytes, request->length - at));
      continue;
    }
    pattern_fill (page_data, source->page_bytes, source->seed, page);
    memcpy (to, page_data, MIN (source->page_bytes, request->length - at));
  }
}

static uint64_t
size (mf_lane *lane)
{
  return ((memory_lane *) lane)->source->size_bytes;
}

static void
submit (mf_lane *lane, mf_request *request)
{
  memory_lane *self = (memory_lane *) lane;
  const uint32_t number = atomic_fetch_add (&self->source->asked, 1) + 1;

  if (self->source->die_at > 0 && number == (uint32_t) self->source->die_at)
    kill (getpid (), SIGKILL);
  request->submitted_usec = g_get_monotonic_time ();
  g_queue_push_tail (&self->requests, request);
}

static void
complete_all (memory_lane *self, int error)
{
  guint n = g_queue_get_length (&self->requests);

  for (; n > 0; n--) {
    mf_request *request = g_queue_pop_head (&self->requests);

    if (error == 0)
      answer (self->source, request);
    else
      request->error = error;
    request->done_usec = g_get_monotonic_time ();
    request->done (request, request->user_data);
  }
}

static gboolean
lane_poll (mf_lane *lane, struct pollfd *extra, guint n_extra, gint64 timeout_usec, GError **error)
{
  memory_lane *self = (memory_lane *) lane;
  const bool ready = !g_queue_is_empty (&self->requests) && !atomic_load (&self->source->hold);
  struct pollfd fds[8] = { { .fd = self->source->kick_fd, .events = POLLIN } };
  struct timespec time = { .tv_sec = timeout_usec / G_USEC_PER_SEC, .tv_nsec = timeout_usec % G_USEC_PER_SEC * 1000 };
  uint64_t kicks;

  if (ready && self->source->dawdle_usec > 0)
    g_usleep ((gulong) self->source->dawdle_usec);
  if (ready)
    time = (struct timespec){ 0 };
  if (n_extra > 0)
    memcpy (fds + 1, extra, n_extra * sizeof (*extra));
  if (ppoll (fds, n_extra + 1, timeout_usec < 0 && !ready ? NULL : &time, NULL) > 0) {
    for (guint i = 0; i < n_extra; i++)
      extra[i].revents = fds[i + 1].revents;
    if (fds[0].revents && read (self->source->kick_fd, &kicks, sizeof (kicks)) < 0)
      g_assert_cmpint (errno, ==, EAGAIN);
  }
  if (atomic_load (&self->source->broken)) {
    complete_all (self, ECONNRESET);
    g_set_error_literal (error, MF_ERROR, MF_ERROR_CONNECTION, "broken by the test");
    return FALSE;
  }
  if (ready)
    complete_all (self, 0);
  return TRUE;
}

static guint
in_flight (mf_lane *lane)
{
  return g_queue_get_length (&((memory_lane *) lane)->requests);
}

static void
kick (mf_lane *lane)
{
  memory_source_kick (((memory_lane *) lane)->source);
}

static void
lane_shutdown (mf_lane *lane)
{
  atomic_store (&((memory_lane *) lane)->source->broken, true);
  kick (lane);
}

static gboolean
flush (mf_lane *lane, GError **error)
{
  return TRUE;
}

static void
lane_close (mf_lane *lane)
{
  memory_lane *self = (memory_lane *) lane;

  complete_all (self, ECANCELED);
  g_free (self);
}

mf_lane *
memory_source_open (memory_source *source)
{
  static const mf_lane_ops ops = { .size = size,
                                   .submit = submit,
                                   .poll = lane_poll,
                                   .in_flight = in_flight,
                                   .kick = kick,
                                   .shutdown = lane_shutdown,
                                   .flush = flush,
                                   .close = lane_close };
  memory_lane *self = g_new0 (memory_lane, 1);

  self->lane.ops = &ops;
  self->source = source;
  atomic_store (&source->broken, false);
  return &self->lane;
}
