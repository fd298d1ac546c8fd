/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A region, a service that hands it over (in a thread of its own), and scribble, a program that maps it.
 */
#include "attach/mf-handover.h"
#include "memory-source.h"
#include "scribble-pattern.h"

typedef struct {
  char *dir, *region_path, *socket_path, *stderr_path;
  char *preload, *scribble; /* copies that every user may read */
  uint32_t page_bytes;
  MfStore *store;
  MfRegion *region;

  GThread *thread;
  GMainContext *context;
  GMainLoop *loop;
  MfHandover *handover;
  GMutex lock;
  GCond changed;
  /* With the lock: */
  MfUserfault *userfault; /* the latest that was attached, until detached */
  guint attached, again, detached, lost;
  gboolean serve; /* in the callback "attached" */

  GPid pid;
  int to_program, from_program;
} attach_fixture;

/* Skips the test, and returns NULL, where the kernel or the user's rights don't allow it. `root`: where the region's file is to be; NULL:
 * /dev/shm. */
attach_fixture *attach_fixture_new (const char *root, uint64_t size_bytes);
void attach_fixture_free (attach_fixture *f);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (attach_fixture, attach_fixture_free)

void attach_fixture_start_service (attach_fixture *f);
void attach_fixture_stop_service (attach_fixture *f);
/* All pages are missing and the store is empty; the service will serve. */
void attach_fixture_make_empty (attach_fixture *f);
/* Waits until `*counter`, one of those above, is at least `value`. */
void attach_fixture_wait (attach_fixture *f, const guint *counter, guint value);
guint attach_fixture_count (attach_fixture *f, const guint *counter);
/* A reference. */
MfUserfault *attach_fixture_userfault (attach_fixture *f);

typedef enum {
  PROGRAM_PLAIN = 0,
  PROGRAM_AS_NOBODY = 1 << 0, /* no rights, and none to be had by exec */
  PROGRAM_ALONE = 1 << 1,     /* without the library */
} program_flags;

/* A GSpawnChildSetupFunc: the child goes when the test does. */
void attach_fixture_tie (gpointer user_data);
void attach_fixture_start_program (attach_fixture *f, program_flags flags);
/* The end of its input; asserts that it exits with 0. */
void attach_fixture_end_program (attach_fixture *f);
/* Sends a line without waiting. */
void attach_fixture_send (attach_fixture *f, const char *format, ...) G_GNUC_PRINTF (2, 3);
/* The next line of its output; fails the test after 60 seconds. */
char *attach_fixture_receive (attach_fixture *f);
/* Asserts what that is, or its first word when `expected` is one word. */
void attach_fixture_expect (attach_fixture *f, const char *expected);
/* Sends a line and asserts the answer. */
void attach_fixture_ask (attach_fixture *f, const char *expected, const char *format, ...) G_GNUC_PRINTF (3, 4);
/* What the program, and the library in it, wrote to standard error. */
char *attach_fixture_stderr (attach_fixture *f);

/* Asserts what the store holds, whole pages. */
void attach_fixture_assert_store (attach_fixture *f, uint64_t first, uint64_t count, uint32_t seed);
