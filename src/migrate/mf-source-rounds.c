/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pre-copy, as the source sees it. The target pulls what is dirty, round by round; here the writes are counted and it is decided when to stop. The end of it
 * streams: without the barrier of a round what is dirty is what was written in the last milliseconds, and the target goes on pulling while
 * the program is being stopped.
 *
 * With O_DIRECT disks (info.drains_for_scans) a scan of a running program may lose a read in flight across it: the page is reported by the scan it crosses, its
 * data comes later. The way that is exact with few pauses: the first scan while the program stands (begin_tracking); live scans in the rounds, whose
 * reports the log keeps (mf_dirty_session_repeat_union); then, to settle, one more scan while the program stands, after which everything that any
 * live scan reported is dirty again; and no live scan from there on. The scan of the switchover itself finds the program standing with its I/O drained.
 */
#include "migrate/mf-source-private.h"

#include <poll.h>

/* What a switchover costs with nothing to copy: stop, the device state, resume (measured 5 to 9 ms). */
#define FIXED_DOWNTIME_USEC 8000
/* Post-copy alone: how often and how long to look what is hot before switching over, so that it is pulled first. */
#define LEARN_SCANS       3
#define LEARN_PERIOD_USEC (20 * 1000)
/* Streaming: how often to look how much is dirty, and how much longer than the model says it may take. */
#define STREAM_LOOK_USEC     2000
#define STREAM_PATIENCE_USEC (250 * 1000)
/* It gains nothing any more when what is dirty has not shrunk by a part of itself in that time; not before it could have shrunk at the link's
 * rate, for the first answers take a while on a busy machine. */
#define STREAM_SETTLE_USEC (15 * 1000)
#define STREAM_SETTLE_PART 10
/* Of downtime that what is dirty would cost: for less it is not worth to stream on. */
#define STREAM_ENOUGH_USEC 500

gboolean
mf_source_wait (GCancellable *cancellable, gint64 usec, GError **error)
{
  GPollFD fd;

  if (g_cancellable_make_pollfd (cancellable, &fd)) {
    g_poll (&fd, 1, (gint) ((usec + 999) / 1000));
    g_cancellable_release_fd (cancellable);
  }
  if (g_cancellable_is_cancelled (cancellable)) {
    g_set_error (error, MF_ERROR, MF_ERROR_CANCELLED, "cancelled");
    return FALSE;
  }
  return TRUE;
}

static gboolean
collect (mf_source *source, GError **error)
{
  for (guint i = 0; i < source->regions->len; i++) {
    mf_source_region *region = mf_source_region_at (source, i);

    if (!mf_dirty_log_collect (mf_region_dirty_log (region->region), NULL, error)) {
      g_prefix_error (error, "scanning region %s: ", region->name);
      return FALSE;
    }
  }
  return TRUE;
}

gboolean
mf_source_scan (mf_source *source, gboolean standing, GError **error)
{
  gint64 stood_usec = 0;
  gboolean ok;

  if (!standing)
    return collect (source, error);
  if (source->pauses >= source->options.max_pauses) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_CONVERGING,
                 "a disk of the program uses O_DIRECT, and %u pauses for scans are all that --max-pauses allows",
                 source->pauses);
    return FALSE;
  }
  if (!source->program->ops->pause (source->program, (gint64) source->options.max_pause_usec,
                                    mf_migration_cancellable (source->migration), error))
    return FALSE;
  ok = collect (source, error);
  if (!source->program->ops->resume (source->program, &stood_usec, ok ? error : NULL))
    return FALSE;
  source->pauses++;
  mf_migration_add_pause (source->migration, (guint64) stood_usec);
  return ok;
}

guint64
mf_source_dirty_bytes (mf_source *source)
{
  guint64 bytes = 0;

  for (guint i = 0; i < source->regions->len; i++) {
    mf_source_region *region = mf_source_region_at (source, i);

    bytes += mf_dirty_session_count (region->session) * mf_region_page_bytes (region->region);
  }
  return bytes;
}

static void
set_live_scans (mf_source *source, gboolean on)
{
  for (guint i = 0; i < source->regions->len; i++)
    mf_dirty_session_set_live_scans (mf_source_region_at (source, i)->session, on);
}

static gboolean
pull_round (mf_source *source, mf_round *round, GError **error)
{
  gint64 began_usec = g_get_monotonic_time ();
  g_autoptr (GVariant) answer = NULL;
  GVariantDict dict;

  mf_migration_set_round (source->migration, ++source->round);
  g_variant_dict_init (&dict, NULL);
  g_variant_dict_insert (&dict, "round", "u", source->round);
  answer = mf_peer_stage (source->peer, source->record->session, "pre-copy", g_variant_dict_end (&dict), -1,
                          mf_migration_cancellable (source->migration), error);
  if (answer == NULL)
    return FALSE;
  g_variant_lookup (answer, "bytes", "t", &round->sent_bytes);
  round->round_usec = (uint64_t) (g_get_monotonic_time () - began_usec);
  return TRUE;
}

void
mf_source_begin_stream (mf_source *source, gboolean unhurried)
{
  GVariantDict dict;

  set_live_scans (source, TRUE);
  g_variant_dict_init (&dict, NULL);
  g_variant_dict_insert (&dict, "stream", "b", TRUE);
  g_variant_dict_insert (&dict, "unhurried", "b", unhurried);
  mf_peer_begin_stage (source->peer, source->record->session, "pre-copy", g_variant_dict_end (&dict));
}

/* Streams until the predicted downtime fits and streaming longer gains nothing, and goes on streaming. What decides is the mean of a few
 * looks: between a scan and the reads that follow it a single one may be high or low. */
static gboolean
stream_until_small (mf_source *source, guint64 dirty_bytes, gboolean *small, GError **error)
{
  guint64 patience_usec = 2 * mf_switchover_stream_usec (&source->model, dirty_bytes) + STREAM_PATIENCE_USEC;
  gint64 began_usec = g_get_monotonic_time (), looked_usec = began_usec;
  guint64 mean_bytes = dirty_bytes, before_bytes = dirty_bytes;
  gboolean settled = FALSE;

  mf_source_begin_stream (source, FALSE);
  while (!(*small && settled) && g_get_monotonic_time () - began_usec < (gint64) patience_usec) {
    guint64 downtime_usec;

    if (mf_peer_is_lost (source->peer)) {
      g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION, "the link to the peer's service is lost");
      return FALSE;
    }
    if (!mf_source_wait (mf_migration_cancellable (source->migration), STREAM_LOOK_USEC, error))
      return FALSE;
    mean_bytes = (3 * mean_bytes + mf_source_dirty_bytes (source)) / 4;
    downtime_usec = mf_switchover_downtime_usec (&source->model, mean_bytes);
    mf_migration_set_prediction (source->migration, downtime_usec, source->model.dirty_rate);
    *small = downtime_usec <= source->options.max_downtime_usec;
    if (*small && downtime_usec <= source->model.fixed_usec + STREAM_ENOUGH_USEC)
      break;
    if (g_get_monotonic_time () - looked_usec >= STREAM_SETTLE_USEC) {
      settled =
          mean_bytes >= before_bytes - before_bytes / STREAM_SETTLE_PART &&
          g_get_monotonic_time () - began_usec >= (gint64) mf_switchover_stream_usec (&source->model, dirty_bytes);
      before_bytes = mean_bytes;
      looked_usec = g_get_monotonic_time ();
    }
  }
  g_debug ("streamed: dirty %" G_GUINT64_FORMAT, mean_bytes);
  return TRUE;
}

/* One more scan while the program stands, and whatever a live scan may have seen too early is sent again. */
static gboolean
settle_scans (mf_source *source, GError **error)
{
  if (!mf_source_scan (source, TRUE, error))
    return FALSE;
  set_live_scans (source, FALSE);
  for (guint i = 0; i < source->regions->len; i++)
    mf_dirty_session_repeat_union (mf_source_region_at (source, i)->session);
  return TRUE;
}

static gboolean
give_up (mf_source *source, guint64 dirty_bytes, GError **error)
{
  g_set_error (error, MF_ERROR, MF_ERROR_NOT_CONVERGING,
               "pre-copy does not come to an end: after %u rounds the downtime would be %" G_GUINT64_FORMAT
               " ms, and --max-downtime allows %" G_GUINT64_FORMAT " ms; raise it, or use --mode auto",
               source->round, mf_switchover_downtime_usec (&source->model, dirty_bytes) / 1000,
               source->options.max_downtime_usec / 1000);
  return FALSE;
}

/* Without rounds from here on, if that gets the dirty set small enough; `decision` is what follows. */
static gboolean
stream (mf_source *source, guint64 dirty_bytes, GError **error)
{
  gboolean small = FALSE;

  if (!stream_until_small (source, dirty_bytes, &small, error))
    return FALSE;
  if (small)
    source->decision = MF_DECIDE_GO;
  else if (source->options.mode == MF_MODE_AUTO)
    source->decision = MF_DECIDE_POSTCOPY;
  else
    return give_up (source, mf_source_dirty_bytes (source), error);
  return TRUE;
}

/* Rounds until the model says that it is time. */
static gboolean
rounds (mf_source *source, GError **error)
{
  gboolean standing = FALSE;

  for (;;) {
    mf_round round = { 0 };

    if (!pull_round (source, &round, error) || !mf_source_scan (source, standing, error))
      return FALSE;
    round.dirty_bytes = round.dirtied_bytes = mf_source_dirty_bytes (source);
    mf_switchover_learn (&source->model, &round);
    mf_migration_set_prediction (source->migration, mf_switchover_downtime_usec (&source->model, round.dirty_bytes),
                                 source->model.dirty_rate);
    /* From the second round on the scan above is what the target's block status shows: one scan a round, not two. */
    set_live_scans (source, FALSE);
    source->decision = mf_switchover_decide (&source->model, round.dirty_bytes);
    g_debug ("round %u: sent %" G_GUINT64_FORMAT " in %" G_GUINT64_FORMAT " us, dirty %" G_GUINT64_FORMAT
             ", decision %d",
             source->round, round.sent_bytes, round.round_usec, round.dirty_bytes, (int) source->decision);
    if (source->decision == MF_DECIDE_ROUND)
      continue;
    if (source->decision == MF_DECIDE_GIVE_UP)
      return give_up (source, round.dirty_bytes, error);
    /* Also when it fits already: what streaming takes off the downtime costs a few milliseconds of the program's running time. */
    if (source->live_scans && (source->decision == MF_DECIDE_STREAM || source->decision == MF_DECIDE_GO))
      return stream (source, round.dirty_bytes, error);
    if (source->live_scans || (standing && source->decision != MF_DECIDE_STREAM))
      return TRUE;
    if (standing)
      continue;
    if (!settle_scans (source, error))
      return FALSE;
    standing = TRUE;
    /* In auto mode what the settling made dirty again goes out while the program runs, and the little that is left after that
     * follows the switchover: no more pauses. */
    if (source->options.mode == MF_MODE_AUTO) {
      if (!pull_round (source, &round, error))
        return FALSE;
      source->decision = MF_DECIDE_POSTCOPY;
      return TRUE;
    }
  }
}

/* No memory goes before the switchover; what is written now will be wanted first. */
static gboolean
learn_heat (mf_source *source, GError **error)
{
  for (guint i = 0; i < LEARN_SCANS; i++) {
    if (!mf_source_wait (mf_migration_cancellable (source->migration), LEARN_PERIOD_USEC, error) ||
        !collect (source, error))
      return FALSE;
  }
  source->decision = MF_DECIDE_POSTCOPY;
  return TRUE;
}

gboolean
mf_source_precopy (mf_source *source, GError **error)
{
  mf_switchover_init (&source->model, source->options.mode, source->options.max_downtime_usec, FIXED_DOWNTIME_USEC,
                      source->total_bytes);
  if (!(source->options.mode == MF_MODE_POSTCOPY ? learn_heat (source, error) : rounds (source, error)))
    return FALSE;
  return !source->is_guided || mf_source_await_sender (source, error);
}
