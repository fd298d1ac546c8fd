/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "service/mf-job-object.h"

#include "service/mf-service-bus.h"
#include <string.h>

struct _MfJobObject {
  guint id;
  MfMigration *migration;
  MfDbusObjectSkeleton *object;
  MfDbusJob1 *interface; /* the object's */
  gboolean ended;
  mf_job_changed changed;
  gpointer user_data;
};

static const char *const mode_names[] = {
  [MF_MODE_AUTO] = "auto",
  [MF_MODE_PRECOPY] = "precopy",
  [MF_MODE_POSTCOPY] = "postcopy",
};

static const char *const state_names[] = {
  [MF_MIGRATION_RUNNING] = "running", [MF_MIGRATION_PAUSED] = "paused",       [MF_MIGRATION_DONE] = "done",
  [MF_MIGRATION_FAILED] = "failed",   [MF_MIGRATION_CANCELLED] = "cancelled",
};

const char *
mf_job_mode_name (mf_mode mode)
{
  return mode_names[mode];
}

gboolean
mf_job_mode_parse (const char *name, mf_mode *mode, GError **error)
{
  for (guint i = 0; i < G_N_ELEMENTS (mode_names); i++) {
    if (strcmp (mode_names[i], name) == 0) {
      *mode = (mf_mode) i;
      return TRUE;
    }
  }
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s is not a mode: auto, precopy or postcopy", name);
  return FALSE;
}

static void
show_status (MfJobObject *job, const mf_migration_status *status)
{
  MfDbusJob1 *interface = job->interface;

  mf_dbus_job1_set_state (interface, state_names[status->state]);
  mf_dbus_job1_set_stage (interface, status->stage ? status->stage : "");
  mf_dbus_job1_set_round (interface, status->round);
  mf_dbus_job1_set_ready (interface, status->ready);
  mf_dbus_job1_set_bytes (interface, status->bytes);
  mf_dbus_job1_set_total (interface, status->total);
  mf_dbus_job1_set_remaining (interface, status->remaining);
  mf_dbus_job1_set_rate (interface, status->rate);
  mf_dbus_job1_set_dirty_rate (interface, status->dirty_rate);
  mf_dbus_job1_set_predicted_downtime (interface, status->predicted_downtime_usec);
  mf_dbus_job1_set_downtime (interface, status->downtime_usec);
  mf_dbus_job1_set_pauses (interface, status->pauses);
  mf_dbus_job1_set_longest_pause (interface, status->longest_pause_usec);
  mf_dbus_job1_set_faults (interface, status->faults);
  mf_dbus_job1_set_fault_p50 (interface, status->fault_p50_usec);
  mf_dbus_job1_set_fault_p99 (interface, status->fault_p99_usec);
  mf_dbus_job1_set_elapsed (interface, status->elapsed_usec);
}

/* "NotConverging" of org.memferry.Error.NotConverging. */
static char *
error_name (const GError *error)
{
  g_autofree char *full = g_dbus_error_encode_gerror (error);
  const char *last = error->domain == MF_ERROR ? strrchr (full, '.') : NULL;

  return g_strdup (last ? last + 1 : "Failed");
}

static void
show_error (MfJobObject *job)
{
  g_autoptr (GError) error = mf_migration_get_error (job->migration);
  g_autofree char *name = error ? error_name (error) : NULL;

  mf_dbus_job1_set_error (job->interface, name ? name : "");
  mf_dbus_job1_set_message (job->interface, error ? error->message : "");
}

static void
show (MfJobObject *job)
{
  mf_migration_status status;

  mf_migration_get_status (job->migration, &status);
  show_status (job, &status);
  show_error (job);
}

static void
migration_progress (MfMigration *migration, gpointer user_data)
{
  MfJobObject *job = user_data;

  show (job);
  job->changed (job, job->user_data);
}

static void
log_end (MfJobObject *job, const mf_migration_status *status)
{
  g_autofree char *regions = g_strjoinv (",", (char **) mf_migration_get_regions (job->migration));

  g_message ("job %u: %s %s %s: %s%s%s", job->id, regions, status->is_source ? "to" : "from",
             mf_migration_get_peer (job->migration), state_names[status->state],
             status->state == MF_MIGRATION_DONE ? "" : ": ", mf_dbus_job1_get_message (job->interface));
}

static void
migration_finished (MfMigration *migration, gpointer user_data)
{
  MfJobObject *job = user_data;
  mf_migration_status status;

  mf_migration_get_status (migration, &status);
  job->ended = TRUE;
  show (job);
  /* The last values go out before the signal that says that they are the last. */
  g_dbus_interface_skeleton_flush (G_DBUS_INTERFACE_SKELETON (job->interface));
  mf_dbus_job1_emit_completed (job->interface, status.state == MF_MIGRATION_DONE,
                               mf_dbus_job1_get_message (job->interface));
  log_end (job, &status);
  job->changed (job, job->user_data);
}

static gboolean
handle_cancel (MfDbusJob1 *interface, GDBusMethodInvocation *invocation, gpointer user_data)
{
  MfJobObject *job = user_data;
  g_autoptr (GError) error = NULL;

  if (job->ended)
    g_dbus_method_invocation_return_error (invocation, MF_ERROR, MF_ERROR_INVALID, "job %u has ended already", job->id);
  else if (!mf_migration_cancel (job->migration, &error))
    g_dbus_method_invocation_return_gerror (invocation, error);
  else
    mf_dbus_job1_complete_cancel (interface, invocation);
  return G_DBUS_METHOD_INVOCATION_HANDLED;
}

MfJobObject *
mf_job_object_new (guint id, MfMigration *migration, mf_job_changed changed, gpointer user_data)
{
  g_autofree char *path = g_strdup_printf (MF_SERVICE_PATH "/job/%u", id);
  MfJobObject *job = g_new0 (MfJobObject, 1);
  mf_migration_status status;

  job->id = id;
  job->migration = g_object_ref (migration);
  job->object = mf_dbus_object_skeleton_new (path);
  job->interface = mf_dbus_job1_skeleton_new ();
  job->changed = changed;
  job->user_data = user_data;

  mf_migration_get_status (migration, &status);
  job->ended = status.state != MF_MIGRATION_RUNNING && status.state != MF_MIGRATION_PAUSED;
  mf_dbus_job1_set_id (job->interface, id);
  mf_dbus_job1_set_kind (job->interface, "migration");
  mf_dbus_job1_set_direction (job->interface, status.is_source ? "outgoing" : "incoming");
  mf_dbus_job1_set_regions (job->interface, mf_migration_get_regions (migration));
  mf_dbus_job1_set_peer (job->interface, mf_migration_get_peer (migration));
  mf_dbus_job1_set_mode (job->interface, mf_job_mode_name (mf_migration_get_mode (migration)));
  show (job);

  g_signal_connect (job->interface, "handle-cancel", G_CALLBACK (handle_cancel), job);
  g_signal_connect (migration, "progress", G_CALLBACK (migration_progress), job);
  g_signal_connect (migration, "finished", G_CALLBACK (migration_finished), job);
  mf_dbus_object_skeleton_set_job1 (job->object, job->interface);
  return job;
}

void
mf_job_object_free (MfJobObject *job)
{
  g_signal_handlers_disconnect_by_data (job->migration, job);
  g_signal_handlers_disconnect_by_data (job->interface, job);
  g_object_unref (job->migration);
  g_object_unref (job->interface);
  g_object_unref (job->object);
  g_free (job);
}

guint
mf_job_object_id (MfJobObject *job)
{
  return job->id;
}

const char *
mf_job_object_path (MfJobObject *job)
{
  return g_dbus_object_get_object_path (G_DBUS_OBJECT (job->object));
}

MfDbusObjectSkeleton *
mf_job_object_skeleton (MfJobObject *job)
{
  return job->object;
}

MfMigration *
mf_job_object_migration (MfJobObject *job)
{
  return job->migration;
}

gboolean
mf_job_object_has_ended (MfJobObject *job)
{
  return job->ended;
}

gboolean
mf_job_object_has_region (MfJobObject *job, const char *name)
{
  return g_strv_contains (mf_migration_get_regions (job->migration), name);
}
