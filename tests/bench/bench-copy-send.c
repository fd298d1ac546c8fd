/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench-copy.h"

#include <endian.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/errqueue.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#  define MADV_POPULATE_READ 22
#endif

typedef struct {
  const bench_copy_slice *slice;
  uint8_t *buffer;      /* PREAD */
  int pipe[2];          /* SPLICE */
  unsigned unconfirmed; /* ZEROCOPY: sends that the kernel still reads from */
} send_state;

void
bench_copy_sender_open (bench_copy_slice *slice)
{
  const bench_copy_plan *plan = slice->plan;
  bool filled = plan->sender == BENCH_SEND_WRITE || plan->sender == BENCH_SEND_ZEROCOPY;

  slice->file = open (plan->from, O_RDONLY | O_CLOEXEC);
  if (slice->file < 0)
    err (1, "%s", plan->from);
  slice->mapping = mmap (NULL, plan->size_bytes, PROT_READ, MAP_SHARED | (filled ? MAP_POPULATE : 0), slice->file, 0);
  if (slice->mapping == MAP_FAILED)
    err (1, "mapping %s", plan->from);
}

static void
send_spliced (send_state *state, uint64_t offset, size_t length)
{
  loff_t position = (loff_t) offset;

  while (length > 0) {
    ssize_t in = splice (state->slice->file, &position, state->pipe[1], NULL, length, SPLICE_F_MOVE);
    if (in <= 0)
      err (1, "splice from the file");
    length -= (size_t) in;
    while (in > 0) {
      ssize_t out = splice (state->pipe[0], NULL, state->slice->socket, NULL, (size_t) in, SPLICE_F_MOVE);
      if (out <= 0)
        err (1, "splice to the socket");
      in -= out;
    }
  }
}

/* Takes the kernel's notes that sends are done; waits while more than `at_most` are not. */
static void
confirm_zerocopy (send_state *state, unsigned at_most)
{
  while (state->unconfirmed > at_most) {
    char control[128];
    struct msghdr message = { .msg_control = control, .msg_controllen = sizeof control };

    if (recvmsg (state->slice->socket, &message, MSG_ERRQUEUE) < 0) {
      struct pollfd wait = { .fd = state->slice->socket };
      if (errno != EAGAIN)
        err (1, "MSG_ERRQUEUE");
      poll (&wait, 1, -1);
      continue;
    }
    struct cmsghdr *part = CMSG_FIRSTHDR (&message);
    const struct sock_extended_err *note = (const struct sock_extended_err *) CMSG_DATA (part);
    state->unconfirmed -= note->ee_data - note->ee_info + 1;
  }
}

static void
send_zerocopy (send_state *state, const uint8_t *bytes, size_t length)
{
  while (length > 0) {
    ssize_t n = send (state->slice->socket, bytes, length, MSG_ZEROCOPY | MSG_NOSIGNAL);
    if (n < 0 && errno != ENOBUFS)
      err (1, "send");
    if (n < 0) {
      confirm_zerocopy (state, 0);
      continue;
    }
    state->unconfirmed++;
    bytes += n;
    length -= (size_t) n;
    confirm_zerocopy (state, 32);
  }
}

static void
send_file (send_state *state, uint64_t offset, size_t length)
{
  off_t position = (off_t) offset;

  while (length > 0) {
    ssize_t n = sendfile (state->slice->socket, state->slice->file, &position, length);
    if (n <= 0)
      err (1, "sendfile");
    length -= (size_t) n;
  }
}

static void
send_piece (send_state *state, uint64_t offset, size_t length)
{
  const bench_copy_slice *slice = state->slice;

  switch (slice->plan->sender) {
  case BENCH_SEND_POPULATE:
    if (madvise (slice->mapping + offset, length, MADV_POPULATE_READ) < 0)
      err (1, "MADV_POPULATE_READ");
    bench_link_write (slice->socket, slice->mapping + offset, length);
    break;
  case BENCH_SEND_WRITE:
  case BENCH_SEND_FAULTING:
    bench_link_write (slice->socket, slice->mapping + offset, length);
    break;
  case BENCH_SEND_PREAD:
    if (pread (slice->file, state->buffer, length, (off_t) offset) != (ssize_t) length)
      err (1, "pread");
    bench_link_write (slice->socket, state->buffer, length);
    break;
  case BENCH_SEND_SENDFILE:
    send_file (state, offset, length);
    break;
  case BENCH_SEND_SPLICE:
    send_spliced (state, offset, length);
    break;
  case BENCH_SEND_ZEROCOPY:
    send_zerocopy (state, slice->mapping + offset, length);
    break;
  }
}

static void
send_range (send_state *state, uint64_t start, uint64_t end)
{
  size_t most = state->slice->plan->send_bytes;

  for (uint64_t offset = start; offset < end;) {
    size_t length = end - offset < most ? (size_t) (end - offset) : most;
    send_piece (state, offset, length);
    offset += length;
  }
}

/* Header and bytes in one call where the sender can: a header of its own costs a segment and a wake-up. */
static void
send_answer (send_state *state, const uint8_t request[BENCH_REQUEST_BYTES])
{
  const bench_copy_slice *slice = state->slice;
  uint8_t header[BENCH_ANSWER_BYTES] = { 0 };
  uint64_t offset;
  uint32_t length;

  memcpy (&offset, request + 16, sizeof offset);
  memcpy (&length, request + 24, sizeof length);
  offset = be64toh (offset);
  length = be32toh (length);
  if (offset > slice->plan->size_bytes || length > slice->plan->size_bytes - offset)
    errx (1, "a request past the end");
  memcpy (header, request + 8, BENCH_REQUEST_BYTES - 8);

  bool mapped = slice->plan->sender == BENCH_SEND_WRITE || slice->plan->sender == BENCH_SEND_FAULTING;
  if (mapped && length <= slice->plan->send_bytes) {
    struct iovec parts[] = { { header, sizeof header }, { slice->mapping + offset, length } };
    bench_link_write_parts (slice->socket, parts, 2);
    return;
  }
  if (send (slice->socket, header, sizeof header, MSG_MORE | MSG_NOSIGNAL) != sizeof header)
    err (1, "send");
  send_range (state, offset, offset + length);
}

void *
bench_copy_send (void *data)
{
  const bench_copy_slice *slice = data;
  send_state state = { .slice = slice };
  uint8_t request[BENCH_REQUEST_BYTES];
  int one = 1;

  if (slice->plan->sender == BENCH_SEND_PREAD) {
    state.buffer = aligned_alloc (4096, slice->plan->send_bytes);
    if (state.buffer == NULL)
      err (1, "buffer");
  }
  if (slice->plan->sender == BENCH_SEND_SPLICE) {
    if (pipe2 (state.pipe, O_CLOEXEC) < 0)
      err (1, "pipe");
    fcntl (state.pipe[1], F_SETPIPE_SZ, 1 << 20);
  }
  if (slice->plan->sender == BENCH_SEND_ZEROCOPY &&
      setsockopt (slice->socket, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof one) < 0)
    err (1, "SO_ZEROCOPY");

  if (slice->plan->request_bytes == 0)
    send_range (&state, slice->start, slice->end);
  else
    while (bench_link_read_or_end (slice->socket, request, sizeof request, (bench_wait){ 0 }))
      send_answer (&state, request);
  confirm_zerocopy (&state, 0);
  free (state.buffer);
  return NULL;
}
