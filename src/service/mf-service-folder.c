/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "service/mf-service-folder.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

struct mf_service_folder {
  char *lock_path;
  int lock_fd;
};

/* A folder like /dev/shm/memferry could have been made by anybody, before us. */
static gboolean
check_owner (const char *path, GError **error)
{
  struct stat st;

  if (stat (path, &st) != 0)
    return mf_error_from_errno (error, errno, "%s", path);
  if (!S_ISDIR (st.st_mode)) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s is not a folder", path);
    return FALSE;
  }
  if ((st.st_uid != geteuid () && st.st_uid != 0) || (st.st_mode & S_IWOTH)) {
    g_set_error (
        error, MF_ERROR, MF_ERROR_PERMISSION,
        "%s could be written by others: it must belong to the service's user or root, and not be writable for all",
        path);
    return FALSE;
  }
  return TRUE;
}

/* hugetlbfs has no write(2): who has a region could not be written down, nor which of its pages are there be found again. */
static gboolean
check_file_system (const char *path, GError **error)
{
  struct statfs fs;

  if (statfs (path, &fs) != 0)
    return mf_error_from_errno (error, errno, "%s", path);
  if (fs.f_type != HUGETLBFS_MAGIC)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED,
               "%s is on hugetlbfs, where the service can't write its records: give it a folder on tmpfs, such as "
               "/dev/shm/memferry",
               path);
  return FALSE;
}

static gboolean
make_folder (const char *path, int mode, GError **error)
{
  g_autofree char *parent = g_path_get_dirname (path);

  if (g_mkdir_with_parents (parent, 0755) != 0)
    return mf_error_from_errno (error, errno, "making the folder %s", parent);
  if (g_mkdir (path, (mode_t) mode) == 0) {
    /* Whatever the umask says. */
    if (g_chmod (path, (mode_t) mode) != 0)
      return mf_error_from_errno (error, errno, "%s", path);
  } else if (errno != EEXIST) {
    return mf_error_from_errno (error, errno, "making the folder %s", path);
  }
  return check_owner (path, error) && check_file_system (path, error);
}

/* Who holds the lock, for people. */
static char *
describe_holder (int fd)
{
  char text[32] = "";
  ssize_t length = pread (fd, text, sizeof text - 1, 0);

  return length > 0 && atoi (text) > 0 ? g_strdup_printf (" (pid %d)", atoi (text)) : g_strdup ("");
}

/* The lock's file is removed when the service ends. So what was locked may be a file that is no longer there: then a successor holds another one. */
static gboolean
is_still_there (int fd, const char *path)
{
  struct stat held, named;

  return fstat (fd, &held) == 0 && stat (path, &named) == 0 && held.st_dev == named.st_dev &&
         held.st_ino == named.st_ino;
}

static int
take_lock (const char *path, const char *folder, const char *option, GError **error)
{
  for (;;) {
    int fd = open (path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0) {
      mf_error_from_errno (error, errno, "%s", path);
      return -1;
    }
    if (flock (fd, LOCK_EX | LOCK_NB) != 0) {
      g_autofree char *holder = describe_holder (fd);

      close (fd);
      g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "another memferryd%s has %s: stop it, or give another %s", holder,
                   folder, option);
      return -1;
    }
    if (is_still_there (fd, path))
      return fd;
    close (fd);
  }
}

mf_service_folder *
mf_service_folder_take (const char *path, int mode, const char *option, GError **error)
{
  g_autofree char *lock_path = g_build_filename (path, ".memferryd.lock", NULL);
  mf_service_folder *folder;
  int fd;

  if (!make_folder (path, mode, error))
    return NULL;
  fd = take_lock (lock_path, path, option, error);
  if (fd < 0)
    return NULL;
  if (ftruncate (fd, 0) != 0 || dprintf (fd, "%d\n", (int) getpid ()) < 0)
    g_warning ("%s: the process number could not be written: %s", lock_path, g_strerror (errno));
  folder = g_new0 (mf_service_folder, 1);
  folder->lock_path = g_steal_pointer (&lock_path);
  folder->lock_fd = fd;
  return folder;
}

void
mf_service_folder_free (mf_service_folder *folder)
{
  unlink (folder->lock_path);
  close (folder->lock_fd);
  g_free (folder->lock_path);
  g_free (folder);
}
