/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-json.h"
#include "cli/mf-cli-options.h"
#include "cli/mf-cli-progress.h"
#include "cli/mf-cli-service.h"
#include "cli/mf-command.h"
#include "cli/mf-quantity.h"
#include <glib-unix.h>
#include <stdio.h>

typedef struct {
  GMainLoop *loop;
  gboolean as_json;
  GHashTable *told; /* path of a job -> stage and state as they were told last */
  GError *error;
} watching;

static void
tell (const char *line)
{
  g_autoptr (GDateTime) now = g_date_time_new_now_local ();
  g_autofree char *time = g_date_time_format (now, "%H:%M:%S");

  g_print ("%s %s\n", time, line);
}

static void
tell_region (watching *self, const char *event, MfDbusRegion1 *region)
{
  if (self->as_json) {
    g_autofree char *json = mf_cli_json_region_event (event, region);

    g_print ("%s\n", json);
  } else {
    g_autofree char *size = mf_quantity_format_size (mf_dbus_region1_get_size (region));
    g_autofree char *program = mf_dbus_region1_get_pid (region)
                                   ? g_strdup_printf ("pid %u", mf_dbus_region1_get_pid (region))
                                   : g_strdup ("no program");
    g_autofree char *line = g_strdup_printf ("region %s %s: %s, %s, %s", mf_dbus_region1_get_name (region), event, size,
                                             mf_dbus_region1_get_state (region), program);

    tell (line);
  }
  fflush (stdout);
}

static char *
describe_job (MfDbusJob1 *job)
{
  const char *message = mf_dbus_job1_get_message (job);

  if (g_strcmp0 (mf_dbus_job1_get_state (job), "done") == 0)
    return mf_cli_summary_line (job);
  if (mf_cli_job_has_ended (job))
    return g_strdup_printf ("%s: %s", mf_dbus_job1_get_state (job), message);
  return mf_cli_progress_line (job);
}

/* For people a line when something has happened, not ten a second. */
static gboolean
is_news (watching *self, const char *path, MfDbusJob1 *job)
{
  char *now = g_strdup_printf ("%s %s %u", mf_dbus_job1_get_state (job), mf_dbus_job1_get_stage (job),
                               mf_dbus_job1_get_round (job));
  gboolean news = g_strcmp0 (g_hash_table_lookup (self->told, path), now) != 0;

  g_hash_table_insert (self->told, g_strdup (path), now);
  return news;
}

static void
tell_job (watching *self, const char *event, MfDbusJob1 *job)
{
  gboolean news = is_news (self, g_dbus_proxy_get_object_path (G_DBUS_PROXY (job)), job);

  if (self->as_json) {
    g_autofree char *json = mf_cli_json_job_event (event, job);

    g_print ("%s\n", json);
  } else if (news) {
    g_autofree char *described = describe_job (job);
    g_autofree char *line = g_strdup_printf ("job %u %s: %s", mf_dbus_job1_get_id (job), event, described);

    tell (line);
  }
  fflush (stdout);
}

static void
tell_object (watching *self, const char *event, GDBusObject *object)
{
  g_autoptr (MfDbusRegion1) region = mf_dbus_object_get_region1 (MF_DBUS_OBJECT (object));
  g_autoptr (MfDbusJob1) job = mf_dbus_object_get_job1 (MF_DBUS_OBJECT (object));

  if (region)
    tell_region (self, event, region);
  /* Old jobs go when there are many: that is no news. */
  if (job && g_strcmp0 (event, "removed") == 0)
    g_hash_table_remove (self->told, g_dbus_object_get_object_path (object));
  else if (job)
    tell_job (self, event, job);
}

static void
object_added (GDBusObjectManager *objects, GDBusObject *object, gpointer user_data)
{
  tell_object (user_data, "added", object);
}

static void
object_removed (GDBusObjectManager *objects, GDBusObject *object, gpointer user_data)
{
  tell_object (user_data, "removed", object);
}

static void
properties_changed (GDBusObjectManagerClient *objects, GDBusObjectProxy *object, GDBusProxy *proxy, GVariant *changed,
                    const char *const *invalidated, gpointer user_data)
{
  tell_object (user_data, "changed", G_DBUS_OBJECT (object));
}

static void
connection_closed (GDBusConnection *connection, gboolean vanished, GError *why, gpointer user_data)
{
  watching *self = user_data;

  if (!self->error)
    self->error = g_error_new (MF_ERROR, MF_ERROR_CONNECTION, "the service has ended");
  g_main_loop_quit (self->loop);
}

static gboolean
interrupted (gpointer loop)
{
  g_main_loop_quit (loop);
  return G_SOURCE_CONTINUE;
}

static void
tell_present (watching *self, GDBusObjectManager *objects)
{
  g_autoptr (GPtrArray) regions = mf_cli_regions (objects);
  g_autoptr (GPtrArray) jobs = mf_cli_jobs (objects);

  for (guint i = 0; i < regions->len; i++)
    tell_region (self, "present", regions->pdata[i]);
  for (guint i = 0; i < jobs->len; i++)
    if (!mf_cli_job_has_ended (jobs->pdata[i]))
      tell_job (self, "present", jobs->pdata[i]);
}

static gboolean
watch (const char *socket, gboolean as_json, GError **error)
{
  g_autoptr (GMainLoop) loop = g_main_loop_new (NULL, FALSE);
  g_autoptr (GHashTable) told = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
  g_autoptr (GDBusConnection) connection = mf_cli_connect (socket, error);
  g_autoptr (GDBusObjectManager) objects = connection ? mf_cli_objects (connection, error) : NULL;
  watching self = { loop, as_json, told, NULL };

  if (!objects)
    return FALSE;
  g_signal_connect (objects, "object-added", G_CALLBACK (object_added), &self);
  g_signal_connect (objects, "object-removed", G_CALLBACK (object_removed), &self);
  g_signal_connect (objects, "interface-proxy-properties-changed", G_CALLBACK (properties_changed), &self);
  g_signal_connect (connection, "closed", G_CALLBACK (connection_closed), &self);
  g_unix_signal_add (SIGINT, interrupted, loop);
  g_unix_signal_add (SIGTERM, interrupted, loop);
  tell_present (&self, objects);
  g_main_loop_run (loop);
  g_signal_handlers_disconnect_by_data (connection, &self);
  g_signal_handlers_disconnect_by_data (objects, &self);
  if (!self.error)
    return mf_cli_flush (error);
  g_propagate_error (error, self.error);
  return FALSE;
}

int
mf_cmd_watch (int argc, char **argv)
{
  gboolean as_json = FALSE;
  g_autofree char *socket = NULL;
  g_autoptr (GError) error = NULL;
  const GOptionEntry entries[] = { { "json", 0, 0, G_OPTION_ARG_NONE, &as_json, "One JSON object a line", NULL },
                                   G_OPTION_ENTRY_NULL };
  const mf_cli_usage usage = {
    .summary = "Shows what happens to regions and migrations as it happens, until ^C.",
    .entries = entries,
    .uses_service = TRUE,
  };

  if (!mf_cli_parse (&usage, &argc, &argv, &socket, &error) || !mf_cli_check_words (argc, 0, 0, "", &error) ||
      !watch (socket, as_json, &error))
    return mf_cli_fail (error);
  return 0;
}
