/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "core/mf-switchover.h"
#include "migrate/mf-migration-private.h"
#include "migrate/mf-peer.h"
#include "migrate/mf-source.h"
#include "migrate/mf-state-relay.h"
#include "nbd/mf-nbd-server.h"

G_BEGIN_DECLS

/* Data connections a region: one for faults, one for block status, and two for bulk, which keep both cores of a small host busy; more gained
 * nothing in tests/bench. */
#define MF_LANES 4

typedef struct {
  char *name;
  MfRegion *region;
  MfUserfault *userfault;
  mf_dirty_session *session; /* NULL after a resume: nothing is tracked any more */
  mf_bitmap *settled;        /* what the target has been told is missing there; NULL before */
} mf_source_region;

struct _mf_source {
  MfHost *host;
  MfMigration *migration;
  GThread *thread;
  mf_migrate_options options;
  char *control;
  char *peer_control;
  mf_record *record;
  gboolean resumed;

  /* Only the thread. */
  GArray *regions; /* mf_source_region */
  mf_program *program;
  mf_program_info info;
  mf_peer *peer;
  mf_state_relay *relay;
  int state_fd; /* the state stream, until the relay has it */
  mf_switchover model;
  mf_decision decision;
  guint round;
  guint pauses;
  gboolean live_scans;    /* the target's BLOCK_STATUS may scan */
  gboolean program_ended; /* the target says so: it ran there, and ended before everything had come */
  gboolean is_complete;   /* the target has everything, as it said when the link was back */
  gint64 stopped_usec;
  gint64 reconnected_usec; /* when the link was made again the last time; 0: never */

  /* The sampler looks at it from other threads: made before it is set, freed after it is unset. */
  MfNbdServer *server;
  guint64 total_bytes;
};

mf_source_region *mf_source_region_at (mf_source *source, guint index);
/* Dials the data streams of every region and serves them. */
gboolean mf_source_open_streams (mf_source *source, gboolean tracked, GError **error);
/* Makes the server and exports the regions, in their sessions when there are some. */
gboolean mf_source_export (mf_source *source, GError **error);

/* Asks the tracker of every region; while the program stands if its disks need that (then the pause is counted). */
gboolean mf_source_scan (mf_source *source, gboolean standing, GError **error);
/* Bytes dirty over all regions. */
guint64 mf_source_dirty_bytes (mf_source *source);
/* Waits, or returns FALSE when cancelled. */
gboolean mf_source_wait (GCancellable *cancellable, gint64 usec, GError **error);
/* The dirty sets of all regions, packed: aa(yay). `settle`: all that is dirty, and it is remembered; otherwise what is dirty beyond that. */
GVariant *mf_source_pack_sets (mf_source *source, gboolean settle, GError **error);

G_END_DECLS
