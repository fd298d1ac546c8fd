/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The program that runs in the test guest, as its init: fills memory, keeps writing to it, checks all of it, and says on the
 * serial console every few milliseconds how far it is and how many errors it has seen.
 *
 * Lines on the console, each beginning with its kind:
 *   READY ...   memory is filled; dirtying begins
 *   HB N ...    a heartbeat; N counts from 1, so that a beat lost or printed twice shows
 *   ERR ...     one of the first errors, in full
 *   FATAL ...   the workload can't go on; the guest panics
 */
#include "arena.h"
#include "disk.h"
#include "pace.h"
#include "report.h"
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
  NSEC_PER_MSEC = 1000000,
  STACK_BYTES = 64 << 10,
  DIRTY_NICE = -10,
  VERIFY_NICE = 10,
  HEARTBEAT_PRIORITY = 50
};

static void
start_thread (void *(*body) (void *), void *argument)
{
  pthread_attr_t attributes;
  pthread_t thread;

  pthread_attr_init (&attributes);
  pthread_attr_setstacksize (&attributes, STACK_BYTES);
  if (pthread_create (&thread, &attributes, body, argument) != 0)
    report_fatal ("no thread");
  pthread_attr_destroy (&attributes);
}

static void
set_own_nice (int nice_value)
{
  setpriority (PRIO_PROCESS, (id_t) syscall (SYS_gettid), nice_value);
}

static void *
dirty (void *memory)
{
  set_own_nice (DIRTY_NICE);
  return arena_dirty_forever (memory);
}

static void *
verify (void *memory)
{
  set_own_nice (VERIFY_NICE);
  return arena_verify_forever (memory);
}

static unsigned long long
count (_Atomic uint64_t *counter)
{
  return atomic_load (counter);
}

/*
 * Beats until the guest ends. Above every other thread, so that a late beat means a guest that did not run and not one that
 * was busy; the counters tell whether the work went on. Beats that were missed are left out, not printed in a burst: how many
 * arrive in a second is a measure of how well the guest runs.
 */
static _Noreturn void
beat_forever (uint64_t interval_nsec)
{
  struct sched_param priority = { .sched_priority = HEARTBEAT_PRIORITY };
  uint64_t due = pace_now_nsec () + interval_nsec;

  if (sched_setscheduler (0, SCHED_FIFO, &priority) != 0)
    report_fatal ("no real-time priority");
  for (uint64_t n = 1;; n++) {
    uint64_t now;

    pace_sleep_until (due);
    now = pace_now_nsec ();
    report_line ("HB %llu t=%llu pass=%llu pages=%llu verified=%llu disk=%llu errors=%llu", (unsigned long long) n,
                 (unsigned long long) (now / NSEC_PER_MSEC), count (&report.passes), count (&report.pages_dirtied),
                 count (&report.pages_verified), count (&report.blocks_read), count (&report.errors));
    due += interval_nsec;
    if (due < now)
      due = now + interval_nsec;
  }
}

int
main (void)
{
  static params settings;
  bool dirties, fills;
  arena *memory;

  params_read (&settings);
  dirties = settings.dirty_bytes >= 4096 && !settings.idle;
  fills = settings.fill_bytes >= 4096 || settings.dirty_bytes >= 4096;
  if (settings.disk[0] != '\0')
    disk_open (&settings);
  memory = arena_new (&settings);
  report_line ("READY fill=%llu dirty=%llu rate=%llu t=%llu", (unsigned long long) settings.fill_bytes,
               (unsigned long long) settings.dirty_bytes, (unsigned long long) settings.dirty_rate,
               (unsigned long long) (pace_now_nsec () / NSEC_PER_MSEC));

  if (dirties)
    start_thread (dirty, memory);
  if (fills && settings.verify_rate > 0)
    start_thread (verify, memory);
  for (unsigned i = 0; settings.disk[0] != '\0' && i < settings.disk_readers; i++)
    start_thread (disk_read_forever, (void *) (uintptr_t) i);
  beat_forever (settings.heartbeat_msec * NSEC_PER_MSEC);
}
