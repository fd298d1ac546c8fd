/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The target's lanes, and the rounds of pre-copy.
 *
 * The first round leaves out what is written again while it goes on: every refresh asks the source what is dirty and how hot, and takes hot pages that are
 * still queued out of the round. They are dirty in the session as before, so a later round, or post-copy, brings them: least written first, and
 * nothing is carried twice because it came too early.
 */
#include "migrate/mf-stage.h"
#include "migrate/mf-target-private.h"

#include "core/mf-nbd-protocol.h"
#include "nbd/mf-nbd-client.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

#define STREAMS_TIMEOUT_USEC   (10 * G_USEC_PER_SEC)
#define HANDSHAKE_TIMEOUT_USEC (10 * G_USEC_PER_SEC)
/* Of a region: one for faults, one for block status, one for bulk at least. */
#define MIN_LANES 3
#define MAX_LANES 64
/* How soon and how often the first round looks what is hot. A look costs a scan on the source: under 1 ms a GiB. */
#define FIRST_REFRESH_USEC (50 * 1000)
#define REFRESH_USEC       (150 * 1000)
/* Streaming: from one look what is dirty to the next. */
#define STREAM_PERIOD_USEC 2000
/* The same while the program is still to come: what is written again and again is carried once in that time. */
#define UNHURRIED_PERIOD_USEC (100 * 1000)

/* --- lanes --- */

static void
on_lane_lost (mf_target *target, const GError *why)
{
  g_mutex_lock (&target->lock);
  g_debug ("target: a data connection is lost: %s", why->message);
  target->lane_lost = TRUE;
  /* The source makes everything anew when it finds the control stream closed. */
  if (target->taken && target->peer != NULL)
    mf_peer_close (target->peer);
  g_cancellable_cancel (target->interrupt);
  g_cond_broadcast (&target->cond);
  g_mutex_unlock (&target->lock);
}

static void
on_puller_lost (mf_puller *puller, const GError *error, gpointer user_data)
{
  on_lane_lost (user_data, error);
}

static void
on_fault_lane_lost (MfUserfault *userfault, const GError *error, gpointer user_data)
{
  on_lane_lost (user_data, error);
}

/* A stream of region `index`, of the kind asked for; waits for it. -1: it did not come. */
static int
take_stream (mf_target *target, mf_stream_kind kind, guint index, mf_lane_kind lane, GError **error)
{
  gint64 deadline = g_get_monotonic_time () + STREAMS_TIMEOUT_USEC;
  int fd = -1;

  g_mutex_lock (&target->lock);
  while (fd < 0 && !target->stopping && target->peer != NULL) {
    for (guint i = 0; i < target->streams->len && fd < 0; i++) {
      mf_stream_in *stream = &g_array_index (target->streams, mf_stream_in, i);

      if (stream->preface.kind == kind && stream->preface.index == index && stream->preface.lane == lane) {
        fd = stream->fd;
        stream->fd = -1;
        g_array_remove_index (target->streams, i);
      }
    }
    if (fd < 0 && !g_cond_wait_until (&target->cond, &target->lock, deadline))
      break;
  }
  g_mutex_unlock (&target->lock);
  if (fd < 0)
    g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT, "a data connection of region %u did not come", index);
  return fd;
}

static mf_lane *
make_lane (mf_target *target, guint index, mf_lane_kind kind, GError **error)
{
  gboolean tracked = kind == MF_LANE_BULK && !target->taken;
  mf_nbd_client_options options = { .structured = kind == MF_LANE_BULK,
                                    .dirty = tracked,
                                    .spin = kind == MF_LANE_FAULT };
  int fd = take_stream (target, MF_STREAM_DATA, index, kind, error);

  if (fd < 0)
    return NULL;
  return mf_nbd_client_new_fd (fd, mf_target_region_at (target, index)->name, &options, HANDSHAKE_TIMEOUT_USEC, error);
}

gboolean
mf_target_read_lanes (mf_target *target, GVariant *arguments, GError **error)
{
  target->n_lanes = 0;
  g_variant_lookup (arguments, "lanes", "u", &target->n_lanes);
  if (target->n_lanes >= MIN_LANES && target->n_lanes <= MAX_LANES)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "the source wants %u data connections a region", target->n_lanes);
  return FALSE;
}

void
mf_target_use_fault_lane (mf_target *target, mf_target_region *region)
{
  mf_userfault_set_puller (region->userfault, region->puller);
  mf_userfault_set_lost (region->userfault, on_fault_lane_lost, target);
  mf_userfault_set_lane (region->userfault, g_steal_pointer (&region->faults));
}

static gboolean
make_region_lanes (mf_target *target, guint index, GError **error)
{
  mf_puller_callbacks callbacks = { .failed = on_puller_lost, .user_data = target };
  mf_target_region *region = mf_target_region_at (target, index);
  guint n_bulk = target->n_lanes - 1;
  mf_lane *lane;

  region->puller = mf_puller_new (region->region, &callbacks, error);
  if (region->puller == NULL)
    return FALSE;
  mf_puller_set_mode (region->puller, target->taken ? MF_PUT_KEEP : MF_PUT_REPLACE);
  mf_puller_set_bandwidth (region->puller, target->record->bandwidth);
  if (!target->taken) {
    region->status = make_lane (target, index, MF_LANE_BULK, error);
    if (region->status == NULL)
      return FALSE;
    n_bulk--;
  }
  for (guint i = 0; i < n_bulk; i++) {
    lane = make_lane (target, index, MF_LANE_BULK, error);
    if (lane == NULL || !mf_puller_add_lane (region->puller, lane, error))
      return FALSE;
  }
  region->faults = make_lane (target, index, MF_LANE_FAULT, error);
  if (region->faults == NULL)
    return FALSE;
  if (region->userfault != NULL)
    mf_target_use_fault_lane (target, region);
  return TRUE;
}

gboolean
mf_target_make_lanes (mf_target *target, GError **error)
{
  for (guint i = 0; i < target->regions->len; i++) {
    if (!make_region_lanes (target, i, error)) {
      g_prefix_error (error, "region %s: ", mf_target_region_at (target, i)->name);
      return FALSE;
    }
  }
  return TRUE;
}

void
mf_target_drop_lanes (mf_target *target)
{
  for (guint i = 0; i < target->regions->len; i++) {
    mf_target_region *region = mf_target_region_at (target, i);
    mf_puller_stats stats;

    if (region->userfault != NULL) {
      mf_userfault_set_puller (region->userfault, NULL);
      mf_userfault_set_lost (region->userfault, NULL, NULL);
    }
    if (region->puller != NULL) {
      mf_puller_get_stats (region->puller, &stats);
      target->bytes_before += stats.bytes;
    }
    g_clear_pointer (&region->puller, mf_puller_free);
    g_clear_pointer (&region->status, mf_lane_close);
    g_clear_pointer (&region->faults, mf_lane_close);
  }
}

void
mf_target_drop_streams (mf_target *target)
{
  g_mutex_lock (&target->lock);
  g_array_set_size (target->streams, 0);
  g_mutex_unlock (&target->lock);
}

/* --- prepare --- */

void
mf_target_sample (mf_migration_status *status, gpointer user_data)
{
  mf_target *target = user_data;

  status->total = target->total_bytes;
  status->bytes = target->bytes_before;
  status->remaining = 0;
  status->faults = 0;
  for (guint i = 0; i < target->regions->len; i++) {
    mf_target_region *region = mf_target_region_at (target, i);
    mf_puller_stats stats;
    mf_fault_stats faults;

    if (region->puller != NULL) {
      mf_puller_get_stats (region->puller, &stats);
      status->bytes += stats.bytes;
      status->remaining += stats.queued_pages * mf_region_page_bytes (region->region) + stats.in_flight_bytes;
    }
    if (region->userfault != NULL) {
      mf_userfault_get_stats (region->userfault, &faults);
      status->faults += faults.faults;
      status->fault_p50_usec = MAX (status->fault_p50_usec, faults.p50_usec);
      status->fault_p99_usec = MAX (status->fault_p99_usec, faults.p99_usec);
    }
  }
}

gboolean
mf_target_make_relay (mf_target *target, gboolean acknowledges, GError **error)
{
  mf_state_relay_flags flags = MF_STATE_RELAY_HOLD;
  int program_fd, stream_fd;

  program_fd = target->program->ops->receive (target->program, target->interrupt, error);
  if (program_fd < 0)
    return FALSE;
  stream_fd = take_stream (target, MF_STREAM_STATE, 0, MF_LANE_BULK, error);
  if (stream_fd < 0) {
    close (program_fd);
    return FALSE;
  }
  if (acknowledges)
    flags |= MF_STATE_RELAY_ACK;
  target->relay = mf_state_relay_new (program_fd, stream_fd, flags, error);
  return target->relay != NULL;
}

gboolean
mf_target_prepare (mf_target *target, GVariant *arguments, GVariantDict *results, GError **error)
{
  if (!target->is_late && !target->program->ops->prepare (target->program, FALSE, target->interrupt, error))
    return FALSE;
  for (guint i = 0; i < target->regions->len && !target->is_late; i++) {
    if (!mf_userfault_serve (mf_target_region_at (target, i)->userfault, error))
      return FALSE;
  }
  if (!mf_target_make_lanes (target, error))
    return FALSE;
  mf_migration_set_sampler (target->migration, mf_target_sample, target);
  return target->is_late || mf_target_make_relay (target, target->info.switchover_ack, error);
}

void
mf_target_unprepare (mf_target *target)
{
  g_autoptr (GError) error = NULL;

  mf_target_end_late (target);
  mf_target_drop_lanes (target);
  for (guint i = 0; i < target->regions->len; i++) {
    if (mf_target_region_at (target, i)->userfault != NULL)
      mf_userfault_abandon (mf_target_region_at (target, i)->userfault);
  }
  if (target->program != NULL && !target->program->ops->roll_back (target->program, &error))
    g_debug ("the program that waited: %s", error->message);
}

/* --- pre-copy --- */

typedef void (*extent_func) (mf_target_region *region, mf_run run, guint8 heat);

/* Asks what is dirty, and how hot, and calls `func` for each extent that is. */
static gboolean
each_dirty (mf_target_region *region, extent_func func, GError **error)
{
  g_autoptr (GArray) extents = g_array_new (FALSE, FALSE, sizeof (mf_extent));
  guint64 size = mf_region_get_size (region->region), offset = 0;

  if (!mf_lane_extents (region->status, MF_NBD_CONTEXT_DIRTY, 0, size, extents, error))
    return FALSE;
  for (guint i = 0; i < extents->len; i++) {
    mf_extent *extent = &g_array_index (extents, mf_extent, i);
    mf_run run;

    if (!mf_run_from_bytes (offset, extent->length, mf_region_page_bytes (region->region),
                            mf_region_n_pages (region->region), &run)) {
      g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "the source's block status passes the end of the region");
      return FALSE;
    }
    if ((extent->flags & MF_NBD_DIRTY) != 0 && run.count > 0)
      func (region, run, (guint8) (extent->flags >> MF_NBD_HEAT_SHIFT & MF_NBD_HEAT_MAX));
    offset += extent->length;
  }
  return TRUE;
}

static void
queue_by_heat (mf_target_region *region, mf_run run, guint8 heat)
{
  /* Least written first. */
  mf_puller_queue (region->puller, run, MF_PULL_LINEAR - mf_heat_class (heat));
}

static void
queue_grounded (mf_target_region *region, mf_run run, guint8 heat)
{
  mf_puller_queue_grounded (region->puller, run, MF_PULL_LINEAR - mf_heat_class (heat));
}

static void
defer_hot (mf_target_region *region, mf_run run, guint8 heat)
{
  if (heat > 0)
    mf_puller_remove (region->puller, run);
}

static gboolean
wait_region (mf_target *target, mf_target_region *region, gboolean defer, GError **error)
{
  gint64 refresh_usec = FIRST_REFRESH_USEC;

  for (;;) {
    gint64 deadline = defer ? g_get_monotonic_time () + refresh_usec : -1;
    g_autoptr (GError) local_error = NULL;

    if (mf_puller_wait_idle (region->puller, deadline, target->interrupt, &local_error))
      return TRUE;
    if (!defer || !g_error_matches (local_error, MF_ERROR, MF_ERROR_TIMED_OUT)) {
      g_propagate_error (error, g_steal_pointer (&local_error));
      return FALSE;
    }
    if (!each_dirty (region, defer_hot, error))
      return FALSE;
    refresh_usec = REFRESH_USEC;
  }
}

static guint64
carried_bytes (mf_target *target)
{
  guint64 bytes = 0;

  for (guint i = 0; i < target->regions->len; i++) {
    mf_puller_stats stats;

    mf_puller_get_stats (mf_target_region_at (target, i)->puller, &stats);
    bytes += stats.bytes;
  }
  return bytes;
}

static gboolean
pull_round (mf_target *target, guint round, GVariantDict *results, GError **error)
{
  guint64 bytes_before = carried_bytes (target);

  mf_migration_set_round (target->migration, round);
  for (guint i = 0; i < target->regions->len; i++) {
    if (!each_dirty (mf_target_region_at (target, i), queue_by_heat, error))
      return FALSE;
  }
  for (guint i = 0; i < target->regions->len; i++) {
    if (!wait_region (target, mf_target_region_at (target, i), round == 1, error))
      return FALSE;
  }
  g_variant_dict_insert (results, "bytes", "t", carried_bytes (target) - bytes_before);
  return TRUE;
}

/* TRUE when the source asks for something else, or `deadline` has passed and it has not: FALSE. */
static gboolean
wait_for_request (mf_target *target, gint64 deadline)
{
  gboolean asked, in_time = TRUE;

  mf_target_take_late (target);
  g_mutex_lock (&target->lock);
  while (in_time && g_queue_is_empty (&target->requests) && target->peer != NULL && !target->stopping)
    in_time = g_cond_wait_until (&target->cond, &target->lock, deadline);
  asked = in_time;
  g_mutex_unlock (&target->lock);
  return asked;
}

/* Scans and pulls side by side until the source asks for something else. */
static gboolean
pull_stream (mf_target *target, gboolean unhurried, GError **error)
{
  gint64 next;

  do {
    next = g_get_monotonic_time () +
           (unhurried && !mf_target_has_mapped (target) ? UNHURRIED_PERIOD_USEC : STREAM_PERIOD_USEC);
    for (guint i = 0; i < target->regions->len; i++) {
      if (!each_dirty (mf_target_region_at (target, i), queue_grounded, error))
        return FALSE;
    }
    if (g_cancellable_is_cancelled (target->interrupt))
      break;
  } while (!wait_for_request (target, next));
  return TRUE;
}

/* Nothing is queued or under way any more: what streaming had queued is not asked for. */
static gboolean
land (mf_target *target, GError **error)
{
  for (guint i = 0; i < target->regions->len; i++) {
    mf_puller *puller = mf_target_region_at (target, i)->puller;

    mf_puller_clear (puller);
    if (!mf_puller_wait_idle (puller, -1, target->interrupt, error))
      return FALSE;
  }
  return TRUE;
}

static void
note_dirty (mf_target_region *region, mf_run run, guint8 heat)
{
  region->is_dirty = TRUE;
  queue_grounded (region, run, heat);
}

/* The program stands: what is dirty now is all there will ever be. A page may have been written after it was read for an answer that is still under way, so
 * it is asked again until nothing is dirty. */
gboolean
mf_target_pull_final (mf_target *target, GError **error)
{
  for (guint i = 0; i < target->regions->len; i++) {
    mf_target_region *region = mf_target_region_at (target, i);

    do {
      region->is_dirty = FALSE;
      if (!each_dirty (region, note_dirty, error) ||
          !mf_puller_wait_idle (region->puller, -1, target->interrupt, error))
        return FALSE;
    } while (region->is_dirty);
  }
  return TRUE;
}

gboolean
mf_target_precopy (mf_target *target, GVariant *arguments, GVariantDict *results, GError **error)
{
  g_autoptr (GVariant) sets = g_variant_lookup_value (arguments, "settle", G_VARIANT_TYPE ("aa(yay)"));
  gboolean stream = FALSE, unhurried = FALSE, program = FALSE;
  guint32 round = 0;

  if (g_variant_lookup (arguments, "program", "b", &program) && program)
    return mf_target_await_late (target, arguments, error);
  if (sets != NULL)
    return land (target, error) && mf_target_learn_sets (target, sets, error);
  g_variant_lookup (arguments, "unhurried", "b", &unhurried);
  if (g_variant_lookup (arguments, "stream", "b", &stream) && stream)
    return pull_stream (target, unhurried, error);
  g_variant_lookup (arguments, "round", "u", &round);
  return pull_round (target, round, results, error);
}

/* --- what is to come after the switchover --- */

void
mf_target_free_plan (mf_bitmap *plan[MF_HEAT_CLASSES])
{
  for (guint i = 0; i < MF_HEAT_CLASSES; i++)
    g_clear_pointer (&plan[i], mf_bitmap_free);
}

gboolean
mf_target_new_plan (MfRegion *region, mf_bitmap *plan[MF_HEAT_CLASSES], mf_bitmap **all, GError **error)
{
  *all = mf_bitmap_new (mf_region_n_pages (region));
  for (guint i = 0; i < MF_HEAT_CLASSES; i++)
    plan[i] = mf_bitmap_new (mf_region_n_pages (region));
  for (guint i = 0; i < MF_HEAT_CLASSES; i++) {
    if (plan[i] == NULL || *all == NULL) {
      mf_target_free_plan (plan);
      g_clear_pointer (all, mf_bitmap_free);
      return mf_error_from_errno (error, ENOMEM, "planning what is to come");
    }
  }
  return TRUE;
}

static gboolean
learn_region (mf_target_region *region, GVariant *packed, GError **error)
{
  mf_bitmap *fresh[MF_HEAT_CLASSES] = { NULL }, *all = NULL;
  gboolean ok;

  if (!mf_target_new_plan (region->region, fresh, &all, error))
    return FALSE;
  ok = mf_dirty_set_unpack (packed, fresh, all, error);
  if (ok && region->plan[0] == NULL)
    mf_region_set_all_present (
        region->region); /* what was never sent is zeroes here as there; what is missing follows */
  if (ok)
    ok = mf_region_invalidate (region->region, all, error);
  mf_bitmap_free (all);
  if (ok && region->plan[0] == NULL) {
    memcpy (region->plan, fresh, sizeof region->plan);
    return TRUE;
  }
  for (guint i = 0; ok && i < MF_HEAT_CLASSES; i++)
    mf_bitmap_or (region->plan[i], fresh[i]);
  mf_target_free_plan (fresh);
  return ok;
}

gboolean
mf_target_learn_sets (mf_target *target, GVariant *sets, GError **error)
{
  if (g_variant_n_children (sets) != target->regions->len) {
    g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "the source sent %zu dirty sets for %u regions",
                 g_variant_n_children (sets), target->regions->len);
    return FALSE;
  }
  for (guint i = 0; i < target->regions->len; i++) {
    g_autoptr (GVariant) packed = g_variant_get_child_value (sets, i);

    if (!learn_region (mf_target_region_at (target, i), packed, error))
      return FALSE;
  }
  return TRUE;
}
