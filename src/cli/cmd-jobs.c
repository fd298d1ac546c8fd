/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-json.h"
#include "cli/mf-cli-options.h"
#include "cli/mf-cli-progress.h"
#include "cli/mf-cli-service.h"
#include "cli/mf-cli-table.h"
#include "cli/mf-command.h"
#include "cli/mf-quantity.h"

static char **
cells_of (MfDbusJob1 *job)
{
  char **cells = g_new0 (char *, 10);
  guint64 downtime = mf_dbus_job1_get_downtime (job);

  cells[0] = g_strdup_printf ("%u", mf_dbus_job1_get_id (job));
  cells[1] = mf_cli_region_names (job);
  cells[2] = g_strdup (mf_dbus_job1_get_direction (job));
  cells[3] = g_strdup (mf_dbus_job1_get_peer (job));
  cells[4] = g_strdup (mf_dbus_job1_get_mode (job));
  cells[5] = g_strdup (mf_dbus_job1_get_state (job));
  cells[6] = g_strdup (mf_dbus_job1_get_stage (job));
  cells[7] = mf_quantity_format_size (mf_dbus_job1_get_bytes (job));
  cells[8] = downtime ? mf_quantity_format_usec (downtime) : g_strdup ("-");
  return cells;
}

static void
print_table (GPtrArray *jobs)
{
  static const char *const titles[] = { ">ID",   "REGIONS", "DIRECTION", "PEER",      "MODE",
                                        "STATE", "STAGE",   ">BYTES",    ">DOWNTIME", NULL };
  g_autoptr (mf_cli_table) table = mf_cli_table_new (titles);

  for (guint i = 0; i < jobs->len; i++)
    mf_cli_table_add (table, cells_of (jobs->pdata[i]));
  mf_cli_table_print (table);
}

static gboolean
list (const char *socket, gboolean as_json, gboolean quiet, GError **error)
{
  g_autoptr (GDBusConnection) connection = mf_cli_connect (socket, error);
  g_autoptr (GDBusObjectManager) objects = connection ? mf_cli_objects (connection, error) : NULL;
  g_autoptr (GPtrArray) jobs = NULL;

  if (!objects)
    return FALSE;
  jobs = mf_cli_jobs (objects);
  if (!as_json && !quiet) {
    print_table (jobs);
    return mf_cli_flush (error);
  }
  for (guint i = 0; i < jobs->len; i++) {
    g_autofree char *line =
        as_json ? mf_cli_json_job (jobs->pdata[i]) : g_strdup_printf ("%u", mf_dbus_job1_get_id (jobs->pdata[i]));

    g_print ("%s\n", line);
  }
  return mf_cli_flush (error);
}

int
mf_cmd_jobs (int argc, char **argv)
{
  gboolean as_json = FALSE, quiet = FALSE;
  g_autofree char *socket = NULL;
  g_autoptr (GError) error = NULL;
  const GOptionEntry entries[] = { { "json", 0, 0, G_OPTION_ARG_NONE, &as_json, "One JSON object a line", NULL },
                                   { "quiet", 'q', 0, G_OPTION_ARG_NONE, &quiet, "Only the numbers, one a line", NULL },
                                   G_OPTION_ENTRY_NULL };
  const mf_cli_usage usage = {
    .summary = "Shows the migrations from and to this host, and the last ones that have ended.",
    .entries = entries,
    .uses_service = TRUE,
  };

  if (!mf_cli_parse (&usage, &argc, &argv, &socket, &error) || !mf_cli_check_words (argc, 0, 0, "", &error) ||
      !list (socket, as_json, quiet, &error))
    return mf_cli_fail (error);
  return 0;
}
