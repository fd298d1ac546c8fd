/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the files of MfHost share: mf-host.c, mf-host-recover.c.
 */
#include "migrate/mf-host-private.h"

G_BEGIN_DECLS

struct _MfHost {
  char *state_dir;
  char *runtime_dir;
  mf_host_callbacks callbacks;
  gpointer user_data;
  GMainContext *context;
  GCancellable *stopping;

  GMutex lock; /* the fields below */
  GCond cond;
  GPtrArray *records; /* of sessions under way, theirs; and of regions that are away, ours */
  GPtrArray *kept;    /* those that are ours */
  GPtrArray *sources;
  GPtrArray *targets;
  GPtrArray *peers; /* control streams that came in */
};

/* With the lock held: the record's session is over here, a copy of it stays. */
void mf_host_keep_copy (MfHost *host, const mf_record *record);
/* Whether it is of a session that its source may still ask about, and that names no region. */
gboolean mf_host_has_ended (const mf_record *record);

G_END_DECLS
