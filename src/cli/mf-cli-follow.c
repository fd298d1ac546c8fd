/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-follow.h"

#include "cli/mf-cli-json.h"
#include "cli/mf-cli-progress.h"
#include "cli/mf-cli-service.h"
#include <glib-unix.h>
#include <stdio.h>
#include <unistd.h>

typedef struct {
  MfDbusJob1 *job;
  GMainLoop *loop;
  GCancellable *cancellable; /* of the call that cancels the job */
  gboolean as_json;
  gboolean on_terminal;
  gboolean asked_to_cancel;
  mf_cli_follow_changed changed; /* may be NULL */
  gpointer user_data;
  GError *error; /* why it is not followed any more; NULL: look at the job */
} following;

static void
leave (following *self, GError *error)
{
  if (self->error)
    g_clear_error (&error);
  else
    self->error = error;
  g_main_loop_quit (self->loop);
}

static void
show (following *self)
{
  if (self->as_json) {
    g_autofree char *json = mf_cli_json_job (self->job);

    g_print ("%s\n", json);
    fflush (stdout);
  } else if (self->on_terminal && !mf_cli_job_has_ended (self->job)) {
    g_autofree char *line = mf_cli_progress_line (self->job);

    mf_cli_progress_show (line);
  }
  if (self->changed)
    self->changed (self->job, self->user_data);
}

static void
job_changed (GDBusProxy *proxy, GVariant *changed, GStrv invalidated, gpointer user_data)
{
  following *self = user_data;

  show (self);
  if (mf_cli_job_has_ended (self->job))
    g_main_loop_quit (self->loop);
}

static void
connection_closed (GDBusConnection *connection, gboolean vanished, GError *why, gpointer user_data)
{
  leave (user_data, g_error_new (MF_ERROR, MF_ERROR_CONNECTION,
                                 "the service has ended; when it is back, memferry jobs and memferry list show what "
                                 "has become of the migration"));
}

static void
cancel_answered (GObject *source, GAsyncResult *result, gpointer user_data)
{
  g_autoptr (GError) remote = NULL;
  g_autoptr (GError) error = NULL;
  following *self = user_data;

  if (mf_dbus_job1_call_cancel_finish (MF_DBUS_JOB1 (source), result, &remote))
    return;
  /* Followed no more: self may be gone. */
  if (g_error_matches (remote, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    return;
  mf_cli_take_error (&error, g_steal_pointer (&remote));
  /* It ended of itself meanwhile: that is told by its properties. */
  if (g_error_matches (error, MF_ERROR, MF_ERROR_INVALID))
    return;
  g_prefix_error (&error, "job %u goes on without this command: ", mf_dbus_job1_get_id (self->job));
  leave (self, g_steal_pointer (&error));
}

static gboolean
interrupted (gpointer user_data)
{
  following *self = user_data;

  if (self->asked_to_cancel) {
    leave (self, g_error_new (MF_ERROR, MF_ERROR_CANCELLED, "left; the service goes on cancelling job %u",
                              mf_dbus_job1_get_id (self->job)));
    return G_SOURCE_CONTINUE;
  }
  self->asked_to_cancel = TRUE;
  mf_dbus_job1_call_cancel (self->job, self->cancellable, cancel_answered, self);
  return G_SOURCE_CONTINUE;
}

static void
run_until_ended (following *self)
{
  GDBusConnection *connection = g_dbus_proxy_get_connection (G_DBUS_PROXY (self->job));
  gulong changed = g_signal_connect (self->job, "g-properties-changed", G_CALLBACK (job_changed), self);
  gulong closed = g_signal_connect (connection, "closed", G_CALLBACK (connection_closed), self);
  guint interrupt = g_unix_signal_add (SIGINT, interrupted, self);
  guint terminate = g_unix_signal_add (SIGTERM, interrupted, self);

  show (self);
  if (!mf_cli_job_has_ended (self->job))
    g_main_loop_run (self->loop);
  g_source_remove (terminate);
  g_source_remove (interrupt);
  g_signal_handler_disconnect (connection, closed);
  g_signal_handler_disconnect (self->job, changed);
  g_cancellable_cancel (self->cancellable);
  if (self->on_terminal && !self->as_json)
    mf_cli_progress_clear ();
}

gboolean
mf_cli_follow (MfDbusJob1 *job, gboolean as_json, GError **error)
{
  return mf_cli_follow_with (job, as_json, NULL, NULL, error);
}

gboolean
mf_cli_follow_with (MfDbusJob1 *job, gboolean as_json, mf_cli_follow_changed changed, gpointer user_data,
                    GError **error)
{
  g_autoptr (GMainLoop) loop = g_main_loop_new (NULL, FALSE);
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  following self = {
    .job = job,
    .loop = loop,
    .cancellable = cancellable,
    .as_json = as_json,
    .on_terminal = isatty (STDOUT_FILENO),
    .changed = changed,
    .user_data = user_data,
  };

  run_until_ended (&self);
  if (g_strcmp0 (mf_dbus_job1_get_state (job), "done") == 0) {
    g_clear_error (&self.error);
    return TRUE;
  }
  if (self.error)
    g_propagate_error (error, self.error);
  else
    g_set_error_literal (error, MF_ERROR,
                         g_strcmp0 (mf_dbus_job1_get_state (job), "cancelled") == 0 ? MF_ERROR_CANCELLED
                                                                                    : MF_ERROR_FAILED,
                         mf_dbus_job1_get_message (job));
  return FALSE;
}
