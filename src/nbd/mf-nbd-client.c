/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connecting a lane to an NBD server.
 */
#include "nbd/mf-nbd-client.h"
#include "core/mf-nbd-protocol.h"
#include "nbd/mf-nbd-lane.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

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

/* A lane that knows what to ask for. */
static mf_nbd_lane *
prepare (const char *export_name, const mf_nbd_client_options *options, GError **error)
{
  mf_nbd_lane *lane = mf_nbd_lane_new (options, error);

  if (!lane)
    return NULL;
  /* What comes is written to all of the buffer or reported as an error: to clear it before would be work for nothing. */
  if (nbd_set_pread_initialize (lane->nbd, false) == -1 ||
      nbd_set_request_structured_replies (lane->nbd, options->structured || options->dirty) == -1 ||
      (export_name && nbd_set_export_name (lane->nbd, export_name) == -1) ||
      (options->structured && !options->dirty && nbd_add_meta_context (lane->nbd, MF_NBD_CONTEXT_ALLOCATION) == -1) ||
      (options->dirty && nbd_add_meta_context (lane->nbd, MF_NBD_CONTEXT_DIRTY) == -1)) {
    mf_error_from_nbd (error, "preparing an NBD connection");
    mf_lane_close (&lane->base);
    return NULL;
  }
  return lane;
}

/* Drives the handshake to its end. */
static gboolean
negotiate (mf_nbd_lane *lane, gint64 timeout_usec, GError **error)
{
  gint64 deadline = timeout_usec < 0 ? -1 : g_get_monotonic_time () + timeout_usec;

  while (nbd_aio_is_ready (lane->nbd) != 1) {
    struct pollfd pfd = { .fd = nbd_aio_get_fd (lane->nbd), .events = mf_nbd_lane_events (lane) };

    if (nbd_aio_is_dead (lane->nbd) == 1)
      return mf_error_from_nbd (error, "connecting to the NBD server");
    if (pfd.fd == -1 || nbd_aio_is_closed (lane->nbd) == 1) {
      g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION, "connecting to the NBD server: it has hung up");
      return FALSE;
    }
    switch (mf_nbd_wait (&pfd, 1, deadline)) {
    case -1:
      return mf_error_from_errno (error, errno, "polling");
    case 0:
      g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT, "connecting to the NBD server: it does not answer");
      return FALSE;
    default:
      break;
    }
    if (!mf_nbd_lane_drive (lane, pfd.revents, error))
      return FALSE;
  }
  return TRUE;
}

/* Takes over what was agreed. */
static gboolean
settle (mf_nbd_lane *lane, const mf_nbd_client_options *options, GError **error)
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

/* A server that has vanished without a word (its host has lost its power, or a cable) is noticed after this time. */
#define SILENT_SECONDS 20

static void
notice_silence (int fd)
{
  const int one = 1, idle = SILENT_SECONDS / 2, interval = 5, probes = SILENT_SECONDS / 2 / 5;
  const unsigned limit_msec = SILENT_SECONDS * 1000;

  /* They fail on a UNIX socket, whose other side can't vanish. */
  setsockopt (fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt (fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
  setsockopt (fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt (fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  setsockopt (fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
  setsockopt (fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit_msec, sizeof limit_msec);
}

void
mf_nbd_client_get_facts (mf_lane *base, mf_nbd_export_facts *facts)
{
  mf_nbd_lane *lane = (mf_nbd_lane *) base;
  int64_t least = lane->nbd != NULL ? nbd_get_block_size (lane->nbd, LIBNBD_SIZE_MINIMUM) : 0;
  int64_t most = lane->nbd != NULL ? nbd_get_block_size (lane->nbd, LIBNBD_SIZE_MAXIMUM) : 0;

  *facts = (mf_nbd_export_facts){
    .read_only = lane->nbd == NULL || nbd_is_read_only (lane->nbd) != 0,
    .can_zero = lane->nbd != NULL && nbd_can_zero (lane->nbd) == 1,
    .can_flush = lane->nbd != NULL && nbd_can_flush (lane->nbd) == 1,
    .multi_conn = lane->nbd != NULL && nbd_can_multi_conn (lane->nbd) == 1,
    .block_bytes = 1,
    .request_bytes = MF_NBD_PAYLOAD_MAX,
  };
  /* What isn't a power of two, or larger than any server may say, is nothing that anybody could go by. */
  if (least > 1 && least <= 65536 && (least & (least - 1)) == 0)
    facts->block_bytes = (uint32_t) least;
  if (most >= facts->block_bytes && most < MF_NBD_PAYLOAD_MAX)
    facts->request_bytes = (uint32_t) most / facts->block_bytes * facts->block_bytes;
}

mf_lane *
mf_nbd_client_new_fd (int fd, const char *export_name, const mf_nbd_client_options *options, gint64 timeout_usec,
                      GError **error)
{
  mf_nbd_lane *lane = prepare (export_name, options, error);
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
  mf_nbd_lane *lane = prepare (NULL, options, error);
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
  notice_silence (lane->fd);
  return g_steal_pointer (&owned);
}
