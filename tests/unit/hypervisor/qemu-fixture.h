/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A real QEMU with no guest to speak of: the firmware runs, nothing is there to boot.
 */
#include "mf-error.h"
#include <gio/gio.h>

/* Whether there is a QEMU to test with; otherwise the running test is marked as skipped. The environment's MEMFERRY_TEST_QEMU names
 * another one than qemu-system-x86_64. */
gboolean qemu_is_there (void);

typedef struct {
  GSubprocess *process;
  char *folder; /* for its sockets; removed at the end */
  char *qmp_path;
  char *witness_path; /* a second monitor of it */
} Qemu;

/* Starts a program that ends with the test at the latest. */
GSubprocess *spawn (const char *const *argv);
/* Starts QEMU and waits until it serves QMP. `args` ended by NULL: added to those that switch everything off. */
Qemu *qemu_start (const char *const *args);
void qemu_free (Qemu *qemu);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (Qemu, qemu_free)
