/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-libvirt.h"

#include "mf-config.h"
#include <errno.h>
#include <glib.h>
#include <unistd.h>

#define PROGRAM "memferry-libvirt"

/* Beside this program, as where it was built, or where it is installed. */
static char *
find_program (void)
{
  g_autofree char *self = g_file_read_link ("/proc/self/exe", NULL);
  g_autofree char *folder = self ? g_path_get_dirname (self) : NULL;
  g_autofree char *beside = folder ? g_build_filename (folder, PROGRAM, NULL) : NULL;

  if (beside && g_file_test (beside, G_FILE_TEST_IS_EXECUTABLE))
    return g_steal_pointer (&beside);
  return g_build_filename (MF_LIBEXEC_DIR, PROGRAM, NULL);
}

int
mf_cli_run_libvirt (int argc, char **argv)
{
  g_autofree char *program = find_program ();

  execv (program, argv);
  g_printerr ("%s: %s: %s; is memferry installed whole?\n", g_get_prgname (), program, g_strerror (errno));
  return 1;
}
