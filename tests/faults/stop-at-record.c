/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A library to be preloaded into memferryd, which makes it stand still (SIGSTOP) at a moment that is too short to be met otherwise: right
 * before or after a record of a migration is written or removed. Whoever waits for that kills it then, or lets it go on.
 *
 * MEMFERRY_TEST_STOP says when: before:PHASE or after:PHASE, where PHASE is what the record is to say (incoming, taken, running, leaving,
 * handed, away, undone, complete) or "removed". "running" is "taken" by a target that has seen the program run.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool
is_record (const char *path)
{
  const char *slash = strrchr (path, '/');

  return strncmp (slash ? slash + 1 : path, ".session-", strlen (".session-")) == 0;
}

/* What the record says, read from the file that is about to become it. */
static const char *
phase_of (const char *path)
{
  static const char *const phases[] = { "incoming", "taken", "leaving", "handed", "away", "undone", "complete" };
  char text[4096] = "";
  int fd = open (path, O_RDONLY | O_CLOEXEC);
  ssize_t length = fd >= 0 ? read (fd, text, sizeof text - 1) : -1;

  if (fd >= 0)
    close (fd);
  if (length <= 0)
    return "";
  for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
    char line[32];

    snprintf (line, sizeof line, "\nphase=%s\n", phases[i]);
    if (strstr (text, line))
      return strcmp (phases[i], "taken") == 0 && strstr (text, "\nrunning=true\n") ? "running" : phases[i];
  }
  return "";
}

static void
stop_if_asked (const char *when, const char *phase)
{
  const char *asked = getenv ("MEMFERRY_TEST_STOP");
  char here[64];

  snprintf (here, sizeof here, "%s:%s", when, phase);
  if (asked && strcmp (asked, here) == 0)
    raise (SIGSTOP); /* to this thread: it goes no further */
}

__attribute__ ((visibility ("default"))) int
rename (const char *from, const char *to)
{
  int (*next) (const char *, const char *) = (int (*) (const char *, const char *)) dlsym (RTLD_NEXT, "rename");
  const char *phase = is_record (to) ? phase_of (from) : "";
  int result;

  stop_if_asked ("before", phase);
  result = next (from, to);
  stop_if_asked ("after", phase);
  return result;
}

__attribute__ ((visibility ("default"))) int
unlink (const char *path)
{
  int (*next) (const char *) = (int (*) (const char *)) dlsym (RTLD_NEXT, "unlink");
  const char *phase = is_record (path) ? "removed" : "";
  int result;

  stop_if_asked ("before", phase);
  result = next (path);
  stop_if_asked ("after", phase);
  return result;
}
