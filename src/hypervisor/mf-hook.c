/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hypervisor/mf-hook.h"

#include "hypervisor/mf-qmp.h"
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_BASE MF_DOMAIN_SOCKET_DIR "/ram"
/* What libvirt takes of a domain's name at most, in characters. */
#define SHORT_NAME_CHARS 20

#define QMP_USEC (5 * G_USEC_PER_SEC)

/* --- Memory --- */

/* The value of a line NAME = "VALUE"; NULL: there is none. */
static char *
read_setting (const char *conf, const char *name)
{
  g_autofree char *text = NULL;
  g_auto (GStrv) lines = NULL;
  char *value = NULL;

  if (!g_file_get_contents (conf, &text, NULL, NULL))
    return NULL;
  lines = g_strsplit (text, "\n", -1);
  for (char **line = lines; *line; line++) {
    const char *rest = g_strchug (*line);

    if (!g_str_has_prefix (rest, name))
      continue;
    rest += strlen (name);
    rest += strspn (rest, " \t");
    if (*rest != '=')
      continue;
    rest++;
    rest += strspn (rest, " \t");
    if (*rest != '"' && *rest != '\'')
      continue;
    g_free (value);
    value = g_strndup (rest + 1, strcspn (rest + 1, (const char[]){ *rest, 0 }));
  }
  return value;
}

static char *
find_base (const char *conf)
{
  g_autofree char *set = read_setting (conf, "memory_backing_dir");

  return set ? g_build_filename (set, "libvirt", "qemu", NULL) : g_strdup (DEFAULT_BASE);
}

/* Whether `entry` is what libvirt makes of the domain's number and name, which it cuts. */
static gboolean
is_folder_of (const mf_domain *domain, const char *entry)
{
  g_autofree char *prefix = g_strdup_printf ("%u-", mf_domain_get_id (domain));
  const char *name = mf_domain_get_name (domain), *part;

  if (!g_str_has_prefix (entry, prefix))
    return FALSE;
  part = entry + strlen (prefix);
  return strcmp (part, name) == 0 || (g_str_has_prefix (name, part) && g_utf8_strlen (part, -1) <= SHORT_NAME_CHARS &&
                                      g_utf8_strlen (name, -1) > SHORT_NAME_CHARS);
}

char *
mf_hook_find_folder (const mf_domain *domain, const char *conf, uid_t *owner, GError **error)
{
  g_autofree char *base = find_base (conf);
  g_autoptr (GDir) folder = g_dir_open (base, 0, NULL);
  g_autofree char *best = NULL, *path = NULL;
  const char *entry;
  struct stat st;

  while (folder && (entry = g_dir_read_name (folder))) {
    if (!is_folder_of (domain, entry) || (best && strlen (best) > strlen (entry)))
      continue;
    g_free (best);
    best = g_strdup (entry);
  }
  if (!best) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND,
                 "libvirt has made no folder for its memory in %s: is the memory in a file (<memoryBacking>)?", base);
    return NULL;
  }
  path = g_build_filename (base, best, NULL);
  if (lstat (path, &st) != 0 || !S_ISDIR (st.st_mode)) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "%s is not a folder", path);
    return NULL;
  }
  *owner = st.st_uid;
  return g_steal_pointer (&path);
}

gboolean
mf_hook_link (const char *folder, const char *name, const char *file, GError **error)
{
  g_autofree char *path = g_build_filename (folder, name, NULL);
  struct stat st;

  if (lstat (path, &st) == 0 && S_ISLNK (st.st_mode) && unlink (path) != 0)
    return mf_error_from_errno (error, errno, "removing %s", path);
  if (symlink (file, path) != 0)
    return mf_error_from_errno (error, errno, "%s", path);
  return TRUE;
}

/* --- A migration to here --- */

/* Where QEMU waits. */
static gboolean
waits_at (mf_qmp *qmp, const char *path, GError **error)
{
  g_autoptr (JsonNode) answer = mf_qmp_call (qmp, "query-migrate", NULL, QMP_USEC, NULL, error);
  JsonArray *addresses = mf_json_array (mf_json_node_object (answer), "socket-address");
  JsonObject *address = mf_json_element (addresses, 0);

  if (!answer)
    return FALSE;
  if (addresses && json_array_get_length (addresses) == 1 &&
      g_strcmp0 (mf_json_string (address, "type"), "unix") == 0 &&
      g_strcmp0 (mf_json_string (address, "path"), path) == 0)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED,
               "its memory is carried by memferry: migrate it by memferry domain migrate, or by virsh migrate with "
               "--migrateuri unix:%s",
               path);
  return FALSE;
}

static gboolean
ignore_shared (mf_qmp *qmp, GError **error)
{
  JsonNode *arguments =
      json_from_string ("{\"capabilities\": [{\"capability\": \"x-ignore-shared\", \"state\": true}]}", NULL);

  return mf_qmp_do (qmp, "migrate-set-capabilities", arguments, QMP_USEC, NULL, error);
}

gboolean
mf_hook_receive (const mf_domain *domain, GError **error)
{
  static const char *const no_events[] = { NULL };
  g_autofree char *path = mf_domain_dup_qmp_path (domain), *state = mf_domain_dup_state_path (domain);
  g_autoptr (mf_qmp) qmp = mf_qmp_connect (path, no_events, QMP_USEC, NULL, error);
  g_autoptr (JsonNode) answer = qmp ? mf_qmp_call (qmp, "query-status", NULL, QMP_USEC, NULL, error) : NULL;

  if (!answer)
    return FALSE;
  if (g_strcmp0 (mf_json_string (mf_json_node_object (answer), "status"), "inmigrate") != 0)
    return TRUE;
  return waits_at (qmp, state, error) && ignore_shared (qmp, error);
}
