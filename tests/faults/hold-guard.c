/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A library to be preloaded into memferryd, which holds the thread that freezes a program's memory until the test has seen what it wants to see: where the
 * thread is given its name it opens the FIFO that MEMFERRY_TEST_HOLD names, and waits for somebody to open the other end.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

__attribute__ ((visibility ("default"))) int
pthread_setname_np (pthread_t thread, const char *name)
{
  int (*next) (pthread_t, const char *) = (int (*) (pthread_t, const char *)) dlsym (RTLD_NEXT, "pthread_setname_np");
  const char *fifo = getenv ("MEMFERRY_TEST_HOLD");

  if (fifo && strcmp (name, "mf-guard") == 0) {
    close (open (fifo, O_RDONLY | O_CLOEXEC));
    unlink (fifo); /* only the first one */
  }
  return next (thread, name);
}
