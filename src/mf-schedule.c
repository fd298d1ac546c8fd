/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-schedule.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NICE (-10)
/* The kernel takes 0.1 to 100 ms; its own is 0.7 to 3 ms. */
#define URGENT_SLICE_NSEC 100000
#define BULK_SLICE_NSEC   10000000

/* The last bulk request counts for so long: longer than one takes on any link that keeps processors busy. */
#define CARRYING_NSEC 5000000u

/* What sched_getattr(2) fills, as far as every kernel has it; glibc 2.36 has no declaration. */
typedef struct {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
} sched_attributes;

static _Atomic uint64_t carried_nsec;

static void
set_slice (uint64_t nsec)
{
  sched_attributes attributes = { .size = sizeof (attributes) };

  if (syscall (SYS_sched_getattr, 0, &attributes, sizeof (attributes), 0) != 0 || attributes.policy != SCHED_OTHER)
    return;
  attributes.size = sizeof (attributes);
  attributes.runtime = nsec;
  (void) syscall (SYS_sched_setattr, 0, &attributes, 0);
}

void
mf_schedule_urgent (void)
{
  const id_t self = (id_t) syscall (SYS_gettid);

  if (getpriority (PRIO_PROCESS, self) > NICE)
    (void) setpriority (PRIO_PROCESS, self, NICE);
  set_slice (URGENT_SLICE_NSEC);
}

void
mf_schedule_bulk (void)
{
  set_slice (BULK_SLICE_NSEC);
}

uint64_t
mf_schedule_now_nsec (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  return (uint64_t) now.tv_sec * 1000000000u + (uint64_t) now.tv_nsec;
}

void
mf_schedule_carried (void)
{
  atomic_store_explicit (&carried_nsec, mf_schedule_now_nsec (), memory_order_relaxed);
}

bool
mf_schedule_is_carrying (uint64_t now_nsec)
{
  /* Another thread may have carried something since the caller's look at the clock. */
  return now_nsec < atomic_load_explicit (&carried_nsec, memory_order_relaxed) + CARRYING_NSEC;
}
