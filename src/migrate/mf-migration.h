/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "core/mf-preface.h"
#include "core/mf-switchover.h"
#include "mf-error.h"
#include <glib-object.h>

G_BEGIN_DECLS

#define MF_TYPE_MIGRATION (mf_migration_get_type ())
MF_API
G_DECLARE_FINAL_TYPE (MfMigration, mf_migration, MF, MIGRATION, GObject)

/* How the user wants a migration. */
typedef struct {
  mf_mode mode;
  guint64 max_downtime_usec; /* the budget; 0: the default, MF_DEFAULT_MAX_DOWNTIME_USEC */
  guint64 bandwidth;         /* bytes a second for bulk data, 0: no limit */
  guint64 max_pause_usec;    /* how long a pause for a scan may last (O_DIRECT disks); 0: the default */
  guint max_pauses;          /* how many of them, 0: the default */
  guint64 max_ready_usec;    /* how long it waits, ready, for who drives the program; 0: as long as it takes */
  gboolean live_scans;       /* the user knows that no O_DIRECT read is in flight for long: don't pause for scans */
} mf_migrate_options;

#define MF_DEFAULT_MAX_DOWNTIME_USEC (30 * 1000)
#define MF_DEFAULT_MAX_PAUSE_USEC    (500 * 1000)
#define MF_DEFAULT_MAX_PAUSES        8

typedef enum {
  MF_MIGRATION_RUNNING,
  MF_MIGRATION_PAUSED, /* the link is lost after the switchover; it is being made again */
  MF_MIGRATION_DONE,
  MF_MIGRATION_FAILED,    /* rolled back: the source goes on as if nothing had been asked */
  MF_MIGRATION_CANCELLED, /* the same, and it was asked for */
} mf_migration_state;

/* A snapshot of how far it is. Bytes, bytes a second, microseconds. */
typedef struct {
  mf_migration_state state;
  gboolean is_source;
  const char *stage; /* the stage table's name: "connect" ... "done" */
  guint round;       /* pre-copy round, from 1; 0 before */
  gboolean ready;    /* waits for who drives the program to tell it to migrate, and goes on carrying what it writes */
  guint64 total;     /* the regions' size */
  guint64 bytes;     /* carried so far */
  guint64 remaining; /* known to be still to carry */
  guint64 rate;
  guint64 dirty_rate;
  guint64 predicted_downtime_usec; /* G_MAXUINT64: not known yet */
  guint64
      downtime_usec; /* stopped here to running there, seen from the source (so half a round trip too long); 0: not yet */
  guint pauses;
  guint64 longest_pause_usec;
  guint64 faults;
  guint32 fault_p50_usec, fault_p99_usec;
  guint64 elapsed_usec;
} mf_migration_status;

/* Thread-safe. */
MF_API void mf_migration_get_status (MfMigration *migration, mf_migration_status *status);
/* "DONE"'s, "FAILED"'s reason; NULL while it goes on and after success. (transfer full) */
MF_API GError *mf_migration_get_error (MfMigration *migration);
MF_API const char *mf_migration_get_peer (MfMigration *migration);
/* NULL-terminated. */
MF_API const char *const *mf_migration_get_regions (MfMigration *migration);
MF_API mf_mode mf_migration_get_mode (MfMigration *migration);
/* Asks it to end and roll back. Returns at once; "finished" follows. After the switchover there is no way back: MF_ERROR_BUSY says so. */
MF_API gboolean mf_migration_cancel (MfMigration *migration, GError **error);

/*
 * Signals, in the GMainContext in which the MfHost was made:
 *   "progress" ()   at most ten times a second, and at every change of stage or round
 *   "finished" ()   once, the last one; the state says how
 */

G_END_DECLS
