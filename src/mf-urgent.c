/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-urgent.h"

#include <sched.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NICE       (-10)
#define SLICE_NSEC 100000

/* What sched_getattr(2) fills, as far as every kernel has it; glibc 2.36 has no declaration. */
typedef struct {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
} sched_attributes;

void
mf_urgent_thread (void)
{
  const id_t self = (id_t) syscall (SYS_gettid);
  sched_attributes attributes = { .size = sizeof (attributes) };

  if (getpriority (PRIO_PROCESS, self) > NICE)
    (void) setpriority (PRIO_PROCESS, self, NICE);
  /* Not where somebody has chosen another policy for the service. */
  if (syscall (SYS_sched_getattr, 0, &attributes, sizeof (attributes), 0) != 0 || attributes.policy != SCHED_OTHER)
    return;
  attributes.size = sizeof (attributes);
  attributes.runtime = SLICE_NSEC;
  (void) syscall (SYS_sched_setattr, 0, &attributes, 0);
}
