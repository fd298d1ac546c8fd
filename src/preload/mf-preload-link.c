/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-preload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 8192
/* How long the service may take for an answer before it counts as dying. */
#define ANSWER_SECONDS 30

/* What a message of the service says, as far as this library cares: it need not know JSON for that, since the service writes its messages
 * without spaces between the tokens. */
#define TYPE_DEVICE   "\"type\":\"device\""
#define TYPE_ATTACHED "\"type\":\"attached\""
#define TYPE_MAPPED   "\"type\":\"mapped\""
#define TYPE_REFUSED  "\"type\":\"refused\""
#define ERROR_MEMBER  "\"error\":\""

int64_t
mf_preload_now_msec (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Writes a line with `n_fds` descriptors to its first byte. The line is far smaller than a socket buffer, so a
 * short write means a peer that does not read: broken. */
static bool
send_line (int socket, const char *line, size_t length, const int *fds, unsigned n_fds)
{
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE (2 * sizeof (int))];
  } control = { 0 };
  struct iovec part = { (void *) line, length };
  struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

  if (n_fds > 0) {
    struct cmsghdr *header = &control.align;

    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE (n_fds * sizeof (int));
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN (n_fds * sizeof (int));
    memcpy (CMSG_DATA (header), fds, n_fds * sizeof (int));
  }
  return sendmsg (socket, &message, MSG_NOSIGNAL) == (ssize_t) length;
}

/* Takes the descriptors out of a message: the first into `fd`, when it is wanted; what is more is closed. */
static void
take_fds (struct msghdr *message, int *fd)
{
  for (struct cmsghdr *header = CMSG_FIRSTHDR (message); header; header = CMSG_NXTHDR (message, header)) {
    unsigned count;

    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
      continue;
    count = (header->cmsg_len - CMSG_LEN (0)) / sizeof (int);
    for (unsigned i = 0; i < count; i++) {
      int got;

      memcpy (&got, CMSG_DATA (header) + i * sizeof (int), sizeof (int));
      if (fd && *fd < 0)
        *fd = got;
      else
        close (got);
    }
  }
}

/* Reads up to a newline, which becomes the string's end. The service sends one line and then waits, so a line never
 * shares a read with the next one. */
static bool
receive_line (int socket, char line[LINE_BYTES], int *fd)
{
  const int64_t deadline = mf_preload_now_msec () + ANSWER_SECONDS * 1000;
  size_t used = 0;

  while (used < LINE_BYTES) {
    union {
      struct cmsghdr align;
      char bytes[CMSG_SPACE (4 * sizeof (int))];
    } control;
    struct iovec part = { line + used, LINE_BYTES - used };
    struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof (control)
    };
    struct pollfd ready = { .fd = socket, .events = POLLIN };
    const int64_t left = deadline - mf_preload_now_msec ();
    ssize_t got;

    if (left <= 0 || poll (&ready, 1, (int) left) <= 0)
      return false;
    got = recvmsg (socket, &message, MSG_CMSG_CLOEXEC);
    if (got <= 0)
      return false;
    take_fds (&message, fd);
    used += (size_t) got;
    if (line[used - 1] == '\n') {
      line[used - 1] = '\0';
      return true;
    }
  }
  return false;
}

/* The text of the member "error", its escapes undone as far as they are plain characters. */
static void
copy_reason (const char *line, char reason[MF_PRELOAD_REASON_BYTES])
{
  const char *from = strstr (line, ERROR_MEMBER);
  size_t used = 0;

  for (from = from ? from + strlen (ERROR_MEMBER) : ""; *from && *from != '"' && used + 1 < MF_PRELOAD_REASON_BYTES;
       from++) {
    if (*from == '\\' && from[1])
      from++;
    reason[used++] = *from;
  }
  reason[used] = '\0';
}

static mf_preload_link_result
receive_answer (int socket, const char *type, int *fd, char reason[MF_PRELOAD_REASON_BYTES])
{
  char line[LINE_BYTES];

  if (!receive_line (socket, line, fd))
    return MF_PRELOAD_LINK_BROKEN;
  if (strstr (line, TYPE_REFUSED)) {
    copy_reason (line, reason);
    return MF_PRELOAD_LINK_REFUSED;
  }
  return strstr (line, type) ? MF_PRELOAD_LINK_DONE : MF_PRELOAD_LINK_BROKEN;
}

/* "mappings":[...] and the end of the message. Returns the length of the whole line. */
static size_t
finish_line (char line[LINE_BYTES], size_t used, const mf_preload_ranges *ranges)
{
  used += (size_t) snprintf (line + used, LINE_BYTES - used, "\"mappings\":[");
  for (unsigned i = 0; i < ranges->count; i++) {
    const mf_preload_range *range = &ranges->items[i];

    used += (size_t) snprintf (line + used, LINE_BYTES - used,
                               "%s{\"address\":%" PRIuPTR ",\"length\":%zu,\"offset\":%" PRIu64 "}", i > 0 ? "," : "",
                               range->address, range->length, range->offset);
  }
  return used + (size_t) snprintf (line + used, LINE_BYTES - used, "]}\n");
}

_Static_assert(64 + MF_PRELOAD_RANGES * (3 * 20 + 40) < LINE_BYTES, "a line holds every range");

/* The socket is made and noted under the lock, so that a child of a fork knows of it and closes it. */
static bool
open_socket (mf_preload_file *file)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  const char *path = mf_preload_socket_path ();

  if (strlen (path) >= sizeof (address.sun_path))
    return false;
  memcpy (address.sun_path, path, strlen (path));

  pthread_mutex_lock (&mf_preload_lock);
  file->link = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  pthread_mutex_unlock (&mf_preload_lock);
  return file->link >= 0 && connect (file->link, (struct sockaddr *) &address, sizeof (address)) == 0;
}

/* Both userfaultfds, from the service's device: the program needs no right to it, and faults from kernel mode are
 * reported too, which the system call would not do. */
static bool
make_userfaultfds (mf_preload_file *file, int device)
{
  pthread_mutex_lock (&mf_preload_lock);
  for (int i = 0; i < 2; i++) {
    if (file->uffds[i] < 0)
      file->uffds[i] = ioctl (device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
  }
  pthread_mutex_unlock (&mf_preload_lock);
  return file->uffds[0] >= 0 && file->uffds[1] >= 0;
}

static mf_preload_link_result
offer (mf_preload_file *file, const mf_preload_ranges *ranges, char reason[MF_PRELOAD_REASON_BYTES])
{
  char line[LINE_BYTES];
  size_t length = (size_t) snprintf (line, sizeof (line), "{\"memferry\":1,\"type\":\"offer\",\"generation\":%u,",
                                     file->generation);
  mf_preload_link_result result;
  int device = -1;

  length = finish_line (line, length, ranges);
  if (!send_line (file->link, line, length, &file->file, 1))
    return MF_PRELOAD_LINK_BROKEN;
  result = receive_answer (file->link, TYPE_DEVICE, &device, reason);
  if (result == MF_PRELOAD_LINK_DONE && device < 0)
    result = MF_PRELOAD_LINK_BROKEN;
  if (result == MF_PRELOAD_LINK_DONE && !make_userfaultfds (file, device)) {
    snprintf (reason, MF_PRELOAD_REASON_BYTES, "making a userfaultfd: %s", strerror (errno));
    result = MF_PRELOAD_LINK_REFUSED;
  }
  if (device >= 0)
    close (device);
  return result;
}

mf_preload_link_result
mf_preload_link_open (mf_preload_file *file, const mf_preload_ranges *ranges, char reason[MF_PRELOAD_REASON_BYTES])
{
  static const char line[] = "{\"memferry\":1,\"type\":\"descriptors\"}\n";
  mf_preload_link_result result = MF_PRELOAD_LINK_BROKEN;

  if (open_socket (file))
    result = offer (file, ranges, reason);
  if (result == MF_PRELOAD_LINK_DONE) {
    result = send_line (file->link, line, sizeof (line) - 1, file->uffds, 2)
                 ? receive_answer (file->link, TYPE_ATTACHED, NULL, reason)
                 : MF_PRELOAD_LINK_BROKEN;
  }
  if (result != MF_PRELOAD_LINK_DONE)
    mf_preload_link_close (file);
  else
    file->generation++;
  return result;
}

mf_preload_link_result
mf_preload_link_update (mf_preload_file *file, const mf_preload_ranges *ranges, char reason[MF_PRELOAD_REASON_BYTES])
{
  char line[LINE_BYTES];
  size_t length = (size_t) snprintf (line, sizeof (line), "{\"memferry\":1,\"type\":\"mappings\",");

  length = finish_line (line, length, ranges);
  if (!send_line (file->link, line, length, NULL, 0))
    return MF_PRELOAD_LINK_BROKEN;
  return receive_answer (file->link, TYPE_MAPPED, NULL, reason);
}

void
mf_preload_link_close (mf_preload_file *file)
{
  pthread_mutex_lock (&mf_preload_lock);
  if (file->link >= 0)
    close (file->link);
  file->link = -1;
  pthread_mutex_unlock (&mf_preload_lock);
}
