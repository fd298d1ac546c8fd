/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether a domain's memory can be moved: all of it must be named shared files that are written by QEMU's process alone, and that are
 * not filled before they are read.
 *
 * What can't be known from the definition (a network that gives away PCI devices, say) is found when it runs: see mf-qemu-check.c.
 */
#include "hypervisor/mf-domain-private.h"

#include <string.h>

static void add (GPtrArray *list, const char *format, ...) G_GNUC_PRINTF (2, 3);

static void
add (GPtrArray *list, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  g_ptr_array_add (list, g_strdup_vprintf (format, args));
  va_end (args);
}

/* --- The machine --- */

static void
check_machine (const mf_domain *domain, GPtrArray *list)
{
  xmlNode *type = mf_xml_child (mf_xml_child (domain->root, NULL, "os"), NULL, "type");
  g_autofree char *arch = mf_xml_get (type, "arch");
  g_autofree char *machine = mf_xml_get (type, "machine");
  g_autofree char *kind = mf_xml_get (domain->root, "type");
  g_autofree char *stem = mf_domain_dup_stem (domain);

  if (g_strcmp0 (kind, "kvm") != 0 && g_strcmp0 (kind, "qemu") != 0)
    add (list, "it is of type %s: only those of QEMU (kvm, qemu) can be moved", kind ? kind : "unknown");
  /* What QEMU calls the memory depends on the machine: pc.ram on a PC. */
  if (g_strcmp0 (arch, "x86_64") != 0 && g_strcmp0 (arch, "i686") != 0)
    add (list, "its architecture is %s: only x86 is known", arch ? arch : "unknown");
  else if (machine && (g_str_has_prefix (machine, "microvm") || g_str_has_prefix (machine, "xenfv")))
    add (list, "its machine is %s: only PCs (pc, q35) are known", machine);
  if (mf_xml_child (domain->root, NULL, "launchSecurity"))
    add (list, "<launchSecurity>: its memory is encrypted, and can't be read from outside");
  /* The service's own files beside the regions are called so. */
  if (strstr (stem, ".region") || strstr (stem, ".state"))
    add (list, "its name has .region or .state in it, which a region's can't");
}

/* --- The memory --- */

static void
check_backing (const mf_domain *domain, GPtrArray *list)
{
  xmlNode *backing = mf_xml_child (domain->root, NULL, "memoryBacking");
  xmlNode *allocation = mf_xml_child (backing, NULL, "allocation");

  if (mf_xml_child (backing, NULL, "hugepages"))
    add (list, "<hugepages>: libvirt puts such memory into files without a name");
  if (mf_xml_child (backing, NULL, "locked"))
    add (list, "<locked>: all of its memory would have to be there before it has come");
  if (mf_xml_has_value (allocation, "mode", "immediate"))
    add (list, "<allocation mode='immediate'>: all of its memory would be written before it has come");
  if (mf_xml_child (backing, NULL, "discard"))
    add (list, "<discard>: QEMU would empty the memory that is still read from here after a migration");
}

static void
check_cells (const mf_domain *domain, GPtrArray *list)
{
  for (xmlNode *cell = mf_domain_first_cell (domain); cell; cell = mf_xml_next (cell)) {
    g_autofree char *id = mf_xml_get (cell, "id");

    if (mf_xml_has_value (cell, "discard", "yes"))
      add (list,
           "NUMA cell %s has discard='yes': QEMU would empty the memory that is still read from here after a migration",
           id ? id : "");
  }
}

static void
check_sizes (const mf_domain *domain, GPtrArray *list)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GArray) memory = mf_domain_list_memory (domain, &error);

  if (!memory)
    add (list, "%s", error->message);
}

/* --- The devices --- */

/* Devices that are no good whatever they are. */
static const struct {
  const char *element;
  const char *reason;
} bad_elements[] = {
  { "memory", "memory that can be plugged is not one of its regions" },
  { "shmem", "its memory is shared with others, whose writes can't be seen" },
};

/* Devices of some kinds: `path` is the element below <devices>, and a child of it if the attribute is there. */
static const struct {
  const char *element, *child, *attribute, *value;
  const char *reason;
} bad_kinds[] = {
  { "hostdev", NULL, "type", "pci", "VFIO: the hardware writes to guest memory, which can't be seen" },
  { "hostdev", NULL, "type", "mdev", "VFIO: the hardware writes to guest memory, which can't be seen" },
  { "interface", NULL, "type", "hostdev", "VFIO: the hardware writes to guest memory, which can't be seen" },
  { "interface", NULL, "type", "vhostuser", "vhost-user: another process writes to guest memory, which can't be seen" },
  { "interface", NULL, "type", "vdpa", "vDPA: the hardware writes to guest memory, which can't be seen" },
  { "disk", NULL, "type", "vhostuser", "vhost-user: another process writes to guest memory, which can't be seen" },
  { "disk", NULL, "type", "vhostvdpa", "vDPA: the hardware writes to guest memory, which can't be seen" },
  { "disk", NULL, "type", "nvme", "VFIO: the hardware writes to guest memory, which can't be seen" },
  { "filesystem", "driver", "type", "virtiofs",
    "virtiofs: another process writes to guest memory (vhost-user), which can't be seen" },
  { "video", "driver", "name", "vhostuser", "vhost-user: another process writes to guest memory, which can't be seen" },
};

static char *
describe (xmlNode *device)
{
  xmlNode *alias = mf_xml_child (device, NULL, "alias");
  xmlNode *target = mf_xml_child (device, NULL, "target");
  g_autofree char *model = mf_xml_get (device, "model");
  g_autofree char *name = mf_xml_get (alias, "name");
  g_autofree char *dev = mf_xml_get (target, "dev");
  const char *detail = name ? name : dev ? dev : model;

  return g_strdup_printf ("<%s>%s%s", (const char *) device->name, detail ? " " : "", detail ? detail : "");
}

static void
check_device (xmlNode *device, GPtrArray *list)
{
  g_autofree char *what = describe (device);

  for (guint i = 0; i < G_N_ELEMENTS (bad_elements); i++)
    if (mf_xml_is (device, NULL, bad_elements[i].element) && !mf_xml_has_value (device, "model", "none"))
      add (list, "%s: %s", what, bad_elements[i].reason);
  for (guint i = 0; i < G_N_ELEMENTS (bad_kinds); i++) {
    xmlNode *node = device;

    if (!mf_xml_is (device, NULL, bad_kinds[i].element))
      continue;
    if (bad_kinds[i].child)
      node = mf_xml_child (device, NULL, bad_kinds[i].child);
    if (node && mf_xml_has_value (node, bad_kinds[i].attribute, bad_kinds[i].value))
      add (list, "%s: %s", what, bad_kinds[i].reason);
  }
}

static void
check_devices (const mf_domain *domain, GPtrArray *list)
{
  xmlNode *devices = mf_xml_child (domain->root, NULL, "devices");

  for (xmlNode *device = devices ? xmlFirstElementChild (devices) : NULL; device;
       device = xmlNextElementSibling (device))
    check_device (device, list);
}

char **
mf_domain_find_obstacles (const mf_domain *domain)
{
  GPtrArray *list = g_ptr_array_new ();

  check_machine (domain, list);
  check_backing (domain, list);
  check_cells (domain, list);
  check_sizes (domain, list);
  check_devices (domain, list);
  g_ptr_array_add (list, NULL);
  return (char **) g_ptr_array_free (list, FALSE);
}
