/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nbd/mf-nbd-stream.h"
#include "mf-schedule.h"

#include <errno.h>
#include <sched.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* How long a fault's stream looks for the next request before it sleeps. */
#define SPIN_NSEC 75000

#define UNIX_BUFFER_BYTES (1 << 20)

/* A UNIX socket holds 208 KiB by default, half of which is the kernel's own: less than one bulk request, so that the two ends take turns. TCP finds its size
 * by itself. */
static void
enlarge_unix_buffer (int fd)
{
  int domain = 0, bytes = UNIX_BUFFER_BYTES;
  socklen_t length = sizeof domain;

  if (getsockopt (fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 || domain != AF_UNIX)
    return;
  /* With the right to; otherwise as far as everybody may. */
  if (setsockopt (fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) != 0)
    setsockopt (fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

void
mf_nbd_stream_init (mf_nbd_stream *stream, int fd, gboolean spin)
{
  const int one = 1;
  int flags = fcntl (fd, F_GETFL);

  stream->fd = fd;
  stream->spin = spin;
  stream->waiting = (mf_spin){ 0 };
  stream->deadline_usec = -1;
  stream->start = stream->end = 0;
  if (flags != -1 && (flags & O_NONBLOCK))
    fcntl (fd, F_SETFL, flags & ~O_NONBLOCK);
  if (!spin)
    enlarge_unix_buffer (fd);
  /* Fails on a UNIX socket, which has no such delay. */
  setsockopt (fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

void
mf_nbd_stream_clear (mf_nbd_stream *stream)
{
  if (stream->fd >= 0)
    close (stream->fd);
  stream->fd = -1;
}

void
mf_nbd_stream_break (mf_nbd_stream *stream)
{
  shutdown (stream->fd, SHUT_RDWR);
}

void
mf_nbd_stream_set_timeout (mf_nbd_stream *stream, gint64 usec)
{
  struct timeval send_timeout = { 0, 0 };

  stream->deadline_usec = usec < 0 ? -1 : g_get_monotonic_time () + usec;
  if (usec >= 0) {
    send_timeout.tv_sec = usec / G_USEC_PER_SEC;
    send_timeout.tv_usec = usec % G_USEC_PER_SEC;
  }
  setsockopt (stream->fd, SOL_SOCKET, SO_SNDTIMEO, &send_timeout, sizeof send_timeout);
}

/* Waits until there is something to read. FALSE: the deadline is over. */
static gboolean
wait_readable (mf_nbd_stream *stream)
{
  struct pollfd pfd = { .fd = stream->fd, .events = POLLIN };

  for (;;) {
    gint64 left = stream->deadline_usec - g_get_monotonic_time ();
    int r;

    if (left <= 0)
      return FALSE;
    r = poll (&pfd, 1, (int) MIN (left / 1000 + 1, G_MAXINT));
    if (r > 0)
      return TRUE;
    if (r == -1 && errno != EINTR)
      return FALSE;
  }
}

/* One recvmsg() that brings something, or ends with -1 and errno. Looks for a while before it sleeps, if that has been
 * found to help. */
static ssize_t
receive_soon (mf_nbd_stream *stream, struct msghdr *msg)
{
  uint64_t start = mf_schedule_now_nsec ();
  ssize_t r = -1;

  if (mf_spin_begin (&stream->waiting, !mf_schedule_is_carrying (start))) {
    while ((r = recvmsg (stream->fd, msg, MSG_DONTWAIT)) == -1 && errno == EAGAIN &&
           mf_schedule_now_nsec () - start < SPIN_NSEC)
      /* Who is waited for may need this very processor. */
      sched_yield ();
  }
  if (r == -1 && (!stream->waiting.look || errno == EAGAIN))
    r = recvmsg (stream->fd, msg, 0);
  if (r > 0)
    mf_spin_end (&stream->waiting, mf_schedule_now_nsec () - start);
  return r;
}

/* One recvmsg() that brings something. Returns how many bytes, 0 when the stream is over. */
static size_t
receive (mf_nbd_stream *stream, struct iovec *iov, size_t n)
{
  struct msghdr msg = { .msg_iov = iov, .msg_iovlen = n };

  for (;;) {
    ssize_t r;

    if (stream->deadline_usec >= 0 && !wait_readable (stream))
      return 0;
    r = stream->spin && stream->deadline_usec < 0 ? receive_soon (stream, &msg) : recvmsg (stream->fd, &msg, 0);
    if (r >= 0)
      return (size_t) r;
    if (errno != EINTR)
      return 0;
  }
}

gboolean
mf_nbd_stream_read (mf_nbd_stream *stream, void *out, size_t length)
{
  uint8_t *to = out;
  size_t have = MIN (length, (size_t) (stream->end - stream->start));

  if (have > 0)
    memcpy (to, stream->buffer + stream->start, have);
  stream->start += (uint32_t) have;
  while (have < length) {
    struct iovec iov[2] = { { to + have, length - have }, { stream->buffer, sizeof stream->buffer } };
    size_t got = receive (stream, iov, G_N_ELEMENTS (iov));

    if (got == 0)
      return FALSE;
    if (got > length - have) {
      stream->start = 0;
      stream->end = (uint32_t) (got - (length - have));
      return TRUE;
    }
    have += got;
  }
  return TRUE;
}

const uint8_t *
mf_nbd_stream_take (mf_nbd_stream *stream, size_t length)
{
  const uint8_t *data;

  g_return_val_if_fail (length <= sizeof stream->buffer, NULL);

  if (stream->end - stream->start < length) {
    memmove (stream->buffer, stream->buffer + stream->start, stream->end - stream->start);
    stream->end -= stream->start;
    stream->start = 0;
  }
  while (stream->end - stream->start < length) {
    struct iovec rest = { stream->buffer + stream->end, sizeof stream->buffer - stream->end };
    size_t got = receive (stream, &rest, 1);

    if (got == 0)
      return NULL;
    stream->end += (uint32_t) got;
  }
  data = stream->buffer + stream->start;
  stream->start += (uint32_t) length;
  return data;
}

gboolean
mf_nbd_stream_skip (mf_nbd_stream *stream, uint64_t length)
{
  while (length > 0) {
    size_t part = (size_t) MIN (length, sizeof stream->buffer);

    if (!mf_nbd_stream_take (stream, part))
      return FALSE;
    length -= part;
  }
  return TRUE;
}

gboolean
mf_nbd_stream_writev (mf_nbd_stream *stream, struct iovec *iov, size_t n, gboolean more)
{
  struct msghdr msg = { .msg_iov = iov, .msg_iovlen = n };

  while (msg.msg_iovlen > 0) {
    ssize_t r = sendmsg (stream->fd, &msg, MSG_NOSIGNAL | (more ? MSG_MORE : 0));

    if (r == -1 && errno == EINTR)
      continue;
    if (r == -1)
      return FALSE;
    while (msg.msg_iovlen > 0 && (size_t) r >= msg.msg_iov->iov_len) {
      r -= (ssize_t) msg.msg_iov->iov_len;
      msg.msg_iov++;
      msg.msg_iovlen--;
    }
    if (msg.msg_iovlen > 0) {
      msg.msg_iov->iov_base = (char *) msg.msg_iov->iov_base + r;
      msg.msg_iov->iov_len -= (size_t) r;
    }
  }
  return TRUE;
}

gboolean
mf_nbd_stream_write (mf_nbd_stream *stream, const void *data, size_t length)
{
  struct iovec iov = { (void *) data, length };

  return mf_nbd_stream_writev (stream, &iov, 1, FALSE);
}
