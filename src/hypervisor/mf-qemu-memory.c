/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether the guest's RAM is the regions, all of it and nothing else.
 *
 * QEMU leaves out of its own stream what is a shared, named file. Whatever of the RAM is not one of the regions would then go through QEMU's stream while the
 * guest stands, or, worse, not at all.
 */
#include "hypervisor/mf-qemu-private.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

typedef struct {
  const char *id;
  char *path;
  gint64 size_bytes;
} Backend;

static gboolean refuse_backend (const char *id, GError **error, const char *format, ...) G_GNUC_PRINTF (3, 4);

static gboolean
refuse_backend (const char *id, GError **error, const char *format, ...)
{
  g_autofree char *text = NULL;
  va_list args;

  va_start (args, format);
  text = g_strdup_vprintf (format, args);
  va_end (args);
  g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM,
               "the guest's RAM \"%s\" %s: it has to be memory-backend-file,share=on with a region's file as mem-path",
               id, text);
  return FALSE;
}

/* The file that QEMU sees under `path`: it may live in a mount namespace of its own. */
static gboolean
stat_as_qemu (mf_qemu *qemu, const char *path, struct stat *st)
{
  g_autofree char *inside = g_strdup_printf ("/proc/%d/root%s", (int) mf_qmp_pid (qemu->qmp), path);

  if (mf_qmp_pid (qemu->qmp) > 0 && stat (inside, st) == 0)
    return TRUE;
  return stat (path, st) == 0;
}

/* Whether QEMU has the very file mapped; TRUE also when that can't be found out. The path says what is there now, which after a restart
 * of whatever made the file may be another one. */
static gboolean
is_mapped (mf_qemu *qemu, const struct stat *st)
{
  g_autofree char *path = g_strdup_printf ("/proc/%d/maps", (int) mf_qmp_pid (qemu->qmp));
  gboolean found = FALSE;
  char line[8192];
  FILE *maps;

  if (mf_qmp_pid (qemu->qmp) <= 0)
    return TRUE;
  maps = fopen (path, "re");
  if (maps == NULL)
    return TRUE;
  while (!found && fgets (line, sizeof line, maps) != NULL) {
    unsigned int device_major, device_minor;
    unsigned long inode;

    found = sscanf (line, "%*s %*s %*s %x:%x %lu", &device_major, &device_minor, &inode) == 3 && inode == st->st_ino &&
            makedev (device_major, device_minor) == st->st_dev;
  }
  fclose (maps);
  return found;
}

static gboolean
is_same_file (MfRegion *region, const struct stat *st)
{
  struct stat ours;

  return fstat (mf_store_fd (mf_region_store (region)), &ours) == 0 && ours.st_dev == st->st_dev &&
         ours.st_ino == st->st_ino;
}

static int
find_region (mf_qemu *qemu, const struct stat *st)
{
  for (guint i = 0; i < qemu->n_regions; i++)
    if (is_same_file (qemu->regions[i], st))
      return (int) i;
  return -1;
}

static gboolean
read_backend (mf_qemu *qemu, JsonObject *memdev, Backend *backend, GCancellable *cancellable, GError **error)
{
  const char *id = mf_json_string (memdev, "id");
  g_autofree char *object_path = g_strdup_printf ("/objects/%s", id);
  g_autoptr (JsonNode) type = NULL;
  g_autoptr (JsonNode) path = NULL;

  if (id == NULL)
    return refuse_backend ("(without a name)", error, "can't be recognized");
  type = mf_qemu_property (qemu, object_path, "type", cancellable, error);
  if (type == NULL)
    return FALSE;
  if (!g_str_equal (json_node_get_string (type), "memory-backend-file"))
    return refuse_backend (id, error, "is not a named file but %s", json_node_get_string (type));
  if (!mf_json_bool (memdev, "share"))
    return refuse_backend (id, error, "is private to QEMU (share=off)");
  path = mf_qemu_property (qemu, object_path, "mem-path", cancellable, error);
  if (path == NULL)
    return FALSE;
  backend->id = id;
  backend->path = g_strdup (json_node_get_string (path));
  backend->size_bytes = mf_json_int (memdev, "size");
  return TRUE;
}

/* The region that the backend is, by its place in `regions`; -1 with error. */
static int
match_backend (mf_qemu *qemu, const Backend *backend, GError **error)
{
  struct stat st;
  int i;

  if (!stat_as_qemu (qemu, backend->path, &st)) {
    refuse_backend (backend->id, error, "is a file that is not to be found here (%s)", backend->path);
    return -1;
  }
  i = find_region (qemu, &st);
  if (i < 0) {
    refuse_backend (backend->id, error, "is the file %s, which is not of a region that is to move", backend->path);
    return -1;
  }
  if ((guint64) backend->size_bytes != mf_region_get_size (qemu->regions[i])) {
    refuse_backend (backend->id, error, "has %" G_GINT64_FORMAT " bytes, but region %s has %" G_GUINT64_FORMAT,
                    backend->size_bytes, mf_region_get_name (qemu->regions[i]), mf_region_get_size (qemu->regions[i]));
    return -1;
  }
  if (mf_store_kind (mf_region_store (qemu->regions[i])) == MF_STORE_TMPFS && !is_mapped (qemu, &st)) {
    refuse_backend (backend->id, error,
                    "is another file than the one that is at %s now (was it made anew since QEMU started?)",
                    backend->path);
    return -1;
  }
  return i;
}

static gboolean
check_backends (mf_qemu *qemu, JsonArray *memdevs, gboolean *is_used, GString *signature, GCancellable *cancellable,
                GError **error)
{
  for (guint i = 0; i < json_array_get_length (memdevs); i++) {
    g_autofree char *path = NULL;
    Backend backend = { 0 };
    int region;

    if (!read_backend (qemu, mf_json_element (memdevs, i), &backend, cancellable, error))
      return FALSE;
    path = backend.path;
    region = match_backend (qemu, &backend, error);
    if (region < 0)
      return FALSE;
    if (is_used[region])
      return refuse_backend (backend.id, error, "is region %s, which is other RAM of the guest already",
                             mf_region_get_name (qemu->regions[region]));
    is_used[region] = TRUE;
    g_string_append_printf (signature, "RAM \"%s\"=%" G_GINT64_FORMAT " bytes, region number %d\n", backend.id,
                            backend.size_bytes, region + 1);
  }
  return TRUE;
}

gboolean
mf_qemu_check_memory (mf_qemu *qemu, GString *signature, GCancellable *cancellable, GError **error)
{
  g_autoptr (JsonNode) answer = mf_qmp_call (qemu->qmp, "query-memdev", NULL, MF_QEMU_COMMAND_USEC, cancellable, error);
  g_autofree gboolean *is_used = g_new0 (gboolean, qemu->n_regions);
  JsonArray *memdevs = mf_json_node_array (answer);

  if (answer == NULL)
    return FALSE;
  if (memdevs != NULL && !check_backends (qemu, memdevs, is_used, signature, cancellable, error))
    return FALSE;
  for (guint i = 0; i < qemu->n_regions; i++) {
    if (is_used[i])
      continue;
    g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM, "region %s is not RAM of this guest",
                 mf_region_get_name (qemu->regions[i]));
    return FALSE;
  }
  return TRUE;
}
