/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "migrate/mf-record.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#define PREFIX  ".session-"
#define GROUP   "memferry session"
#define VERSION 1

static const char *const phase_names[] = {
  [MF_PHASE_INCOMING] = "incoming", [MF_PHASE_TAKEN] = "taken", [MF_PHASE_LEAVING] = "leaving",
  [MF_PHASE_HANDED] = "handed",     [MF_PHASE_AWAY] = "away",   [MF_PHASE_UNDONE] = "undone",
  [MF_PHASE_COMPLETE] = "complete",
};

char *
mf_session_text (const uint8_t session[MF_SESSION_BYTES])
{
  GString *text = g_string_sized_new (2 * MF_SESSION_BYTES);

  for (guint i = 0; i < MF_SESSION_BYTES; i++)
    g_string_append_printf (text, "%02x", session[i]);
  return g_string_free (text, FALSE);
}

static gboolean
session_from_text (const char *text, uint8_t session[MF_SESSION_BYTES])
{
  if (strlen (text) != 2 * MF_SESSION_BYTES)
    return FALSE;
  for (guint i = 0; i < MF_SESSION_BYTES; i++) {
    int high = g_ascii_xdigit_value (text[2 * i]);
    int low = g_ascii_xdigit_value (text[2 * i + 1]);

    if (high < 0 || low < 0)
      return FALSE;
    session[i] = (uint8_t) (high << 4 | low);
  }
  return TRUE;
}

void
mf_record_make_session (uint8_t session[MF_SESSION_BYTES])
{
  for (guint i = 0; i < MF_SESSION_BYTES; i += 4) {
    guint32 word = g_random_int ();

    memcpy (session + i, &word, sizeof word);
  }
}

mf_record *
mf_record_new (const uint8_t session[MF_SESSION_BYTES], const char *const *regions, const char *peer,
               const char *control)
{
  mf_record *record = g_new0 (mf_record, 1);

  memcpy (record->session, session, MF_SESSION_BYTES);
  record->regions = g_strdupv ((char **) regions);
  record->peer = g_strdup (peer);
  record->control = g_strdup (control);
  return record;
}

void
mf_record_free (mf_record *record)
{
  g_strfreev (record->regions);
  g_free (record->peer);
  g_free (record->program);
  g_free (record->control);
  g_free (record->state);
  g_free (record);
}

static char *
record_path (const mf_record *record, const char *dir)
{
  g_autofree char *id = mf_session_text (record->session);

  return g_strconcat (dir, "/" PREFIX, id, NULL);
}

static gboolean
sync_folder (const char *dir, GError **error)
{
  int fd = open (dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  gboolean ok;

  if (fd < 0)
    return mf_error_from_errno (error, errno, "opening %s", dir);
  ok = fsync (fd) == 0 || errno == EINVAL || errno == ENOSYS;
  if (!ok)
    mf_error_from_errno (error, errno, "syncing %s", dir);
  close (fd);
  return ok;
}

gboolean
mf_record_write (mf_record *record, const char *dir, mf_record_phase phase, GError **error)
{
  g_autoptr (GKeyFile) file = g_key_file_new ();
  g_autofree char *path = record_path (record, dir);
  g_autofree char *text = NULL;
  gsize length;

  g_key_file_set_integer (file, GROUP, "version", VERSION);
  g_key_file_set_string (file, GROUP, "phase", phase_names[phase]);
  g_key_file_set_boolean (file, GROUP, "running", record->running);
  g_key_file_set_string_list (file, GROUP, "regions", (const char *const *) record->regions,
                              g_strv_length (record->regions));
  if (record->peer)
    g_key_file_set_string (file, GROUP, "peer", record->peer);
  if (record->program)
    g_key_file_set_string (file, GROUP, "program", record->program);
  if (record->control)
    g_key_file_set_string (file, GROUP, "control", record->control);
  if (record->bandwidth)
    g_key_file_set_uint64 (file, GROUP, "bandwidth", record->bandwidth);
  if (record->target_dials)
    g_key_file_set_boolean (file, GROUP, "target-dials", TRUE);
  if (record->state)
    g_key_file_set_string (file, GROUP, "state", record->state);
  text = g_key_file_to_data (file, &length, NULL);

  if (!g_file_set_contents_full (path, text, (gssize) length,
                                 G_FILE_SET_CONTENTS_CONSISTENT | G_FILE_SET_CONTENTS_DURABLE, 0600, error)) {
    g_prefix_error (error, "recording the migration: ");
    return FALSE;
  }
  if (!sync_folder (dir, error))
    return FALSE;
  record->phase = phase;
  return TRUE;
}

void
mf_record_remove (mf_record *record, const char *dir)
{
  g_autofree char *path = record_path (record, dir);

  if (g_unlink (path) != 0 && errno != ENOENT)
    g_warning ("%s can't be removed: %s", path, g_strerror (errno));
}

/* Who has not asked for so long will not. */
#define ENDED_USEC (30 * 24 * 3600 * (gint64) G_USEC_PER_SEC)

static gboolean
is_forgotten (const mf_record *record, const char *path)
{
  GStatBuf about;

  return (record->phase == MF_PHASE_UNDONE || record->phase == MF_PHASE_COMPLETE) && g_stat (path, &about) == 0 &&
         g_get_real_time () - (gint64) about.st_mtime * G_USEC_PER_SEC > ENDED_USEC;
}

static mf_record *
record_load (const char *dir, const char *name, GError **error)
{
  g_autoptr (GKeyFile) file = g_key_file_new ();
  g_autofree char *path = g_build_filename (dir, name, NULL);
  g_autofree char *phase = NULL;
  g_autofree char *peer = NULL;
  g_autofree char *control = NULL;
  g_auto (GStrv) regions = NULL;
  g_autoptr (mf_record) record = NULL;
  uint8_t session[MF_SESSION_BYTES];

  if (!g_key_file_load_from_file (file, path, G_KEY_FILE_NONE, error))
    return NULL;
  if (!session_from_text (name + strlen (PREFIX), session) ||
      g_key_file_get_integer (file, GROUP, "version", NULL) != VERSION) {
    g_set_error (error, MF_ERROR, MF_ERROR_VERSION, "it is not a session record of version %d", VERSION);
    return NULL;
  }
  phase = g_key_file_get_string (file, GROUP, "phase", error);
  if (phase == NULL)
    return NULL;
  regions = g_key_file_get_string_list (file, GROUP, "regions", NULL, error);
  if (regions == NULL)
    return NULL;
  peer = g_key_file_get_string (file, GROUP, "peer", NULL);
  control = g_key_file_get_string (file, GROUP, "control", NULL);
  record = mf_record_new (session, (const char *const *) regions, peer, control);
  record->program = g_key_file_get_string (file, GROUP, "program", NULL);
  record->state = g_key_file_get_string (file, GROUP, "state", NULL);
  record->running = g_key_file_get_boolean (file, GROUP, "running", NULL);
  record->target_dials = g_key_file_get_boolean (file, GROUP, "target-dials", NULL);
  record->bandwidth = g_key_file_get_uint64 (file, GROUP, "bandwidth", NULL);
  for (guint i = MF_PHASE_INCOMING; i <= MF_PHASE_COMPLETE; i++) {
    if (g_str_equal (phase, phase_names[i]))
      record->phase = i;
  }
  if (record->phase == 0) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "there is no phase \"%s\"", phase);
    return NULL;
  }
  return g_steal_pointer (&record);
}

GPtrArray *
mf_record_load_all (const char *dir, GError **error)
{
  g_autoptr (GPtrArray) records = g_ptr_array_new_with_free_func ((GDestroyNotify) mf_record_free);
  g_autoptr (GPtrArray) forgotten = g_ptr_array_new_with_free_func ((GDestroyNotify) mf_record_free);
  g_autoptr (GDir) folder = g_dir_open (dir, 0, error);
  const char *name;

  if (folder == NULL)
    return NULL;
  while ((name = g_dir_read_name (folder)) != NULL) {
    g_autoptr (GError) local_error = NULL;
    g_autofree char *path = NULL;
    mf_record *record;

    /* g_file_set_contents() leaves "NAME.XXXXXX" behind when it is killed half-way: never a record. */
    if (!g_str_has_prefix (name, PREFIX) || strlen (name) != strlen (PREFIX) + 2 * MF_SESSION_BYTES)
      continue;
    path = g_build_filename (dir, name, NULL);
    record = record_load (dir, name, &local_error);
    if (record != NULL && is_forgotten (record, path))
      g_ptr_array_add (forgotten, record);
    else if (record != NULL)
      g_ptr_array_add (records, record);
    else
      g_warning ("%s/%s can't be used: %s", dir, name, local_error->message);
  }
  for (guint i = 0; i < forgotten->len; i++)
    mf_record_remove (g_ptr_array_index (forgotten, i), dir);
  return g_steal_pointer (&records);
}
