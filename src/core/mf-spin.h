/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * To look or to sleep: how a thread waits for what comes soon.
 *
 * Where the two ends are on different processors that are idle, being woken is most of an exchange's cost, and looking
 * for a while before sleeping saves it: 4 KiB over a UNIX socket took 58 us with both ends sleeping and 7 with both
 * looking. Where the kernel keeps the two on one processor, or others want it, looking takes it from the very thread
 * that is waited for: 6 us sleeping, 156 looking. (Medians, 2 processors, others at work.) So it is found by
 * measuring: the typical wait of each way is followed, as a median that outliers don't move; the shorter one is taken,
 * and now and then the other one is tried. Looking has to be clearly better, for it costs processor time.
 *
 * Pure arithmetic: no clock, no I/O. One thread's. All zeroes is the beginning.
 */
#include <stdbool.h>
#include <stdint.h>

typedef struct {
  uint32_t typical_nsec[2]; /* of waits by sleeping, by looking; 0 unknown */
  uint32_t waits;
  bool look; /* how the wait under way is done */
} mf_spin;

/* A wait begins: true, look before sleeping; never unless `may_look`. */
bool mf_spin_begin (mf_spin *spin, bool may_look);
/* What was waited for came, after `nsec`. Not to be called when something else ended the wait. */
void mf_spin_end (mf_spin *spin, uint64_t nsec);
