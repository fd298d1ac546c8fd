/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the files of MfHost share: mf-host.c, mf-host-recover.c, mf-host-fetch.c.
 */
#include "migrate/mf-host-private.h"
#include "migrate/mf-peer.h"

G_BEGIN_DECLS

struct _MfHost {
  char *state_dir;
  char *runtime_dir;
  mf_host_callbacks callbacks;
  gpointer user_data;
  GMainContext *context;
  gint64 began_usec; /* when the service did */
  GCancellable *stopping;

  GMutex lock; /* the fields below */
  GCond cond;
  GPtrArray *records; /* of sessions under way, theirs; and of regions that are away, ours */
  GPtrArray *kept;    /* those that are ours */
  GPtrArray *sources;
  GPtrArray *targets;
  GPtrArray *fetches;
  GPtrArray *peers; /* control streams on which somebody may call us */
};

/* With the lock held: the record's session is over here, a copy of it stays. */
void mf_host_keep_copy (MfHost *host, const mf_record *record);
/* With the lock held: the record of who fills the region; NULL: nobody. */
const mf_record *mf_host_incoming_record (MfHost *host, const char *region);
/* Whether it is of a session that its source may still ask about, and that names no region. */
gboolean mf_host_has_ended (const mf_record *record);

/* All of `regions` are here, and there is one. */
gboolean mf_host_find_all (MfHost *host, const char *const *regions, GError **error);
/* What the user did not say. */
void mf_host_fill_options (mf_migrate_options *options);

/* --- mf-host-fetch.c: the target dials --- */
/* With the lock held: the session's source, if its target dials; what fetches the session to here; or NULL. */
mf_source *mf_host_dialled_source (MfHost *host, const uint8_t session[MF_SESSION_BYTES]);
mf_fetch *mf_host_fetch_of (MfHost *host, const uint8_t session[MF_SESSION_BYTES]);
/* With the lock held: the user of the target's host doesn't want it any more. Takes `invocation` over. */
void mf_host_cancel_source (MfHost *host, mf_source *source, const char *reason, GDBusMethodInvocation *invocation);
/* `peer` asks for regions, or is back. Takes `invocation` over. */
void mf_host_answer_regions (MfHost *host, mf_peer *peer, GVariant *options, GDBusMethodInvocation *invocation);

G_END_DECLS
