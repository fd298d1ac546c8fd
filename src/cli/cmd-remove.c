/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-options.h"
#include "cli/mf-cli-service.h"
#include "cli/mf-command.h"

static gboolean
remove_regions (const char *socket, char **names, gboolean force, GError **error)
{
  g_autoptr (GDBusConnection) connection = mf_cli_connect (socket, error);
  g_autoptr (MfDbusManager1) manager = connection ? mf_cli_manager (connection, error) : NULL;

  if (!manager)
    return FALSE;
  for (; *names; names++) {
    g_autoptr (GError) remote = NULL;

    if (!mf_dbus_manager1_call_remove_region_sync (manager, *names, force, NULL, &remote))
      return mf_cli_take_error (error, g_steal_pointer (&remote));
  }
  return TRUE;
}

int
mf_cmd_remove (int argc, char **argv)
{
  gboolean force = FALSE;
  g_autofree char *socket = NULL;
  g_autoptr (GError) error = NULL;
  const GOptionEntry entries[] = { { "force", 0, 0, G_OPTION_ARG_NONE, &force,
                                     "Also while a program has it mapped (which keeps its memory)", NULL },
                                   G_OPTION_ENTRY_NULL };
  const mf_cli_usage usage = {
    .parameters = "REGION...",
    .summary = "Removes regions and their bytes.",
    .entries = entries,
    .uses_service = TRUE,
  };

  if (!mf_cli_parse (&usage, &argc, &argv, &socket, &error) ||
      !mf_cli_check_words (argc, 1, G_MAXINT, "REGION", &error) || !remove_regions (socket, argv + 1, force, &error))
    return mf_cli_fail (error);
  return 0;
}
