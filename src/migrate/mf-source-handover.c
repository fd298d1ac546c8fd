/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The switchover as the source sees it, and what follows.
 *
 *   the program stops, its I/O drained ── downtime begins
 *   last scan; the dirty set goes to the target          Stage "switchover"
 *   the target invalidates those pages (or pulls them), serves faults, writes its record, answers
 *   our record: HANDED                                   ── from here on only the target may run the program
 *   the device state is released
 *   the program runs there ── downtime ends               Stage "post-copy" until "running"
 *   the target pulls the rest                            Stage "post-copy" until "complete"
 *   our record: AWAY                                     Stage "done"
 *
 * Until the device state is released the program can't run there, whatever the target has recorded: so an answer that got lost before our
 * record is a failure like any other. After it, the only way back is the target's word that the program did not and will not run there.
 */
#include "migrate/mf-dirty-set.h"
#include "migrate/mf-source-private.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define SWITCHOVER_PATIENCE_USEC    (1 * G_USEC_PER_SEC)
#define SWITCHOVER_PATIENCE_BUDGETS 10
#define REDIAL_MIN_USEC             (50 * 1000)
#define REDIAL_MAX_USEC             (2 * G_USEC_PER_SEC)
#define DIAL_TIMEOUT_USEC           (5 * G_USEC_PER_SEC)
#define STAGE_TIMEOUT_USEC          (60 * G_USEC_PER_SEC)

static GVariant *
pack_region (mf_source_region *region, gboolean settle, GError **error)
{
  const mf_bitmap *dirty = mf_dirty_session_bits (region->session);
  mf_dirty_log *log = mf_region_dirty_log (region->region);
  mf_run within = { 0, mf_bitmap_size (dirty) };
  mf_bitmap *fresh;
  GVariant *packed;
  mf_run run;

  /* Nothing is read in the session between settling and the last scan, so its bits only grow; what is in `settled` the target knows. */
  fresh = mf_bitmap_new (mf_bitmap_size (dirty));
  if (fresh == NULL) {
    mf_error_from_errno (error, ENOMEM, "packing a dirty set");
    return NULL;
  }
  mf_bitmap_or (fresh, dirty);
  while (region->settled != NULL && within.count > 0 && mf_bitmap_next_run (region->settled, within, true, &run)) {
    mf_bitmap_clear_run (fresh, run);
    within.count -= run.first + run.count - within.first;
    within.first = run.first + run.count;
  }
  packed = mf_dirty_set_pack (fresh, log, error);
  if (settle)
    region->settled = fresh;
  else
    mf_bitmap_free (fresh);
  return packed;
}

GVariant *
mf_source_pack_sets (mf_source *source, gboolean settle, GError **error)
{
  GVariantBuilder builder;

  g_variant_builder_init (&builder, G_VARIANT_TYPE ("aa(yay)"));
  for (guint i = 0; i < source->regions->len; i++) {
    GVariant *packed = pack_region (mf_source_region_at (source, i), settle, error);

    if (packed == NULL) {
      g_variant_builder_clear (&builder);
      return NULL;
    }
    g_variant_builder_add_value (&builder, packed);
  }
  return g_variant_builder_end (&builder);
}

/* While the program stands nobody waits long for a peer that may be gone: undoing it is safe until its answer is here. */
static gint64
patience (mf_source *source, gboolean settle)
{
  return settle ? (gint64) STAGE_TIMEOUT_USEC
                : SWITCHOVER_PATIENCE_USEC + SWITCHOVER_PATIENCE_BUDGETS * (gint64) source->options.max_downtime_usec;
}

static GVariant *
stage_with_sets (mf_source *source, const char *stage, gboolean settle, GError **error)
{
  gboolean complete = !settle && source->decision == MF_DECIDE_GO;
  GVariantDict dict;

  g_variant_dict_init (&dict, NULL);
  if (complete) {
    g_variant_dict_insert (&dict, "complete", "b", TRUE);
  } else {
    GVariant *sets = mf_source_pack_sets (source, settle, error);

    if (sets == NULL) {
      g_variant_dict_clear (&dict);
      return NULL;
    }
    g_variant_dict_insert_value (&dict, settle ? "settle" : "sets", sets);
  }
  return mf_peer_stage (source->peer, source->record->session, stage, g_variant_dict_end (&dict),
                        patience (source, settle), mf_migration_cancellable (source->migration), error);
}

/* While the program still runs: what is dirty now will be missing on the target after the switchover, so it is told already, and has less to
 * invalidate while the program stands. */
static gboolean
settle (mf_source *source, GError **error)
{
  g_autoptr (GVariant) answer = NULL;

  if (source->live_scans && !mf_source_scan (source, FALSE, error))
    return FALSE;
  answer = stage_with_sets (source, "pre-copy", TRUE, error);
  return answer != NULL;
}

static gboolean
start_relay (mf_source *source, int *program_end, int *reader_end, GError **error)
{
  int ends[2] = { source->sender_fd, -1 }, stream = source->state_fd;
  /* Whoever guides the program may have it use its return path. */
  mf_state_relay_flags flags =
      source->info.return_path || source->is_guided ? MF_STATE_RELAY_RETURN : MF_STATE_RELAY_FORWARD;

  /* A program that has been told to migrate by somebody else has its own end already. */
  if (!source->is_guided && socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return mf_error_from_errno (error, errno, "making a socket for the device state");
  source->state_fd = source->sender_fd = -1;
  source->relay = mf_state_relay_new (ends[0], stream, flags, error);
  if (source->relay == NULL) {
    if (ends[1] >= 0)
      close (ends[1]);
    return FALSE;
  }
  *program_end = ends[1];
  *reader_end = source->reader_fd = ends[0];
  return TRUE;
}

/* The target took over: it is written down here, and from then on there is no way back but its own word. */
static gboolean
hand_over (mf_source *source, GError **error)
{
  if (source->is_guided && !source->program->ops->commit (source->program, source->reader_fd, error))
    return FALSE;
  if (!mf_migration_commit (source->migration)) {
    g_set_error (error, MF_ERROR, MF_ERROR_CANCELLED, "cancelled");
    return FALSE;
  }
  if (!mf_host_record (source->host, source->record, MF_PHASE_HANDED, error))
    return FALSE;
  source->is_safe = source->decision == MF_DECIDE_GO;
  mf_source_start_guard (source);
  return TRUE;
}

/* The program did not start there. If the target says that it won't, it is ours again. */
static gboolean
take_back (mf_source *source, const GError *why)
{
  g_autoptr (GError) error = NULL;

  if (!mf_peer_abort (source->peer, source->record->session, why->message, &error)) {
    g_warning ("%s: the program may not go on here, since the target did not say that it won't run there: %s",
               mf_migration_get_regions (source->migration)[0], error->message);
    return FALSE;
  }
  if (source->is_guided) {
    mf_source_stop_guard (source);
    mf_source_thaw (source);
  }
  if (!mf_host_record (source->host, source->record, MF_PHASE_LEAVING, &error)) {
    g_warning ("%s: the program may not go on here: %s", mf_migration_get_regions (source->migration)[0],
               error->message);
    return FALSE;
  }
  return TRUE;
}

/* After the switchover something else than the link failed: the target says that the program did not and will not run there. Then it goes on here. */
static gboolean
fail_handed (mf_source *source, GError *why, GError **error)
{
  take_back (source, why);
  g_propagate_error (error, why);
  return FALSE;
}

static gboolean
await_running (mf_source *source, GError **error)
{
  g_autoptr (GVariant) answer = NULL;
  GVariantDict dict;

  g_variant_dict_init (&dict, NULL);
  g_variant_dict_insert (&dict, "until", "s", "running");
  answer = mf_peer_stage (source->peer, source->record->session, "post-copy", g_variant_dict_end (&dict), -1,
                          mf_source_handed_cancellable (source), error);
  if (answer == NULL)
    return FALSE;
  if (source->stopped_usec != 0) {
    source->downtime_usec = (guint64) (g_get_monotonic_time () - source->stopped_usec);
    mf_migration_set_downtime (source->migration, source->downtime_usec);
  }
  return TRUE;
}

/* Where the downtime goes, for who looks for it. */
static void
note_time (mf_source *source, const char *what)
{
  g_debug ("switchover: %s %" G_GINT64_FORMAT " us after the stop", what,
           g_get_monotonic_time () - source->stopped_usec);
}

gboolean
mf_source_switchover (mf_source *source, GError **error)
{
  GCancellable *cancellable = mf_migration_cancellable (source->migration);
  g_autoptr (GVariant) answer = NULL;
  g_autoptr (GError) local_error = NULL;
  int program_end = -1, reader_end = -1;

  if (source->decision == MF_DECIDE_POSTCOPY && !settle (source, error))
    return FALSE;
  if (!start_relay (source, &program_end, &reader_end, error))
    return FALSE;
  if (!source->program->ops->stop_and_send (source->program, program_end, reader_end, &source->stopped_usec,
                                            cancellable, error))
    return FALSE;
  /* It stands with its I/O drained: the scan is exact whatever its disks are. */
  note_time (source, "drained");
  if (!mf_source_scan (source, FALSE, error))
    return FALSE;
  note_time (source, "scanned");
  for (guint i = 0; i < source->regions->len; i++)
    mf_dirty_session_set_live_scans (mf_source_region_at (source, i)->session, FALSE);
  answer = stage_with_sets (source, "switchover", FALSE, error);
  if (answer == NULL)
    return FALSE;
  note_time (source, "taken over");
  if (!hand_over (source, error))
    return FALSE;
  mf_state_relay_leave_program (source->relay);

  if ((source->is_guided ||
       source->program->ops->release (source->program, mf_host_stopping (source->host), &local_error)) &&
      await_running (source, &local_error)) {
    note_time (source, "running");
    return TRUE;
  }
  if (mf_source_must_ask (source))
    return TRUE; /* the next stage does */
  if (g_error_matches (local_error, MF_ERROR, MF_ERROR_CONNECTION) ||
      g_cancellable_is_cancelled (mf_host_stopping (source->host)))
    return TRUE; /* not known: the next stage asks again when the link is back */
  return fail_handed (source, g_steal_pointer (&local_error), error);
}

void
mf_source_unswitch (mf_source *source)
{
  g_clear_pointer (&source->relay, mf_state_relay_free);
}

/* The peer is there again: is anything missing? */
static GVariant *
ask_resume (mf_source *source, GError **error)
{
  GVariantDict dict;

  g_variant_dict_init (&dict, NULL);
  g_variant_dict_insert (&dict, "lanes", "u", (guint32) MF_LANES);
  return mf_peer_stage (source->peer, source->record->session, "resume", g_variant_dict_end (&dict), STAGE_TIMEOUT_USEC,
                        mf_host_stopping (source->host), error);
}

/* After the switchover the link may come and go. Tries until the peer is there again, or the service ends. */
static gboolean
reconnect (mf_source *source, GError **error)
{
  GCancellable *stopping = mf_host_stopping (source->host);
  gint64 pause_usec = REDIAL_MIN_USEC;

  mf_migration_set_state (source->migration, MF_MIGRATION_PAUSED);
  mf_source_leave_peer (source);
  /* One that is made and lost at once, again and again, is not to keep two hosts busy. */
  if (g_get_monotonic_time () - source->reconnected_usec < REDIAL_MIN_USEC &&
      !mf_source_wait (stopping, REDIAL_MIN_USEC, error))
    return FALSE;
  for (;;) {
    g_autoptr (GError) local_error = NULL;
    g_autoptr (GVariant) answer = NULL;

    if (mf_source_must_ask (source))
      return TRUE;
    source->peer = mf_source_reach_peer (source, DIAL_TIMEOUT_USEC, stopping, &local_error);
    if (source->peer != NULL) {
      answer = ask_resume (source, &local_error);
      if (answer != NULL && g_variant_lookup (answer, "complete", "b", &source->is_complete) && source->is_complete)
        break;
      if (answer != NULL && mf_source_open_streams (source, FALSE, &local_error))
        break;
    }
    if (g_error_matches (local_error, MF_ERROR, MF_ERROR_PROGRAM))
      return fail_handed (source, g_steal_pointer (&local_error), error);
    mf_source_leave_peer (source);
    if (g_error_matches (local_error, MF_ERROR, MF_ERROR_NOT_FOUND)) {
      g_propagate_prefixed_error (error, g_steal_pointer (&local_error),
                                  "the program was handed over, and the other host doesn't know it any more: ");
      return FALSE;
    }
    g_debug ("the peer is not back: %s", local_error->message);
    if (!mf_source_wait (stopping, pause_usec, error))
      return FALSE;
    pause_usec = MIN (2 * pause_usec, REDIAL_MAX_USEC);
  }
  source->reconnected_usec = g_get_monotonic_time ();
  mf_migration_set_state (source->migration, MF_MIGRATION_RUNNING);
  return TRUE;
}

static gboolean
await_complete (mf_source *source, GError **error)
{
  g_autoptr (GVariant) answer = NULL;
  guint32 p50_usec = 0, p99_usec = 0;
  guint64 faults = 0;
  GVariantDict dict;

  g_variant_dict_init (&dict, NULL);
  g_variant_dict_insert (&dict, "until", "s", "complete");
  answer = mf_peer_stage (source->peer, source->record->session, "post-copy", g_variant_dict_end (&dict), -1,
                          mf_source_handed_cancellable (source), error);
  if (answer == NULL)
    return FALSE;
  g_variant_lookup (answer, "faults", "t", &faults);
  g_variant_lookup (answer, "fault-p50", "u", &p50_usec);
  g_variant_lookup (answer, "fault-p99", "u", &p99_usec);
  g_variant_lookup (answer, "ended", "b", &source->program_ended);
  mf_migration_set_faults (source->migration, faults, p50_usec, p99_usec);
  return TRUE;
}

gboolean
mf_source_postcopy (mf_source *source, GError **error)
{
  mf_source_freeze (source);
  for (;;) {
    g_autoptr (GError) local_error = NULL;

    if (source->is_complete)
      return TRUE;
    if (mf_source_must_ask (source)) {
      if (mf_source_ask_whose (source, &local_error) || local_error != NULL) {
        g_propagate_error (error, g_steal_pointer (&local_error));
        return FALSE;
      }
      continue;
    }
    if (source->peer != NULL && !mf_peer_is_lost (source->peer) && await_complete (source, &local_error))
      return TRUE;
    if (g_cancellable_is_cancelled (mf_host_stopping (source->host))) {
      g_set_error (error, MF_ERROR, MF_ERROR_CANCELLED,
                   "the service ends; the next one goes on serving what the other host still needs");
      return FALSE;
    }
    if (mf_source_must_ask (source))
      continue;
    if (local_error != NULL && !g_error_matches (local_error, MF_ERROR, MF_ERROR_CONNECTION))
      return fail_handed (source, g_steal_pointer (&local_error), error);
    if (!reconnect (source, error))
      return FALSE;
  }
}

gboolean
mf_source_done (mf_source *source, GError **error)
{
  g_autoptr (GError) local_error = NULL;
  g_autoptr (GVariant) answer = NULL;
  GVariantDict dict;

  if (!mf_host_record (source->host, source->record, MF_PHASE_AWAY, error))
    return FALSE;
  /* What can't come any more the program here would wait for in vain. */
  if (source->relay != NULL)
    mf_state_relay_end_return (source->relay);
  if (!source->resumed && !source->is_guided &&
      !source->program->ops->await_sent (source->program, mf_host_stopping (source->host), &local_error)) {
    g_debug ("the program's own end: %s", local_error->message);
    g_clear_error (&local_error);
  }
  /* The target has everything; if it doesn't hear this, it ends the session by itself. */
  g_variant_dict_init (&dict, NULL);
  g_variant_dict_insert (&dict, "downtime", "t", source->downtime_usec);
  answer = mf_peer_stage (source->peer, source->record->session, "done", g_variant_dict_end (&dict), STAGE_TIMEOUT_USEC,
                          mf_host_stopping (source->host), &local_error);
  if (answer == NULL)
    g_debug ("the peer did not hear that it is done: %s", local_error->message);
  if (source->program_ended)
    g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM,
                 "the program ran on the other host and has ended there, while the rest of its memory was on its way");
  return !source->program_ended;
}
