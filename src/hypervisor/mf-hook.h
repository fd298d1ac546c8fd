/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What libvirt's hook does on this host beside asking the service: files, and QEMU's private monitor. Never libvirt: while a hook runs, it holds the
 * domain's lock, and a call about that domain would wait for ever.
 *
 * Calls block for seconds at most.
 */
#include "hypervisor/mf-domain.h"
#include <sys/types.h>

G_BEGIN_DECLS

/* The folder that libvirt has made for the memory of a domain that is being started, and to whom it has given it: QEMU's user. `conf`: libvirt's settings of
 * QEMU, which may say where such folders are. (transfer full) MF_ERROR_NOT_FOUND. */
char *mf_hook_find_folder (const mf_domain *domain, const char *conf, uid_t *owner, GError **error);

/* Lets `name` in the folder be `file`; a link that is there is replaced. */
gboolean mf_hook_link (const char *folder, const char *name, const char *file, GError **error);

/* QEMU has just been started. One that waits for a migration must do so at the socket of ours: then it is told that its memory does not come
 * from there. MF_ERROR_NOT_SUPPORTED: it waits at another, where all of its memory would come from. One that does not wait is left alone. */
gboolean mf_hook_receive (const mf_domain *domain, GError **error);

G_END_DECLS
