/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench-samples.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void
bench_samples_init (bench_samples *samples, size_t room)
{
  samples->nsec = malloc (room * sizeof *samples->nsec);
  if (samples->nsec == NULL)
    err (1, "room for %zu samples", room);
  memset (samples->nsec, 0xff, room * sizeof *samples->nsec);
  samples->count = 0;
  samples->room = room;
}

void
bench_samples_clear (bench_samples *samples)
{
  free (samples->nsec);
  *samples = (bench_samples){ 0 };
}

static int
compare (const void *a, const void *b)
{
  const uint64_t *left = a, *right = b;

  return (*left > *right) - (*left < *right);
}

/* The value that `permille` of the samples don't exceed. */
static double
quantile_usec (const bench_samples *samples, size_t permille)
{
  size_t rank = (samples->count * permille + 999) / 1000;

  return (double) samples->nsec[rank > 0 ? rank - 1 : 0] / 1000.0;
}

void
bench_samples_print (bench_samples *samples, const char *more)
{
  if (samples->count == 0)
    errx (1, "nothing was measured");
  qsort (samples->nsec, samples->count, sizeof *samples->nsec, compare);
  printf ("{\"n\": %zu, \"min\": %.2f, \"p50\": %.2f, \"p90\": %.2f, \"p99\": %.2f, \"p999\": %.2f, \"max\": %.2f%s}\n",
          samples->count, quantile_usec (samples, 0), quantile_usec (samples, 500), quantile_usec (samples, 900),
          quantile_usec (samples, 990), quantile_usec (samples, 999), quantile_usec (samples, 1000), more);
}
