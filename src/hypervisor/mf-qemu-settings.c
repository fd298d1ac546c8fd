/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU's migration capabilities and parameters: what a migration needs, and what was there before.
 *
 * x-ignore-shared is always off afterwards, even where it was on before: while it is on, whoever saves the guest to a file gets one without RAM.
 *
 * A service may die in the middle. What its successor has to know is put where it can't be lost, in QEMU: the downtime limit (which means nothing
 * here, as long as it is large) says by its value that memferry has set it, and for what.
 */
#include "hypervisor/mf-qemu-private.h"
#include "mf-wait.h"

#define MARK_BASE_MSEC 1998870 /* and the mf_qemu_leftover */

/* QEMU's own defaults, for what a service that died did not take back. */
#define DEFAULT_MAX_BANDWIDTH  (128 << 20)
#define DEFAULT_DOWNTIME_LIMIT 300
/* As much as QEMU allows, in whole MiB. */
#define UNLIMITED_BANDWIDTH (G_MAXINT64 >> 20 << 20)

/* How long to wait for the end of a migration before settings can be taken back. */
#define END_USEC (5 * G_USEC_PER_SEC)

static const struct {
  const char *name;
  gboolean on;
  gboolean on_source_only;
} wanted[] = {
  { "x-ignore-shared", TRUE, FALSE },
  { "events", TRUE, FALSE },
  { "pause-before-switchover", TRUE, TRUE },
  /* What can't go together with it, or needs more than the one stream. */
  { "multifd", FALSE, FALSE },
  { "postcopy-ram", FALSE, FALSE },
  { "postcopy-preempt", FALSE, FALSE },
  { "compress", FALSE, FALSE },
  { "background-snapshot", FALSE, FALSE },
  { "zero-copy-send", FALSE, FALSE },
  { "mapped-ram", FALSE, FALSE },
};

gboolean
mf_qemu_has_capability (mf_qemu *qemu, const char *name, gboolean *is_on)
{
  gpointer value;
  gboolean has = g_hash_table_lookup_extended (qemu->capabilities, name, NULL, &value);

  if (has && is_on != NULL)
    *is_on = GPOINTER_TO_INT (value);
  return has;
}

static void
note_parameter (JsonObject *object, const char *name, JsonNode *node, gpointer user_data)
{
  mf_qemu *qemu = user_data;

  if (JSON_NODE_HOLDS_VALUE (node) && json_node_get_value_type (node) == G_TYPE_BOOLEAN)
    g_hash_table_insert (qemu->capabilities, g_strdup (name), GINT_TO_POINTER (json_node_get_boolean (node)));
}

/* A QEMU to come has no capabilities any more: they are parameters. */
static gboolean
read_capabilities (mf_qemu *qemu, JsonObject *parameters, GCancellable *cancellable, GError **error)
{
  g_autoptr (GError) failure = NULL;
  g_autoptr (JsonNode) answer =
      mf_qmp_call (qemu->qmp, "query-migrate-capabilities", NULL, MF_QEMU_COMMAND_USEC, cancellable, &failure);
  JsonArray *array = mf_json_node_array (answer);

  if (answer == NULL && !g_error_matches (failure, MF_ERROR, MF_ERROR_NOT_SUPPORTED)) {
    g_propagate_error (error, g_steal_pointer (&failure));
    return FALSE;
  }
  if (answer == NULL && parameters != NULL)
    json_object_foreach_member (parameters, note_parameter, qemu);
  for (guint i = 0; array != NULL && i < json_array_get_length (array); i++) {
    JsonObject *capability = mf_json_element (array, i);
    const char *name = mf_json_string (capability, "capability");

    if (name != NULL)
      g_hash_table_insert (qemu->capabilities, g_strdup (name), GINT_TO_POINTER (mf_json_bool (capability, "state")));
  }
  return TRUE;
}

static JsonNode *
read_parameters (mf_qemu *qemu, GCancellable *cancellable, GError **error)
{
  return mf_qmp_call (qemu->qmp, "query-migrate-parameters", NULL, MF_QEMU_COMMAND_USEC, cancellable, error);
}

gboolean
mf_qemu_read_settings (mf_qemu *qemu, GCancellable *cancellable, GError **error)
{
  g_autoptr (JsonNode) parameters = read_parameters (qemu, cancellable, error);

  g_hash_table_remove_all (qemu->capabilities);
  return parameters != NULL && read_capabilities (qemu, mf_json_node_object (parameters), cancellable, error);
}

/* `settings`: of char * to GINT_TO_POINTER (on). */
static gboolean
set_capabilities (mf_qemu *qemu, GHashTable *settings, gint64 timeout_usec, GCancellable *cancellable, GError **error)
{
  JsonNode *arguments = json_node_new (JSON_NODE_OBJECT), *parameters = json_node_new (JSON_NODE_OBJECT);
  JsonObject *object = json_object_new (), *as_parameters = json_object_new ();
  JsonArray *array = json_array_new ();
  g_autoptr (GError) failure = NULL;
  GHashTableIter iter;
  gpointer name, on;

  g_hash_table_iter_init (&iter, settings);
  while (g_hash_table_iter_next (&iter, &name, &on)) {
    JsonObject *capability = json_object_new ();

    json_object_set_string_member (capability, "capability", name);
    json_object_set_boolean_member (capability, "state", GPOINTER_TO_INT (on));
    json_array_add_object_element (array, capability);
    json_object_set_boolean_member (as_parameters, name, GPOINTER_TO_INT (on));
  }
  json_object_set_array_member (object, "capabilities", array);
  json_node_take_object (arguments, object);
  json_node_take_object (parameters, as_parameters);

  if (mf_qmp_do (qemu->qmp, "migrate-set-capabilities", arguments, timeout_usec, cancellable, &failure)) {
    json_node_free (parameters);
    return TRUE;
  }
  if (g_error_matches (failure, MF_ERROR, MF_ERROR_NOT_SUPPORTED))
    return mf_qmp_do (qemu->qmp, "migrate-set-parameters", parameters, timeout_usec, cancellable, error);
  json_node_free (parameters);
  g_propagate_error (error, g_steal_pointer (&failure));
  return FALSE;
}

static gboolean
set_parameters (mf_qemu *qemu, gint64 max_bandwidth, gint64 downtime_limit_msec, gint64 timeout_usec,
                GCancellable *cancellable, GError **error)
{
  JsonNode *arguments = json_node_new (JSON_NODE_OBJECT);
  JsonObject *object = json_object_new ();

  json_object_set_int_member (object, "max-bandwidth", max_bandwidth);
  json_object_set_int_member (object, "downtime-limit", downtime_limit_msec);
  json_node_take_object (arguments, object);
  return mf_qmp_do (qemu->qmp, "migrate-set-parameters", arguments, timeout_usec, cancellable, error);
}

/* QEMU's own stream is short, and while it is written the guest stands: nothing may slow it down or send it round again. */
static gboolean
hurry (mf_qemu *qemu, GCancellable *cancellable, GError **error)
{
  g_autoptr (JsonNode) parameters = read_parameters (qemu, cancellable, error);
  JsonObject *object = mf_json_node_object (parameters);
  mf_qemu_leftover purpose = MF_QEMU_LEFT_PAUSED;

  if (parameters == NULL)
    return FALSE;
  if (!qemu->is_source)
    purpose = MF_QEMU_LEFT_TARGET;
  else if (qemu->was_running)
    purpose = MF_QEMU_LEFT_RUNNING;
  qemu->old_max_bandwidth = mf_json_int (object, "max-bandwidth");
  qemu->old_downtime_limit = mf_json_int (object, "downtime-limit");
  return set_parameters (qemu, UNLIMITED_BANDWIDTH, MARK_BASE_MSEC + purpose, MF_QEMU_COMMAND_USEC, cancellable, error);
}

gboolean
mf_qemu_prepare (mf_program *program, gboolean is_source, GCancellable *cancellable, GError **error)
{
  mf_qemu *qemu = mf_qemu_of (program);
  g_autoptr (GHashTable) settings = g_hash_table_new (g_str_hash, g_str_equal);

  for (guint i = 0; i < G_N_ELEMENTS (wanted); i++) {
    gboolean was_on;

    if ((wanted[i].on_source_only && !is_source) || !mf_qemu_has_capability (qemu, wanted[i].name, &was_on) ||
        was_on == wanted[i].on)
      continue;
    g_hash_table_insert (settings, (gpointer) wanted[i].name, GINT_TO_POINTER (wanted[i].on));
    g_hash_table_insert (qemu->changed, g_strdup (wanted[i].name), GINT_TO_POINTER (was_on));
  }
  if (!hurry (qemu, cancellable, error))
    return FALSE;
  return set_capabilities (qemu, settings, MF_QEMU_COMMAND_USEC, cancellable, error);
}

gboolean
mf_qemu_set_capability (mf_qemu *qemu, const char *name, gboolean on, GCancellable *cancellable, GError **error)
{
  g_autoptr (GHashTable) settings = g_hash_table_new (g_str_hash, g_str_equal);
  gboolean was_on = FALSE;

  if (mf_qemu_has_capability (qemu, name, &was_on) && was_on != on)
    g_hash_table_insert (qemu->changed, g_strdup (name), GINT_TO_POINTER (was_on));
  g_hash_table_insert (settings, (gpointer) name, GINT_TO_POINTER (on));
  return set_capabilities (qemu, settings, MF_QEMU_COMMAND_USEC, cancellable, error);
}

gboolean
mf_qemu_find_leftover (mf_qemu *qemu, mf_qemu_leftover *leftover, GError **error)
{
  g_autoptr (JsonNode) parameters = read_parameters (qemu, NULL, error);
  gint64 mark = mf_json_int (mf_json_node_object (parameters), "downtime-limit") - MARK_BASE_MSEC;

  *leftover =
      mark >= MF_QEMU_LEFT_RUNNING && mark <= MF_QEMU_LEFT_TARGET ? (mf_qemu_leftover) mark : MF_QEMU_LEFT_NOTHING;
  return parameters != NULL;
}

/* What a former service, which did not say what there was before, has changed. */
static void
assume_defaults (mf_qemu *qemu)
{
  mf_qemu_leftover leftover;

  if (qemu->was_checked || !mf_qemu_read_settings (qemu, NULL, NULL))
    return;
  if (mf_qemu_find_leftover (qemu, &leftover, NULL) && leftover != MF_QEMU_LEFT_NOTHING) {
    g_hash_table_insert (qemu->changed, g_strdup ("pause-before-switchover"), GINT_TO_POINTER (FALSE));
    g_hash_table_insert (qemu->changed, g_strdup ("events"), GINT_TO_POINTER (FALSE));
    qemu->old_max_bandwidth = DEFAULT_MAX_BANDWIDTH;
    qemu->old_downtime_limit = DEFAULT_DOWNTIME_LIMIT;
  }
}

/* Settings can't be changed while a migration is under way. It is in its last moments when this is called, if at all. */
static gboolean
restore_capabilities (mf_qemu *qemu, GError **error)
{
  static const char *const ends[] = { "completed", "failed", "cancelled", NULL };
  g_autoptr (GError) failure = NULL;
  g_autofree char *status = NULL;

  if (set_capabilities (qemu, qemu->changed, END_USEC, NULL, &failure))
    return TRUE;
  if (g_error_matches (failure, MF_ERROR, MF_ERROR_TIMED_OUT)) {
    /* Sent all the same: QEMU does it when it gets there. */
    g_propagate_error (error, g_steal_pointer (&failure));
    return FALSE;
  }
  status = mf_qemu_migration_status (qemu, NULL, NULL);
  if (status == NULL || !mf_qemu_status_is_active (status)) {
    g_propagate_error (error, g_steal_pointer (&failure));
    return FALSE;
  }
  mf_qmp_event_free (mf_qemu_await (qemu, ends, FALSE, mf_deadline_after (END_USEC), NULL, NULL));
  return set_capabilities (qemu, qemu->changed, END_USEC, NULL, error);
}

void
mf_qemu_restore_settings (mf_qemu *qemu)
{
  g_autoptr (GError) error = NULL;
  gboolean ignores_shared = FALSE;

  assume_defaults (qemu);
  mf_qemu_has_capability (qemu, "x-ignore-shared", &ignores_shared);
  if (ignores_shared || g_hash_table_contains (qemu->changed, "x-ignore-shared"))
    g_hash_table_insert (qemu->changed, g_strdup ("x-ignore-shared"), GINT_TO_POINTER (FALSE));
  /* A QEMU that has ended has no settings. */
  if (g_hash_table_size (qemu->changed) > 0 && !restore_capabilities (qemu, &error) && mf_qmp_is_usable (qemu->qmp))
    g_warning ("QEMU's migration capabilities could not be set back: before it is saved or migrated otherwise, "
               "x-ignore-shared has to be off: %s",
               error->message);
  g_clear_error (&error);
  if (qemu->old_downtime_limit >= 0 &&
      !set_parameters (qemu, qemu->old_max_bandwidth, qemu->old_downtime_limit, END_USEC, NULL, &error))
    g_debug ("QEMU's migration parameters could not be set back: %s", error->message);
  g_hash_table_remove_all (qemu->changed);
  qemu->old_max_bandwidth = qemu->old_downtime_limit = -1;
}
