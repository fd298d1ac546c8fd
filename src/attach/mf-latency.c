/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "attach/mf-latency.h"

/* Buckets 0 to 31 are 1 us wide; each power of two above that is cut into 16. */
static guint
bucket_of (uint32_t usec)
{
  guint octave;

  if (usec < 32)
    return usec;
  octave = 31 - (guint) __builtin_clz (usec);
  return 32 + (octave - 5) * 16 + ((usec >> (octave - 4)) & 15);
}

/* The largest value that falls into `bucket`. */
static uint32_t
bucket_top (guint bucket)
{
  guint octave, part;

  if (bucket < 32)
    return bucket;
  octave = 5 + (bucket - 32) / 16;
  part = (bucket - 32) % 16;
  return (uint32_t) ((UINT64_C (17) + part) << (octave - 4)) - 1;
}

void
mf_latency_add (mf_latency *latency, gint64 usec)
{
  const uint32_t value = (uint32_t) CLAMP (usec, 0, G_MAXUINT32);

  atomic_fetch_add_explicit (&latency->buckets[bucket_of (value)], 1, memory_order_relaxed);
  atomic_fetch_add_explicit (&latency->count, 1, memory_order_relaxed);
  if (value > atomic_load_explicit (&latency->max_usec, memory_order_relaxed))
    atomic_store_explicit (&latency->max_usec, value, memory_order_relaxed);
}

uint32_t
mf_latency_quantile (mf_latency *latency, guint permille)
{
  const uint32_t max = atomic_load_explicit (&latency->max_usec, memory_order_relaxed);
  uint64_t total = 0, wanted, seen = 0;

  for (guint i = 0; i < MF_LATENCY_BUCKETS; i++)
    total += atomic_load_explicit (&latency->buckets[i], memory_order_relaxed);
  if (total == 0)
    return 0;
  /* Not total * permille, which could overflow. */
  wanted = total / 1000 * permille + (total % 1000 * permille + 999) / 1000;
  for (guint i = 0; i < MF_LATENCY_BUCKETS; i++) {
    seen += atomic_load_explicit (&latency->buckets[i], memory_order_relaxed);
    if (seen >= wanted && seen > 0)
      return MIN (bucket_top (i), max);
  }
  return max;
}
