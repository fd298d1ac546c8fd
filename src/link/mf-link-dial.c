/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The dialler: connect, send the preface, read the answer, all of it before one deadline.
 *
 * The answer is judged as it comes, byte by byte: what begins with another magic is refused at its first wrong byte, so that a port
 * on which something else listens costs no time-out. Somebody who accepts and says nothing gets MF_LINK_HANDSHAKE_USEC.
 */
#include "link/mf-link-socket.h"
#include "link/mf-link-ssh.h"
#include "mf-wait.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define SHOWN_BYTES 24

/* How long to wait before asking again when a listener's queue is full. */
#define RETRY_USEC 10000

static gboolean
connect_failed (const mf_peer_address *address, int errnum, GError **error)
{
  switch (errnum) {
  case EACCES:
  case EPERM:
    return mf_error_from_errno (error, errnum, "connecting to %s", address->text);
  default:
    g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION, "nobody answers at %s: %s", address->text, g_strerror (errnum));
    return FALSE;
  }
}

/* `fd` is not blocking. */
static gboolean
connect_fd (int fd, const mf_peer_address *address, const struct sockaddr *name, socklen_t name_bytes,
            gint64 deadline_usec, GCancellable *cancellable, GError **error)
{
  int result;
  socklen_t size = sizeof result;

  for (;;) {
    g_autoptr (GError) waited = NULL;

    if (connect (fd, name, name_bytes) == 0)
      return TRUE;
    if (errno == EINPROGRESS)
      break;
    if (errno == EINTR)
      continue;
    if (errno != EAGAIN)
      return connect_failed (address, errno, error);
    /* A UNIX listener's queue is full, and nothing tells when it no longer is. */
    if (deadline_usec >= 0 && g_get_monotonic_time () >= deadline_usec)
      return connect_failed (address, ETIMEDOUT, error);
    mf_wait_fd (-1, 0, mf_deadline_after (RETRY_USEC), cancellable, &waited);
    if (g_error_matches (waited, MF_ERROR, MF_ERROR_CANCELLED)) {
      g_propagate_prefixed_error (error, g_steal_pointer (&waited), "connecting to %s: ", address->text);
      return FALSE;
    }
  }
  if (!mf_wait_fd (fd, POLLOUT, deadline_usec, cancellable, error)) {
    g_prefix_error (error, "connecting to %s: ", address->text);
    return FALSE;
  }
  if (getsockopt (fd, SOL_SOCKET, SO_ERROR, &result, &size) < 0)
    result = errno;
  return result == 0 || connect_failed (address, result, error);
}

/* A connected, non-blocking socket, or -1. */
static int
connect_name (const mf_peer_address *address, const struct sockaddr *name, socklen_t name_bytes, gint64 deadline_usec,
              GCancellable *cancellable, GError **error)
{
  int fd = socket (name->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

  if (fd < 0) {
    mf_error_from_errno (error, errno, "making a socket for %s", address->text);
    return -1;
  }
  if (connect_fd (fd, address, name, name_bytes, deadline_usec, cancellable, error))
    return fd;
  close (fd);
  return -1;
}

/* Tries each address of the host in turn; none but the last may use up the time of the others. */
static int
connect_tcp (const mf_peer_address *address, gint64 deadline_usec, GCancellable *cancellable, GError **error)
{
  struct addrinfo *found = mf_link_resolve (address, FALSE, deadline_usec, cancellable, error);
  guint n_left = 0;
  int fd = -1;

  for (struct addrinfo *a = found; a != NULL; a = a->ai_next)
    n_left++;
  for (struct addrinfo *a = found; a != NULL && fd < 0; a = a->ai_next, n_left--) {
    gint64 now = g_get_monotonic_time ();
    gint64 limit = deadline_usec < 0 ? -1 : now + (deadline_usec - now) / n_left;

    if (g_cancellable_is_cancelled (cancellable) && *error != NULL)
      break;
    g_clear_error (error);
    fd = connect_name (address, a->ai_addr, a->ai_addrlen, limit, cancellable, error);
  }
  if (found != NULL)
    freeaddrinfo (found);
  return fd;
}

/* Connects as ssh's configuration says, logs in, and connects to the service's socket from there. */
static int
connect_ssh (const mf_peer_address *address, gint64 deadline_usec, GCancellable *cancellable, GError **error)
{
  mf_ssh_place found = { 0 };
  mf_ssh *ssh = mf_ssh_new (address, &found, error);
  mf_peer_address place = { .kind = MF_PEER_TCP, .text = address->text, .host = found.host, .port = found.port };
  int fd;

  if (ssh == NULL)
    return -1;
  fd = connect_tcp (&place, deadline_usec, cancellable, error);
  g_free (found.host);
  if (fd >= 0)
    return mf_ssh_open (ssh, fd, deadline_usec, cancellable, error);
  mf_ssh_free (ssh);
  return -1;
}

static int
connect_peer (const mf_peer_address *address, gint64 deadline_usec, GCancellable *cancellable, GError **error)
{
  struct sockaddr_storage name;
  socklen_t name_bytes;

  if (address->kind == MF_PEER_TCP)
    return connect_tcp (address, deadline_usec, cancellable, error);
  if (address->kind == MF_PEER_SSH)
    return connect_ssh (address, deadline_usec, cancellable, error);
  name_bytes = mf_peer_address_to_unix (address, &name);
  return connect_name (address, (struct sockaddr *) &name, name_bytes, deadline_usec, cancellable, error);
}

static gboolean
not_ours (const mf_peer_address *address, const uint8_t *bytes, size_t n_bytes, GError **error)
{
  char shown[SHOWN_BYTES + 1];
  size_t n = MIN (n_bytes, SHOWN_BYTES);

  for (size_t i = 0; i < n; i++)
    shown[i] = g_ascii_isprint (bytes[i]) ? (char) bytes[i] : '.';
  shown[n] = '\0';
  g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "what answers at %s is not memferry (it says \"%s\")", address->text,
               shown);
  return FALSE;
}

static gboolean
read_answer (int fd, const mf_peer_address *address, uint8_t bytes[MF_PREFACE_BYTES], gint64 deadline_usec,
             GCancellable *cancellable, GError **error)
{
  for (size_t have = 0; have < MF_PREFACE_BYTES;) {
    ssize_t n;

    if (!mf_wait_fd (fd, POLLIN, deadline_usec, cancellable, error)) {
      if (error != NULL && g_error_matches (*error, MF_ERROR, MF_ERROR_TIMED_OUT)) {
        g_clear_error (error);
        g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT,
                     "something listens at %s but doesn't answer as memferry does: is it memferryd?", address->text);
      }
      return FALSE;
    }
    n = read (fd, bytes + have, MF_PREFACE_BYTES - have);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
      continue;
    if (n <= 0) {
      g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION, "%s closed the connection without an answer: is it memferryd?",
                   address->text);
      return FALSE;
    }
    have += n;
    if (memcmp (bytes, MF_PREFACE_MAGIC, MIN (have, strlen (MF_PREFACE_MAGIC))) != 0)
      return not_ours (address, bytes, have, error);
  }
  return TRUE;
}

static gboolean
judge_version (const mf_peer_address *address, const mf_preface *answer, GError **error)
{
  gboolean peer_is_newer = answer->version > MF_PREFACE_VERSION;

  g_set_error (error, MF_ERROR, MF_ERROR_VERSION,
               "%s speaks version %u of the protocol, this side version %u, and they can't work together: "
               "update memferry %s",
               address->text, answer->version, MF_PREFACE_VERSION, peer_is_newer ? "here" : "there");
  return FALSE;
}

static gboolean
judge_answer (const mf_peer_address *address, const mf_preface *asked, const uint8_t bytes[MF_PREFACE_BYTES],
              GError **error)
{
  mf_preface answer;
  mf_preface_result result = mf_preface_decode (bytes, &answer);

  if (result == MF_PREFACE_NOT_OURS)
    return not_ours (address, bytes, MF_PREFACE_BYTES, error);
  if (result == MF_PREFACE_TOO_OLD || result == MF_PREFACE_TOO_NEW || answer.flags == MF_STATUS_VERSION)
    return judge_version (address, &answer, error);
  switch (result == MF_PREFACE_OK ? answer.flags : MF_STATUS_LAST + 1) {
  case MF_STATUS_TAKEN:
    if (answer.kind == asked->kind && memcmp (answer.session, asked->session, MF_SESSION_BYTES) == 0)
      return TRUE;
    g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "%s answers for another stream than was asked for", address->text);
    return FALSE;
  case MF_STATUS_NO_SESSION:
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "%s knows no such session", address->text);
    return FALSE;
  case MF_STATUS_BUSY:
    g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "%s is busy: try again", address->text);
    return FALSE;
  case MF_STATUS_FAILED:
    g_set_error (error, MF_ERROR, MF_ERROR_FAILED, "%s refused the connection: its log says why", address->text);
    return FALSE;
  default:
    g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "%s gave an answer that doesn't exist", address->text);
    return FALSE;
  }
}

static gboolean
shake_hands (int fd, const mf_peer_address *address, const mf_preface *preface, gint64 deadline_usec,
             GCancellable *cancellable, GError **error)
{
  gint64 limit = mf_deadline_after (MF_LINK_HANDSHAKE_USEC);
  mf_preface ours = *preface;
  uint8_t bytes[MF_PREFACE_BYTES];

  ours.version = MF_PREFACE_VERSION;
  ours.compat_version = MF_PREFACE_COMPAT;
  ours.flags = 0;
  mf_link_set_stream_options (fd);
  return mf_link_send_preface (fd, &ours, error) &&
         read_answer (fd, address, bytes, deadline_usec < 0 ? limit : MIN (limit, deadline_usec), cancellable, error) &&
         judge_answer (address, &ours, bytes, error) && mf_link_set_blocking (fd, TRUE, error);
}

int
mf_link_dial (const mf_peer_address *address, const mf_preface *preface, gint64 timeout_usec, GCancellable *cancellable,
              GError **error)
{
  gint64 deadline_usec = mf_deadline_after (timeout_usec);
  g_autoptr (GError) failure = NULL;
  int fd = connect_peer (address, deadline_usec, cancellable, &failure);

  if (fd >= 0 && !shake_hands (fd, address, preface, deadline_usec, cancellable, &failure)) {
    close (fd);
    fd = -1;
  }
  if (fd < 0)
    g_propagate_error (error, g_steal_pointer (&failure));
  return fd;
}
