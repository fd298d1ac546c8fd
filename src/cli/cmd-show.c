/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-json.h"
#include "cli/mf-cli-options.h"
#include "cli/mf-cli-service.h"
#include "cli/mf-command.h"
#include "cli/mf-quantity.h"
#include <string.h>

static void
print_size (const char *title, guint64 bytes)
{
  g_autofree char *size = mf_quantity_format_size (bytes);

  g_print ("%-11s %s (%" G_GUINT64_FORMAT " bytes)\n", title, size, bytes);
}

static void
print_region (MfDbusRegion1 *region)
{
  const char *control = mf_dbus_region1_get_control (region);
  const char *job = strrchr (mf_dbus_region1_get_job (region), '/');

  g_print ("%-11s %s\n", "name:", mf_dbus_region1_get_name (region));
  print_size ("size:", mf_dbus_region1_get_size (region));
  g_print ("%-11s %s\n", "file:", mf_dbus_region1_get_path (region));
  g_print ("%-11s %s\n", "state:", mf_dbus_region1_get_state (region));
  print_size ("present:", mf_dbus_region1_get_present (region));
  print_size ("allocated:", mf_dbus_region1_get_allocated (region));
  if (mf_dbus_region1_get_pid (region))
    g_print ("%-11s pid %u\n", "program:", mf_dbus_region1_get_pid (region));
  else
    g_print ("%-11s none\n", "program:");
  g_print ("%-11s %s\n", "qmp:", *control ? control : "not known");
  g_print ("%-11s %s\n", "job:", job && job[1] ? job + 1 : "none");
}

static gboolean
show (const char *socket, const char *name, gboolean as_json, GError **error)
{
  g_autoptr (GDBusConnection) connection = mf_cli_connect (socket, error);
  g_autoptr (GDBusObjectManager) objects = connection ? mf_cli_objects (connection, error) : NULL;
  g_autoptr (MfDbusRegion1) region = objects ? mf_cli_find_region (objects, name, error) : NULL;

  if (!region)
    return FALSE;
  if (as_json) {
    g_autofree char *json = mf_cli_json_region (region);

    g_print ("%s\n", json);
  } else {
    print_region (region);
  }
  return mf_cli_flush (error);
}

int
mf_cmd_show (int argc, char **argv)
{
  gboolean as_json = FALSE;
  g_autofree char *socket = NULL;
  g_autoptr (GError) error = NULL;
  const GOptionEntry entries[] = { { "json", 0, 0, G_OPTION_ARG_NONE, &as_json, "One JSON object", NULL },
                                   G_OPTION_ENTRY_NULL };
  const mf_cli_usage usage = {
    .parameters = "REGION",
    .summary = "Shows everything that is known about a region.",
    .entries = entries,
    .uses_service = TRUE,
  };

  if (!mf_cli_parse (&usage, &argc, &argv, &socket, &error) || !mf_cli_check_words (argc, 1, 1, "REGION", &error) ||
      !show (socket, argv[1], as_json, &error))
    return mf_cli_fail (error);
  return 0;
}
