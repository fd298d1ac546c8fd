/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-migration.h"

#include "cli/mf-cli-service.h"
#include "cli/mf-quantity.h"

typedef gboolean (*parse_func) (const char *text, guint64 *number, GError **error);

static gboolean
add_number (GVariantDict *options, const char *key, const char *text, parse_func parse, GError **error)
{
  guint64 number;

  if (!text)
    return TRUE;
  if (!parse (text, &number, error)) {
    g_prefix_error (error, "--%s: ", key);
    return FALSE;
  }
  g_variant_dict_insert (options, key, "t", number);
  return TRUE;
}

gboolean
mf_cli_add_msec (GVariantDict *options, const char *key, const char *text, GError **error)
{
  return add_number (options, key, text, mf_quantity_parse_msec, error);
}

gboolean
mf_cli_add_rate (GVariantDict *options, const char *key, const char *text, GError **error)
{
  return add_number (options, key, text, mf_quantity_parse_rate, error);
}

MfDbusJob1 *
mf_cli_job (GDBusConnection *connection, const char *path, GError **error)
{
  g_autoptr (GError) remote = NULL;
  MfDbusJob1 *job = mf_dbus_job1_proxy_new_sync (connection, G_DBUS_PROXY_FLAGS_NONE, NULL, path, NULL, &remote);

  if (!job)
    mf_cli_take_error (error, g_steal_pointer (&remote));
  return job;
}
