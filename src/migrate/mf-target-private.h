/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "migrate/mf-dirty-set.h"
#include "migrate/mf-migration-private.h"
#include "migrate/mf-state-relay.h"
#include "migrate/mf-target.h"
#include "region/mf-puller.h"

G_BEGIN_DECLS

typedef struct {
  char *name;
  MfRegion *region;
  MfUserfault *userfault;
  mf_puller *puller;
  mf_lane *status;   /* for block status, before the switchover */
  mf_lane *faults;   /* the lane for faults, until a program is attached whose faults it is for */
  gboolean is_dirty; /* the last look found something */
  gboolean is_new;   /* made for this session */
  /* What is to be pulled after the switchover, by heat; NULL before it is settled. */
  mf_bitmap *plan[MF_HEAT_CLASSES];
} mf_target_region;

typedef struct {
  int fd;
  mf_preface preface;
} mf_stream_in;

/* Who is to be told, in the main context, when the source's program is armed, or won't be. */
typedef struct {
  mf_host_expected told;
  gpointer user_data;
  GError *error;
} mf_target_expectant;

/* What the peer asked for: a stage, or (stage NULL) to abort. */
typedef struct {
  char *stage;
  char *reason;
  GVariant *arguments;
  GDBusMethodInvocation *invocation;
} mf_target_request;

struct _mf_target {
  MfHost *host;
  MfMigration *migration; /* NULL until "connect" has told what it is about */
  mf_fetch *fetch;        /* it was asked for here; NULL: at the source */
  GThread *thread;

  GMutex lock; /* the fields below */
  GCond cond;
  mf_peer *peer;          /* NULL: lost */
  GQueue requests;        /* mf_target_request */
  GArray *streams;        /* mf_stream_in, not taken yet */
  GPtrArray *attachments; /* MfUserfault that came since the thread last looked */
  GPtrArray *watched;     /* MfUserfault of the program that is to take over */
  gboolean program_gone;  /* one of these has ended */
  GSList *waiters;        /* requests for "post-copy" that wait for what they name */
  GCancellable
      *interrupt; /* ends what the thread waits for: before the switchover for good, after it to make it look round */
  GCancellable *await_stop; /* ends await_thread, where the program's own end would not */
  gboolean stopping;
  gboolean accepting;      /* late: the regions are made and empty, and programs that map them are served at once */
  GError *arrival_failure; /* late: one could not be */
  gboolean is_expected;    /* late: a program is about to be started, so that the source's has to be armed */
  gboolean is_armed;       /* ... and the source says that it is */
  GDBusMethodInvocation *watch; /* the source's question; it is answered as soon as the two above differ */
  GSList *expectants;           /* mf_target_expectant: who waits for it */
  gboolean lane_lost;
  gboolean taken;        /* the record says so; written by the thread */
  gboolean news_running; /* from await_thread: the program runs */
  GError *news_failure;  /* from await_thread: it did not and will not run here */

  /* Only the thread; the sampler looks at the regions' pullers. */
  mf_record *record;
  GArray *regions; /* mf_target_region */
  guint n_lanes;   /* data streams a region that the source dials, with the one for faults */
  mf_program *program;
  mf_program_info info;
  mf_state_relay *relay;
  GThread *await_thread;
  gulong cancel_handler;
  gboolean running;  /* the program has been seen running here */
  gboolean complete; /* no page is missing */
  GError *failure;   /* taken, but the program did not and will not run here */
  mf_mode mode;
  guint64 total_bytes;
  guint64 bytes_before; /* carried by pullers that are gone */
  int stage;            /* the row of the last request that was done; -1 */

  /* A program that comes later than the memory (mf-target-late.c). */
  gboolean is_late;
  char *signature;  /* the source's program */
  GThread *arrival; /* checks and prepares the program that has come; until it is joined `program` and `info` are its */
  GError *unfit;    /* from `arrival`, once it is joined */
  gboolean has_come; /* ... and it found nothing wrong */
  gboolean is_held;  /* after TAKEN: the device state is held back until the source's record says that it is ours */
};

mf_target_region *mf_target_region_at (mf_target *target, guint index);
void mf_target_request_free (mf_target_request *request);
/* From here on the end of that program is noticed: until the switchover it ends the session. */
void mf_target_watch (mf_target *target, MfUserfault *userfault);
/* The user of this side may end it, too. */
void mf_target_heed_cancel (mf_target *target);
gboolean mf_target_has_lost_program (mf_target *target);
/* For whom it ran: its memory has come all the same. */
#define MF_TARGET_LOST_PROGRAM "the program took over and has ended since, while the rest of its memory was on its way"

/* --- mf-target-pull.c --- */
/* How many data streams a region the source dials, from what it asked with. */
gboolean mf_target_read_lanes (mf_target *target, GVariant *arguments, GError **error);
/* Takes the data streams that came in and makes lanes of them: pullers, the fault lane, and before the switchover the one for block status.
 * Waits for those that are still on their way. */
gboolean mf_target_make_lanes (mf_target *target, GError **error);
void mf_target_drop_lanes (mf_target *target);
/* Forgets data streams that came in and were not taken: those of a former attempt. */
void mf_target_drop_streams (mf_target *target);
/* The region has an attachment and a lane for its faults. */
void mf_target_use_fault_lane (mf_target *target, mf_target_region *region);
/* The progress; looks at the pullers, so it is unset while lanes are dropped or made. */
void mf_target_sample (mf_migration_status *status, gpointer target);
/* A bitmap a heat class, and one for all of them together. */
gboolean mf_target_new_plan (MfRegion *region, mf_bitmap *plan[MF_HEAT_CLASSES], mf_bitmap **all, GError **error);
void mf_target_free_plan (mf_bitmap *plan[MF_HEAT_CLASSES]);
/* Queues every page that isn't PRESENT, the planned order first. */
void mf_target_queue_missing (mf_target *target);
/* Takes in what the source says is missing here, and invalidates it: sets of all regions, aa(yay). */
gboolean mf_target_learn_sets (mf_target *target, GVariant *sets, GError **error);
/* Pulls all that is dirty, while the program stands. */
gboolean mf_target_pull_final (mf_target *target, GError **error);

/* --- mf-target-connect.c --- */
gboolean mf_target_compare_signatures (const char *theirs, const char *ours, GError **error);

/* --- mf-target-late.c --- */
/* From the main context, with the lock held: a program has mapped one of the regions and stands until this returns. */
void mf_target_serve_late (mf_target *target, MfUserfault *userfault);
/* From the main context, with the lock held: the source has armed its program, or not, and waits for that to be wrong. Takes `invocation` over. */
void mf_target_hear_watch (mf_target *target, gboolean is_armed, GDBusMethodInvocation *invocation);
/* From here on programs that come are served. */
void mf_target_accept_late (mf_target *target);
/* Takes in those that came. */
void mf_target_take_late (mf_target *target);
/* Whether the program has come, as far as its memory. */
gboolean mf_target_has_mapped (mf_target *target);
/* Waits until the program is there, checked and prepared, and makes the relay: the source's has begun to write its state. */
gboolean mf_target_await_late (mf_target *target, GVariant *arguments, GError **error);
/* Nothing of it is under way any more. */
void mf_target_end_late (mf_target *target);
/* Makes the state relay between the program and the source's stream. */
gboolean mf_target_make_relay (mf_target *target, gboolean acknowledges, GError **error);

/* --- mf-target-run.c --- */
/* After the switchover: sees the program run, pulls the rest, survives the loss of the link, and ends when the source has let go, or has taken
 * the program back: then the invocation to be answered when everything is undone is returned. */
GDBusMethodInvocation *mf_target_go_on (mf_target *target);

G_END_DECLS
