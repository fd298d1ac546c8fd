/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The domains that a libvirt daemon knows, and their definitions. Calls block, for as long as the daemon does; to be used by one thread at a time.
 *
 * Errors are libvirt's own words, as MF_ERROR_NOT_FOUND (no such domain), _PERMISSION, _CONNECTION, _NOT_SUPPORTED, _BUSY or _FAILED.
 */
#include "mf-error.h"

G_BEGIN_DECLS

typedef struct _mf_domain_registry mf_domain_registry;

typedef struct {
  char *name;
  char *definition; /* the XML that it starts with; NULL: it has none, and is gone when it ends */
  char *live;       /* the XML that it runs with; NULL: it does not run */
} mf_domain_entry;

void mf_domain_entry_free (mf_domain_entry *entry);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_domain_entry, mf_domain_entry_free)

/* `uri`: as virsh takes it; NULL: the QEMU of this host's system. */
mf_domain_registry *mf_domain_registry_open (const char *uri, GError **error);
void mf_domain_registry_free (mf_domain_registry *registry);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_domain_registry, mf_domain_registry_free)

/* Whether it is the daemon of this very host. */
gboolean mf_domain_registry_is_local (const mf_domain_registry *registry);

/* All of them, by name; what can't be read any more, because it has just gone, is left out. (element-type mf_domain_entry) (transfer full) */
GPtrArray *mf_domain_registry_list (mf_domain_registry *registry, GError **error);
/* `name`: or a UUID. Its passwords are in the XML too, so that it can be defined again. (transfer full) */
mf_domain_entry *mf_domain_registry_find (mf_domain_registry *registry, const char *name, GError **error);
/* Replaces the definition of the domain that the XML names. */
gboolean mf_domain_registry_define (mf_domain_registry *registry, const char *xml, GError **error);
/* Names `peer` in the metadata of an enabled domain, as it runs and as it is defined, wherever it says something else. Waits while libvirt
 * is busy with the domain. */
gboolean mf_domain_registry_set_peer (mf_domain_registry *registry, const char *name, const char *peer, GError **error);

/* How fast running domains write to their memory, in bytes a second, as far as QEMU can tell (it looks at samples of pages for a second): 0 where it can't. Blocks for
 * a little longer than that. `names`: NULL-terminated; `rates`: one for each. */
void mf_domain_registry_measure (mf_domain_registry *registry, const char *const *names, guint64 *rates);

G_END_DECLS
