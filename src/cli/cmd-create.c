/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-options.h"
#include "cli/mf-cli-service.h"
#include "cli/mf-command.h"
#include "cli/mf-quantity.h"

typedef struct {
  const char *socket;
  const char *name;
  guint64 size;
  const char *qmp; /* may be NULL */
} create_wish;

static gboolean
create (const create_wish *wish, GError **error)
{
  g_autoptr (GDBusConnection) connection = mf_cli_connect (wish->socket, error);
  g_autoptr (MfDbusManager1) manager = connection ? mf_cli_manager (connection, error) : NULL;
  g_autoptr (GError) remote = NULL;
  GVariantDict options;

  if (!manager)
    return FALSE;
  g_variant_dict_init (&options, NULL);
  if (wish->qmp) {
    g_autofree char *path = g_canonicalize_filename (wish->qmp, NULL);

    g_variant_dict_insert (&options, "qmp", "s", path);
  }
  if (!mf_dbus_manager1_call_create_region_sync (manager, wish->name, wish->size, g_variant_dict_end (&options), NULL,
                                                 NULL, &remote))
    return mf_cli_take_error (error, g_steal_pointer (&remote));
  return TRUE;
}

int
mf_cmd_create (int argc, char **argv)
{
  g_autofree char *socket = NULL, *size = NULL, *qmp = NULL;
  g_autoptr (GError) error = NULL;
  create_wish wish = { NULL };
  const GOptionEntry entries[] = {
    { "size", 0, 0, G_OPTION_ARG_STRING, &size, "Its size: bytes, or with K, M, G, T", "SIZE" },
    { "qmp", 0, 0, G_OPTION_ARG_FILENAME, &qmp, "QMP socket of the QEMU whose memory it will be", "SOCKET" },
    G_OPTION_ENTRY_NULL
  };
  const mf_cli_usage usage = {
    .parameters = "REGION --size SIZE",
    .summary = "Makes a region of zeroes and reserves the room for it.",
    .entries = entries,
    .uses_service = TRUE,
  };

  if (!mf_cli_parse (&usage, &argc, &argv, &socket, &error) || !mf_cli_check_words (argc, 1, 1, "REGION", &error))
    return mf_cli_fail (error);
  if (!size)
    g_set_error (&error, MF_ERROR, MF_ERROR_INVALID, "--size is missing; see memferry create --help");
  wish.socket = socket;
  wish.name = argv[1];
  wish.qmp = qmp;
  if (error || !mf_quantity_parse_size (size, &wish.size, &error) || !create (&wish, &error))
    return mf_cli_fail (error);
  return 0;
}
