/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What follows from a domain's name alone. Who can't read its definition knows it by these.
 */
#include <glib.h>

G_BEGIN_DECLS

/* Where libvirt keeps what belongs to QEMU's user; a confined QEMU reaches it. */
#define MF_DOMAIN_SOCKET_DIR "/var/lib/libvirt/qemu"

/* The name of its (first) region without what NUMA adds: the domain's name with '_' for what a region's name can't have. (transfer full) */
char *mf_domain_stem (const char *name);
/* Whether a region of that name can be the domain's. */
gboolean mf_domain_owns_region (const char *name, const char *region);
/* The domain's private QMP socket, and the one that its device state goes through. (transfer full) */
char *mf_domain_qmp_path (const char *name);
char *mf_domain_state_path (const char *name);

G_END_DECLS
