/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hypervisor/mf-qemu-private.h"

#define CONNECT_USEC (5 * G_USEC_PER_SEC)

static gboolean refuse (GError **error, MfError code, const char *format, ...) G_GNUC_PRINTF (3, 4);

static gboolean
refuse (GError **error, MfError code, const char *format, ...)
{
  g_autofree char *text = NULL;
  va_list args;

  va_start (args, format);
  text = g_strdup_vprintf (format, args);
  va_end (args);
  g_set_error_literal (error, MF_ERROR, code, text);
  return FALSE;
}

static const char *
first_text (JsonArray *array)
{
  JsonNode *first = json_array_get_element (array, 0);

  return JSON_NODE_HOLDS_VALUE (first) && json_node_get_value_type (first) == G_TYPE_STRING
             ? json_node_get_string (first)
             : "no reason given";
}

static gboolean
check_no_migration (mf_qemu *qemu, GCancellable *cancellable, GError **error)
{
  g_autoptr (JsonNode) answer =
      mf_qmp_call (qemu->qmp, "query-migrate", NULL, MF_QEMU_COMMAND_USEC, cancellable, error);
  JsonObject *object = mf_json_node_object (answer);
  const char *status = mf_json_string (object, "status");
  JsonArray *reasons = mf_json_array (object, "blocked-reasons");
  JsonObject *address = mf_json_element (mf_json_array (object, "socket-address"), 0);
  gboolean listens;

  if (answer == NULL)
    return FALSE;
  if (!qemu->is_source && address != NULL && qemu->state_path != NULL) {
    if (g_strcmp0 (mf_json_string (address, "path"), qemu->state_path) != 0)
      return refuse (error, MF_ERROR_PROGRAM,
                     "QEMU listens for its migration at %s, not at %s: give libvirt the migration URI unix:%s",
                     mf_json_string (address, "path") != NULL ? mf_json_string (address, "path") : "another address",
                     qemu->state_path, qemu->state_path);
  } else if (!qemu->is_source && address != NULL)
    return refuse (error, MF_ERROR_PROGRAM,
                   "QEMU listens for a migration of its own already (%s): start the destination with -incoming defer",
                   mf_json_string (address, "path") != NULL ? mf_json_string (address, "path") : "-incoming");
  /* So newer QEMUs call it when they have been told where to listen, as libvirt does before memferry connects there. */
  listens = !qemu->is_source && address != NULL && g_strcmp0 (status, "setup") == 0;
  if (status != NULL && mf_qemu_status_is_active (status) && !listens)
    return refuse (error, MF_ERROR_BUSY, "QEMU is migrating already (%s)", status);
  if (reasons != NULL && json_array_get_length (reasons) > 0)
    return refuse (error, MF_ERROR_PROGRAM, "QEMU says that this guest can't be migrated: %s", first_text (reasons));
  return TRUE;
}

static gboolean
check_run_state (mf_qemu *qemu, mf_program_info *info, GCancellable *cancellable, GError **error)
{
  static const char *const can_leave[] = { "running", "paused", "prelaunch", NULL };
  g_autofree char *state = mf_qemu_run_state (qemu, &info->is_running, MF_QEMU_COMMAND_USEC, cancellable, error);

  if (state == NULL)
    return FALSE;
  qemu->was_running = info->is_running;
  if (!qemu->is_source)
    return g_str_equal (state, "inmigrate") ||
           refuse (error, MF_ERROR_PROGRAM,
                   "the destination's QEMU does not wait for a migration (it is %s): start it with -incoming defer",
                   state);
  if (g_strv_contains (can_leave, state))
    return TRUE;
  if (g_str_equal (state, "postmigrate"))
    return refuse (error, MF_ERROR_PROGRAM, "the guest has been migrated away already");
  if (g_str_equal (state, "inmigrate"))
    return refuse (error, MF_ERROR_PROGRAM, "the guest is waiting for a migration itself");
  return refuse (error, MF_ERROR_PROGRAM, "the guest can't be migrated while its state is \"%s\"", state);
}

/* Each capability that nothing works without. */
static gboolean
check_capabilities (mf_qemu *qemu, GError **error)
{
  static const char *const needed[] = { "x-ignore-shared", "pause-before-switchover", "events" };

  for (guint i = 0; i < G_N_ELEMENTS (needed); i++)
    if (!mf_qemu_has_capability (qemu, needed[i], NULL))
      return refuse (error, MF_ERROR_NOT_SUPPORTED, "QEMU %s does not know the migration capability %s",
                     mf_qmp_version (qemu->qmp), needed[i]);
  return TRUE;
}

static gboolean
describe_machine (mf_qemu *qemu, GString *signature, GCancellable *cancellable, GError **error)
{
  g_autoptr (JsonNode) type = mf_qemu_property (qemu, "/machine", "type", cancellable, error);
  g_autoptr (JsonNode) cpus = NULL;
  g_autoptr (JsonNode) cpu_type = NULL;
  const char *first;
  JsonArray *array;

  if (type == NULL)
    return FALSE;
  g_string_append_printf (signature, "machine type=%s\n", json_node_get_string (type));
  cpus = mf_qmp_call (qemu->qmp, "query-cpus-fast", NULL, MF_QEMU_COMMAND_USEC, cancellable, error);
  array = mf_json_node_array (cpus);
  first = mf_json_string (mf_json_element (array, 0), "qom-path");
  if (cpus == NULL || array == NULL || first == NULL)
    return cpus != NULL;
  g_string_append_printf (signature, "number of CPUs=%u\n", json_array_get_length (array));
  cpu_type = mf_qemu_property (qemu, first, "type", cancellable, error);
  if (cpu_type == NULL)
    return FALSE;
  g_string_append_printf (signature, "CPU type=%s\n", json_node_get_string (cpu_type));
  return TRUE;
}

static char *
describe (mf_qemu *qemu, GCancellable *cancellable)
{
  g_autoptr (JsonNode) answer = mf_qmp_call (qemu->qmp, "query-name", NULL, MF_QEMU_COMMAND_USEC, cancellable, NULL);
  const char *name = mf_json_string (mf_json_node_object (answer), "name");
  GString *text = g_string_new (NULL);

  g_string_append_printf (text, "QEMU %s", mf_qmp_version (qemu->qmp));
  if (name != NULL)
    g_string_append_printf (text, " \"%s\"", name);
  if (mf_qmp_pid (qemu->qmp) > 0)
    g_string_append_printf (text, ", pid %d", (int) mf_qmp_pid (qemu->qmp));
  return g_string_free (text, FALSE);
}

gboolean
mf_qemu_check (mf_program *program, gboolean is_source, mf_program_info *info, GCancellable *cancellable,
               GError **error)
{
  mf_qemu *qemu = mf_qemu_of (program);
  g_autoptr (GString) signature = g_string_new (NULL);
  gboolean acknowledges = FALSE;

  qemu->is_source = is_source;
  qemu->was_checked = TRUE;
  *info = (mf_program_info){ 0 };
  if (!mf_qemu_connect (qemu, CONNECT_USEC, cancellable, error) || !check_no_migration (qemu, cancellable, error) ||
      !check_run_state (qemu, info, cancellable, error) || !mf_qemu_read_settings (qemu, cancellable, error) ||
      !check_capabilities (qemu, error) || !describe_machine (qemu, signature, cancellable, error) ||
      !mf_qemu_check_memory (qemu, signature, cancellable, error) ||
      !mf_qemu_check_devices (qemu, signature, cancellable, error) ||
      !mf_qemu_check_disks (qemu, &info->drains_for_scans, cancellable, error))
    return FALSE;

  /* libvirt turns it on, on both sides or none, when its migration begins. */
  if (qemu->state_path == NULL) {
    mf_qemu_has_capability (qemu, "switchover-ack", &acknowledges);
    info->switchover_ack = acknowledges;
    g_string_append_printf (signature, "capability switchover-ack=%s\n", acknowledges ? "on" : "off");
  }
  mf_qemu_has_capability (qemu, "return-path", &info->return_path);
  info->description = describe (qemu, cancellable);
  info->signature = g_strndup (signature->str, signature->len);
  return TRUE;
}
