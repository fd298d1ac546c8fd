/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest's devices: those whose writes to guest memory nobody here sees, those for which scans have to wait, and what the
 * other side's guest must have as well.
 */
#include "hypervisor/mf-qemu-private.h"

#include <string.h>

/* Devices that write guest memory from another process or from hardware: neither faults nor dirty tracking see it. */
static const char *const unseen_writers[] = { "vfio",   "vhost-user", "vhost-vdpa", "vdpa", "ivshmem-doorbell",
                                              "pvrdma", NULL };
static const char *const unseen_drivers[] = {
  "nvme", "nvme-io_uring", "virtio-blk-vfio-pci", "virtio-blk-vhost-user", "virtio-blk-vhost-vdpa", NULL
};
/* SCSI devices that hand the guest's requests to the host's: their I/O goes straight to guest memory, as O_DIRECT does. */
static const char *const passed_through[] = { "scsi-generic", "scsi-block", NULL };

JsonNode *
mf_qemu_property (mf_qemu *qemu, const char *path, const char *property, GCancellable *cancellable, GError **error)
{
  JsonNode *arguments = mf_qmp_string_argument ("path", path);
  g_autoptr (JsonNode) answer = NULL;

  json_object_set_string_member (json_node_get_object (arguments), "property", property);
  answer = mf_qmp_call (qemu->qmp, "qom-get", arguments, MF_QEMU_COMMAND_USEC, cancellable, error);
  if (answer == NULL)
    return NULL;
  if (JSON_NODE_HOLDS_VALUE (answer) && json_node_get_value_type (answer) == G_TYPE_STRING)
    return g_steal_pointer (&answer);
  g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM, "QEMU gives no text for %s of %s", property, path);
  return NULL;
}

static void
clear_child (gpointer data)
{
  mf_qemu_child *child = data;

  g_free (child->name);
  g_free (child->type);
}

static int
compare_children (gconstpointer a, gconstpointer b)
{
  return strcmp (((const mf_qemu_child *) a)->name, ((const mf_qemu_child *) b)->name);
}

GArray *
mf_qemu_children (mf_qemu *qemu, const char *path, GCancellable *cancellable, GError **error)
{
  g_autoptr (JsonNode) answer = mf_qmp_call (qemu->qmp, "qom-list", mf_qmp_string_argument ("path", path),
                                             MF_QEMU_COMMAND_USEC, cancellable, error);
  JsonArray *array = mf_json_node_array (answer);
  GArray *children;

  if (answer == NULL)
    return NULL;
  children = g_array_new (FALSE, FALSE, sizeof (mf_qemu_child));
  g_array_set_clear_func (children, clear_child);
  for (guint i = 0; array != NULL && i < json_array_get_length (array); i++) {
    const char *name = mf_json_string (mf_json_element (array, i), "name");
    const char *type = mf_json_string (mf_json_element (array, i), "type");
    mf_qemu_child child;

    if (name == NULL || type == NULL || !g_str_has_prefix (type, "child<"))
      continue;
    child.name = g_strdup (name);
    child.type = g_strndup (type + strlen ("child<"), strlen (type) - strlen ("child<>"));
    g_array_append_val (children, child);
  }
  g_array_sort (children, compare_children);
  return children;
}

static gboolean
contains_any (const char *text, const char *const *parts)
{
  for (; *parts != NULL; parts++)
    if (strstr (text, *parts) != NULL)
      return TRUE;
  return FALSE;
}

static gboolean
refuse_device (const char *name, const char *type, GError **error)
{
  g_set_error (
      error, MF_ERROR, MF_ERROR_NOT_SUPPORTED,
      "the guest's device \"%s\" (%s) writes to guest memory where memferry can't see it: remove it before the "
      "migration",
      name, type);
  return FALSE;
}

/* Where on which bus a device is, as far as it has such an address; the other side's guest must have it there too. */
static void
describe_place (mf_qemu *qemu, const char *path, GString *signature, GCancellable *cancellable)
{
  g_autoptr (JsonNode) bus = mf_qemu_property (qemu, path, "parent_bus", cancellable, NULL);
  g_autoptr (JsonNode) address = mf_qemu_property (qemu, path, "legacy-addr", cancellable, NULL);
  const char *bus_path = bus != NULL ? json_node_get_string (bus) : "";

  if (*bus_path != '\0')
    g_string_append_printf (signature, " on %s",
                            strrchr (bus_path, '/') != NULL ? strrchr (bus_path, '/') + 1 : bus_path);
  if (address != NULL)
    g_string_append_printf (signature, " at %s", json_node_get_string (address));
}

static gboolean
check_container (mf_qemu *qemu, const char *path, gboolean describes, GString *signature, GCancellable *cancellable,
                 GError **error)
{
  g_autoptr (GArray) children = mf_qemu_children (qemu, path, cancellable, error);

  if (children == NULL)
    return FALSE;
  for (guint i = 0; i < children->len; i++) {
    const mf_qemu_child *child = &g_array_index (children, mf_qemu_child, i);
    g_autofree char *child_path = g_strdup_printf ("%s/%s", path, child->name);

    if (contains_any (child->type, unseen_writers))
      return refuse_device (child->name, child->type, error);
    if (!describes)
      continue;
    g_string_append_printf (signature, "device \"%s\"=%s", child->name, child->type);
    describe_place (qemu, child_path, signature, cancellable);
    g_string_append_c (signature, '\n');
  }
  return TRUE;
}

/* Network back ends are no QOM objects. One line each: " \ net0: index=0,type=vhost-user,..." */
static gboolean
check_networks (mf_qemu *qemu, GCancellable *cancellable, GError **error)
{
  g_autoptr (JsonNode) answer =
      mf_qmp_call (qemu->qmp, "human-monitor-command", mf_qmp_string_argument ("command-line", "info network"),
                   MF_QEMU_COMMAND_USEC, cancellable, error);
  g_auto (GStrv) lines = NULL;

  if (answer == NULL)
    return FALSE;
  if (!JSON_NODE_HOLDS_VALUE (answer) || json_node_get_value_type (answer) != G_TYPE_STRING)
    return TRUE;
  lines = g_strsplit_set (json_node_get_string (answer), "\r\n", -1);
  for (guint i = 0; lines[i] != NULL; i++) {
    const char *type = strstr (lines[i], "type=vhost-");
    g_autofree char *name = NULL;
    g_autofree char *type_name = NULL;
    const char *begin = lines[i] + strspn (lines[i], " \\");

    if (type == NULL)
      continue;
    type += strlen ("type=");
    name = g_strndup (begin, strcspn (begin, ":"));
    type_name = g_strndup (type, strcspn (type, ","));
    return refuse_device (name, type_name, error);
  }
  return TRUE;
}

gboolean
mf_qemu_check_devices (mf_qemu *qemu, GString *signature, GCancellable *cancellable, GError **error)
{
  return check_container (qemu, "/machine/peripheral", TRUE, signature, cancellable, error) &&
         check_container (qemu, "/machine/peripheral-anon", TRUE, signature, cancellable, error) &&
         check_container (qemu, "/machine/unattached", FALSE, signature, cancellable, error) &&
         check_container (qemu, "/objects", FALSE, signature, cancellable, error) &&
         check_networks (qemu, cancellable, error);
}

/* --- disks --- */

static gboolean
has_passed_through_device (mf_qemu *qemu, const char *path, gboolean *found, GCancellable *cancellable, GError **error)
{
  g_autoptr (GArray) children = mf_qemu_children (qemu, path, cancellable, error);

  if (children == NULL)
    return FALSE;
  for (guint i = 0; i < children->len; i++)
    *found = *found || g_strv_contains (passed_through, g_array_index (children, mf_qemu_child, i).type);
  return TRUE;
}

/* All nodes, nested ones too: the list is flat. */
gboolean
mf_qemu_check_disks (mf_qemu *qemu, gboolean *direct, GCancellable *cancellable, GError **error)
{
  g_autoptr (JsonNode) answer =
      mf_qmp_call (qemu->qmp, "query-named-block-nodes", NULL, MF_QEMU_COMMAND_USEC, cancellable, error);
  JsonArray *nodes = mf_json_node_array (answer);

  *direct = FALSE;
  if (answer == NULL)
    return FALSE;
  for (guint i = 0; nodes != NULL && i < json_array_get_length (nodes); i++) {
    JsonObject *node = mf_json_element (nodes, i);
    const char *driver = mf_json_string (node, "drv");

    if (driver != NULL && g_strv_contains (unseen_drivers, driver))
      return refuse_device (mf_json_string (node, "node-name"), driver, error);
    *direct = *direct || mf_json_bool (mf_json_object (node, "cache"), "direct");
  }
  return has_passed_through_device (qemu, "/machine/peripheral", direct, cancellable, error) &&
         has_passed_through_device (qemu, "/machine/peripheral-anon", direct, cancellable, error);
}
