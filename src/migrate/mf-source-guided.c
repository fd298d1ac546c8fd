/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A program whose migration somebody else drives (libvirt), as the source sees it.
 *
 * When pre-copy has done what it can, the job says that it is ready; it goes on carrying what the program writes, until whoever drives the program tells it
 * to migrate. He starts its other end first, and the target has him wait with that until the program here is armed: so it is neither too late, nor so early that whoever saves
 * the program meanwhile would get it without its memory. From there on it is he who stops it, and who lets it go on when his own migration fails. That is as it should be before the record says HANDED. After it
 * the program's memory is frozen, the guard sees it run and stops it at once, and the target is asked whose it is: ours again when it did not and will not run there, and
 * otherwise it stands here for good while the target goes on reading its memory.
 */
#include "migrate/mf-source-private.h"

#define LOOK_USEC         (20 * 1000)
#define PROGRAM_USEC      (60 * G_USEC_PER_SEC)
#define DIAL_TIMEOUT_USEC (5 * G_USEC_PER_SEC)
#define REDIAL_USEC       (500 * 1000)
#define ATTACH_USEC       (3 * G_USEC_PER_SEC)
#define ATTACH_LOOK_USEC  (20 * 1000)

/* --- the target's program --- */

enum {
  NOT_ASKED,
  ASKED,
  IS_EXPECTED,
  IS_NOT_EXPECTED,
  FAILED
};

/* The source's thread asks, the main context hears. */
struct _mf_source_watch {
  gatomicrefcount refs;
  gint state;        /* atomic; one of the above */
  gboolean is_armed; /* only the thread */
};

static void
watch_unref (mf_source_watch *watch)
{
  if (g_atomic_ref_count_dec (&watch->refs))
    g_free (watch);
}

static void
watch_answered (GVariant *results, const GError *error, gpointer user_data)
{
  mf_source_watch *watch = user_data;
  gboolean is_expected = FALSE;

  if (results != NULL)
    g_variant_lookup (results, "expected", "b", &is_expected);
  else
    g_debug ("the target doesn't tell of its program: %s", error->message);
  g_atomic_int_set (&watch->state, results == NULL ? FAILED : is_expected ? IS_EXPECTED : IS_NOT_EXPECTED);
  watch_unref (watch);
}

static void
ask_watch (mf_source *source)
{
  mf_source_watch *watch = source->watch;
  GVariantDict dict;

  g_variant_dict_init (&dict, NULL);
  g_variant_dict_insert (&dict, "armed", "b", watch->is_armed);
  g_atomic_int_set (&watch->state, ASKED);
  g_atomic_ref_count_inc (&watch->refs);
  mf_peer_ask_stage (source->peer, source->record->session, "pre-copy", g_variant_dict_end (&dict), watch_answered,
                     watch);
}

/* Does what the target has asked for, if it has, and asks it again. */
static gboolean
keep_watch (mf_source *source, GError **error)
{
  mf_source_watch *watch = source->watch;
  gint state = g_atomic_int_get (&watch->state);

  /* The loss of the link is seen elsewhere. */
  if (state == ASKED || state == FAILED)
    return TRUE;
  if (state != NOT_ASKED) {
    watch->is_armed = state == IS_EXPECTED;
    if (!source->program->ops->arm (source->program, watch->is_armed, mf_migration_cancellable (source->migration),
                                    error))
      return FALSE;
  }
  ask_watch (source);
  return TRUE;
}

static gboolean
begin_watch (mf_source *source, GError **error)
{
  source->watch = g_new0 (mf_source_watch, 1);
  g_atomic_ref_count_init (&source->watch->refs);
  g_atomic_int_set (&source->watch->state, source->is_told ? NOT_ASKED : FAILED);
  if (source->is_told)
    return keep_watch (source, error);
  return source->program->ops->arm (source->program, TRUE, mf_migration_cancellable (source->migration), error);
}

void
mf_source_end_watch (mf_source *source)
{
  g_clear_pointer (&source->watch, watch_unref);
}

/* --- before the switchover --- */

static int
wait_for_sender (mf_source *source, GError **error)
{
  GCancellable *cancellable = mf_migration_cancellable (source->migration);
  gint64 began_usec = g_get_monotonic_time ();

  for (;;) {
    g_autoptr (GError) local_error = NULL;
    int fd = source->program->ops->await_sender (source->program, g_get_monotonic_time () + LOOK_USEC, &source->info,
                                                 cancellable, &local_error);

    if (fd >= 0)
      return fd;
    if (!g_error_matches (local_error, MF_ERROR, MF_ERROR_TIMED_OUT)) {
      g_propagate_error (error, g_steal_pointer (&local_error));
      return -1;
    }
    if (!keep_watch (source, error))
      return -1;
    if (mf_peer_is_lost (source->peer)) {
      g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION,
                   "the link to the peer's service is lost: it has ended, or the program that came there has; the log "
                   "there says "
                   "which");
      return -1;
    }
    if (source->options.max_ready_usec > 0 &&
        g_get_monotonic_time () - began_usec > (gint64) source->options.max_ready_usec) {
      g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT,
                   "the program was ready to move for %" G_GUINT64_FORMAT " s, and nobody told it to",
                   source->options.max_ready_usec / G_USEC_PER_SEC);
      return -1;
    }
    mf_migration_set_prediction (source->migration,
                                 mf_switchover_downtime_usec (&source->model, mf_source_dirty_bytes (source)),
                                 source->model.dirty_rate);
  }
}

/* The target's program has come by now, or the one here would not have been told to migrate. */
static gboolean
ask_for_program (mf_source *source, GError **error)
{
  g_autoptr (GVariant) answer = NULL;
  GVariantDict dict;

  g_variant_dict_init (&dict, NULL);
  g_variant_dict_insert (&dict, "program", "b", TRUE);
  g_variant_dict_insert (&dict, "acknowledges", "b", source->info.switchover_ack);
  g_variant_dict_insert (&dict, "running", "b", source->info.is_running);
  answer = mf_peer_stage (source->peer, source->record->session, "pre-copy", g_variant_dict_end (&dict), PROGRAM_USEC,
                          mf_migration_cancellable (source->migration), error);
  return answer != NULL;
}

/* What fitted into the budget may not any more: that was a while ago. */
static void
decide_again (mf_source *source)
{
  guint64 downtime_usec = mf_switchover_downtime_usec (&source->model, mf_source_dirty_bytes (source));

  if (source->decision == MF_DECIDE_GO && source->options.mode == MF_MODE_AUTO &&
      downtime_usec > source->options.max_downtime_usec)
    source->decision = MF_DECIDE_POSTCOPY;
}

gboolean
mf_source_await_sender (mf_source *source, GError **error)
{
  gboolean streams = source->live_scans && source->options.mode != MF_MODE_POSTCOPY;

  if (!source->program->ops->open_sender (source->program, mf_migration_cancellable (source->migration), error) ||
      !begin_watch (source, error))
    return FALSE;
  if (streams)
    mf_source_begin_stream (source, TRUE);
  mf_migration_set_ready (source->migration, TRUE);
  source->sender_fd = wait_for_sender (source, error);
  mf_migration_set_ready (source->migration, FALSE);
  if (source->sender_fd < 0 || !ask_for_program (source, error))
    return FALSE;
  if (streams)
    mf_source_begin_stream (source, FALSE);
  decide_again (source);
  return TRUE;
}

/* --- after it --- */

GCancellable *
mf_source_handed_cancellable (mf_source *source)
{
  return source->handed;
}

/* A predecessor's: the program hands it over again within milliseconds, if it lives. */
static void
find_attachment (mf_source *source, mf_source_region *region)
{
  gint64 deadline = g_get_monotonic_time () + ATTACH_USEC;

  while (region->userfault == NULL && !g_cancellable_is_cancelled (source->guard_stop)) {
    region->userfault = mf_host_find_attachment (source->host, region->region, NULL);
    if (region->userfault == NULL &&
        (g_get_monotonic_time () >= deadline || !mf_source_wait (source->guard_stop, ATTACH_LOOK_USEC, NULL)))
      return;
  }
}

/* The target reads this memory for as long as it misses some of it: it must not change even for the moment in which the program is stopped again. */
static gboolean
freeze (mf_source *source)
{
  gint64 began_usec = g_get_monotonic_time ();
  gboolean ok = TRUE;

  for (guint i = 0; i < source->regions->len; i++) {
    mf_source_region *region = mf_source_region_at (source, i);
    g_autoptr (GError) error = NULL;

    find_attachment (source, region);
    if (region->userfault == NULL || mf_userfault_freeze (region->userfault, &error))
      continue;
    g_warning ("%s: should it be let run here, the program on the target can't go on: %s",
               mf_region_get_name (region->region), error->message);
    ok = FALSE;
  }
  g_debug ("switchover: frozen within %" G_GINT64_FORMAT " us", g_get_monotonic_time () - began_usec);
  return ok;
}

/* If the program was let run before that, by mistake, what it wrote can't be told from what the target was to get, and the target gets no more of it: better a program that stands than
 * memory that is silently wrong (invariant 1). */
static void
freeze_in_time (mf_source *source)
{
  gboolean is_frozen = freeze (source), is_known = TRUE;
  gboolean came_back = source->program->ops->came_back (source->program, &is_known);

  source->is_safe = is_frozen && is_known && !came_back;
}

void
mf_source_thaw (mf_source *source)
{
  for (guint i = 0; i < source->regions->len; i++) {
    if (mf_source_region_at (source, i)->userfault != NULL)
      mf_userfault_thaw (mf_source_region_at (source, i)->userfault);
  }
}

static gpointer
guard (gpointer data)
{
  mf_source *source = data;

  if (source->is_freezing)
    freeze_in_time (source);
  source->is_freezing = FALSE;
  for (;;) {
    g_autoptr (GError) error = NULL;

    if (source->program->ops->guard (source->program, source->guard_stop, &error))
      continue;
    g_debug ("guard: %s", error->message);
    if (!g_error_matches (error, MF_ERROR, MF_ERROR_PROGRAM))
      return NULL;
    if (!source->is_safe)
      mf_nbd_server_refuse_reads (source->server);
    if (source->is_kept_standing)
      continue;
    g_atomic_int_set (&source->came_back, 1);
    g_cancellable_cancel (source->handed);
    return NULL;
  }
}

void
mf_source_start_guard (mf_source *source)
{
  if (source->is_guided && source->guard == NULL)
    source->guard = g_thread_new ("mf-guard", guard, source);
}

void
mf_source_freeze (mf_source *source)
{
  if (source->freeze_begun || source->is_safe)
    return;
  source->freeze_begun = TRUE;
  mf_source_stop_guard (source);
  if (g_atomic_int_get (&source->came_back))
    return; /* too late */
  source->is_freezing = TRUE;
  mf_source_start_guard (source);
}

void
mf_source_stop_guard (mf_source *source)
{
  if (source->guard == NULL)
    return;
  g_cancellable_cancel (source->guard_stop);
  g_thread_join (g_steal_pointer (&source->guard));
  g_object_unref (source->guard_stop);
  source->guard_stop = g_cancellable_new ();
}

gboolean
mf_source_must_ask (mf_source *source)
{
  return g_atomic_int_get (&source->came_back) && !source->is_kept_standing;
}

/* The target runs it. */
static void
keep_standing (mf_source *source, const GError *why)
{
  g_critical ("%s: it was let run here again after it had been handed over, and has been stopped, for it runs on the "
              "target (%s): "
              "don't resume it here",
              mf_migration_get_regions (source->migration)[0], why->message);
  mf_source_stop_guard (source);
  if (!source->is_safe)
    g_critical ("%s: its memory here was not frozen before it ran, and the target doesn't get what it still misses of "
                "it: if it stands there now, end both",
                mf_migration_get_regions (source->migration)[0]);
  source->is_kept_standing = TRUE;
  g_cancellable_reset (source->handed);
  if (g_cancellable_is_cancelled (mf_host_stopping (source->host)))
    g_cancellable_cancel (source->handed);
  mf_migration_set_state (source->migration, source->is_safe ? MF_MIGRATION_RUNNING : MF_MIGRATION_PAUSED);
  mf_source_start_guard (source);
}

gboolean
mf_source_ask_whose (mf_source *source, GError **error)
{
  g_autoptr (GError) why =
      g_error_new (MF_ERROR, MF_ERROR_PROGRAM, "the migration was rolled back: the program goes on at the source");
  GCancellable *stopping = mf_host_stopping (source->host);

  for (;;) {
    g_autoptr (GError) local_error = NULL;

    if (source->peer == NULL || mf_peer_is_lost (source->peer)) {
      g_clear_pointer (&source->peer, mf_peer_unref);
      source->peer =
          mf_peer_dial (mf_migration_get_peer (source->migration), DIAL_TIMEOUT_USEC, stopping, &local_error);
    }
    if (source->peer != NULL && mf_peer_abort (source->peer, source->record->session, why->message, &local_error))
      break;
    if (source->peer != NULL && !g_error_matches (local_error, MF_ERROR, MF_ERROR_CONNECTION) &&
        !g_error_matches (local_error, MF_ERROR, MF_ERROR_TIMED_OUT)) {
      keep_standing (source, local_error);
      return FALSE;
    }
    g_debug ("the target has not said whose the program is: %s", local_error->message);
    mf_migration_set_state (source->migration, MF_MIGRATION_PAUSED);
    if (!mf_source_wait (stopping, REDIAL_USEC, error))
      return FALSE;
  }
  mf_migration_set_state (source->migration, MF_MIGRATION_RUNNING);
  mf_source_stop_guard (source);
  mf_source_thaw (source);
  if (!mf_host_record (source->host, source->record, MF_PHASE_LEAVING, error))
    return FALSE;
  g_propagate_error (error, g_steal_pointer (&why));
  return TRUE;
}
