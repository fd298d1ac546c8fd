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

typedef struct _mf_source_watch mf_source_watch;

struct _mf_source {
  MfHost *host;
  MfMigration *migration;
  GThread *thread;
  mf_migrate_options options;
  char *peer_control, *peer_state; /* the program there; see mf_program_choice */
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
  guint64 downtime_usec;   /* 0: not known */
  gint64 reconnected_usec; /* when the link was made again the last time; 0: never */

  /* A program that somebody else drives (mf-source-guided.c). */
  gboolean is_guided;
  gboolean is_told;       /* the target says when its program is about to be started */
  mf_source_watch *watch; /* what it has said; NULL before it is asked */
  int sender_fd;          /* the socket to which it writes its state, until the relay has it; -1 */
  int reader_fd;          /* the same, borrowed from the relay */
  GCancellable *handed;   /* after HANDED, ends waits: the service ends, or the program came back */
  gulong handed_handler;
  GThread *guard;
  GCancellable *guard_stop;
  gboolean freeze_begun;
  gboolean is_freezing; /* the guard is to begin with that */
  gboolean is_safe; /* nothing that it writes here reaches the target; the guard's thread's, and who has joined it */
  gint came_back;   /* atomic: who drives it has let it run here again, after HANDED */
  gboolean is_kept_standing; /* and here it stays, for it runs on the target */

  /* Where the target dials (mf-source-link.c): what has come in. */
  GMutex link_lock; /* the fields below */
  GCond link_cond;
  mf_peer *latest_peer; /* the control stream that came last */
  gboolean peer_is_new; /* and nobody has taken it yet */
  GArray *streams;      /* mf_source_stream_in */

  /* The sampler looks at it from other threads: made before it is set, freed after it is unset. */
  MfNbdServer *server;
  guint64 total_bytes;
};

typedef struct {
  int fd;
  mf_preface preface;
} mf_source_stream_in;

mf_source_region *mf_source_region_at (mf_source *source, guint index);
/* Dials the data streams of every region and serves them. */
gboolean mf_source_open_streams (mf_source *source, gboolean tracked, GError **error);
/* --- mf-source-link.c: who dials --- */
void mf_source_init_link (mf_source *source);
void mf_source_clear_link (mf_source *source);
/* The control stream: dialled, within `timeout_usec`; or, where the target dials, the next one that comes in, as long as that takes. */
mf_peer *mf_source_reach_peer (mf_source *source, gint64 timeout_usec, GCancellable *cancellable, GError **error);
/* Lets the control stream go, so that the other side sees that another one is needed. */
void mf_source_leave_peer (mf_source *source);
/* One more stream of the session, dialled by whoever dials; -1: not. */
int mf_source_open_stream (mf_source *source, mf_stream_kind kind, guint index, mf_lane_kind lane, GError **error);

/* Makes the server and exports the regions, in their sessions when there are some. */
gboolean mf_source_export (mf_source *source, GError **error);

/* Asks the tracker of every region; while the program stands if its disks need that (then the pause is counted). */
gboolean mf_source_scan (mf_source *source, gboolean standing, GError **error);
/* Bytes dirty over all regions. */
guint64 mf_source_dirty_bytes (mf_source *source);
/* Waits, or returns FALSE when cancelled. */
gboolean mf_source_wait (GCancellable *cancellable, gint64 usec, GError **error);
/* The target pulls what is dirty, scan by scan, until something else is asked of it. `unhurried`: seldom, until its program has come. */
void mf_source_begin_stream (mf_source *source, gboolean unhurried);
/* The dirty sets of all regions, packed: aa(yay). `settle`: all that is dirty, and it is remembered; otherwise what is dirty beyond that. */
GVariant *mf_source_pack_sets (mf_source *source, gboolean settle, GError **error);

/* --- mf-source-guided.c: a program that somebody else drives --- */
/* Says that all is ready, and waits until the program is told to migrate; the target has its own program ready when this returns. */
gboolean mf_source_await_sender (mf_source *source, GError **error);
void mf_source_end_watch (mf_source *source);
/* What ends a wait after the record says HANDED. */
GCancellable *mf_source_handed_cancellable (mf_source *source);
/* From HANDED on: watches that the program does not run here again. */
void mf_source_start_guard (mf_source *source);
void mf_source_stop_guard (mf_source *source);
/* The target's program runs, or nobody knows: the memory that it still misses is not to change here any more. Walking the page tables of a large guest takes a while
 * (10 ms a GiB of small pages), so that is done when nobody waits for it, in the guard's thread, and not at all where the target had everything when it took over. */
void mf_source_freeze (mf_source *source);
/* The program may write to its memory again. The guard has been stopped. */
void mf_source_thaw (mf_source *source);
/* The program came back, and nobody has been asked yet whose it is. */
gboolean mf_source_must_ask (mf_source *source);
/* Asks the target, as long as it takes. TRUE: it is ours again, and the record says so; the error says why it is here. FALSE without error: it runs there, and stands
 * here for good; with error: not known, and the service ends. */
gboolean mf_source_ask_whose (mf_source *source, GError **error);

G_END_DECLS
