/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-json.h"

#include <json-glib/json-glib.h>
#include <string.h>

/* How a property becomes a value. */
typedef enum {
  AS_IT_IS,
  NULL_WHEN_EMPTY,   /* no string, no number, no path: null */
  NULL_WHEN_UNKNOWN, /* G_MAXUINT64: null */
} field_kind;

typedef struct {
  const char *property; /* of the D-Bus interface */
  const char *key;
  field_kind kind;
} field;

static const field region_fields[] = {
  { "Name", "name", AS_IT_IS },
  { "Size", "size_bytes", AS_IT_IS },
  { "Path", "path", AS_IT_IS },
  { "State", "state", AS_IT_IS },
  { "Present", "present_bytes", AS_IT_IS },
  { "Allocated", "allocated_bytes", AS_IT_IS },
  { "Pid", "pid", NULL_WHEN_EMPTY },
  { "Control", "qmp", NULL_WHEN_EMPTY },
  { "Job", "job", NULL_WHEN_EMPTY },
};

static const field job_fields[] = {
  { "Id", "id", AS_IT_IS },
  { "Kind", "kind", AS_IT_IS },
  { "Direction", "direction", AS_IT_IS },
  { "Regions", "regions", AS_IT_IS },
  { "Peer", "peer", AS_IT_IS },
  { "Mode", "mode", AS_IT_IS },
  { "State", "state", AS_IT_IS },
  { "Stage", "stage", AS_IT_IS },
  { "Ready", "ready", AS_IT_IS },
  { "Round", "round", AS_IT_IS },
  { "Bytes", "bytes", AS_IT_IS },
  { "Total", "total_bytes", AS_IT_IS },
  { "Remaining", "remaining_bytes", AS_IT_IS },
  { "Rate", "rate", AS_IT_IS },
  { "DirtyRate", "dirty_rate", AS_IT_IS },
  { "PredictedDowntime", "predicted_downtime_usec", NULL_WHEN_UNKNOWN },
  { "Downtime", "downtime_usec", NULL_WHEN_EMPTY },
  { "Pauses", "pauses", AS_IT_IS },
  { "LongestPause", "longest_pause_usec", AS_IT_IS },
  { "Faults", "faults", AS_IT_IS },
  { "FaultP50", "fault_p50_usec", AS_IT_IS },
  { "FaultP99", "fault_p99_usec", AS_IT_IS },
  { "Elapsed", "elapsed_usec", AS_IT_IS },
  { "Error", "error", NULL_WHEN_EMPTY },
  { "Message", "message", NULL_WHEN_EMPTY },
};

static gboolean
is_null (GVariant *value, field_kind kind)
{
  if (kind == AS_IT_IS)
    return FALSE;
  if (g_variant_is_of_type (value, G_VARIANT_TYPE_STRING))
    return *g_variant_get_string (value, NULL) == 0;
  if (g_variant_is_of_type (value, G_VARIANT_TYPE_UINT32))
    return g_variant_get_uint32 (value) == 0;
  if (g_variant_is_of_type (value, G_VARIANT_TYPE_UINT64))
    return g_variant_get_uint64 (value) == (kind == NULL_WHEN_UNKNOWN ? G_MAXUINT64 : 0);
  return FALSE;
}

/* The number of the job with that path; 0: "/", none. */
static gint64
job_of_path (const char *path)
{
  const char *last = strrchr (path, '/');

  return last ? g_ascii_strtoll (last + 1, NULL, 10) : 0;
}

static void
add_value (JsonBuilder *builder, GVariant *value, field_kind kind)
{
  if (value == NULL || is_null (value, kind)) {
    json_builder_add_null_value (builder);
  } else if (g_variant_is_of_type (value, G_VARIANT_TYPE_OBJECT_PATH)) {
    gint64 id = job_of_path (g_variant_get_string (value, NULL));

    if (id)
      json_builder_add_int_value (builder, id);
    else
      json_builder_add_null_value (builder);
  } else {
    json_builder_add_value (builder, json_gvariant_serialize (value));
  }
}

static void
add_object (JsonBuilder *builder, gpointer proxy, const field *fields, guint n_fields)
{
  json_builder_begin_object (builder);
  for (guint i = 0; i < n_fields; i++) {
    g_autoptr (GVariant) value = g_dbus_proxy_get_cached_property (proxy, fields[i].property);

    json_builder_set_member_name (builder, fields[i].key);
    add_value (builder, value, fields[i].kind);
  }
  json_builder_end_object (builder);
}

static char *
to_text (JsonBuilder *builder)
{
  g_autoptr (JsonNode) root = json_builder_get_root (builder);

  return json_to_string (root, FALSE);
}

static char *
event_text (const char *event, const char *kind, gpointer proxy, const field *fields, guint n_fields)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();

  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "event");
  json_builder_add_string_value (builder, event);
  json_builder_set_member_name (builder, kind);
  add_object (builder, proxy, fields, n_fields);
  json_builder_end_object (builder);
  return to_text (builder);
}

char *
mf_cli_json_region (MfDbusRegion1 *region)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();

  add_object (builder, region, region_fields, G_N_ELEMENTS (region_fields));
  return to_text (builder);
}

char *
mf_cli_json_job (MfDbusJob1 *job)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();

  add_object (builder, job, job_fields, G_N_ELEMENTS (job_fields));
  return to_text (builder);
}

char *
mf_cli_json_region_event (const char *event, MfDbusRegion1 *region)
{
  return event_text (event, "region", region, region_fields, G_N_ELEMENTS (region_fields));
}

char *
mf_cli_json_job_event (const char *event, MfDbusJob1 *job)
{
  return event_text (event, "job", job, job_fields, G_N_ELEMENTS (job_fields));
}
