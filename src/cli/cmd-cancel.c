/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-options.h"
#include "cli/mf-cli-service.h"
#include "cli/mf-command.h"

static gboolean
cancel (const char *socket, const char *number, GError **error)
{
  g_autoptr (GDBusConnection) connection = mf_cli_connect (socket, error);
  g_autoptr (GDBusObjectManager) objects = connection ? mf_cli_objects (connection, error) : NULL;
  g_autoptr (MfDbusJob1) job = objects ? mf_cli_find_job (objects, number, error) : NULL;
  g_autoptr (GError) remote = NULL;

  if (!job)
    return FALSE;
  if (!mf_dbus_job1_call_cancel_sync (job, NULL, &remote))
    return mf_cli_take_error (error, g_steal_pointer (&remote));
  return TRUE;
}

int
mf_cmd_cancel (int argc, char **argv)
{
  g_autofree char *socket = NULL;
  g_autoptr (GError) error = NULL;
  const mf_cli_usage usage = {
    .parameters = "JOB",
    .summary = "Cancels a migration: the program goes on where it was, as if nothing had been asked.\n"
               "Past the switchover there is no way back.",
    .uses_service = TRUE,
  };

  if (!mf_cli_parse (&usage, &argc, &argv, &socket, &error) || !mf_cli_check_words (argc, 1, 1, "JOB", &error) ||
      !cancel (socket, argv[1], &error))
    return mf_cli_fail (error);
  return 0;
}
