/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A clock and a set of measured times: collect, sort, ask for quantiles. One thread.
 */
#include <stddef.h>
#include <stdint.h>
#include <time.h>

typedef struct {
  uint64_t *nsec;
  size_t count, room;
} bench_samples;

static inline uint64_t
bench_now_nsec (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  return (uint64_t) now.tv_sec * 1000000000u + (uint64_t) now.tv_nsec;
}

/* Room for `room` samples, touched already so that adding never faults. Free with bench_samples_clear(). */
void bench_samples_init (bench_samples *samples, size_t room);
void bench_samples_clear (bench_samples *samples);

/* Past the room, samples are dropped. */
static inline void
bench_samples_add (bench_samples *samples, uint64_t nsec)
{
  if (samples->count < samples->room)
    samples->nsec[samples->count++] = nsec;
}

/* Sorts, and prints one JSON object: n and, in microseconds, min, p50, p90, p99, p999, max. `more` is put at its end, either
 * empty or ", " and members. */
void bench_samples_print (bench_samples *samples, const char *more);
