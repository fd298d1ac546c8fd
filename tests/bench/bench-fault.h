/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The least that serving a fault can cost. One process touches pages of a mapping, a second one holds its userfaultfd, and, when
 * there is an exchange, a third one has the bytes: a request of 28 bytes goes to it over a stream socket and 16 + 4096 bytes come
 * back, one at a time, with nothing in between.
 *
 * Under bulk load the third process sends bytes on another connection as fast as they are taken, and the second puts them with
 * UFFDIO_COPY, 64 KiB at a time, into a second mapping of the first process, over and over again.
 */
#include "bench-link.h"
#include "bench-pattern.h"

#include <stdint.h>

#define BENCH_FAULT_REQUEST_BYTES 28u
#define BENCH_FAULT_HEADER_BYTES  16u
#define BENCH_FAULT_BULK_BYTES    (64u << 10)

/* Which processor each process keeps to. */
typedef enum {
  BENCH_PLACE_FREE,
  BENCH_PLACE_NEAR,  /* the handler with the touching process, the server elsewhere */
  BENCH_PLACE_APART, /* the touching process here, handler and server there */
} bench_fault_place;

typedef struct {
  size_t touches;
  uint64_t pages;
  bench_wait wait;     /* how long handler and server poll before they sleep */
  unsigned pause_usec; /* between two touches */
  bench_fault_place place;
  const char *link; /* as bench_link_pair() takes it */
  bool exchange;    /* false: the handler has the bytes */
  bool bulk;
} bench_fault_plan;

/* What the processes share, set up before they part. */
typedef struct {
  const bench_fault_plan *plan;
  uint8_t *source;         /* every page's bytes */
  uint8_t *touched, *bulk; /* the touching process' mappings */
  int bulk_file;
  int userfault;
  int fault_link[2], bulk_link[2]; /* [0] handler, [1] server */
} bench_fault_stage;

/* The two serving processes: they never return. */
void bench_fault_handle (const bench_fault_stage *stage) __attribute__ ((noreturn));
void bench_fault_serve (const bench_fault_stage *stage) __attribute__ ((noreturn));

/* One exchange: the page's bytes into `answer`, header first. */
void bench_fault_exchange (const bench_fault_stage *stage, uint64_t page,
                           uint8_t answer[BENCH_FAULT_HEADER_BYTES + BENCH_PAGE_BYTES]);
