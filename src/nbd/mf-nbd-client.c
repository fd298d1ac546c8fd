/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A lane over libnbd.
 *
 * libnbd calls back with its handle locked, so nothing may be asked of it from there, and `done` wants to submit the next request. So a callback only moves
 * the request's slot to the list of finished ones, and deliver() calls `done` when libnbd has returned. A `done` that submits comes
 * back into deliver(), which leaves the work to the outer one.
 *
 * Slots are what libnbd holds on to while a request is in flight. They are kept for the next request: no allocation of ours in steady state.
 */
#include "nbd/mf-nbd-client.h"
#include "core/mf-nbd-protocol.h"
#include "core/mf-spin.h"

#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* How long poll() looks before it sleeps, where that helps. */
#define SPIN_NSEC 75000

/* What poll() takes besides its own descriptors. */
#define MAX_EXTRA 16

/* A block status request asks for this at most: 32 bits count its bytes. */
#define STATUS_BYTES (UINT64_C (2) << 30)

/* A server that splits more finely than disks have sectors wants our memory. */
#define MIN_EXTENT_BYTES 512

typedef struct _Lane Lane;
typedef struct _Slot Slot;

struct _Slot {
  Lane *lane;
  mf_request *request;
  uint32_t seen_bytes; /* of a structured reply */
  Slot *next, *prev;   /* in flight */
};

struct _Lane {
  mf_lane base;
  struct nbd_handle *nbd;
  int fd;      /* a duplicate of libnbd's socket, which stays open until close: other threads may shut it down */
  int kick_fd; /* eventfd */
  gboolean structured;
  gboolean spin;
  mf_spin waiting[2]; /* for what the owner watches besides, for replies */
  gboolean delivering;
  uint64_t size_bytes;
  guint in_flight;
  Slot *flying;           /* list of those that libnbd has */
  Slot *finished, **tail; /* list of those whose `done` is due; by `next` */
  Slot *free;             /* by `next` */
  GError *lost;           /* why the lane failed */
};

/* libnbd has no errno for what it found by itself: a server that broke the protocol, or one that hung up. */
static MfError
code_without_errno (const char *message)
{
  return message && strstr (message, "disconnected") ? MF_ERROR_CONNECTION : MF_ERROR_PROTOCOL;
}

gboolean
mf_error_from_nbd (GError **error, const char *what, ...)
{
  const char *message = nbd_get_error ();
  int errnum = nbd_get_errno ();
  MfError code = errnum ? mf_error_code_from_errno (errnum) : code_without_errno (message);
  g_autofree char *text = NULL;
  va_list args;

  va_start (args, what);
  text = g_strdup_vprintf (what, args);
  va_end (args);
  /* libnbd begins with the name of its function, which says nothing to a person. */
  if (message && g_str_has_prefix (message, "nbd_")) {
    const char *rest = strstr (message, ": ");

    message = rest ? rest + 2 : message;
  }
  g_set_error (error, MF_ERROR, code, "%s: %s", text, message ? message : g_strerror (errnum));
  return FALSE;
}

static Slot *
slot_new (Lane *lane, mf_request *request)
{
  Slot *slot = lane->free;

  if (slot)
    lane->free = slot->next;
  else
    slot = g_new (Slot, 1);
  *slot = (Slot){ .lane = lane, .request = request, .next = lane->flying };
  if (lane->flying)
    lane->flying->prev = slot;
  lane->flying = slot;
  lane->in_flight++;
  return slot;
}

/* From in flight to finished. */
static void
slot_finish (Slot *slot, int error)
{
  Lane *lane = slot->lane;

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
deliver (Lane *lane)
{
  guint n = 0;

  if (lane->delivering)
    return 0;
  lane->delivering = TRUE;
  while (lane->finished) {
    Slot *slot = lane->finished;
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
  Slot *slot = user_data;
  mf_request *request = slot->request;
  uint64_t start = offset - request->offset, end = start + count;
  uint64_t first, past;

  /* libnbd has checked that the chunk lies within the request, or we would not be here. */
  if (status == LIBNBD_READ_ERROR || end > request->length)
    return 0;
  slot->seen_bytes += (uint32_t) count;
  if (status != LIBNBD_READ_HOLE)
    return 0;
  first = (start + request->page_bytes - 1) / request->page_bytes;
  past = end == request->length ? (end + request->page_bytes - 1) / request->page_bytes : end / request->page_bytes;
  for (uint64_t page = first; page < past; page++)
    request->holes[page / 64] |= UINT64_C (1) << page % 64;
  return 0;
}

static int
on_complete (void *user_data, int *error)
{
  Slot *slot = user_data;

  /* A reply that is silent about some of the bytes leaves what was in the buffer before. */
  if (*error == 0 && slot->lane->structured && slot->seen_bytes != slot->request->length)
    *error = EPROTO;
  slot_finish (slot, *error);
  return 1; /* libnbd may forget the command */
}

/* Why this request can't be sent, as an errno value, or 0. */
static int
check_request (Lane *lane, const mf_request *request)
{
  if (lane->lost)
    return ENOTCONN;
  if (request->length == 0 || request->length > MF_NBD_PAYLOAD_MAX || request->page_bytes == 0 ||
      (request->length - 1) / request->page_bytes >= MF_REQUEST_MAX_PAGES || request->offset % request->page_bytes)
    return EINVAL;
  if (request->offset > lane->size_bytes || request->length > lane->size_bytes - request->offset)
    return EINVAL;
  return 0;
}

static void
lane_submit (mf_lane *base, mf_request *request)
{
  Lane *lane = (Lane *) base;
  Slot *slot = slot_new (lane, request);
  int error = check_request (lane, request);
  int64_t cookie = -1;

  request->error = 0;
  request->submitted_usec = g_get_monotonic_time ();
  memset (request->holes, 0, sizeof request->holes);
  if (error) {
    slot_finish (slot, error);
  } else {
    nbd_completion_callback completion = { .callback = on_complete, .user_data = slot };
    nbd_chunk_callback chunk = { .callback = on_chunk, .user_data = slot };

    if (lane->structured)
      cookie =
          nbd_aio_pread_structured (lane->nbd, request->buffer, request->length, request->offset, chunk, completion, 0);
    else
      cookie = nbd_aio_pread (lane->nbd, request->buffer, request->length, request->offset, completion, 0);
    if (cookie == -1)
      slot_finish (slot, nbd_get_errno () ? nbd_get_errno () : EIO);
  }
  deliver (lane);
}

/* The lane is over. Everything in flight completes with an error. */
static void
lose (Lane *lane, GError *why)
{
  lane->lost = why;
  shutdown (lane->fd, SHUT_RDWR);
  /* Closed first: nothing may write to the buffers when they are given back. */
  g_clear_pointer (&lane->nbd, nbd_close);
  while (lane->flying)
    slot_finish (lane->flying, ENOTCONN);
  deliver (lane);
}

/* Lets libnbd do what the socket is ready for. FALSE: it failed, or the other side has hung up. */
static gboolean
drive (Lane *lane, short revents, GError **error)
{
  unsigned direction = nbd_aio_get_direction (lane->nbd);
  gboolean broken = (revents & (POLLERR | POLLHUP | POLLNVAL)) != 0;
  int r = 0;

  /* A socket that broke tells libnbd when it is read or written, whichever it wants to do. */
  if ((direction & LIBNBD_AIO_DIRECTION_READ) && ((revents & POLLIN) || broken))
    r = nbd_aio_notify_read (lane->nbd);
  else if ((direction & LIBNBD_AIO_DIRECTION_WRITE) && ((revents & POLLOUT) || broken))
    r = nbd_aio_notify_write (lane->nbd);
  if (r == -1 || nbd_aio_is_dead (lane->nbd))
    return mf_error_from_nbd (error, "NBD connection lost");
  if (nbd_aio_is_closed (lane->nbd)) {
    g_set_error_literal (error, MF_ERROR, MF_ERROR_CONNECTION, "NBD connection lost: the server has hung up");
    return FALSE;
  }
  return TRUE;
}

static short
wanted_events (Lane *lane)
{
  unsigned direction = nbd_aio_get_direction (lane->nbd);

  return (direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) | (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0);
}

static uint64_t
now_nsec (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  return (uint64_t) now.tv_sec * 1000000000u + (uint64_t) now.tv_nsec;
}

/* poll(2) until `deadline_usec` (monotonic, -1 none). Returns what poll(2) does. */
static int
wait_ready (struct pollfd *pfds, nfds_t n, gint64 deadline_usec)
{
  for (;;) {
    gint64 left = deadline_usec < 0 ? 0 : MAX (deadline_usec - g_get_monotonic_time (), 0);
    struct timespec timeout = { left / G_USEC_PER_SEC, left % G_USEC_PER_SEC * 1000 };
    int r = ppoll (pfds, n, deadline_usec < 0 ? NULL : &timeout, NULL);

    if (r != -1 || errno != EINTR)
      return r;
  }
}

/* The same; looks for a while before it sleeps, if that has been found to help. pfds[0] is the socket, pfds[1] the kick. */
static int
wait_ready_soon (Lane *lane, struct pollfd *pfds, nfds_t n, gint64 deadline_usec)
{
  gboolean for_reply = lane->in_flight > 0;
  mf_spin *waiting = &lane->waiting[for_reply];
  uint64_t start = now_nsec ();
  struct timespec at_once = { 0, 0 };
  int r = 0;

  if (mf_spin_begin (waiting)) {
    while ((r = ppoll (pfds, n, &at_once, NULL)) == 0 && now_nsec () - start < SPIN_NSEC)
      /* Who is waited for may need this very processor. */
      sched_yield ();
  }
  if (r == 0)
    r = wait_ready (pfds, n, deadline_usec);
  if (r > 0 && (for_reply ? pfds[0].revents != 0 : pfds[1].revents == 0))
    mf_spin_end (waiting, now_nsec () - start);
  return r;
}

static gboolean
fail_again (Lane *lane, GError **error)
{
  g_propagate_error (error, g_error_copy (lane->lost));
  return FALSE;
}

static gboolean
lane_poll (mf_lane *base, struct pollfd *extra, guint n_extra, gint64 timeout_usec, GError **error)
{
  Lane *lane = (Lane *) base;
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
      return fail_again (lane, error);
    pfds[0].events = wanted_events (lane);
    if (lane->spin && timeout_usec != 0)
      r = wait_ready_soon (lane, pfds, 2 + n_extra, deadline);
    else
      r = wait_ready (pfds, 2 + n_extra, deadline);
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
    if (r > 0 && pfds[0].revents && !drive (lane, pfds[0].revents, &why)) {
      lose (lane, g_steal_pointer (&why));
      return fail_again (lane, error);
    }
    if (deliver (lane) > 0 || woken || over)
      return TRUE;
  }
}

static uint64_t
lane_size (mf_lane *base)
{
  return ((Lane *) base)->size_bytes;
}

static guint
lane_in_flight (mf_lane *base)
{
  return ((Lane *) base)->in_flight;
}

static void
lane_kick (mf_lane *base)
{
  eventfd_write (((Lane *) base)->kick_fd, 1);
}

static void
lane_shutdown (mf_lane *base)
{
  shutdown (((Lane *) base)->fd, SHUT_RDWR);
}

/* Drives libnbd until the one command with `cookie` is complete. */
static gboolean
run_command (Lane *lane, int64_t cookie, const char *what, GError **error)
{
  struct pollfd pfd = { .fd = lane->fd };
  g_autoptr (GError) why = NULL;
  int r;

  if (cookie == -1)
    return mf_error_from_nbd (error, "%s", what);
  while ((r = nbd_aio_command_completed (lane->nbd, (uint64_t) cookie)) == 0) {
    pfd.events = wanted_events (lane);
    if (wait_ready (&pfd, 1, -1) == -1)
      return mf_error_from_errno (error, errno, "polling");
    if (!drive (lane, pfd.revents, &why)) {
      lose (lane, g_steal_pointer (&why));
      return fail_again (lane, error);
    }
  }
  return r == 1 ? TRUE : mf_error_from_nbd (error, "%s", what);
}

static gboolean
check_quiet (Lane *lane, GError **error)
{
  if (lane->lost)
    return fail_again (lane, error);
  g_return_val_if_fail (lane->in_flight == 0, FALSE);
  return TRUE;
}

static gboolean
lane_flush (mf_lane *base, GError **error)
{
  Lane *lane = (Lane *) base;

  if (!check_quiet (lane, error))
    return FALSE;
  /* A server without it has nothing that a flush could do. */
  if (nbd_can_flush (lane->nbd) != 1)
    return TRUE;
  return run_command (lane, nbd_aio_flush (lane->nbd, NBD_NULL_COMPLETION, 0), "flushing", error);
}

/* A block status reply being read. */
typedef struct {
  const char *context;
  GArray *extents;
  uint64_t offset, end; /* still to be told of */
  guint limit;          /* entries of `extents` */
  gboolean bad;
} StatusReply;

static int
on_extents (void *user_data, const char *context, uint64_t offset, uint32_t *entries, size_t n_entries, int *error)
{
  StatusReply *reply = user_data;

  if (strcmp (context, reply->context) != 0)
    return 0;
  for (size_t i = 0; i + 1 < n_entries && reply->offset < reply->end; i += 2) {
    mf_extent extent = { MIN (entries[i], reply->end - reply->offset), entries[i + 1] };
    mf_extent *last =
        reply->extents->len > 0 ? &g_array_index (reply->extents, mf_extent, reply->extents->len - 1) : NULL;

    reply->offset += extent.length;
    if (last && last->flags == extent.flags) {
      last->length += extent.length;
      continue;
    }
    if (extent.length == 0 || reply->extents->len == reply->limit) {
      reply->bad = TRUE;
      return 0;
    }
    g_array_append_val (reply->extents, extent);
  }
  return 0;
}

static gboolean
lane_extents (mf_lane *base, const char *context, uint64_t offset, uint64_t length, GArray *extents, GError **error)
{
  Lane *lane = (Lane *) base;
  StatusReply reply = { .context = context, .extents = extents, .offset = offset };

  if (!check_quiet (lane, error))
    return FALSE;
  if (offset > lane->size_bytes || length > lane->size_bytes - offset) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "block status past the end of the export");
    return FALSE;
  }
  if (nbd_can_meta_context (lane->nbd, context) != 1) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED, "the NBD server has no block status '%s'", context);
    return FALSE;
  }
  reply.end = offset + length;
  reply.limit = extents->len + (guint) MIN (length / MIN_EXTENT_BYTES + 2, G_MAXINT);
  while (reply.offset < reply.end) {
    nbd_extent_callback callback = { .callback = on_extents, .user_data = &reply };
    uint64_t start = reply.offset, left = reply.end - start;
    int64_t cookie =
        nbd_aio_block_status (lane->nbd, MIN (left, STATUS_BYTES), start, callback, NBD_NULL_COMPLETION, 0);

    if (!run_command (lane, cookie, "asking for block status", error))
      return FALSE;
    if (reply.bad || reply.offset == start) {
      g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "the NBD server's block status makes no sense");
      return FALSE;
    }
  }
  return TRUE;
}

static void
lane_close (mf_lane *base)
{
  Lane *lane = (Lane *) base;

  /* A polite goodbye where it costs nothing: the server need not tell an end from a loss. */
  if (lane->nbd && lane->in_flight == 0 && nbd_aio_is_ready (lane->nbd) == 1)
    nbd_aio_disconnect (lane->nbd, 0);
  g_clear_pointer (&lane->nbd, nbd_close);
  if (!lane->lost)
    lane->lost = g_error_new_literal (MF_ERROR, MF_ERROR_CANCELLED, "the lane is closed");
  while (lane->flying)
    slot_finish (lane->flying, ECANCELED);
  deliver (lane);
  for (Slot *slot = lane->free, *next; slot; slot = next) {
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
  .flush = lane_flush,
  .extents = lane_extents,
  .close = lane_close,
};

/* A lane with a handle that is not connected yet. */
static Lane *
lane_new (const char *export_name, const mf_nbd_client_options *options, GError **error)
{
  Lane *lane = g_new0 (Lane, 1);

  lane->base.ops = &lane_ops;
  lane->fd = lane->kick_fd = -1;
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
  /* What comes is written to all of the buffer or reported as an error: to clear it before would be work for nothing. */
  if (!lane->nbd || nbd_set_pread_initialize (lane->nbd, false) == -1 ||
      nbd_set_request_structured_replies (lane->nbd, options->structured || options->dirty) == -1 ||
      (export_name && nbd_set_export_name (lane->nbd, export_name) == -1) ||
      (options->structured && nbd_add_meta_context (lane->nbd, MF_NBD_CONTEXT_ALLOCATION) == -1) ||
      (options->dirty && nbd_add_meta_context (lane->nbd, MF_NBD_CONTEXT_DIRTY) == -1)) {
    mf_error_from_nbd (error, "preparing an NBD connection");
    lane_close (&lane->base);
    return NULL;
  }
  return lane;
}

/* Drives the handshake to its end. */
static gboolean
negotiate (Lane *lane, gint64 timeout_usec, GError **error)
{
  gint64 deadline = timeout_usec < 0 ? -1 : g_get_monotonic_time () + timeout_usec;

  while (nbd_aio_is_ready (lane->nbd) != 1) {
    struct pollfd pfd = { .fd = nbd_aio_get_fd (lane->nbd), .events = wanted_events (lane) };

    if (nbd_aio_is_dead (lane->nbd) == 1)
      return mf_error_from_nbd (error, "connecting to the NBD server");
    if (pfd.fd == -1 || nbd_aio_is_closed (lane->nbd) == 1) {
      g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION, "connecting to the NBD server: it has hung up");
      return FALSE;
    }
    switch (wait_ready (&pfd, 1, deadline)) {
    case -1:
      return mf_error_from_errno (error, errno, "polling");
    case 0:
      g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT, "connecting to the NBD server: it does not answer");
      return FALSE;
    default:
      break;
    }
    if (!drive (lane, pfd.revents, error))
      return FALSE;
  }
  return TRUE;
}

/* Takes over what was agreed. */
static gboolean
settle (Lane *lane, const mf_nbd_client_options *options, GError **error)
{
  int64_t size = nbd_get_size (lane->nbd);

  if (size == -1)
    return mf_error_from_nbd (error, "asking for the export's size");
  lane->size_bytes = (uint64_t) size;
  lane->fd = fcntl (nbd_aio_get_fd (lane->nbd), F_DUPFD_CLOEXEC, 0);
  if (lane->fd == -1)
    return mf_error_from_errno (error, errno, "duplicating a socket");
  if (options->dirty && nbd_can_meta_context (lane->nbd, MF_NBD_CONTEXT_DIRTY) != 1) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED, "the NBD server does not track writes ('%s')",
                 MF_NBD_CONTEXT_DIRTY);
    return FALSE;
  }
  return TRUE;
}

mf_lane *
mf_nbd_client_new_fd (int fd, const char *export_name, const mf_nbd_client_options *options, gint64 timeout_usec,
                      GError **error)
{
  Lane *lane = lane_new (export_name, options, error);
  g_autoptr (mf_lane) owned = lane ? &lane->base : NULL;
  const int one = 1;

  if (!lane) {
    close (fd);
    return NULL;
  }
  /* Fails on a UNIX socket, which has no such delay. */
  setsockopt (fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (nbd_aio_connect_socket (lane->nbd, fd) == -1) {
    mf_error_from_nbd (error, "connecting to the NBD server");
    return NULL;
  }
  if (!negotiate (lane, timeout_usec, error) || !settle (lane, options, error))
    return NULL;
  return g_steal_pointer (&owned);
}

mf_lane *
mf_nbd_client_new_uri (const char *uri, const mf_nbd_client_options *options, gint64 timeout_usec, GError **error)
{
  Lane *lane = lane_new (NULL, options, error);
  g_autoptr (mf_lane) owned = lane ? &lane->base : NULL;

  if (!lane)
    return NULL;
  if (nbd_aio_connect_uri (lane->nbd, uri) == -1) {
    mf_error_from_nbd (error, "connecting to %s", uri);
    return NULL;
  }
  if (!negotiate (lane, timeout_usec, error) || !settle (lane, options, error)) {
    g_prefix_error (error, "%s: ", uri);
    return NULL;
  }
  return g_steal_pointer (&owned);
}
