/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A QEMU whose migration libvirt drives. libvirt itself is not asked anything here: what there is to know is seen at a QMP socket of our own, and in the
 * stream that libvirt has its two QEMUs talk through.
 *
 * Source: libvirt is given a migration URI unix:PATH; it connects there, hands the socket to its QEMU and says `migrate`. QEMU stops the guest, libvirt answers its
 * pre-switchover at once, and QEMU writes all of its state. Its return path tells it when the target has loaded it; until then nothing is decided: if the stream breaks, or
 * libvirt cancels, the guest goes on.
 * Target: libvirt starts a QEMU that listens at PATH; we connect there. It runs when libvirt, having heard from the source that all is well, says `cont`.
 *
 * x-ignore-shared is on from the moment at which libvirt starts the target's QEMU until its migration has ended, and off at any other time: while it is on, whoever saves the guest
 * gets an image without memory. libvirt does nothing else with a domain that it migrates; who does it past libvirt is stopped.
 */
#include "migrate/mf-program.h"

G_BEGIN_DECLS

/* `qmp_path`: a QMP socket beside libvirt's own. `state_path`: of the migration URI, on this host. `regions` as for mf_qemu_new(). */
mf_program *mf_libvirt_new (const char *qmp_path, const char *state_path, MfRegion *const *regions, guint n_regions);

G_END_DECLS
