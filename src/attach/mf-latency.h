/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A histogram of latencies: exact below 32 us, above that to within 1/16 of the value. Fixed size, no allocation; one thread adds, any thread
 * reads.
 */
#include <glib.h>
#include <stdatomic.h>
#include <stdint.h>

G_BEGIN_DECLS

#define MF_LATENCY_BUCKETS (32 + 27 * 16)

typedef struct {
  _Atomic uint64_t buckets[MF_LATENCY_BUCKETS];
  _Atomic uint64_t count;
  _Atomic uint32_t max_usec;
} mf_latency;

void mf_latency_add (mf_latency *latency, gint64 usec);
/* The smallest value that at least `permille` of 1000 values do not pass, rounded up to what the histogram tells apart; 0: no
 * values. */
uint32_t mf_latency_quantile (mf_latency *latency, guint permille);

G_END_DECLS
