/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * This host, as migrations see it: which regions there are, which program runs on them, and every migration from and to here. One in a service.
 *
 * A migration runs in a thread of its own; this object is thread-safe. Callbacks are called from those threads unless they say otherwise.
 */
#include "attach/mf-userfault.h"
#include "migrate/mf-migration.h"
#include "migrate/mf-program.h"
#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _MfHost MfHost;

typedef struct {
  /* The region of that name; NULL: MF_ERROR_NOT_FOUND. (transfer full) */
  MfRegion *(*find_region) (const char *name, GError **error, gpointer user_data);
  /* The attachment through which a program has the region mapped; NULL: none (MF_ERROR_NOT_FOUND says how to get one). (transfer full) */
  MfUserfault *(*find_attachment) (MfRegion *region, GError **error, gpointer user_data);
  /* The program that has these regions as its memory. */
  mf_program *(*new_program) (MfRegion *const *regions, guint n_regions, const mf_program_choice *choice,
                              GError **error, gpointer user_data);
  /* A region for a program that is going to come: the one that is there if it has that size; made otherwise, in the place of one that nobody has
   * mapped and that is away. (transfer full) */
  MfRegion *(*make_region) (const char *name, guint64 size_bytes, gboolean *is_new, GError **error, gpointer user_data);
  /* One that was made for a program that did not come: removed unless somebody has it mapped. */
  void (*drop_region) (const char *name, gpointer user_data);
  /* Another host wants the domain of libvirt of that name, and all ready for libvirt to migrate it there. Answered with mf_peer_answer_request() or an error; `invocation`
   * is taken over. In the main context. */
  void (*requested) (const char *domain, GVariant *options, GDBusMethodInvocation *invocation, gpointer user_data);
  /* A migration to here begins, or one that a former service had begun goes on. In the main context. (transfer none) */
  void (*appeared) (MfMigration *migration, gpointer user_data);
} mf_host_callbacks;

/* `state_dir`: where the records of switchovers are, which must survive the service (the folder of the stores). `runtime_dir` for sockets. Must be made in the
 * thread that runs the default main context. */
MfHost *mf_host_new (const char *state_dir, const char *runtime_dir, const mf_host_callbacks *callbacks,
                     gpointer user_data);
/* Cancels what can be cancelled, waits for the threads. Migrations past their switchover are left as their records say; the next service goes on with them. */
void mf_host_free (MfHost *host);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (MfHost, mf_host_free)

/* A stream came in: the mf_link_accept of the service's listener (user_data is the MfHost). */
gboolean mf_host_accept (int fd, const mf_preface *preface, gpointer host, GError **error);

/* Moves `regions` to the host at `peer` (text of a PEER). `program` is the one here, `peer_program` the one there (its kind is that of the one here). Checks names and options
 * at once; the rest is the migration's. (transfer full) */
MfMigration *mf_host_migrate (MfHost *host, const char *const *regions, const char *peer,
                              const mf_program_choice *program, const mf_program_choice *peer_program,
                              const mf_migrate_options *options, GError **error);

/* Moves `regions` of the host at `peer` to here: this host dials, and asks that one to be the source. `program` is the one that waits here, `peer_program` the one there. Otherwise
 * like mf_host_migrate(). (transfer full) */
MfMigration *mf_host_fetch (MfHost *host, const char *const *regions, const char *peer,
                            const mf_program_choice *program, const mf_program_choice *peer_program,
                            const mf_migrate_options *options, GError **error);

/* To be called once after all regions that are there have been made, before the hand-over socket listens: goes on with migrations
 * that a former service had begun and that are past their switchover, and cleans up after those that were not. */
gboolean mf_host_recover (MfHost *host, GError **error);

/* A program's attachment to one of our regions came (again); its program has ended, or let the region go. */
void mf_host_attached (MfHost *host, MfUserfault *userfault);
void mf_host_detached (MfHost *host, MfUserfault *userfault);

/* A program is about to be started for a region that a migration to here fills, by whoever drives the source's as well. `told` is called in the main context, once: when the source's is ready for
 * that (error NULL), also when nothing fills the region; or with the reason why it won't be. */
typedef void (*mf_host_expected) (const GError *error, gpointer user_data);
void mf_host_expect (MfHost *host, const char *region, mf_host_expected told, gpointer user_data);
/* It was not started, or has ended. */
void mf_host_forgo (MfHost *host, const char *region);

/* Who may run a program on the region. Recorded beside the store; survives the service. */
typedef enum {
  MF_REGION_HERE,     /* its bytes are right here */
  MF_REGION_INCOMING, /* a migration to here is under way: pre-copy */
  MF_REGION_POSTCOPY, /* runs here, some bytes are still on the source */
  MF_REGION_LEAVING,  /* a migration from here is under way */
  MF_REGION_SERVING,  /* runs elsewhere, which still reads from here */
  MF_REGION_AWAY,     /* has moved: the bytes here are history */
} mf_region_role;
mf_region_role mf_host_region_role (MfHost *host, const char *name);
const char *mf_region_role_name (mf_region_role role);
/* Forgets the record of a region that is being removed. MF_ERROR_BUSY while a migration has it. */
gboolean mf_host_forget (MfHost *host, const char *name, GError **error);

G_END_DECLS
