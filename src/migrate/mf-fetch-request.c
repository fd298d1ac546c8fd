/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "migrate/mf-fetch-request.h"

#include <string.h>

#define MAX_REGIONS 64

void
mf_fetch_request_clear (mf_fetch_request *request)
{
  g_clear_pointer (&request->regions, g_strfreev);
  g_clear_pointer (&request->control, g_free);
  g_clear_pointer (&request->peer_control, g_free);
}

GVariant *
mf_fetch_request_pack (const mf_fetch_request *request)
{
  const mf_migrate_options *options = &request->options;
  GVariantDict dict;

  g_variant_dict_init (&dict, NULL);
  g_variant_dict_insert_value (&dict, "session",
                               g_variant_new_fixed_array (G_VARIANT_TYPE_BYTE, request->session, MF_SESSION_BYTES, 1));
  if (request->regions == NULL)
    return g_variant_dict_end (&dict);
  g_variant_dict_insert (&dict, "regions", "^as", request->regions);
  g_variant_dict_insert (&dict, "mode", "u", (guint32) options->mode);
  g_variant_dict_insert (&dict, "max-downtime", "t", options->max_downtime_usec);
  g_variant_dict_insert (&dict, "bandwidth", "t", options->bandwidth);
  g_variant_dict_insert (&dict, "max-pause", "t", options->max_pause_usec);
  g_variant_dict_insert (&dict, "max-pauses", "u", (guint32) options->max_pauses);
  g_variant_dict_insert (&dict, "live-scans", "b", options->live_scans);
  if (request->control != NULL)
    g_variant_dict_insert (&dict, "control", "s", request->control);
  if (request->peer_control != NULL)
    g_variant_dict_insert (&dict, "peer-control", "s", request->peer_control);
  return g_variant_dict_end (&dict);
}

gboolean
mf_fetch_request_is_session (GVariant *options)
{
  g_autoptr (GVariant) session = g_variant_lookup_value (options, "session", NULL);

  return session != NULL;
}

static gboolean
parse_session (GVariant *options, mf_fetch_request *request, GError **error)
{
  g_autoptr (GVariant) value = g_variant_lookup_value (options, "session", G_VARIANT_TYPE ("ay"));
  const uint8_t *bytes = NULL;
  gsize length = 0;

  if (value != NULL)
    bytes = g_variant_get_fixed_array (value, &length, 1);
  if (length != MF_SESSION_BYTES) {
    g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "a session has %d bytes", MF_SESSION_BYTES);
    return FALSE;
  }
  memcpy (request->session, bytes, MF_SESSION_BYTES);
  return TRUE;
}

static gboolean
parse_numbers (GVariant *options, mf_migrate_options *parsed, GError **error)
{
  guint32 mode = MF_MODE_AUTO, max_pauses = 0;

  g_variant_lookup (options, "mode", "u", &mode);
  g_variant_lookup (options, "max-downtime", "t", &parsed->max_downtime_usec);
  g_variant_lookup (options, "bandwidth", "t", &parsed->bandwidth);
  g_variant_lookup (options, "max-pause", "t", &parsed->max_pause_usec);
  g_variant_lookup (options, "max-pauses", "u", &max_pauses);
  g_variant_lookup (options, "live-scans", "b", &parsed->live_scans);
  if (mode > MF_MODE_POSTCOPY) {
    g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "mode %u is asked for", mode);
    return FALSE;
  }
  parsed->mode = (mf_mode) mode;
  parsed->max_pauses = max_pauses;
  return TRUE;
}

gboolean
mf_fetch_request_parse (GVariant *options, mf_fetch_request *request, GError **error)
{
  g_auto (mf_fetch_request) parsed = { .regions = NULL };
  guint n_regions;

  memset (request, 0, sizeof *request);
  if (!parse_session (options, &parsed, error) || !parse_numbers (options, &parsed.options, error))
    return FALSE;
  if (g_variant_lookup (options, "regions", "^as", &parsed.regions)) {
    n_regions = g_strv_length (parsed.regions);
    if (n_regions == 0 || n_regions > MAX_REGIONS) {
      g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "no region is asked for, or more than %d", MAX_REGIONS);
      return FALSE;
    }
  }
  g_variant_lookup (options, "control", "s", &parsed.control);
  g_variant_lookup (options, "peer-control", "s", &parsed.peer_control);
  *request = parsed;
  memset (&parsed, 0, sizeof parsed);
  return TRUE;
}
