/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-fuse-place.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* The path as the kernel's list of mounts writes it: spaces and such in octal. */
static char *
escape (const char *path)
{
  GString *text = g_string_new (NULL);

  for (; *path != '\0'; path++) {
    if (strchr (" \t\n\\", *path) != NULL)
      g_string_append_printf (text, "\\%03o", (unsigned char) *path);
    else
      g_string_append_c (text, *path);
  }
  return g_string_free (text, FALSE);
}

static gboolean
is_mounted (const char *path)
{
  g_autofree char *escaped = escape (path);
  g_autofree char *wanted = g_strdup_printf (" %s ", escaped);
  g_autofree char *mounts = NULL;
  g_auto (GStrv) lines = NULL;

  if (!g_file_get_contents ("/proc/self/mountinfo", &mounts, NULL, NULL))
    return FALSE;
  lines = g_strsplit (mounts, "\n", -1);
  for (guint i = 0; lines[i] != NULL; i++) {
    g_auto (GStrv) fields = g_strsplit (lines[i], " ", 6);

    if (g_strv_length (fields) == 6 && strcmp (fields[4], escaped) == 0)
      return TRUE;
  }
  return FALSE;
}

/* The kernel still knows the attributes of a file that nobody serves any more: only who opens it is told. */
static gboolean
is_dead (const char *path)
{
  int fd = open (path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

  if (fd < 0)
    return errno == ENOTCONN;
  close (fd);
  return FALSE;
}

/* Whoever served it is gone: nobody can use it, or ever will. */
static void
clear_dead (const char *path)
{
  const char *command[] = { "fusermount3", "-u", "-z", "-q", path, NULL };

  if (umount2 (path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
    return;
  g_spawn_sync (NULL, (char **) command, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, NULL, NULL,
                NULL, NULL);
}

static gboolean
check_fuse (GError **error)
{
  int fd = open ("/dev/fuse", O_RDWR | O_CLOEXEC);

  if (fd >= 0) {
    close (fd);
    return TRUE;
  }
  if (errno == EACCES || errno == EPERM)
    return mf_error_from_errno (error, errno, "opening /dev/fuse");
  g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED, "there is no FUSE here: opening /dev/fuse: %s",
               g_strerror (errno));
  return FALSE;
}

gboolean
mf_fuse_place_prepare (const char *path, gboolean *made, GError **error)
{
  struct stat st;
  int fd;

  *made = FALSE;
  if (!check_fuse (error))
    return FALSE;
  if (is_dead (path)) {
    clear_dead (path);
    /* It may have been made for the one that died. */
    *made = stat (path, &st) == 0 && S_ISREG (st.st_mode) && st.st_size == 0;
  }
  if (is_mounted (path)) {
    g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "%s is a mount point already", path);
    return FALSE;
  }
  fd = open (path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd >= 0) {
    *made = TRUE;
    close (fd);
    return TRUE;
  }
  if (errno != EEXIST)
    return mf_error_from_errno (error, errno, "making %s to mount over", path);
  if (lstat (path, &st) < 0)
    return mf_error_from_errno (error, errno, "looking at %s", path);
  if (S_ISREG (st.st_mode) && st.st_size == 0)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_EXISTS, "%s can't be mounted over: it is %s; name an empty file, or none",
               path, S_ISREG (st.st_mode) ? "not empty" : "not a regular file");
  return FALSE;
}
