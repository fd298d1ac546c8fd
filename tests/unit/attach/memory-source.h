/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A remote whose pages hold scribble's pattern, and a lane to it that the test can hold up or break. The source outlives its lane and is
 * the test's; its fields may be changed at any time, then memory_source_kick().
 */
#include "backend/mf-lane.h"
#include <stdatomic.h>

typedef struct {
  uint64_t size_bytes;
  uint32_t page_bytes;
  uint32_t seed;
  uint32_t hole_every;    /* every so many pages there is a hole; 0: none */
  _Atomic bool hold;      /* nothing is answered */
  _Atomic bool broken;    /* the lane is lost */
  _Atomic int fail_pages; /* so many requests are answered with EIO */
  int die_at;             /* this request, counted from 1, kills the process instead of being sent; 0: none */
  int dawdle_usec;        /* an answer takes so long */
  _Atomic uint32_t asked; /* requests so far */
  int kick_fd;
} memory_source;

void memory_source_init (memory_source *source, uint64_t size_bytes, uint32_t page_bytes, uint32_t seed);
void memory_source_clear (memory_source *source);
void memory_source_kick (memory_source *source);
bool memory_source_is_hole (const memory_source *source, uint64_t page);
/* One lane at a time. */
mf_lane *memory_source_open (memory_source *source);
