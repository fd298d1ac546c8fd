/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A lane over libnbd.
 *
 * libnbd calls back with its handle locked, so nothing may be asked of it from there, and `done` wants to submit the
 * next request. So a callback only moves the request's slot to the list of finished ones, and deliver() calls `done`
 * when libnbd has returned. A `done` that submits comes back into deliver(), which leaves the work to the outer one.
 *
 * Slots are what libnbd holds on to while a request is in flight. They are kept for the next request: no allocation of
 * ours in steady state.
 */
#include "nbd/mf-nbd-lane.h"
#include "core/mf-nbd-protocol.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* What poll() takes besides its own descriptors. */
#define MAX_EXTRA 16

static mf_nbd_slot *
slot_new (mf_nbd_lane *lane, mf_request *request)
{
  mf_nbd_slot *slot = lane->free;

  if (slot)
    lane->free = slot->next;
  else
    slot = g_new (mf_nbd_slot, 1);
  *slot = (mf_nbd_slot){ .lane = lane, .request = request, .next = lane->flying };
  if (lane->flying)
    lane->flying->prev = slot;
  lane->flying = slot;
  lane->in_flight++;
  return slot;
}

/* From in flight to finished. */
static void
slot_finish (mf_nbd_slot *slot, int error)
{
  mf_nbd_lane *lane = slot->lane;

  if (slot->prev)
    slot->prev->next = slot->next;
  else
    lane->flying = slot->next;
  if (slot->next)
    slot->next->prev = slot->prev;
  slot->request->error = error;
  slot->request->done_usec = g_get_monotonic_time ();
  slot->next = NULL;
  *lane->tail = slot;
  lane->tail = &slot->next;
}

/* Calls `done` of what has finished. Returns how many. */
static guint
deliver (mf_nbd_lane *lane)
{
  guint n = 0;

  if (lane->delivering)
    return 0;
  lane->delivering = TRUE;
  while (lane->finished) {
    mf_nbd_slot *slot = lane->finished;
    mf_request *request = slot->request;

    lane->finished = slot->next;
    if (!lane->finished)
      lane->tail = &lane->finished;
    slot->next = lane->free;
    lane->free = slot;
    lane->in_flight--;
    n++;
    request->done (request, request->user_data);
  }
  lane->delivering = FALSE;
  return n;
}

/* libnbd: a chunk of a read is in its place. */
static int
on_chunk (void *user_data, const void *subbuf, size_t count, uint64_t offset, unsigned status, int *error)
{
  mf_nbd_slot *slot = user_data;
  mf_request *request = slot->request;
  uint64_t start = offset - request->offset, end = start + count;
  uint64_t first, past;

  /* libnbd has checked that the chunk lies within the request, or we would not be here. */
  if (status == LIBNBD_READ_ERROR || end > request->length)
    return 0;
  slot->seen_bytes += (uint32_t) count;
  if (status != LIBNBD_READ_HOLE)
    return 0;
  if (request->page_bytes == 0) {
    memset ((uint8_t *) request->buffer + start, 0, count);
    return 0;
  }
  first = (start + request->page_bytes - 1) / request->page_bytes;
  past = end == request->length ? (end + request->page_bytes - 1) / request->page_bytes : end / request->page_bytes;
  for (uint64_t page = first; page < past; page++)
    request->holes[page / 64] |= UINT64_C (1) << page % 64;
  return 0;
}

static int
on_complete (void *user_data, int *error)
{
  mf_nbd_slot *slot = user_data;

  /* A reply that is silent about some of the bytes leaves what was in the buffer before. */
  if (*error == 0 && slot->lane->structured && slot->request->operation == MF_REQUEST_READ &&
      slot->seen_bytes != slot->request->length)
    *error = EPROTO;
  slot_finish (slot, *error);
  return 1; /* libnbd may forget the command */
}

static gboolean
is_in_pages (const mf_request *request)
{
  return (request->length - 1) / request->page_bytes < MF_REQUEST_MAX_PAGES &&
         request->offset % request->page_bytes == 0;
}

/* Why this request can't be sent, as an errno value, or 0. */
static int
check_request (mf_nbd_lane *lane, const mf_request *request)
{
  if (lane->lost)
    return ENOTCONN;
  if (request->operation == MF_REQUEST_FLUSH)
    return request->length != 0 || request->offset != 0 ? EINVAL : 0;
  if (request->length == 0 || request->length > MF_NBD_PAYLOAD_MAX ||
      (request->page_bytes != 0 && !is_in_pages (request)))
    return EINVAL;
  if (request->offset > lane->size_bytes || request->length > lane->size_bytes - request->offset)
    return EINVAL;
  return 0;
}

/* Hands a request to libnbd. Returns what libnbd does: -1 when it won't have it. */
static int64_t
send_request (mf_nbd_lane *lane, mf_nbd_slot *slot)
{
  const mf_request *request = slot->request;
  nbd_completion_callback completion = { .callback = on_complete, .user_data = slot };
  nbd_chunk_callback chunk = { .callback = on_chunk, .user_data = slot };

  switch (request->operation) {
  case MF_REQUEST_WRITE:
    return nbd_aio_pwrite (lane->nbd, request->buffer, request->length, request->offset, completion, 0);
  case MF_REQUEST_ZERO:
    return nbd_aio_zero (lane->nbd, request->length, request->offset, completion, 0);
  case MF_REQUEST_FLUSH:
    /* A server without it has nothing that a flush could do. */
    if (nbd_can_flush (lane->nbd) == 1)
      return nbd_aio_flush (lane->nbd, completion, 0);
    slot_finish (slot, 0);
    return 0;
  case MF_REQUEST_READ:
    break;
  }
  if (lane->structured)
    return nbd_aio_pread_structured (lane->nbd, request->buffer, request->length, request->offset, chunk, completion,
                                     0);
  return nbd_aio_pread (lane->nbd, request->buffer, request->length, request->offset, completion, 0);
}

static void
lane_submit (mf_lane *base, mf_request *request)
{
  mf_nbd_lane *lane = (mf_nbd_lane *) base;
  mf_nbd_slot *slot = slot_new (lane, request);
  int error = check_request (lane, request);

  request->error = 0;
  request->submitted_usec = g_get_monotonic_time ();
  memset (request->holes, 0, sizeof request->holes);
  if (error != 0)
    slot_finish (slot, error);
  else if (send_request (lane, slot) == -1)
    slot_finish (slot, nbd_get_errno () ? nbd_get_errno () : EIO);
  deliver (lane);
}

void
mf_nbd_lane_lose (mf_nbd_lane *lane, GError *why)
{
  lane->lost = why;
  shutdown (lane->fd, SHUT_RDWR);
  /* Closed first: nothing may write to the buffers when they are given back. */
  g_clear_pointer (&lane->nbd, nbd_close);
  while (lane->flying)
    slot_finish (lane->flying, ENOTCONN);
  deliver (lane);
}

gboolean
mf_nbd_lane_fail_again (mf_nbd_lane *lane, GError **error)
{
  g_propagate_error (error, g_error_copy (lane->lost));
  return FALSE;
}

static gboolean
lane_poll (mf_lane *base, struct pollfd *extra, guint n_extra, gint64 timeout_usec, GError **error)
{
  mf_nbd_lane *lane = (mf_nbd_lane *) base;
  gint64 deadline = timeout_usec < 0 ? -1 : g_get_monotonic_time () + timeout_usec;
  struct pollfd pfds[2 + MAX_EXTRA] = { { .fd = lane->fd }, { .fd = lane->kick_fd, .events = POLLIN } };

  g_return_val_if_fail (n_extra <= MAX_EXTRA, FALSE);

  if (n_extra > 0)
    memcpy (pfds + 2, extra, n_extra * sizeof *extra);
  for (;;) {
    g_autoptr (GError) why = NULL;
    gboolean woken, over;
    int r;

    if (lane->lost)
      return mf_nbd_lane_fail_again (lane, error);
    pfds[0].events = mf_nbd_lane_events (lane);
    /* Only a look for an answer: to try to read is one, and cheaper than to ask first. */
    if (timeout_usec == 0 && n_extra == 0 && pfds[0].events == POLLIN) {
      if (!mf_nbd_lane_drive (lane, POLLIN, &why)) {
        mf_nbd_lane_lose (lane, g_steal_pointer (&why));
        return mf_nbd_lane_fail_again (lane, error);
      }
      deliver (lane);
      return TRUE;
    }
    if (lane->spin && timeout_usec != 0)
      r = mf_nbd_lane_wait_soon (lane, pfds, 2 + n_extra, deadline);
    else
      r = mf_nbd_wait (pfds, 2 + n_extra, deadline);
    if (r == -1)
      return mf_error_from_errno (error, errno, "polling");
    over = r == 0;
    woken = pfds[1].revents != 0;
    if (woken) {
      eventfd_t ignored;

      eventfd_read (lane->kick_fd, &ignored);
    }
    for (guint i = 0; i < n_extra; i++) {
      extra[i].revents = r > 0 ? pfds[2 + i].revents : 0;
      woken |= extra[i].revents != 0;
    }
    if (r > 0 && pfds[0].revents && !mf_nbd_lane_drive (lane, pfds[0].revents, &why)) {
      mf_nbd_lane_lose (lane, g_steal_pointer (&why));
      return mf_nbd_lane_fail_again (lane, error);
    }
    if (deliver (lane) > 0 || woken || over)
      return TRUE;
  }
}

static uint64_t
lane_size (mf_lane *base)
{
  return ((mf_nbd_lane *) base)->size_bytes;
}

static guint
lane_in_flight (mf_lane *base)
{
  return ((mf_nbd_lane *) base)->in_flight;
}

static void
lane_kick (mf_lane *base)
{
  eventfd_write (((mf_nbd_lane *) base)->kick_fd, 1);
}

static void
lane_shutdown (mf_lane *base)
{
  shutdown (((mf_nbd_lane *) base)->fd, SHUT_RDWR);
}

static void
lane_close (mf_lane *base)
{
  mf_nbd_lane *lane = (mf_nbd_lane *) base;

  /* A polite goodbye where it costs nothing: the server need not tell an end from a loss. */
  if (lane->nbd && lane->in_flight == 0 && nbd_aio_is_ready (lane->nbd) == 1)
    nbd_aio_disconnect (lane->nbd, 0);
  g_clear_pointer (&lane->nbd, nbd_close);
  if (!lane->lost)
    lane->lost = g_error_new_literal (MF_ERROR, MF_ERROR_CANCELLED, "the lane is closed");
  while (lane->flying)
    slot_finish (lane->flying, ECANCELED);
  deliver (lane);
  for (mf_nbd_slot *slot = lane->free, *next; slot; slot = next) {
    next = slot->next;
    g_free (slot);
  }
  if (lane->kick_fd != -1)
    close (lane->kick_fd);
  if (lane->fd != -1)
    close (lane->fd);
  g_clear_error (&lane->lost);
  g_free (lane);
}

static const mf_lane_ops lane_ops = {
  .size = lane_size,
  .submit = lane_submit,
  .poll = lane_poll,
  .in_flight = lane_in_flight,
  .kick = lane_kick,
  .shutdown = lane_shutdown,
  .flush = mf_nbd_lane_flush,
  .extents = mf_nbd_lane_extents,
  .close = lane_close,
};

mf_nbd_lane *
mf_nbd_lane_new (const mf_nbd_client_options *options, GError **error)
{
  mf_nbd_lane *lane = g_new0 (mf_nbd_lane, 1);

  lane->base.ops = &lane_ops;
  lane->fd = -1;
  lane->tail = &lane->finished;
  lane->structured = options->structured;
  lane->spin = options->spin;
  lane->kick_fd = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (lane->kick_fd == -1) {
    mf_error_from_errno (error, errno, "making an eventfd");
    lane_close (&lane->base);
    return NULL;
  }
  lane->nbd = nbd_create ();
  if (!lane->nbd) {
    mf_error_from_nbd (error, "preparing an NBD connection");
    lane_close (&lane->base);
    return NULL;
  }
  return lane;
}
