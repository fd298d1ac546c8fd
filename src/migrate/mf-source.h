/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The source of a migration: tracks writes, serves the memory, decides when to switch over, and hands over. One thread of its own.
 */
#include "migrate/mf-host-private.h"
#include "migrate/mf-peer.h"
#include "migrate/mf-fetch-request.h"

G_BEGIN_DECLS

/* Begins a migration of `regions` (found and attached already, checked by the host). The thread starts at once. */
mf_source *mf_source_start (MfHost *host, MfMigration *migration, const char *const *regions, const char *peer,
                            const mf_program_choice *program, const mf_program_choice *peer_program,
                            const mf_migrate_options *options);
/* The same for `request`, which came in on `peer`: the target dials. */
mf_source *mf_source_answer (MfHost *host, MfMigration *migration, mf_peer *peer, const mf_fetch_request *request);
/* Goes on with what a former service left: past the switchover (HANDED) it serves the rest, before it (LEAVING) it rolls back. Takes the record over. */
mf_source *mf_source_resume (MfHost *host, MfMigration *migration, mf_record *record);
/* The service goes down: before the switchover this cancels it. Any thread. */
void mf_source_stop (mf_source *source);
/* Thread-safe. */
const uint8_t *mf_source_session (mf_source *source);
MfMigration *mf_source_migration (mf_source *source);
/* Whether the target dials. Then what it has dialled is handed in here, from any thread: the session's control stream, again after a lost link, and its other streams
 * (`fd` is taken over). */
gboolean mf_source_is_dialled (mf_source *source);
void mf_source_take_peer (mf_source *source, mf_peer *peer);
void mf_source_take_stream (mf_source *source, int fd, const mf_preface *preface);
/* Waits for the thread and frees it. */
void mf_source_join (mf_source *source);

/* The rows of the stage table. */
gboolean mf_source_connect (mf_source *source, GError **error);
gboolean mf_source_prepare (mf_source *source, GError **error);
gboolean mf_source_precopy (mf_source *source, GError **error);
gboolean mf_source_switchover (mf_source *source, GError **error);
gboolean mf_source_postcopy (mf_source *source, GError **error);
gboolean mf_source_done (mf_source *source, GError **error);
void mf_source_disconnect (mf_source *source);
void mf_source_unprepare (mf_source *source);
void mf_source_unswitch (mf_source *source);

G_END_DECLS
