/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The source: its thread, the first two stages and how they are undone. The rounds are in mf-source-rounds.c, the switchover and
 * what follows it in mf-source-handover.c.
 *
 * Everything blocks in this one thread, so the stages read from top to bottom. Before the record says HANDED the user's cancellable ends any
 * wait; after it only the service's own end does, and then the record lets the next service go on.
 */
#include "migrate/mf-source-private.h"
#include "migrate/mf-stage.h"

#include <string.h>
#include <unistd.h>

#define DIAL_TIMEOUT_USEC (10 * G_USEC_PER_SEC)
/* A stage that only checks and prepares. */
#define STAGE_TIMEOUT_USEC (60 * G_USEC_PER_SEC)

void
mf_program_info_clear (mf_program_info *info)
{
  g_clear_pointer (&info->description, g_free);
  g_clear_pointer (&info->signature, g_free);
}

mf_source_region *
mf_source_region_at (mf_source *source, guint index)
{
  return &g_array_index (source->regions, mf_source_region, index);
}

static void
region_clear (gpointer data)
{
  mf_source_region *region = data;

  g_free (region->name);
  g_clear_pointer (&region->session, mf_dirty_session_unref);
  g_clear_pointer (&region->settled, mf_bitmap_free);
  g_clear_pointer (&region->userfault, mf_userfault_unref);
  g_clear_object (&region->region);
}

/* Bytes carried and bytes left, for the progress. What is missing on the target is dirty in the session here until it has been read. */
static void
sample (mf_migration_status *status, gpointer user_data)
{
  mf_source *source = user_data;

  status->total = source->total_bytes;
  status->remaining = 0;
  for (guint i = 0; i < source->regions->len; i++) {
    mf_source_region *region = mf_source_region_at (source, i);

    if (region->session != NULL)
      status->remaining += mf_dirty_session_count (region->session) * mf_region_page_bytes (region->region);
  }
  if (source->server != NULL) {
    mf_nbd_server_stats stats;

    mf_nbd_server_get_stats (source->server, &stats);
    status->bytes = stats.bytes_read;
  }
}

static gboolean
find_regions (mf_source *source, GError **error)
{
  g_autoptr (GPtrArray) objects = g_ptr_array_new ();
  const char *const *names = (const char *const *) source->record->regions;

  for (guint i = 0; names[i] != NULL; i++) {
    mf_source_region region = { .name = g_strdup (names[i]) };

    region.region = mf_host_find_region (source->host, names[i], error);
    g_array_append_val (source->regions, region);
    if (region.region == NULL)
      return FALSE;
    g_ptr_array_add (objects, region.region);
    source->total_bytes += mf_region_get_size (region.region);
  }
  source->program =
      mf_host_new_program (source->host, (MfRegion *const *) objects->pdata, objects->len, source->record, error);
  source->is_guided = source->program != NULL && source->program->ops->open_sender != NULL;
  return source->program != NULL;
}

static gboolean
attach_trackers (mf_source *source, GError **error)
{
  for (guint i = 0; i < source->regions->len; i++) {
    mf_source_region *region = mf_source_region_at (source, i);

    region->userfault = mf_host_find_attachment (source->host, region->region, error);
    if (region->userfault == NULL)
      return FALSE;
    if (!mf_dirty_log_set_tracker (mf_region_dirty_log (region->region), mf_userfault_new_tracker (region->userfault),
                                   error))
      return FALSE;
  }
  return TRUE;
}

static GVariant *
describe (mf_source *source)
{
  GVariantBuilder regions;
  GVariantDict dict;

  g_variant_builder_init (&regions, G_VARIANT_TYPE ("a(stu)"));
  for (guint i = 0; i < source->regions->len; i++) {
    mf_source_region *region = mf_source_region_at (source, i);

    g_variant_builder_add (&regions, "(stu)", region->name, mf_region_get_size (region->region),
                           mf_region_page_bytes (region->region));
  }
  g_variant_dict_init (&dict, NULL);
  g_variant_dict_insert_value (&dict, "regions", g_variant_builder_end (&regions));
  g_variant_dict_insert (&dict, "mode", "u", (guint32) source->options.mode);
  g_variant_dict_insert (&dict, "bandwidth", "t", source->options.bandwidth);
  g_variant_dict_insert (&dict, "lanes", "u", (guint32) MF_LANES);
  g_variant_dict_insert (&dict, "signature", "s", source->info.signature ? source->info.signature : "");
  g_variant_dict_insert (&dict, "acknowledges", "b", source->info.switchover_ack);
  if (source->peer_control)
    g_variant_dict_insert (&dict, "control", "s", source->peer_control);
  if (source->record->program)
    g_variant_dict_insert (&dict, "program", "s", source->record->program);
  if (source->peer_state)
    g_variant_dict_insert (&dict, "state", "s", source->peer_state);
  g_variant_dict_insert (&dict, "late", "b", source->is_guided);
  return g_variant_dict_end (&dict);
}

gboolean
mf_source_connect (mf_source *source, GError **error)
{
  GCancellable *cancellable = mf_migration_cancellable (source->migration);
  g_autoptr (GVariant) answer = NULL;

  if (!find_regions (source, error) || !attach_trackers (source, error))
    return FALSE;
  if (!source->program->ops->check (source->program, TRUE, &source->info, cancellable, error))
    return FALSE;
  source->peer = mf_source_reach_peer (source, DIAL_TIMEOUT_USEC, cancellable, error);
  if (source->peer == NULL)
    return FALSE;
  answer = mf_peer_stage (source->peer, source->record->session, "connect", describe (source), STAGE_TIMEOUT_USEC,
                          cancellable, error);
  if (answer != NULL)
    g_variant_lookup (answer, "tells", "b", &source->is_told);
  return answer != NULL;
}

void
mf_source_disconnect (mf_source *source)
{
  g_clear_pointer (&source->peer, mf_peer_unref);
}

/* What the target has to get: what the store holds; the rest is zeroes there as here. */
static void
fill_allocated (mf_bitmap *dirty, gpointer user_data)
{
  MfRegion *region = user_data;
  MfStore *store = mf_region_store (region);
  uint64_t offset = 0, data, end;

  while (mf_store_next_data (store, offset, &data, &end)) {
    mf_run run;

    if (mf_run_from_bytes (data, MIN (end, mf_region_get_size (region)) - data, mf_region_page_bytes (region),
                           mf_region_n_pages (region), &run))
      mf_bitmap_set_run (dirty, run);
    offset = end;
  }
}

static gboolean
open_sessions (mf_source *source, GError **error)
{
  for (guint i = 0; i < source->regions->len; i++) {
    mf_source_region *region = mf_source_region_at (source, i);

    region->session =
        mf_dirty_session_open (mf_region_dirty_log (region->region), fill_allocated, region->region, error);
    if (region->session == NULL)
      return FALSE;
  }
  return TRUE;
}

/* The first scan, too, must be taken while the program stands if a disk uses O_DIRECT, unless everything moves after the
 * switchover: then what the store holds at the end counts, and scans only say what is hot. */
static gboolean
begin_tracking (mf_source *source, GError **error)
{
  gboolean standing = !source->live_scans && source->options.mode != MF_MODE_POSTCOPY;
  gint64 stood_usec = 0;
  gboolean ok;

  if (!standing)
    return open_sessions (source, error);
  if (!source->program->ops->pause (source->program, (gint64) source->options.max_pause_usec,
                                    mf_migration_cancellable (source->migration), error))
    return FALSE;
  ok = open_sessions (source, error);
  if (!source->program->ops->resume (source->program, &stood_usec, ok ? error : NULL))
    return FALSE;
  source->pauses++;
  mf_migration_add_pause (source->migration, (guint64) stood_usec);
  return ok;
}

gboolean
mf_source_export (mf_source *source, GError **error)
{
  source->server = mf_nbd_server_new ();
  for (guint i = 0; i < source->regions->len; i++) {
    mf_source_region *region = mf_source_region_at (source, i);
    mf_nbd_export_options options = { .read_only = TRUE, .session = region->session };

    if (!mf_nbd_server_export (source->server, region->name, region->region, &options, error))
      return FALSE;
  }
  return TRUE;
}

gboolean
mf_source_open_streams (mf_source *source, gboolean tracked, GError **error)
{
  for (guint i = 0; i < source->regions->len; i++) {
    for (guint n = 0; n < MF_LANES; n++) {
      mf_lane_kind lane = n == 0 ? MF_LANE_FAULT : MF_LANE_BULK;
      int fd = mf_source_open_stream (source, MF_STREAM_DATA, i, lane, error);

      if (fd < 0 || !mf_nbd_server_serve_fd (source->server, fd, lane == MF_LANE_FAULT, error))
        return FALSE;
    }
  }
  return TRUE;
}

gboolean
mf_source_prepare (mf_source *source, GError **error)
{
  GCancellable *cancellable = mf_migration_cancellable (source->migration);
  g_autoptr (GVariant) answer = NULL;

  source->live_scans = !source->info.drains_for_scans || source->options.live_scans || !source->info.is_running;
  if (!source->program->ops->prepare (source->program, TRUE, cancellable, error))
    return FALSE;
  if (!begin_tracking (source, error) || !mf_source_export (source, error))
    return FALSE;
  mf_migration_set_sampler (source->migration, sample, source);
  source->state_fd = mf_source_open_stream (source, MF_STREAM_STATE, 0, MF_LANE_BULK, error);
  if (source->state_fd < 0)
    return FALSE;
  if (!mf_source_open_streams (source, TRUE, error))
    return FALSE;
  answer =
      mf_peer_stage (source->peer, source->record->session, "prepare", NULL, STAGE_TIMEOUT_USEC, cancellable, error);
  return answer != NULL;
}

void
mf_source_unprepare (mf_source *source)
{
  mf_migration_set_sampler (source->migration, NULL, NULL);
  g_clear_pointer (&source->server, mf_nbd_server_free);
  if (source->state_fd >= 0)
    close (source->state_fd);
  source->state_fd = -1;
  for (guint i = 0; i < source->regions->len; i++)
    g_clear_pointer (&mf_source_region_at (source, i)->session, mf_dirty_session_unref);
}

/* The program's stream, before the relay had it: QEMU answers nothing while it waits for a stream that nobody reads and nobody closes. */
static void
close_sender (mf_source *source)
{
  if (source->sender_fd >= 0)
    close (source->sender_fd);
  source->sender_fd = -1;
}

/* Before the record says HANDED: everything as if nothing had been asked. */
static void
roll_back (mf_source *source, int stage, const GError *why)
{
  g_autoptr (GError) error = NULL;

  /* The program first: every moment counts for it, and nothing below can be in its way. */
  g_clear_pointer (&source->relay, mf_state_relay_free);
  close_sender (source);
  mf_source_stop_guard (source);
  if (source->program != NULL && !source->program->ops->roll_back (source->program, &error))
    g_warning ("%s: the program could not be made to go on: %s", mf_migration_get_regions (source->migration)[0],
               error->message);
  if (source->peer != NULL && !mf_peer_is_lost (source->peer)) {
    g_autoptr (GError) abort_error = NULL;

    if (!mf_peer_abort (source->peer, source->record->session, why->message, &abort_error))
      g_debug ("the peer could not be told: %s", abort_error->message);
  }
  for (; stage >= 0; stage--) {
    if (mf_stages[stage].source_rollback != NULL)
      mf_stages[stage].source_rollback (source);
  }
  if (source->record->phase != 0)
    mf_host_drop (source->host, source->record);
}

/* With the sampler unset. */
static void
clean_up (mf_source *source)
{
  mf_source_stop_guard (source);
  /* The server holds the sessions, the sessions hold the trackers. */
  g_clear_pointer (&source->server, mf_nbd_server_free);
  g_clear_pointer (&source->relay, mf_state_relay_free);
  mf_source_end_watch (source);
  mf_migration_set_ready (source->migration, FALSE);
  /* Nobody reads it any more. */
  if (source->is_guided && source->record->phase != MF_PHASE_HANDED)
    mf_source_thaw (source);
  if (source->program != NULL) {
    source->program->ops->clean_up (source->program);
    source->program->ops->free (source->program);
    source->program = NULL;
  }
  mf_program_info_clear (&source->info);
  for (guint i = 0; i < source->regions->len; i++) {
    mf_source_region *region = mf_source_region_at (source, i);

    g_clear_pointer (&region->session, mf_dirty_session_unref);
    if (region->region != NULL)
      mf_dirty_log_set_tracker (mf_region_dirty_log (region->region), NULL, NULL);
  }
}

static gboolean
walk (mf_source *source, int stage, GError **error)
{
  for (; stage < MF_N_STAGES; stage++) {
    mf_migration_set_stage (source->migration, mf_stages[stage].name);
    g_debug ("source: %s", mf_stages[stage].name);
    if (mf_stages[stage].source (source, error))
      continue;
    if (source->record->phase == MF_PHASE_LEAVING || source->record->phase == 0)
      roll_back (source, stage, *error);
    return FALSE;
  }
  return TRUE;
}

static gpointer
run (gpointer data)
{
  mf_source *source = data;
  g_autoptr (GError) error = NULL;
  gboolean ok;

  ok = mf_host_claim (source->host, source->record, MF_PHASE_LEAVING, &error);
  if (ok)
    ok = walk (source, 0, &error);
  mf_migration_set_sampler (source->migration, NULL, NULL);
  clean_up (source);
  if (source->record->phase == MF_PHASE_HANDED || source->record->phase == MF_PHASE_AWAY)
    mf_host_keep (source->host, source->record);
  mf_migration_finish (source->migration, ok ? NULL : error);
  mf_host_source_ended (source->host, source);
  return NULL;
}

static void
on_stopping (GCancellable *stopping, gpointer handed)
{
  g_cancellable_cancel (handed);
}

static mf_source *
source_new (MfHost *host, MfMigration *migration, mf_record *record)
{
  mf_source *source = g_new0 (mf_source, 1);

  source->host = host;
  source->migration = g_object_ref (migration);
  source->record = record;
  source->state_fd = source->sender_fd = source->reader_fd = -1;
  source->handed = g_cancellable_new ();
  source->handed_handler =
      g_cancellable_connect (mf_host_stopping (host), G_CALLBACK (on_stopping), source->handed, NULL);
  source->guard_stop = g_cancellable_new ();
  mf_source_init_link (source);
  source->regions = g_array_new (FALSE, TRUE, sizeof (mf_source_region));
  g_array_set_clear_func (source->regions, region_clear);
  return source;
}

mf_source *
mf_source_start (MfHost *host, MfMigration *migration, const char *const *regions, const char *peer,
                 const mf_program_choice *program, const mf_program_choice *peer_program,
                 const mf_migrate_options *options)
{
  uint8_t session[MF_SESSION_BYTES];
  mf_source *source;

  mf_record_make_session (session);
  source = source_new (host, migration, mf_record_new (session, regions, peer, program->control));
  source->record->program = g_strdup (program->kind);
  source->record->state = g_strdup (program->state);
  source->peer_control = g_strdup (peer_program->control);
  source->peer_state = g_strdup (peer_program->state);
  source->options = *options;
  source->thread = g_thread_new ("mf-source", run, source);
  return source;
}

mf_source *
mf_source_answer (MfHost *host, MfMigration *migration, mf_peer *peer, const mf_fetch_request *request)
{
  mf_source *source = source_new (host, migration,
                                  mf_record_new (request->session, (const char *const *) request->regions,
                                                 mf_migration_get_peer (migration), request->control));

  source->record->target_dials = TRUE;
  source->peer_control = g_strdup (request->peer_control);
  source->options = request->options;
  mf_source_take_peer (source, peer);
  source->thread = g_thread_new ("mf-source", run, source);
  return source;
}

/* A former service died while the program was still ours: whatever it had begun with the program is undone. */
static gboolean
undo_leftover (mf_source *source, GError **error)
{
  gboolean ok = find_regions (source, error) && source->program->ops->roll_back (source->program, error);

  mf_host_drop (source->host, source->record);
  if (ok)
    g_set_error (error, MF_ERROR, MF_ERROR_FAILED, "the service ended before the switchover: the program goes on here");
  return FALSE;
}

static gpointer
run_resumed (gpointer data)
{
  mf_source *source = data;
  g_autoptr (GError) error = NULL;
  gboolean ok;

  if (source->record->phase == MF_PHASE_LEAVING) {
    ok = undo_leftover (source, &error);
  } else {
    ok = find_regions (source, &error) && mf_source_export (source, &error);
    if (ok) {
      mf_migration_set_sampler (source->migration, sample, source);
      mf_source_freeze (source);
      ok = walk (source, mf_stage_find ("post-copy"), &error);
    }
  }
  mf_migration_set_sampler (source->migration, NULL, NULL);
  clean_up (source);
  if (source->record->phase == MF_PHASE_HANDED || source->record->phase == MF_PHASE_AWAY)
    mf_host_keep (source->host, source->record);
  mf_migration_finish (source->migration, ok ? NULL : error);
  mf_host_source_ended (source->host, source);
  return NULL;
}

mf_source *
mf_source_resume (MfHost *host, MfMigration *migration, mf_record *record)
{
  mf_source *source = source_new (host, migration, record);

  source->resumed = TRUE;
  source->thread = g_thread_new ("mf-source", run_resumed, source);
  return source;
}

void
mf_source_join (mf_source *source)
{
  g_thread_join (source->thread);
  g_clear_pointer (&source->server, mf_nbd_server_free);
  g_clear_pointer (&source->relay, mf_state_relay_free);
  g_clear_pointer (&source->peer, mf_peer_unref);
  if (source->state_fd >= 0)
    close (source->state_fd);
  close_sender (source);
  g_cancellable_disconnect (mf_host_stopping (source->host), source->handed_handler);
  g_object_unref (source->handed);
  g_object_unref (source->guard_stop);
  g_array_unref (source->regions);
  mf_source_clear_link (source);
  g_object_unref (source->migration);
  mf_record_free (source->record);
  g_free (source->peer_control);
  g_free (source->peer_state);
  g_free (source);
}

void
mf_source_stop (mf_source *source)
{
  mf_migration_cancel (source->migration, NULL);
}
