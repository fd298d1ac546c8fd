/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The keeper: the one thread a file that talks to the service.
 *
 * It hands the file's ranges and userfaultfds over, tells of changes, and otherwise blocks in poll. When the service goes away (end of
 * file), the program's faults wait in the kernel; the keeper hands the same descriptors over to whoever listens next, for ever, since the program's
 * memory depends on it. All signals are blocked in it: a signal that it took would run the program's handler, or the default action, in
 * a thread the program knows nothing of.
 */
#include "mf-preload.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define STACK_BYTES (64 * 1024)
/* The service that comes back finds the program at its door within this time; after a while of vain attempts less often. */
#define RETRY_MSEC             5
#define RETRY_SLOW_MSEC        50
#define RETRY_SLOW_AFTER_MSEC  5000
#define SAY_WAITING_AFTER_MSEC 2000
/* A service that is back but does not want what its predecessor had: it may still be setting itself up. */
#define REFUSED_AGAIN_MSEC 1000

static void
nap (long msec)
{
  const struct timespec time = { .tv_sec = msec / 1000, .tv_nsec = msec % 1000 * 1000000 };

  nanosleep (&time, NULL);
}

static unsigned
snapshot (mf_preload_file *file, mf_preload_ranges *ranges)
{
  unsigned version;

  pthread_mutex_lock (&mf_preload_lock);
  *ranges = file->ranges;
  version = file->version;
  pthread_mutex_unlock (&mf_preload_lock);
  return version;
}

static void
note_told (mf_preload_file *file, unsigned version)
{
  pthread_mutex_lock (&mf_preload_lock);
  file->told = version;
  if (file->state == MF_PRELOAD_TELLING && file->version == version)
    file->state = MF_PRELOAD_TOLD;
  pthread_cond_broadcast (&mf_preload_changed);
  pthread_mutex_unlock (&mf_preload_lock);
}

static bool
someone_waits (mf_preload_file *file)
{
  bool waiting;

  pthread_mutex_lock (&mf_preload_lock);
  waiting = file->waiters > 0;
  pthread_mutex_unlock (&mf_preload_lock);
  return waiting;
}

/* Everything the library holds for the file, given back. With mf_preload_lock held. */
static void
let_go (mf_preload_file *file, mf_preload_state state)
{
  int *const fds[] = { &file->link, &file->uffds[0], &file->uffds[1], &file->file, &file->kick };

  for (unsigned i = 0; i < sizeof (fds) / sizeof (fds[0]); i++) {
    if (*fds[i] >= 0)
      close (*fds[i]);
    *fds[i] = -1;
  }
  file->generation = 0;
  file->told = file->version;
  file->state = state;
}

/* Hands over to whoever listens, however long that takes, or until nothing is mapped. False: refused, and it was the first
 * time. */
static bool
hand_over (mf_preload_file *file)
{
  char reason[MF_PRELOAD_REASON_BYTES] = "";
  const int64_t began = mf_preload_now_msec ();
  bool refusal_said = false, waiting_said = false;

  for (;;) {
    const int64_t waited = mf_preload_now_msec () - began;
    mf_preload_ranges ranges;
    const unsigned version = snapshot (file, &ranges);

    if (ranges.count == 0)
      return true;
    switch (mf_preload_link_open (file, &ranges, reason)) {
    case MF_PRELOAD_LINK_DONE:
      note_told (file, version);
      if (waiting_said)
        mf_preload_say ("the service at %s is there", mf_preload_socket_path ());
      return true;
    case MF_PRELOAD_LINK_REFUSED:
      if (!refusal_said)
        mf_preload_say ("the service at %s refused %s: %s; %s", mf_preload_socket_path (), file->path, reason,
                        file->generation == 0 ? "going on without it" : "trying again");
      refusal_said = true;
      if (file->generation == 0)
        return false;
      nap (REFUSED_AGAIN_MSEC);
      break;
    case MF_PRELOAD_LINK_BROKEN:
      if (waited > SAY_WAITING_AFTER_MSEC && !waiting_said && someone_waits (file)) {
        waiting_said = true;
        mf_preload_say ("waiting for the service at %s", mf_preload_socket_path ());
      }
      nap (waited < RETRY_SLOW_AFTER_MSEC ? RETRY_MSEC : RETRY_SLOW_MSEC);
      break;
    }
  }
}

/* Sends the changes until there are none. False: the link is broken. */
static bool
tell_changes (mf_preload_file *file)
{
  for (;;) {
    char reason[MF_PRELOAD_REASON_BYTES] = "";
    mf_preload_ranges ranges;
    const unsigned version = snapshot (file, &ranges);

    if (version == file->told || ranges.count == 0)
      return true;
    switch (mf_preload_link_update (file, &ranges, reason)) {
    case MF_PRELOAD_LINK_BROKEN:
      return false;
    case MF_PRELOAD_LINK_REFUSED:
      mf_preload_say ("the service at %s refused a new mapping of %s: %s; going on without it",
                      mf_preload_socket_path (), file->path, reason);
      break;
    case MF_PRELOAD_LINK_DONE:
      break;
    }
    note_told (file, version);
  }
}

/* Returns when the service is gone (true), or nothing is mapped any more (false, and everything was given back). */
static bool
watch (mf_preload_file *file)
{
  for (;;) {
    struct pollfd fds[] = { { .fd = file->link, .events = POLLIN }, { .fd = file->kick, .events = POLLIN } };
    uint64_t kicks;
    char byte;

    if (!tell_changes (file))
      return true;
    pthread_mutex_lock (&mf_preload_lock);
    if (file->ranges.count == 0) {
      let_go (file, MF_PRELOAD_NEW);
      pthread_cond_broadcast (&mf_preload_changed);
      pthread_mutex_unlock (&mf_preload_lock);
      return false;
    }
    pthread_mutex_unlock (&mf_preload_lock);

    if (poll (fds, 2, -1) < 0)
      continue;
    if (fds[1].revents && read (file->kick, &kicks, sizeof (kicks)) < 0 && errno != EAGAIN)
      return true;
    /* Nothing is expected here but the end. */
    if (fds[0].revents && recv (file->link, &byte, 1, MSG_DONTWAIT) <= 0 && errno != EAGAIN)
      return true;
  }
}

static void *
keep (void *argument)
{
  mf_preload_file *file = argument;

  pthread_setname_np (pthread_self (), "memferry");
  do {
    if (!hand_over (file)) {
      pthread_mutex_lock (&mf_preload_lock);
      let_go (file, MF_PRELOAD_REFUSED);
      pthread_cond_broadcast (&mf_preload_changed);
      pthread_mutex_unlock (&mf_preload_lock);
      return NULL;
    }
    if (!watch (file))
      return NULL;
    mf_preload_link_close (file);
  } while (true);
}

static int
start_thread (mf_preload_file *file)
{
  pthread_attr_t attributes;
  sigset_t all, before;
  pthread_t thread;
  int error;

  pthread_attr_init (&attributes);
  pthread_attr_setdetachstate (&attributes, PTHREAD_CREATE_DETACHED);
  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &before);
  pthread_attr_setstacksize (&attributes, STACK_BYTES);
  error = pthread_create (&thread, &attributes, keep, file);
  if (error == EINVAL) {
    /* The program's thread-local storage doesn't fit into so small a stack. */
    pthread_attr_destroy (&attributes);
    pthread_attr_init (&attributes);
    pthread_attr_setdetachstate (&attributes, PTHREAD_CREATE_DETACHED);
    error = pthread_create (&thread, &attributes, keep, file);
  }
  pthread_sigmask (SIG_SETMASK, &before, NULL);
  pthread_attr_destroy (&attributes);
  return error;
}

static bool
start (mf_preload_file *file)
{
  int error = 0;

  file->kick = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (file->kick < 0)
    error = errno;
  else
    error = start_thread (file);
  if (error == 0)
    return true;
  mf_preload_say ("%s: starting a thread: %s; going on without the service", file->path, strerror (error));
  let_go (file, MF_PRELOAD_REFUSED);
  return false;
}

void
mf_preload_keeper_tell (mf_preload_file *file, bool wait)
{
  const unsigned version = file->version;
  const uint64_t one = 1;

  if (file->state == MF_PRELOAD_REFUSED || (file->state == MF_PRELOAD_NEW && !start (file)))
    return;
  if (file->state != MF_PRELOAD_NEW && write (file->kick, &one, sizeof (one)) < 0) {
    /* A counter that is full wakes as well. */
  }
  file->state = MF_PRELOAD_TELLING;
  file->waiters += wait;
  while (wait && file->state == MF_PRELOAD_TELLING && (int) (file->told - version) < 0)
    pthread_cond_wait (&mf_preload_changed, &mf_preload_lock);
  file->waiters -= wait;
}

void
mf_preload_keeper_forget (mf_preload_file *file)
{
  let_go (file, MF_PRELOAD_NEW);
  file->ranges.count = 0;
  file->waiters = 0;
}
