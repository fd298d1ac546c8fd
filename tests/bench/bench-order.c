/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench-order.h"

#include <err.h>
#include <stdlib.h>

/* xorshift64: good enough to defeat read-ahead. */
static uint64_t
next_random (uint64_t *state)
{
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

uint64_t *
bench_order_new (uint64_t total, size_t count, uint64_t seed)
{
  uint64_t state = seed * 2 + 1;

  if (count > total)
    errx (1, "%zu of %ju pages", count, (uintmax_t) total);
  uint64_t *order = calloc (total, sizeof *order);
  if (order == NULL)
    err (1, "an order of %ju pages", (uintmax_t) total);
  for (uint64_t i = 0; i < total; i++)
    order[i] = i;
  for (uint64_t i = 0; i < count; i++) {
    uint64_t other = i + next_random (&state) % (total - i), kept = order[i];
    order[i] = order[other];
    order[other] = kept;
  }
  return order;
}
