/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A migration of a domain by libvirt itself, in which its device state goes through a socket of ours.
 */
#include "mf-error.h"
#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _mf_domain_migration mf_domain_migration;

typedef struct {
  const char *uri;         /* the libvirt daemon here; NULL: this host's system */
  const char *destination; /* the one there */
  gboolean peer_to_peer;   /* the daemon here talks to the one there by itself; otherwise this process talks to both */
  gboolean persistent;     /* the domain stays defined there when it ends */
  gboolean undefine;       /* it is not defined here any more */
  gboolean unsafe;         /* also where libvirt doubts that its disks can be used from both hosts */
} mf_domain_migration_options;

/* Connects (to the destination, too, unless it is peer to peer) and finds the domain, which must run. Blocks. To be called in the thread that runs the default main
 * context, before it runs: libvirt's timers are in it. */
mf_domain_migration *mf_domain_migration_new (const char *domain, const mf_domain_migration_options *options,
                                              GError **error);
void mf_domain_migration_free (mf_domain_migration *migration);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_domain_migration, mf_domain_migration_free)

/* What it runs with. (transfer full) */
char *mf_domain_migration_dup_xml (mf_domain_migration *migration, GError **error);

/* Has libvirt migrate it, its device state by way of the UNIX socket `state_path`, in a thread of its own; `callback` is called in the default main context. Once. Cancelling it
 * asks libvirt to abort. `migration` must live until then. */
void mf_domain_migration_run (mf_domain_migration *migration, const char *state_path, GCancellable *cancellable,
                              GAsyncReadyCallback callback, gpointer user_data);
gboolean mf_domain_migration_run_finish (GAsyncResult *result, GError **error);

typedef enum {
  MF_DOMAIN_SOMEWHERE, /* no daemon says that it runs, or both do, or one can't be asked */
  MF_DOMAIN_HERE,
  MF_DOMAIN_THERE,
} mf_domain_whereabouts;

/* Where it runs after that, whatever it came to, by new connections. Blocks, some seconds where that is in flux or a daemon doesn't answer. */
mf_domain_whereabouts mf_domain_migration_find (mf_domain_migration *migration);

G_END_DECLS
