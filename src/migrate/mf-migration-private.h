/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * How the rooms' own code drives an MfMigration: the migration's thread reports, the object keeps the snapshot and tells its users in the
 * main context.
 */
#include "migrate/mf-migration.h"
#include <gio/gio.h>

G_BEGIN_DECLS

/* `context`: where the signals go (NULL: the default one). */
MfMigration *mf_migration_new (GMainContext *context, const char *const *regions, const char *peer, mf_mode mode,
                               gboolean is_source);

/* Fills the moving numbers (bytes, remaining, rate of the peer, faults) into a snapshot. Called with no lock held, from any thread, until
 * unset (NULL), which waits for a call under way. Must not block. */
typedef void (*mf_migration_sampler) (mf_migration_status *status, gpointer user_data);
void mf_migration_set_sampler (MfMigration *migration, mf_migration_sampler sampler, gpointer user_data);

void mf_migration_set_stage (MfMigration *migration, const char *stage);
void mf_migration_set_round (MfMigration *migration, guint round);
void mf_migration_set_ready (MfMigration *migration, gboolean ready);
void mf_migration_set_state (MfMigration *migration, mf_migration_state state);
void mf_migration_set_prediction (MfMigration *migration, guint64 downtime_usec, guint64 dirty_rate);
void mf_migration_set_downtime (MfMigration *migration, guint64 downtime_usec);
void mf_migration_add_pause (MfMigration *migration, guint64 usec);
void mf_migration_set_faults (MfMigration *migration, guint64 faults, guint32 p50_usec, guint32 p99_usec);

/* Cancelled when the user asks for it. */
GCancellable *mf_migration_cancellable (MfMigration *migration);
/* From here on there is no way back: TRUE, and cancel() is refused; FALSE: it has been cancelled already. */
gboolean mf_migration_commit (MfMigration *migration);

/* The last word. `error` NULL: done. Emits "finished". */
void mf_migration_finish (MfMigration *migration, const GError *error);

G_END_DECLS
