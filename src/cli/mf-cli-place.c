/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-place.h"

#include "cli/mf-cli-preload.h"
#include "mf-config.h"
#include <string.h>

void
mf_cli_place_clear (mf_cli_place *place)
{
  g_clear_pointer (&place->preload, g_free);
  g_clear_pointer (&place->handover, g_free);
  g_clear_pointer (&place->store_dir, g_free);
  g_clear_pointer (&place->peer, g_free);
}

/* What others can dial: an address that stands for all of a host's is replaced by the host's name. */
static char *
reachable (const char *peer)
{
  static const char *const wildcards[] = { "tcp://0.0.0.0", "tcp://[::]" };

  for (guint i = 0; i < G_N_ELEMENTS (wildcards); i++) {
    const char *rest = peer + strlen (wildcards[i]);

    if (g_str_has_prefix (peer, wildcards[i]) && (!*rest || *rest == ':'))
      return g_strdup_printf ("tcp://%s%s", g_get_host_name (), rest);
  }
  return g_strdup (peer);
}

gboolean
mf_cli_place_ask (mf_cli_place *place, MfDbusManager1 *manager, GError **error)
{
  const char *runtime = mf_dbus_manager1_get_runtime_dir (manager), *store = mf_dbus_manager1_get_store_dir (manager);
  const char *const *peer = mf_dbus_manager1_get_listening (manager);

  if (!runtime || !store) {
    g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "the service does not say where its folders are");
    return FALSE;
  }
  place->handover = g_build_filename (runtime, "handover.sock", NULL);
  place->store_dir = g_strdup (store);
  for (; peer && *peer && !place->peer; peer++)
    if (!g_str_has_prefix (*peer, "unix:"))
      place->peer = reachable (*peer);
  place->preload = mf_cli_preload_path (MF_PRELOAD_PATH, error);
  return place->preload != NULL;
}

gboolean
mf_cli_place_guess (mf_cli_place *place, const char *socket, GError **error)
{
  g_autofree char *runtime = g_path_get_dirname (socket);

  place->handover = g_build_filename (runtime, "handover.sock", NULL);
  place->store_dir = g_strdup (MF_STORE_DIR);
  place->preload = mf_cli_preload_path (MF_PRELOAD_PATH, error);
  return place->preload != NULL;
}

mf_domain_place
mf_cli_place_get (const mf_cli_place *place)
{
  return (mf_domain_place){ place->preload, place->handover, place->store_dir, place->peer };
}
