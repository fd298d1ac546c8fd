/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What a migration's two ends need of their host. Thread-safe.
 */
#include "migrate/mf-host.h"
#include "migrate/mf-record.h"
#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _mf_source mf_source;
typedef struct _mf_target mf_target;
typedef struct _mf_fetch mf_fetch;
typedef struct _mf_peer mf_peer;

GMainContext *mf_host_context (MfHost *host);
const char *mf_host_state_dir (MfHost *host);
/* Cancelled when the service is going down. */
GCancellable *mf_host_stopping (MfHost *host);

MfRegion *mf_host_find_region (MfHost *host, const char *name, GError **error);
MfUserfault *mf_host_find_attachment (MfHost *host, MfRegion *region, GError **error);
/* Whether programs that a former service had have had the time to hand their memory over again: until then a region that nobody has mapped may be a running
 * program's all the same. */
gboolean mf_host_has_settled (MfHost *host);
MfRegion *mf_host_make_region (MfHost *host, const char *name, guint64 size_bytes, gboolean *is_new, GError **error);
void mf_host_drop_region (MfHost *host, const char *name);
/* The record's. */
mf_program *mf_host_new_program (MfHost *host, MfRegion *const *regions, guint n_regions, const mf_record *record,
                                 GError **error);
/* Tells the service of a migration that it did not begin. */
void mf_host_announce (MfHost *host, MfMigration *migration);

/* Makes the record's regions the migration's, and writes it with `phase`. MF_ERROR_BUSY, naming the region and why, unless every one is free: here (or, for a target, away: its
 * bytes are history). The record stays the caller's and must live until dropped. */
gboolean mf_host_claim (MfHost *host, mf_record *record, mf_record_phase phase, GError **error);
/* Writes the record with another phase. */
gboolean mf_host_record (MfHost *host, mf_record *record, mf_record_phase phase, GError **error);
/* The regions are here and free again; the record is removed. */
void mf_host_drop (MfHost *host, mf_record *record);
/* The regions are free again, but the session's source may not have heard how it ended: a record (MF_PHASE_UNDONE or _COMPLETE) says so until it has. */
void mf_host_bury (MfHost *host, mf_record *record, mf_record_phase phase);
/* The record stays (MF_PHASE_AWAY, or the service goes down), the host keeps a copy of it. */
void mf_host_keep (MfHost *host, mf_record *record);

/* Dials a control stream on which the source of a migration to here asks this host for stages and streams. (transfer full) */
mf_peer *mf_host_dial (MfHost *host, const char *address, gint64 timeout_usec, GCancellable *cancellable,
                       GError **error);
/* Gives a stream that was dialled here to its session's target. Takes `fd` over, also when it fails. */
gboolean mf_host_give_stream (MfHost *host, int fd, const mf_preface *preface, GError **error);
/* Whether there is a record for a source that may not have heard how the session ended here. */
gboolean mf_host_has_ended_here (MfHost *host, const uint8_t session[MF_SESSION_BYTES]);

/* A session's thread has ended: the host may forget it. */
void mf_host_fetch_ended (MfHost *host, mf_fetch *fetch);
void mf_host_source_ended (MfHost *host, mf_source *source);
void mf_host_target_ended (MfHost *host, mf_target *target);

/* Soon, once, in the main context. */
void mf_host_in_main_context (MfHost *host, GSourceFunc func, gpointer data);

G_END_DECLS
