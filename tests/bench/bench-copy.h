/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The plain copy that everything else is compared with: a file goes over stream sockets into another file. One process sends,
 * one receives, with a thread for each connection on either side. The file is cut into one slice a connection.
 *
 * Two protocols. *stream*: the slice's bytes and nothing else, the least that any copy can do. *request*: the receiver asks
 * for `request_bytes` at a time (28 bytes, like NBD) with `window` requests under way, and each answer has a header of 32
 * bytes (a structured reply with its offset): what an NBD client and server can reach at best.
 */
#include "bench-link.h"

#include <stddef.h>
#include <stdint.h>

#define BENCH_REQUEST_BYTES 28u
#define BENCH_ANSWER_BYTES  32u

typedef enum {
  BENCH_SEND_WRITE,    /* from a mapping whose page tables are filled */
  BENCH_SEND_FAULTING, /* from a mapping that nobody has touched yet */
  BENCH_SEND_POPULATE, /* the same, MADV_POPULATE_READ before each piece */
  BENCH_SEND_PREAD,    /* pread into a buffer, write from it */
  BENCH_SEND_SENDFILE,
  BENCH_SEND_SPLICE,
  BENCH_SEND_ZEROCOPY, /* MSG_ZEROCOPY from a filled mapping; tcp only */
} bench_sender;

typedef enum {
  BENCH_RECEIVE_NULL,      /* into a buffer, and no further */
  BENCH_RECEIVE_MMAP,      /* recv into the file's mapping */
  BENCH_RECEIVE_POPULATE,  /* the same, MADV_POPULATE_WRITE before each piece */
  BENCH_RECEIVE_FALLOCATE, /* the same, fallocate before each piece */
  BENCH_RECEIVE_PWRITE,    /* into a buffer, pwrite */
  BENCH_RECEIVE_USERFAULT, /* into a buffer, UFFDIO_COPY into the file's mapping */
  BENCH_RECEIVE_SPLICE,    /* splice to a pipe and on to the file */
} bench_receiver;

typedef struct {
  const char *from, *to;
  uint64_t size_bytes;
  const char *link; /* as bench_link_pair() takes it */
  bench_sender sender;
  bench_receiver receiver;
  unsigned connections;
  size_t send_bytes;    /* one send call at most */
  size_t granule_bytes; /* one recv and one placing */
  size_t request_bytes; /* 0: the stream protocol */
  unsigned window;
  int socket_buffer_bytes; /* 0: as the system has it */
  bool apart;              /* the sides keep to a processor each */
} bench_copy_plan;

/* What one connection carries, and the side's file. */
typedef struct {
  const bench_copy_plan *plan;
  int socket, file, userfault;
  uint8_t *mapping;
  uint64_t start, end;
} bench_copy_slice;

/* Prepares the side's file and mapping in `slice` (sender: opened and mapped; receiver: new, empty). */
void bench_copy_sender_open (bench_copy_slice *slice);
void bench_copy_receiver_open (bench_copy_slice *slice);

/* Carry one slice; thread functions, the argument is a bench_copy_slice. */
void *bench_copy_send (void *slice);
void *bench_copy_receive (void *slice);
