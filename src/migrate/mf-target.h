/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The target of a migration: pulls the memory, takes the program over, pulls the rest. One thread of its own, which does what the source asks until the
 * switchover, and what is left to do after it.
 */
#include "migrate/mf-host-private.h"
#include "migrate/mf-peer.h"

G_BEGIN_DECLS

/* A session that begins with the stage "connect" on `peer`. `fetch`: it was asked for here, and this is what asked (it lives on until it has heard how the session ended); NULL: it was
 * asked for at the source. */
mf_target *mf_target_start (MfHost *host, const uint8_t session[MF_SESSION_BYTES], mf_peer *peer, mf_fetch *fetch);
/* Goes on with what a former service left: a TAKEN record. Takes it over. */
mf_target *mf_target_resume (MfHost *host, MfMigration *migration, mf_record *record, mf_fetch *fetch);
/* For a region of such a record, before anything else looks at it: the holes of its store are what is missing. */
gboolean mf_target_forget_holes (MfRegion *region, GError **error);
/* What is asked of a session that has ended is answered as its record says; `stage` NULL: Abort. TRUE: the source has heard it, and the record can
 * go. */
gboolean mf_target_answer_by_record (mf_record_phase phase, const char *stage, GDBusMethodInvocation *invocation);
void mf_target_join (mf_target *target);

const uint8_t *mf_target_session (mf_target *target);
/* From the main context: the peer asks for a stage. Takes `invocation` over. */
void mf_target_ask (mf_target *target, mf_peer *peer, const char *stage, GVariant *arguments,
                    GDBusMethodInvocation *invocation);
void mf_target_abort (mf_target *target, const char *reason, GDBusMethodInvocation *invocation);
void mf_target_peer_lost (mf_target *target, mf_peer *peer);
/* A data or state stream of the session came in. Takes `fd` over; FALSE when it isn't wanted any more. */
gboolean mf_target_stream (mf_target *target, int fd, const mf_preface *preface);
/* A program's attachment came again: a session that goes on waits for it. */
void mf_target_attached (mf_target *target, MfUserfault *userfault);
/* The program of an attachment has ended, or let the region go. */
void mf_target_detached (mf_target *target, MfUserfault *userfault);
/* From the main context: a program for it is about to be started (mf_host_expect()); or it won't be, or has ended. */
void mf_target_expect (mf_target *target, mf_host_expected told, gpointer user_data);
void mf_target_forgo (mf_target *target);
/* The service goes down. */
void mf_target_stop (mf_target *target);

/* The rows of the stage table. */
gboolean mf_target_connect (mf_target *target, GVariant *arguments, GVariantDict *results, GError **error);
gboolean mf_target_prepare (mf_target *target, GVariant *arguments, GVariantDict *results, GError **error);
gboolean mf_target_precopy (mf_target *target, GVariant *arguments, GVariantDict *results, GError **error);
gboolean mf_target_switchover (mf_target *target, GVariant *arguments, GVariantDict *results, GError **error);
void mf_target_disconnect (mf_target *target);
void mf_target_unprepare (mf_target *target);
void mf_target_unswitch (mf_target *target);

G_END_DECLS
