/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-preload.h"

#include "mf-error.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

/* So that a build can be tried where it was made. NULL: it is not in a build folder. */
static char *
preload_beside (void)
{
  g_autofree char *self = g_file_read_link ("/proc/self/exe", NULL);
  g_autofree char *folder = self ? g_path_get_dirname (self) : NULL;
  g_autofree char *path = folder ? g_build_filename (folder, "..", "preload", "libmemferry-preload.so", NULL) : NULL;

  if (!path || !g_file_test (path, G_FILE_TEST_EXISTS))
    return NULL;
  return g_canonicalize_filename (path, NULL);
}

char *
mf_cli_preload_path (const char *installed, GError **error)
{
  const char *named = g_getenv ("MEMFERRY_PRELOAD");
  g_autofree char *path = named && *named ? g_canonicalize_filename (named, NULL) : preload_beside ();

  if (!path)
    path = g_strdup (installed);
  if (access (path, R_OK) != 0) {
    mf_error_from_errno (error, errno, "the preload library %s", path);
    return NULL;
  }
  /* The dynamic linker takes these for the end of a path. */
  if (strpbrk (path, " :;")) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
                 "%s: the preload library can't be in a folder with a space or colon", path);
    return NULL;
  }
  return g_steal_pointer (&path);
}
