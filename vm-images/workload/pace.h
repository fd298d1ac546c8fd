/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Keeps work at a rate by small sleeps. A thread that was held up (the guest was stopped, a page was far away) goes on at
 * its rate and does not hurry to make up for it: a burst after each stop would be an effect of the test, not of the guest.
 */
#include <stdint.h>

typedef struct {
  uint64_t rate;     /* bytes a second; 0 is no limit           */
  uint64_t due_nsec; /* when the work done so far ought to end  */
} pacer;

/* Nanoseconds of the guest's monotonic clock. */
uint64_t pace_now_nsec (void);

pacer pace_start (uint64_t rate);

/* How many pages to do between two calls of pace_done(), for sleeps of about two milliseconds. At least 1. */
uint64_t pace_slice_pages (const pacer *self);

/* `pages` pages are done: sleeps until they should be. */
void pace_done (pacer *self, uint64_t pages);

/* Sleeps until `nsec` of the monotonic clock. */
void pace_sleep_until (uint64_t nsec);
