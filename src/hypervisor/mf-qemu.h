/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A bare QEMU as the program of a migration, driven over QMP: x-ignore-shared, events, pause-before-switchover.
 */
#include "migrate/mf-program.h"

G_BEGIN_DECLS

/* `qmp_path`: a UNIX socket at which QEMU serves QMP; connected at check, let go at clean_up (a QMP socket serves one client). `regions` are the files that must be its RAM.
 * `runtime_dir`: a folder both QEMU and this process may make sockets in. */
mf_program *mf_qemu_new (const char *qmp_path, MfRegion *const *regions, guint n_regions, const char *runtime_dir);

G_END_DECLS
