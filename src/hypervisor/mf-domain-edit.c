/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What memferry puts into a definition and takes out again.
 *
 * Our element in <metadata> keeps what was there before, a word each, in attributes of <memferry:before>; "-" stands for what was not there:
 *
 *   backing="no"           there was no <memoryBacking>
 *   source="anonymous"     its <source type>
 *   access="private"       its <access mode>
 *   cells="shared -"       memAccess of each NUMA cell
 *
 * Restoring touches only what is still as we have made it: what somebody has changed since is theirs.
 */
#include "hypervisor/mf-domain-private.h"

#include <string.h>

#define PREFIX       "memferry"
#define PRELOAD_NAME "libmemferry-preload.so"
/* The id of QEMU's character device for our monitor. */
#define CHARDEV_ID  "mfqmp"
#define OUR_CHARDEV "socket,id=" CHARDEV_ID ","
#define MONITOR     "chardev=" CHARDEV_ID ",mode=control"

static xmlNode *
commandline (const mf_domain *domain)
{
  return mf_xml_child (domain->root, MF_QEMU_NAMESPACE, "commandline");
}

static char *
value_or_dash (xmlNode *node, const char *attribute)
{
  char *value = mf_xml_get (node, attribute);

  return value ? value : g_strdup ("-");
}

static const char *
null_for_dash (const char *value)
{
  return value && strcmp (value, "-") != 0 ? value : NULL;
}

/* --- Memory --- */

/* <NAME ATTRIBUTE='VALUE'/> in <memoryBacking>; `value` NULL: without it. */
static void
set_backing (xmlNode *backing, const char *name, const char *attribute, const char *value)
{
  xmlNode *node = mf_xml_child (backing, NULL, name);

  if (value && !node)
    node = mf_xml_append (backing, NULL, name);
  if (value)
    mf_xml_set (node, attribute, value);
  else if (node)
    mf_xml_remove (node);
}

static xmlNode *
make_backing (mf_domain *domain)
{
  xmlNode *before = mf_xml_child (domain->root, NULL, "currentMemory");

  if (!before)
    before = mf_xml_child (domain->root, NULL, "memory");
  if (!before)
    before = mf_xml_child (domain->root, NULL, "name");
  return mf_xml_insert_after (before, "memoryBacking");
}

static void
share_memory (mf_domain *domain, xmlNode *kept)
{
  xmlNode *backing = mf_xml_child (domain->root, NULL, "memoryBacking");
  g_autofree char *source = value_or_dash (mf_xml_child (backing, NULL, "source"), "type");
  g_autofree char *access = value_or_dash (mf_xml_child (backing, NULL, "access"), "mode");
  GString *cells = g_string_new (NULL);

  mf_xml_set (kept, "backing", backing ? "yes" : "no");
  mf_xml_set (kept, "source", source);
  mf_xml_set (kept, "access", access);
  if (!backing)
    backing = make_backing (domain);
  set_backing (backing, "source", "type", "file");
  set_backing (backing, "access", "mode", "shared");
  for (xmlNode *cell = mf_domain_first_cell (domain); cell; cell = mf_xml_next (cell)) {
    g_autofree char *access_of_cell = value_or_dash (cell, "memAccess");

    g_string_append_printf (cells, "%s%s", cells->len ? " " : "", access_of_cell);
    mf_xml_set (cell, "memAccess", "shared");
  }
  if (cells->len)
    mf_xml_set (kept, "cells", cells->str);
  g_string_free (cells, TRUE);
}

static void
restore_cells (mf_domain *domain, const char *cells)
{
  g_auto (GStrv) words = g_strsplit (cells ? cells : "", " ", -1);
  guint n = 0;

  for (xmlNode *cell = mf_domain_first_cell (domain); cell && words[n]; cell = mf_xml_next (cell), n++)
    if (mf_xml_has_value (cell, "memAccess", "shared"))
      mf_xml_set (cell, "memAccess", null_for_dash (words[n]));
}

static void
restore_memory (mf_domain *domain, xmlNode *kept)
{
  xmlNode *backing = mf_xml_child (domain->root, NULL, "memoryBacking");
  g_autofree char *source = mf_xml_get (kept, "source");
  g_autofree char *access = mf_xml_get (kept, "access");
  g_autofree char *cells = mf_xml_get (kept, "cells");

  restore_cells (domain, cells);
  if (!backing)
    return;
  if (mf_xml_has_value (mf_xml_child (backing, NULL, "source"), "type", "file"))
    set_backing (backing, "source", "type", null_for_dash (source));
  if (mf_xml_has_value (mf_xml_child (backing, NULL, "access"), "mode", "shared"))
    set_backing (backing, "access", "mode", null_for_dash (access));
  if (mf_xml_has_value (kept, "backing", "no") && !mf_xml_has_elements (backing))
    mf_xml_remove (backing);
}

/* --- QEMU's command line and environment --- */

static xmlNode *
find_env (const mf_domain *domain, const char *name)
{
  for (xmlNode *env = mf_xml_child (commandline (domain), MF_QEMU_NAMESPACE, "env"); env; env = mf_xml_next (env))
    if (mf_xml_has_value (env, "name", name))
      return env;
  return NULL;
}

static void
set_env (mf_domain *domain, const char *name, const char *value)
{
  xmlNode *line = commandline (domain), *env = find_env (domain, name);

  if (!env) {
    env = mf_xml_append (line, line->ns, "env");
    mf_xml_set (env, "name", name);
  }
  mf_xml_set (env, "value", value);
}

/* LD_PRELOAD without our library; NULL: nothing is left. */
static char *
others_preload (const mf_domain *domain)
{
  g_autofree char *value = mf_xml_get (find_env (domain, "LD_PRELOAD"), "value");
  g_auto (GStrv) paths = g_strsplit_set (value ? value : "", ": ", -1);
  GString *others = g_string_new (NULL);

  for (char **path = paths; *path; path++) {
    g_autofree char *name = g_path_get_basename (*path);

    if (**path && strcmp (name, PRELOAD_NAME) != 0)
      g_string_append_printf (others, "%s%s", others->len ? ":" : "", *path);
  }
  return g_string_free (others, others->len == 0);
}

static char *
monitor_chardev (const mf_domain *domain)
{
  g_autofree char *path = mf_domain_dup_qmp_path (domain);

  return g_strdup_printf (OUR_CHARDEV "path=%s,server=on,wait=off", path);
}

static char *
region_files (const mf_domain *domain, const char *store_dir, GError **error)
{
  g_autoptr (GArray) memory = mf_domain_list_memory (domain, error);
  GString *files = g_string_new (NULL);

  for (guint i = 0; memory && i < memory->len; i++)
    g_string_append_printf (files, "%s%s/%s", i ? ":" : "", store_dir,
                            g_array_index (memory, mf_domain_memory, i).region);
  return g_string_free (files, memory == NULL);
}

static gboolean
set_environment (mf_domain *domain, const mf_domain_place *place, GError **error)
{
  g_autofree char *files = region_files (domain, place->store_dir, error);
  g_autofree char *others = others_preload (domain);
  g_autofree char *preload = others ? g_strconcat (others, ":", place->preload, NULL) : g_strdup (place->preload);

  if (!files)
    return FALSE;
  set_env (domain, "LD_PRELOAD", preload);
  set_env (domain, "MEMFERRY_HANDOVER", place->handover);
  set_env (domain, "MEMFERRY_REGION_FILE", files);
  return TRUE;
}

static void
append_argument (xmlNode *line, const char *value)
{
  mf_xml_set (mf_xml_append (line, line->ns, "arg"), "value", value);
}

static xmlNode *
make_commandline (mf_domain *domain)
{
  xmlNs *ns = xmlSearchNsByHref (domain->document, domain->root, BAD_CAST MF_QEMU_NAMESPACE);

  if (!ns)
    ns = xmlNewNs (domain->root, BAD_CAST MF_QEMU_NAMESPACE, BAD_CAST "qemu");
  return mf_xml_append (domain->root, ns, "commandline");
}

/* Whether `arg` and the next one are ours: OPTION, VALUE. */
static gboolean
is_our_pair (xmlNode *arg, const char *option, const char *begin)
{
  xmlNode *next = mf_xml_next (arg);
  g_autofree char *value = mf_xml_get (next, "value");

  return next && mf_xml_has_value (arg, "value", option) && value && g_str_has_prefix (value, begin);
}

static void
remove_pair (mf_domain *domain, const char *option, const char *begin)
{
  for (xmlNode *arg = mf_xml_child (commandline (domain), MF_QEMU_NAMESPACE, "arg"); arg; arg = mf_xml_next (arg)) {
    if (!is_our_pair (arg, option, begin))
      continue;
    mf_xml_remove (mf_xml_next (arg));
    mf_xml_remove (arg);
    return;
  }
}

static void
clear_commandline (mf_domain *domain)
{
  static const char *const names[] = { "MEMFERRY_HANDOVER", "MEMFERRY_REGION_FILE" };
  g_autofree char *others = others_preload (domain);
  xmlNode *env = find_env (domain, "LD_PRELOAD");

  if (!commandline (domain))
    return;
  if (env && others)
    mf_xml_set (env, "value", others);
  else if (env)
    mf_xml_remove (env);
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    if ((env = find_env (domain, names[i])))
      mf_xml_remove (env);
  remove_pair (domain, "-chardev", OUR_CHARDEV);
  remove_pair (domain, "-mon", MONITOR);
  if (!mf_xml_has_elements (commandline (domain)))
    mf_xml_remove (commandline (domain));
}

static gboolean
fill_commandline (mf_domain *domain, const mf_domain_place *place, GError **error)
{
  xmlNode *line = commandline (domain);
  g_autofree char *chardev = monitor_chardev (domain);

  if (!line)
    line = make_commandline (domain);
  append_argument (line, "-chardev");
  append_argument (line, chardev);
  append_argument (line, "-mon");
  append_argument (line, MONITOR);
  return set_environment (domain, place, error);
}

/* --- All of it --- */

/* Our element, with an empty <before> in it; returns that. */
static xmlNode *
make_metadata (mf_domain *domain, const char *peer)
{
  xmlNode *metadata = mf_xml_child (domain->root, NULL, "metadata");
  xmlNode *ours;
  xmlNs *ns;

  if (!metadata) {
    xmlNode *uuid = mf_xml_child (domain->root, NULL, "uuid");

    metadata = mf_xml_insert_after (uuid ? uuid : mf_xml_child (domain->root, NULL, "name"), "metadata");
  }
  ours = mf_xml_append (metadata, NULL, "domain");
  ns = xmlNewNs (ours, BAD_CAST MF_DOMAIN_NAMESPACE, BAD_CAST PREFIX);
  xmlSetNs (ours, ns);
  mf_xml_set (ours, "peer", peer);
  return mf_xml_append (ours, ns, "before");
}

static void
remove_metadata (mf_domain *domain)
{
  xmlNode *metadata = mf_xml_child (domain->root, NULL, "metadata");

  mf_xml_remove (mf_domain_metadata (domain));
  if (!mf_xml_has_elements (metadata))
    mf_xml_remove (metadata);
}

void
mf_domain_disable (mf_domain *domain)
{
  xmlNode *ours = mf_domain_metadata (domain);

  if (!ours)
    return;
  restore_memory (domain, mf_xml_child (ours, MF_DOMAIN_NAMESPACE, "before"));
  clear_commandline (domain);
  remove_metadata (domain);
}

gboolean
mf_domain_enable (mf_domain *domain, const mf_domain_place *place, GError **error)
{
  g_auto (GStrv) obstacles = mf_domain_find_obstacles (domain);
  g_auto (GStrv) gaps = mf_domain_find_gaps (domain);

  if (obstacles[0]) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED, "%s", obstacles[0]);
    return FALSE;
  }
  /* Where all is there, its places stay as they are: libvirt has its own order. */
  if (mf_domain_is_enabled (domain) && !gaps[0])
    return mf_domain_settle (domain, place, error);
  mf_domain_disable (domain);
  share_memory (domain, make_metadata (domain, place->peer));
  return fill_commandline (domain, place, error);
}

gboolean
mf_domain_settle (mf_domain *domain, const mf_domain_place *place, GError **error)
{
  xmlNode *ours = mf_domain_metadata (domain);

  if (!ours || !commandline (domain)) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "it is not enabled, or no longer as it was enabled");
    return FALSE;
  }
  mf_xml_set (ours, "peer", place->peer);
  return set_environment (domain, place, error);
}

char *
mf_domain_dup_metadata (const mf_domain *domain, const char *peer)
{
  xmlDoc *document = xmlNewDoc (NULL);
  xmlNode *root = xmlNewDocNode (document, NULL, BAD_CAST "domain", NULL);
  xmlNode *kept = mf_xml_child (mf_domain_metadata (domain), MF_DOMAIN_NAMESPACE, "before");
  xmlBuffer *buffer = xmlBufferCreate ();
  char *text;

  xmlDocSetRootElement (document, root);
  mf_xml_set (root, "peer", peer);
  /* The copy declares its namespace itself: libvirt refuses a root that does. */
  if (kept)
    xmlAddChild (root, xmlDocCopyNode (kept, document, 1));
  xmlNodeDump (buffer, document, root, 0, 0);
  text = g_strdup ((const char *) xmlBufferContent (buffer));
  xmlBufferFree (buffer);
  xmlFreeDoc (document);
  return text;
}

/* --- What is missing --- */

static gboolean
has_argument (const mf_domain *domain, const char *option, const char *begin)
{
  for (xmlNode *arg = mf_xml_child (commandline (domain), MF_QEMU_NAMESPACE, "arg"); arg; arg = mf_xml_next (arg))
    if (is_our_pair (arg, option, begin))
      return TRUE;
  return FALSE;
}

gboolean
mf_domain_is_of_another_name (const mf_domain *domain)
{
  g_autofree char *chardev = monitor_chardev (domain);

  return has_argument (domain, "-chardev", OUR_CHARDEV) && !has_argument (domain, "-chardev", chardev);
}

char **
mf_domain_find_gaps (const mf_domain *domain)
{
  xmlNode *backing = mf_xml_child (domain->root, NULL, "memoryBacking");
  g_autofree char *preload = mf_xml_get (find_env (domain, "LD_PRELOAD"), "value");
  g_autofree char *chardev = monitor_chardev (domain);
  GPtrArray *list = g_ptr_array_new ();

  if (!mf_xml_has_value (mf_xml_child (backing, NULL, "source"), "type", "file"))
    g_ptr_array_add (list, g_strdup ("its memory is not in a file"));
  if (!mf_xml_has_value (mf_xml_child (backing, NULL, "access"), "mode", "shared"))
    g_ptr_array_add (list, g_strdup ("its memory is not shared"));
  for (xmlNode *cell = mf_domain_first_cell (domain); cell; cell = mf_xml_next (cell))
    if (!mf_xml_has_value (cell, "memAccess", "shared")) {
      g_autofree char *id = mf_xml_get (cell, "id");

      g_ptr_array_add (list, g_strdup_printf ("the memory of NUMA cell %s is not shared", id ? id : ""));
    }
  if (!preload || !strstr (preload, PRELOAD_NAME) || !find_env (domain, "MEMFERRY_HANDOVER") ||
      !find_env (domain, "MEMFERRY_REGION_FILE"))
    g_ptr_array_add (list, g_strdup ("the preload library is not in QEMU's environment"));
  if (mf_domain_is_of_another_name (domain))
    g_ptr_array_add (list, g_strdup ("it was enabled under another name"));
  else if (!has_argument (domain, "-chardev", chardev) || !has_argument (domain, "-mon", MONITOR))
    g_ptr_array_add (list, g_strdup ("QEMU has no monitor for memferry"));
  g_ptr_array_add (list, NULL);
  return (char **) g_ptr_array_free (list, FALSE);
}
