/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "service/mf-region-set.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORD_SUFFIX ".region"
#define STATE_SUFFIX  ".state"

typedef struct {
  MfRegion *region;
  MfUserfault *userfault; /* may be NULL */
  char *control;          /* may be NULL */
  char *domain;           /* may be NULL */
  char *process;          /* may be NULL */
  gboolean released;
} entry;

struct _MfRegionSet {
  char *folder;
  GMutex lock;         /* protects what is below; held over no call that leaves this file but for references */
  GHashTable *entries; /* name -> entry */
};

static void
entry_free (gpointer data)
{
  entry *e = data;

  g_clear_pointer (&e->userfault, mf_userfault_unref);
  g_object_unref (e->region);
  g_free (e->control);
  g_free (e->domain);
  g_free (e->process);
  g_free (e);
}

MfRegionSet *
mf_region_set_new (const char *folder)
{
  MfRegionSet *set = g_new0 (MfRegionSet, 1);

  set->folder = g_strdup (folder);
  g_mutex_init (&set->lock);
  set->entries = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, entry_free);
  return set;
}

void
mf_region_set_free (MfRegionSet *set)
{
  g_hash_table_unref (set->entries);
  g_mutex_clear (&set->lock);
  g_free (set->folder);
  g_free (set);
}

static gboolean
is_region_name (const char *name)
{
  return mf_region_name_is_valid (name) && !strstr (name, RECORD_SUFFIX) && !strstr (name, STATE_SUFFIX);
}

static gboolean
check_name (const char *name, GError **error)
{
  if (is_region_name (name))
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
               "\"%s\" can't be a region's name: 1 to 64 of A-Z a-z 0-9 . _ -, no dot first, no " RECORD_SUFFIX
               " or " STATE_SUFFIX " in it",
               name);
  return FALSE;
}

static char *
file_of (MfRegionSet *set, const char *name)
{
  return g_build_filename (set->folder, name, NULL);
}

static char *
record_of (MfRegionSet *set, const char *name)
{
  return g_strdup_printf ("%s/%s" RECORD_SUFFIX, set->folder, name);
}

/* What is remembered of the region; nothing of one that has no record. */
static void
read_record (MfRegionSet *set, const char *name, entry *e)
{
  g_autoptr (GKeyFile) key_file = g_key_file_new ();
  g_autofree char *path = record_of (set, name);

  if (!g_key_file_load_from_file (key_file, path, G_KEY_FILE_NONE, NULL))
    return;
  e->control = g_key_file_get_string (key_file, "program", "control", NULL);
  e->domain = g_key_file_get_string (key_file, "domain", "name", NULL);
  e->process = g_key_file_get_string (key_file, "domain", "process", NULL);
  e->released = g_key_file_get_boolean (key_file, "domain", "released", NULL);
}

static gboolean
write_record (MfRegionSet *set, const char *name, const entry *e, GError **error)
{
  g_autoptr (GKeyFile) key_file = g_key_file_new ();
  g_autofree char *path = record_of (set, name);
  g_autofree char *text = NULL;
  g_autoptr (GError) wrong = NULL;

  g_key_file_set_string (key_file, "program", "control", e->control ? e->control : "");
  if (e->domain) {
    g_key_file_set_string (key_file, "domain", "name", e->domain);
    g_key_file_set_boolean (key_file, "domain", "released", e->released);
    g_key_file_set_string (key_file, "domain", "process", e->process ? e->process : "");
  }
  text = g_key_file_to_data (key_file, NULL, NULL);
  /* Replaced as a whole: a service that dies here leaves the old one or the new one. */
  if (g_file_set_contents_full (path, text, -1, G_FILE_SET_CONTENTS_CONSISTENT, 0600, &wrong))
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_IO, "%s: %s", path, wrong->message);
  return FALSE;
}

static void
add (MfRegionSet *set, MfRegion *region)
{
  entry *e = g_new0 (entry, 1);

  e->region = g_object_ref (region);
  read_record (set, mf_region_get_name (region), e);
  g_mutex_lock (&set->lock);
  g_hash_table_insert (set->entries, g_strdup (mf_region_get_name (region)), e);
  g_mutex_unlock (&set->lock);
}

/* --- Found again --- */

static gboolean
adopt (MfRegionSet *set, const char *name, GError **error)
{
  g_autofree char *path = file_of (set, name);
  g_autoptr (MfStore) store = mf_store_open (path, FALSE, error);
  g_autoptr (MfRegion) region = store ? mf_region_new (name, store, error) : NULL;
  g_autoptr (GError) no_room = NULL;

  if (!region)
    return FALSE;
  /* Its program may be running: a region without room is still a region. */
  if (!mf_store_reserve (store, &no_room))
    g_warning ("region %s: %s", name, no_room->message);
  add (set, region);
  return TRUE;
}

/* Not a link: what is somewhere else is not ours to write to. */
static gboolean
is_own_file (MfRegionSet *set, const char *name)
{
  g_autofree char *path = file_of (set, name);
  struct stat st;

  if (lstat (path, &st) == 0 && S_ISREG (st.st_mode))
    return TRUE;
  g_warning ("%s is left alone: it is not a regular file", path);
  return FALSE;
}

gboolean
mf_region_set_scan (MfRegionSet *set, GError **error)
{
  g_autoptr (GError) wrong = NULL;
  g_autoptr (GDir) folder = g_dir_open (set->folder, 0, &wrong);
  const char *name;

  if (!folder) {
    g_set_error_literal (error, MF_ERROR, MF_ERROR_FAILED, wrong->message);
    return FALSE;
  }
  while ((name = g_dir_read_name (folder))) {
    g_autoptr (GError) unfit = NULL;

    if (is_region_name (name) && is_own_file (set, name) && !adopt (set, name, &unfit))
      g_warning ("%s/%s is left alone: %s", set->folder, name, unfit->message);
  }
  return TRUE;
}

/* --- Made and removed --- */

static MfRegion *
make_region (const char *name, const char *path, guint64 size, uid_t owner, GError **error)
{
  g_autoptr (MfStore) store = mf_store_create (path, size, error);
  g_autoptr (MfRegion) region = NULL;

  if (!store)
    return NULL;
  region = mf_store_reserve (store, error) ? mf_region_new (name, store, error) : NULL;
  if (region && owner != geteuid () && fchown (mf_store_fd (store), owner, (gid_t) -1) != 0) {
    mf_error_from_errno (error, errno, "giving %s to user %u", path, owner);
    g_clear_object (&region);
  }
  if (!region)
    unlink (path);
  return g_steal_pointer (&region);
}

gboolean
mf_region_set_create (MfRegionSet *set, const char *name, guint64 size, uid_t owner, GError **error)
{
  g_autofree char *path = file_of (set, name);
  g_autofree char *record = record_of (set, name);
  g_autoptr (MfRegion) region = NULL;

  if (!check_name (name, error))
    return FALSE;
  region = make_region (name, path, size, owner, error);
  if (!region) {
    g_prefix_error (error, "region %s: ", name);
    return FALSE;
  }
  /* Of another one, whose file somebody else has removed. */
  unlink (record);
  add (set, region);
  return TRUE;
}

/* Frees the memory of a removed region: of tens of gigabytes that takes seconds. */
static gpointer
drop (gpointer data)
{
  entry_free (data);
  return NULL;
}

gboolean
mf_region_set_remove (MfRegionSet *set, const char *name, GError **error)
{
  g_autofree char *path = file_of (set, name);
  g_autofree char *record = record_of (set, name);
  gpointer key = NULL, removed = NULL;
  gboolean found;

  g_mutex_lock (&set->lock);
  found = g_hash_table_steal_extended (set->entries, name, &key, &removed);
  g_mutex_unlock (&set->lock);
  if (!found) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "%s: there is no such region", name);
    return FALSE;
  }
  g_free (key);
  if (unlink (path) != 0 && errno != ENOENT)
    g_warning ("%s: %s", path, g_strerror (errno));
  if (unlink (record) != 0 && errno != ENOENT)
    g_warning ("%s: %s", record, g_strerror (errno));
  /* Its room is nobody's from here on, whenever the memory is free. */
  mf_store_release (mf_region_store (((entry *) removed)->region));
  g_thread_unref (g_thread_new ("mf-drop", drop, removed));
  return TRUE;
}

/* --- Found --- */

static int
by_name (gconstpointer a, gconstpointer b)
{
  return strcmp (*(const char *const *) a, *(const char *const *) b);
}

char **
mf_region_set_names (MfRegionSet *set)
{
  GPtrArray *names = g_ptr_array_new ();
  GHashTableIter iter;
  gpointer name;

  g_mutex_lock (&set->lock);
  g_hash_table_iter_init (&iter, set->entries);
  while (g_hash_table_iter_next (&iter, &name, NULL))
    g_ptr_array_add (names, g_strdup (name));
  g_mutex_unlock (&set->lock);
  g_ptr_array_sort (names, by_name);
  g_ptr_array_add (names, NULL);
  return (char **) g_ptr_array_free (names, FALSE);
}

MfRegion *
mf_region_set_find (MfRegionSet *set, const char *name, GError **error)
{
  MfRegion *region = NULL;
  entry *e;

  g_mutex_lock (&set->lock);
  e = g_hash_table_lookup (set->entries, name);
  if (e)
    region = g_object_ref (e->region);
  g_mutex_unlock (&set->lock);
  if (!region)
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "%s: there is no such region", name);
  return region;
}

MfRegion *
mf_region_set_find_file (MfRegionSet *set, int fd, GError **error)
{
  MfRegion *region = NULL;
  GHashTableIter iter;
  gpointer value;

  g_mutex_lock (&set->lock);
  g_hash_table_iter_init (&iter, set->entries);
  while (!region && g_hash_table_iter_next (&iter, NULL, &value))
    if (mf_store_is_fd (mf_region_store (((entry *) value)->region), fd))
      region = g_object_ref (((entry *) value)->region);
  g_mutex_unlock (&set->lock);
  if (!region)
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "the file is no region's");
  return region;
}

/* --- What is known of the program --- */

void
mf_region_set_attach (MfRegionSet *set, MfRegion *region, MfUserfault *userfault)
{
  MfUserfault *former = NULL;
  entry *e;

  g_mutex_lock (&set->lock);
  e = g_hash_table_lookup (set->entries, mf_region_get_name (region));
  if (e) {
    former = e->userfault;
    e->userfault = userfault ? mf_userfault_ref (userfault) : NULL;
  }
  g_mutex_unlock (&set->lock);
  /* Its end may join threads. */
  g_clear_pointer (&former, mf_userfault_unref);
}

MfUserfault *
mf_region_set_attachment (MfRegionSet *set, const char *name)
{
  MfUserfault *userfault = NULL;
  entry *e;

  g_mutex_lock (&set->lock);
  e = g_hash_table_lookup (set->entries, name);
  if (e && e->userfault)
    userfault = mf_userfault_ref (e->userfault);
  g_mutex_unlock (&set->lock);
  return userfault;
}

pid_t
mf_region_set_pid (MfRegionSet *set, const char *name)
{
  g_autoptr (MfUserfault) userfault = mf_region_set_attachment (set, name);

  return userfault ? mf_userfault_pid (userfault) : 0;
}

/* A copy of what is remembered of the region, to be changed and written without the lock; NULL: MF_ERROR_NOT_FOUND. */
static entry *
copy_facts (MfRegionSet *set, const char *name, GError **error)
{
  entry *copy = NULL, *e;

  g_mutex_lock (&set->lock);
  e = g_hash_table_lookup (set->entries, name);
  if (e) {
    copy = g_new0 (entry, 1);
    copy->region = g_object_ref (e->region);
    copy->control = g_strdup (e->control);
    copy->domain = g_strdup (e->domain);
    copy->process = g_strdup (e->process);
    copy->released = e->released;
  }
  g_mutex_unlock (&set->lock);
  if (!copy)
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "%s: there is no such region", name);
  return copy;
}

/* Writes what is to be remembered and takes it over; `facts` is freed. */
static gboolean
remember (MfRegionSet *set, const char *name, entry *facts, GError **error)
{
  gboolean written = write_record (set, name, facts, error);
  entry *e;

  g_mutex_lock (&set->lock);
  e = written ? g_hash_table_lookup (set->entries, name) : NULL;
  if (e) {
    char *control = e->control, *domain = e->domain, *process = e->process;

    e->control = g_steal_pointer (&facts->control);
    e->domain = g_steal_pointer (&facts->domain);
    e->process = g_steal_pointer (&facts->process);
    e->released = facts->released;
    facts->control = control;
    facts->domain = domain;
    facts->process = process;
  }
  g_mutex_unlock (&set->lock);
  entry_free (facts);
  return written;
}

gboolean
mf_region_set_control (MfRegionSet *set, const char *name, const char *control, GError **error)
{
  entry *facts = copy_facts (set, name, error);

  if (!facts)
    return FALSE;
  g_free (facts->control);
  facts->control = g_strdup (control);
  return remember (set, name, facts, error);
}

char *
mf_region_set_dup_control (MfRegionSet *set, const char *name)
{
  char *control = NULL;
  entry *e;

  g_mutex_lock (&set->lock);
  e = g_hash_table_lookup (set->entries, name);
  /* An empty one was written to forget it. */
  if (e && e->control && *e->control)
    control = g_strdup (e->control);
  g_mutex_unlock (&set->lock);
  return control;
}

gboolean
mf_region_set_domain (MfRegionSet *set, const char *name, const char *domain, gboolean released, GError **error)
{
  entry *facts = copy_facts (set, name, error);

  if (!facts)
    return FALSE;
  g_free (facts->domain);
  facts->domain = g_strdup (domain);
  facts->released = released;
  return remember (set, name, facts, error);
}

gboolean
mf_region_set_process (MfRegionSet *set, const char *name, const char *process, GError **error)
{
  entry *facts = copy_facts (set, name, error);

  if (!facts)
    return FALSE;
  g_free (facts->process);
  facts->process = g_strdup (process);
  return remember (set, name, facts, error);
}

char *
mf_region_set_dup_process (MfRegionSet *set, const char *name)
{
  char *process = NULL;
  entry *e;

  g_mutex_lock (&set->lock);
  e = g_hash_table_lookup (set->entries, name);
  if (e && e->process && *e->process)
    process = g_strdup (e->process);
  g_mutex_unlock (&set->lock);
  return process;
}

char *
mf_region_set_dup_domain (MfRegionSet *set, const char *name, gboolean *released)
{
  char *domain = NULL;
  entry *e;

  g_mutex_lock (&set->lock);
  e = g_hash_table_lookup (set->entries, name);
  if (e) {
    domain = g_strdup (e->domain);
    *released = e->released;
  }
  g_mutex_unlock (&set->lock);
  return domain;
}
