/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A bare QEMU as the program of a migration, driven over QMP: x-ignore-shared, events, pause-before-switchover.
 */
#include "migrate/mf-program.h"

G_BEGIN_DECLS

/* `qmp_path`: a UNIX socket at which QEMU serves QMP; connected at check, let go at clean_up (a QMP socket serves one client). `regions` are the files that must be its
 * RAM, all of it; their order is the same on both sides. The device state goes through descriptors that are given to QEMU: it needs no right to any file or folder of ours.
 *
 * As the vtable says, and besides:
 * - The target's QEMU is started with -incoming defer. What `receive` returned may be closed without harm before await_running is called: QEMU is told to read no earlier
 *   (it ends when a stream ends before its state does), but with switchover_ack, where it has to read at once.
 * - Without a check before, roll_back, await_running and clean_up take care of what a service that died has begun with this QEMU.
 * - The stream of a source that was released must be read to its end whatever becomes of the link: if it breaks, QEMU lets the guest run again.
 * - switchover_ack is what the user has set in QEMU (the migration capability of that name); the signature has it, since both sides must agree.
 * - Errors of QEMU are MF_ERROR_PROGRAM, also when it is gone; never MF_ERROR_CONNECTION, which is for the link. */
mf_program *mf_qemu_new (const char *qmp_path, MfRegion *const *regions, guint n_regions);

G_END_DECLS
