/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "pace.h"
#include "pattern.h"
#include <errno.h>
#include <time.h>

enum {
  NSEC_PER_SEC = 1000000000,
  SLICE_NSEC = 2000000,
  LATE_NSEC = 20000000,
  UNLIMITED_SLICE_PAGES = 64
};

uint64_t
pace_now_nsec (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  return (uint64_t) now.tv_sec * NSEC_PER_SEC + (uint64_t) now.tv_nsec;
}

void
pace_sleep_until (uint64_t nsec)
{
  struct timespec until = { .tv_sec = (time_t) (nsec / NSEC_PER_SEC), .tv_nsec = (long) (nsec % NSEC_PER_SEC) };

  while (clock_nanosleep (CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
    continue;
}

pacer
pace_start (uint64_t rate)
{
  return (pacer){ .rate = rate, .due_nsec = pace_now_nsec () };
}

uint64_t
pace_slice_pages (const pacer *self)
{
  uint64_t pages = self->rate / (NSEC_PER_SEC / SLICE_NSEC) / PAGE_BYTES;

  if (self->rate == 0)
    return UNLIMITED_SLICE_PAGES;
  return pages ? pages : 1;
}

void
pace_done (pacer *self, uint64_t pages)
{
  uint64_t now;

  if (self->rate == 0)
    return;
  self->due_nsec += (uint64_t) ((double) (pages * PAGE_BYTES) * NSEC_PER_SEC / (double) self->rate);
  now = pace_now_nsec ();
  if (self->due_nsec > now)
    pace_sleep_until (self->due_nsec);
  else if (now - self->due_nsec > LATE_NSEC)
    self->due_nsec = now;
}
