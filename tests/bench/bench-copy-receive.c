/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench-copy.h"
#include "bench-userfault.h"

#include <endian.h>
#include <err.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#  define MADV_POPULATE_WRITE 23
#endif

#define REQUEST_MAGIC 0x25609513u

typedef struct {
  const bench_copy_slice *slice;
  uint8_t *buffer;
  int pipe[2];
  uint64_t asked; /* everything below has been asked for */
} receive_state;

void
bench_copy_receiver_open (bench_copy_slice *slice)
{
  const bench_copy_plan *plan = slice->plan;

  slice->file = open (plan->to, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (slice->file < 0 || ftruncate (slice->file, (off_t) plan->size_bytes) < 0)
    err (1, "%s", plan->to);
  slice->mapping = mmap (NULL, plan->size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, slice->file, 0);
  if (slice->mapping == MAP_FAILED)
    err (1, "mapping %s", plan->to);
  slice->userfault = -1;
  if (plan->receiver == BENCH_RECEIVE_USERFAULT) {
    slice->userfault = bench_userfault_open (0, true);
    bench_userfault_register (slice->userfault, slice->mapping, plan->size_bytes, UFFDIO_REGISTER_MODE_MISSING);
  }
}

/* Where the next bytes of the socket are to go. */
static uint8_t *
landing_place (receive_state *state, uint64_t offset, size_t length)
{
  const bench_copy_slice *slice = state->slice;

  switch (slice->plan->receiver) {
  case BENCH_RECEIVE_MMAP:
    return slice->mapping + offset;
  case BENCH_RECEIVE_POPULATE:
    if (madvise (slice->mapping + offset, length, MADV_POPULATE_WRITE) < 0)
      err (1, "MADV_POPULATE_WRITE");
    return slice->mapping + offset;
  case BENCH_RECEIVE_FALLOCATE:
    if (fallocate (slice->file, FALLOC_FL_KEEP_SIZE, (off_t) offset, (off_t) length) < 0)
      err (1, "fallocate");
    return slice->mapping + offset;
  case BENCH_RECEIVE_NULL:
  case BENCH_RECEIVE_PWRITE:
  case BENCH_RECEIVE_USERFAULT:
  case BENCH_RECEIVE_SPLICE:
    return state->buffer;
  }
  return NULL;
}

/* The bytes have landed: puts them where they stay. */
static void
settle (receive_state *state, uint64_t offset, size_t length)
{
  const bench_copy_slice *slice = state->slice;

  if (slice->plan->receiver == BENCH_RECEIVE_PWRITE) {
    if (pwrite (slice->file, state->buffer, length, (off_t) offset) != (ssize_t) length)
      err (1, "pwrite");
  } else if (slice->plan->receiver == BENCH_RECEIVE_USERFAULT) {
    bench_userfault_copy (slice->userfault, slice->mapping + offset, state->buffer, length, true);
  }
}

static void
receive_spliced (receive_state *state, uint64_t offset, size_t length)
{
  loff_t position = (loff_t) offset;

  while (length > 0) {
    ssize_t in = splice (state->slice->socket, NULL, state->pipe[1], NULL, length, SPLICE_F_MOVE);
    if (in <= 0)
      err (1, "splice from the socket");
    length -= (size_t) in;
    while (in > 0) {
      ssize_t out = splice (state->pipe[0], NULL, state->slice->file, &position, (size_t) in, SPLICE_F_MOVE);
      if (out <= 0)
        err (1, "splice to the file");
      in -= out;
    }
  }
}

static void
receive_range (receive_state *state, uint64_t start, uint64_t end)
{
  const bench_copy_plan *plan = state->slice->plan;

  for (uint64_t offset = start; offset < end;) {
    size_t length = end - offset < plan->granule_bytes ? (size_t) (end - offset) : plan->granule_bytes;
    if (plan->receiver == BENCH_RECEIVE_SPLICE) {
      receive_spliced (state, offset, length);
    } else {
      bench_link_read (state->slice->socket, landing_place (state, offset, length), length);
      settle (state, offset, length);
    }
    offset += length;
  }
}

/* Asks for up to `count` pieces more, all in one call. */
static void
ask (receive_state *state, unsigned count)
{
  uint8_t requests[64 * BENCH_REQUEST_BYTES];
  size_t used = 0;

  for (; count > 0 && state->asked < state->slice->end && used < sizeof requests; count--) {
    uint64_t left = state->slice->end - state->asked;
    uint32_t length =
        left < state->slice->plan->request_bytes ? (uint32_t) left : (uint32_t) state->slice->plan->request_bytes;
    uint32_t magic = htobe32 (REQUEST_MAGIC), length_be = htobe32 (length);
    uint64_t offset_be = htobe64 (state->asked);
    uint8_t *request = requests + used;

    memset (request, 0, BENCH_REQUEST_BYTES);
    memcpy (request, &magic, sizeof magic);
    memcpy (request + 8, &offset_be, sizeof offset_be);
    memcpy (request + 16, &offset_be, sizeof offset_be);
    memcpy (request + 24, &length_be, sizeof length_be);
    used += BENCH_REQUEST_BYTES;
    state->asked += length;
  }
  if (used > 0)
    bench_link_write (state->slice->socket, requests, used);
}

/* Header and bytes in one call, then what is to be placed is placed. Answers come in the order of the requests. */
static void
receive_answer (receive_state *state, uint64_t offset, size_t length)
{
  uint8_t header[BENCH_ANSWER_BYTES];
  uint64_t offset_be;

  if (state->slice->plan->receiver == BENCH_RECEIVE_SPLICE || length > state->slice->plan->granule_bytes) {
    bench_link_read (state->slice->socket, header, sizeof header);
    receive_range (state, offset, offset + length);
  } else {
    struct iovec parts[] = { { header, sizeof header }, { landing_place (state, offset, length), length } };
    bench_link_read_parts (state->slice->socket, parts, 2);
    settle (state, offset, length);
  }
  memcpy (&offset_be, header, sizeof offset_be);
  if (be64toh (offset_be) != offset)
    errx (1, "an answer to something else");
}

static void
receive_answers (receive_state *state)
{
  const bench_copy_slice *slice = state->slice;
  unsigned window = slice->plan->window, step = window > 1 ? window / 2 : 1, owed = 0;

  ask (state, window);
  for (uint64_t offset = slice->start; offset < slice->end;) {
    size_t length =
        slice->end - offset < slice->plan->request_bytes ? (size_t) (slice->end - offset) : slice->plan->request_bytes;
    receive_answer (state, offset, length);
    offset += length;
    if (++owed == step) {
      ask (state, owed);
      owed = 0;
    }
  }
  shutdown (slice->socket, SHUT_WR);
}

void *
bench_copy_receive (void *data)
{
  const bench_copy_slice *slice = data;
  receive_state state = { .slice = slice, .asked = slice->start };

  state.buffer = aligned_alloc (4096, slice->plan->granule_bytes);
  if (state.buffer == NULL || pipe2 (state.pipe, O_CLOEXEC) < 0)
    err (1, "buffer or pipe");
  fcntl (state.pipe[1], F_SETPIPE_SZ, 1 << 20);

  if (slice->plan->request_bytes == 0)
    receive_range (&state, slice->start, slice->end);
  else
    receive_answers (&state);
  free (state.buffer);
  return NULL;
}
