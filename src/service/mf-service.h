/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The service: puts the rooms together. Regions from the folder of the stores, the programs that have them mapped (hand-over), the
 * migrations (host), other services (link), and clients (bus). What clients ask for ends up in the functions below.
 *
 * In the thread of the default main context; none blocks for longer than the file system takes.
 */
#include "link/mf-kept-sockets.h"
#include "migrate/mf-program.h"
#include "service/mf-job-list.h"
#include "service/mf-service-config.h"

G_BEGIN_DECLS

typedef struct _MfService MfService;

/* Takes the folders, finds the regions again, goes on with what a predecessor had begun, and then opens the sockets, those in `kept` (only needed
 * here; may be NULL) or new ones. */
MfService *mf_service_new (const mf_service_config *config, mf_kept_sockets *kept, GError **error);
/* Ends: migrations that can be undone are, the others wait for the next service. Programs keep running. */
void mf_service_free (MfService *service);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (MfService, mf_service_free)

const mf_service_config *mf_service_get_config (MfService *service);
/* The PEERs at which it listens, NULL-terminated. */
const char *const *mf_service_get_listening (MfService *service);

/* What a client may say about the program of a region. */
typedef struct {
  uid_t uid;       /* who the client is: the new file becomes theirs */
  const char *qmp; /* NULL: nothing said */
} mf_service_client;

/* The region's file; free with g_free(). */
typedef struct {
  char *handover;
  char *file;
} mf_service_run;

gboolean mf_service_create_region (MfService *service, const char *name, guint64 size, const mf_service_client *client,
                                   GError **error);
gboolean mf_service_remove_region (MfService *service, const char *name, gboolean force, GError **error);
/* See PrepareRun in org.memferry.xml. `run` is filled. */
gboolean mf_service_prepare_run (MfService *service, const char *name, guint64 size, const mf_service_client *client,
                                 mf_service_run *run, GError **error);
/* One file of a domain's memory. */
typedef struct {
  const char *region;
  guint64 size_bytes;
} mf_service_memory;

/* A domain of libvirt that is about to be started. */
typedef struct {
  const char *name;
  const mf_service_memory *memory;
  guint n_memory;
  uid_t owner;     /* QEMU's user */
  const char *qmp; /* NULL: nothing said */
} mf_service_domain;

/* See PrepareDomain in org.memferry.xml. `files`: of the regions, in their order; free with g_strfreev(). */
gboolean mf_service_prepare_domain (MfService *service, const mf_service_domain *wish, char ***files, GError **error);
/* See ReleaseDomain. */
void mf_service_release_domain (MfService *service, const char *name);

/* `client`: NULL to go on without. The job stays the service's. */
MfJobObject *mf_service_migrate (MfService *service, const char *const *regions, const char *peer,
                                 const mf_program_choice *program, const mf_program_choice *peer_program,
                                 const mf_migrate_options *options, GDBusConnection *client, GError **error);
/* The same from `peer` to here: `program` is the one that waits here. */
MfJobObject *mf_service_fetch (MfService *service, const char *const *regions, const char *peer,
                               const mf_program_choice *program, const mf_program_choice *peer_program,
                               const mf_migrate_options *options, GDBusConnection *client, GError **error);

G_END_DECLS
