/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A migration to here that was asked for here: this host dials. It asks the other host's service to begin, opens the streams that the source asks for, and dials again when
 * the link was lost after the switchover. One thread, beside the target's.
 *
 * Thread-safe. None blocks but mf_fetch_join().
 */
#include "migrate/mf-host-private.h"
#include "migrate/mf-peer.h"
#include "migrate/mf-fetch-request.h"

G_BEGIN_DECLS

typedef struct _mf_fetch mf_fetch;

/* Asks the host at `peer` for `request`. */
mf_fetch *mf_fetch_start (MfHost *host, MfMigration *migration, const char *peer, const mf_fetch_request *request);
/* Goes on with what a former service left: a session that has been taken over here (`migration`), or one that has ended and whose source has not heard it (NULL). */
mf_fetch *mf_fetch_resume (MfHost *host, MfMigration *migration, const mf_record *record);
/* The service goes down. */
void mf_fetch_stop (mf_fetch *fetch);
/* Waits for the thread and frees it. */
void mf_fetch_join (mf_fetch *fetch);

const uint8_t *mf_fetch_session (mf_fetch *fetch);
/* (transfer none) */
MfMigration *mf_fetch_migration (mf_fetch *fetch);
const char *mf_fetch_address (mf_fetch *fetch);
/* Whether `peer` is the end of its control stream, now. */
gboolean mf_fetch_has_peer (mf_fetch *fetch, mf_peer *peer);

/* The source has begun, on `peer`: a target is at work from here on. It says how it ended (NULL: the program and all of its memory are here), and the fetch finishes the migration.
 * FALSE: that is not its control stream any more. */
gboolean mf_fetch_target_begins (mf_fetch *fetch, mf_peer *peer);
void mf_fetch_target_ended (mf_fetch *fetch, const GError *error);
/* The source wants one more stream: it is dialled and given to the target. Takes `invocation` over. */
void mf_fetch_dial (mf_fetch *fetch, const mf_preface *preface, GDBusMethodInvocation *invocation);

G_END_DECLS
