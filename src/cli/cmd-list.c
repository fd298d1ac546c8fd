/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-json.h"
#include "cli/mf-cli-options.h"
#include "cli/mf-cli-service.h"
#include "cli/mf-cli-table.h"
#include "cli/mf-command.h"
#include "cli/mf-quantity.h"
#include <string.h>

static char *
job_cell (MfDbusRegion1 *region)
{
  const char *path = mf_dbus_region1_get_job (region);
  const char *last = path ? strrchr (path, '/') : NULL;

  return g_strdup (last && last[1] ? last + 1 : "-");
}

static char *
program_cell (MfDbusRegion1 *region)
{
  guint pid = mf_dbus_region1_get_pid (region);

  return pid ? g_strdup_printf ("%u", pid) : g_strdup ("-");
}

static void
print_table (GPtrArray *regions)
{
  static const char *const titles[] = { "NAME", ">SIZE", "STATE", ">PRESENT", ">ALLOCATED", ">PROGRAM", ">JOB", NULL };
  g_autoptr (mf_cli_table) table = mf_cli_table_new (titles);

  for (guint i = 0; i < regions->len; i++) {
    MfDbusRegion1 *region = regions->pdata[i];
    char **cells = g_new0 (char *, 8);

    cells[0] = g_strdup (mf_dbus_region1_get_name (region));
    cells[1] = mf_quantity_format_size (mf_dbus_region1_get_size (region));
    cells[2] = g_strdup (mf_dbus_region1_get_state (region));
    cells[3] = mf_quantity_format_size (mf_dbus_region1_get_present (region));
    cells[4] = mf_quantity_format_size (mf_dbus_region1_get_allocated (region));
    cells[5] = program_cell (region);
    cells[6] = job_cell (region);
    mf_cli_table_add (table, cells);
  }
  mf_cli_table_print (table);
}

static gboolean
list (const char *socket, gboolean as_json, gboolean quiet, GError **error)
{
  g_autoptr (GDBusConnection) connection = mf_cli_connect (socket, error);
  g_autoptr (GDBusObjectManager) objects = connection ? mf_cli_objects (connection, error) : NULL;
  g_autoptr (GPtrArray) regions = NULL;

  if (!objects)
    return FALSE;
  regions = mf_cli_regions (objects);
  if (!as_json && !quiet) {
    print_table (regions);
    return mf_cli_flush (error);
  }
  for (guint i = 0; i < regions->len; i++) {
    g_autofree char *json = as_json ? mf_cli_json_region (regions->pdata[i]) : NULL;

    g_print ("%s\n", json ? json : mf_dbus_region1_get_name (regions->pdata[i]));
  }
  return mf_cli_flush (error);
}

int
mf_cmd_list (int argc, char **argv)
{
  gboolean as_json = FALSE, quiet = FALSE;
  g_autofree char *socket = NULL;
  g_autoptr (GError) error = NULL;
  const GOptionEntry entries[] = { { "json", 0, 0, G_OPTION_ARG_NONE, &as_json, "One JSON object a line", NULL },
                                   { "quiet", 'q', 0, G_OPTION_ARG_NONE, &quiet, "Only the names, one a line", NULL },
                                   G_OPTION_ENTRY_NULL };
  const mf_cli_usage usage = {
    .summary = "Shows the regions of this host.",
    .entries = entries,
    .uses_service = TRUE,
  };

  if (!mf_cli_parse (&usage, &argc, &argv, &socket, &error) || !mf_cli_check_words (argc, 0, 0, "", &error) ||
      !list (socket, as_json, quiet, &error))
    return mf_cli_fail (error);
  return 0;
}
