/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench-link.h"
#include "bench-samples.h"
#include "relay/relay-address.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void
set_buffers (int fd, int buffer_bytes)
{
  if (buffer_bytes == 0)
    return;
  if (setsockopt (fd, SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof buffer_bytes) < 0 ||
      setsockopt (fd, SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof buffer_bytes) < 0)
    err (1, "setting socket buffers");
}

static void
tcp_pair (int buffer_bytes, int fds[2])
{
  struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl (INADDR_LOOPBACK) };
  socklen_t length = sizeof address;
  int one = 1;

  int listener = socket (AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0 || bind (listener, (struct sockaddr *) &address, sizeof address) < 0 || listen (listener, 1) < 0 ||
      getsockname (listener, (struct sockaddr *) &address, &length) < 0)
    err (1, "listening on the loopback");

  fds[0] = socket (AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fds[0] < 0)
    err (1, "socket");
  /* Before the connection: the window scale is fixed by the handshake. */
  set_buffers (listener, buffer_bytes);
  set_buffers (fds[0], buffer_bytes);
  if (connect (fds[0], (struct sockaddr *) &address, sizeof address) < 0)
    err (1, "connecting to the loopback");
  fds[1] = accept4 (listener, NULL, NULL, SOCK_CLOEXEC);
  if (fds[1] < 0)
    err (1, "accept");
  close (listener);

  for (int i = 0; i < 2; i++)
    if (setsockopt (fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0)
      err (1, "TCP_NODELAY");
}

static void
unix_pair (int buffer_bytes, int fds[2])
{
  if (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
    err (1, "socketpair");
  set_buffers (fds[0], buffer_bytes);
  set_buffers (fds[1], buffer_bytes);
}

/* [0] connects, [1] is accepted. */
static void
pair_through (const char *link, int buffer_bytes, int fds[2])
{
  char *here = strdup (link), *comma = here ? strchr (here, ',') : NULL;

  if (comma == NULL)
    errx (2, "%s: a link is unix, tcp or LISTEN,CONNECT", link);
  *comma = '\0';
  relay_address listen_at = relay_address_parse (here), connect_to = relay_address_parse (comma + 1);
  int listener = relay_address_listen (&listen_at, buffer_bytes);
  struct pollfd wait = { .fd = listener, .events = POLLIN };
  fds[0] = relay_address_connect (&connect_to, buffer_bytes);
  if (fds[0] < 0)
    err (1, "connecting to %s", connect_to.text);
  poll (&wait, 1, -1);
  fds[1] = accept4 (listener, NULL, NULL, SOCK_CLOEXEC);
  if (fds[1] < 0)
    err (1, "accept");
  close (listener);
  relay_address_prepare (fds[1]);
  for (int i = 0; i < 2; i++)
    fcntl (fds[i], F_SETFL, 0);
  free (here);
}

void
bench_link_pair (const char *link, int buffer_bytes, int fds[2])
{
  if (strcmp (link, "unix") == 0)
    unix_pair (buffer_bytes, fds);
  else if (strcmp (link, "tcp") == 0)
    tcp_pair (buffer_bytes, fds);
  else
    pair_through (link, buffer_bytes, fds);
}

void
bench_link_write (int fd, const void *bytes, size_t length_bytes)
{
  struct iovec part = { (void *) bytes, length_bytes };

  bench_link_write_parts (fd, &part, 1);
}

void
bench_link_read (int fd, void *bytes, size_t length_bytes)
{
  if (!bench_link_read_or_end (fd, bytes, length_bytes, (bench_wait){ 0 }))
    errx (1, "the peer closed too early");
}

bool
bench_wait_poll_again (bench_wait wait, uint64_t begin_nsec)
{
  if (wait.yield)
    sched_yield ();
  return bench_now_nsec () - begin_nsec < wait.poll_nsec;
}

bool
bench_link_read_or_end (int fd, void *bytes, size_t length_bytes, bench_wait wait)
{
  uint64_t begin = wait.poll_nsec > 0 ? bench_now_nsec () : 0;
  bool polling = wait.poll_nsec > 0;
  size_t done = 0;

  while (done < length_bytes) {
    ssize_t n = recv (fd, (char *) bytes + done, length_bytes - done, polling ? MSG_DONTWAIT : MSG_WAITALL);
    if (n < 0 && errno == EAGAIN)
      polling = bench_wait_poll_again (wait, begin);
    else if (n < 0 && errno != EINTR)
      err (1, "recv");
    if (n < 0)
      continue;
    if (n == 0 && done > 0)
      errx (1, "the peer closed in the middle of a message");
    if (n == 0)
      return false;
    done += (size_t) n;
  }
  return true;
}

/* Takes `done` bytes off the front; returns the first part that is left. */
static int
parts_advance (struct iovec *parts, int first, int count, size_t done)
{
  while (first < count && done >= parts[first].iov_len)
    done -= parts[first++].iov_len;
  if (first < count) {
    parts[first].iov_base = (char *) parts[first].iov_base + done;
    parts[first].iov_len -= done;
  }
  return first;
}

void
bench_link_write_parts (int fd, struct iovec *parts, int count)
{
  int first = 0;

  while (first < count) {
    struct msghdr message = { .msg_iov = parts + first, .msg_iovlen = (size_t) (count - first) };
    ssize_t n = sendmsg (fd, &message, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      err (1, "sendmsg");
    first = parts_advance (parts, first, count, (size_t) n);
  }
}

void
bench_link_read_parts (int fd, struct iovec *parts, int count)
{
  int first = 0;

  while (first < count) {
    struct msghdr message = { .msg_iov = parts + first, .msg_iovlen = (size_t) (count - first) };
    ssize_t n = recvmsg (fd, &message, MSG_WAITALL);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      err (1, "recvmsg");
    if (n == 0)
      errx (1, "the peer closed too early");
    first = parts_advance (parts, first, count, (size_t) n);
  }
}
