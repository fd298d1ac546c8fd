/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "qemu-fixture.h"
#include "mf-wait.h"

#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define START_USEC (60 * G_USEC_PER_SEC)
#define STEP_USEC  (5 * 1000)

static const char *
binary (void)
{
  const char *named = g_getenv ("MEMFERRY_TEST_QEMU");

  return named != NULL ? named : "qemu-system-x86_64";
}

gboolean
qemu_is_there (void)
{
  g_autofree char *found = g_find_program_in_path (binary ());

  if (found == NULL)
    g_test_skip ("no qemu-system-x86_64 here");
  return found != NULL;
}

/* Whether somebody listens there. */
static gboolean
is_listening (const char *path)
{
  struct sockaddr_un name = { .sun_family = AF_UNIX };
  int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  gboolean ok;

  g_strlcpy (name.sun_path, path, sizeof name.sun_path);
  ok = connect (fd, (struct sockaddr *) &name, sizeof name) == 0;
  close (fd);
  return ok;
}

static void
await_monitor (Qemu *qemu, const char *path)
{
  gint64 deadline_usec = mf_deadline_after (START_USEC);

  while (!is_listening (path)) {
    if (g_subprocess_get_identifier (qemu->process) == NULL)
      g_error ("QEMU has ended: its output says why");
    g_assert_cmpint (g_get_monotonic_time (), <, deadline_usec);
    mf_wait_fd (-1, 0, mf_deadline_after (STEP_USEC), NULL, NULL);
    while (g_main_context_iteration (NULL, FALSE))
      ;
  }
}

/* A test that fails must not leave its programs behind. */
static void
die_with_parent (gpointer user_data)
{
  prctl (PR_SET_PDEATHSIG, SIGKILL);
}

GSubprocess *
spawn (const char *const *argv)
{
  g_autoptr (GSubprocessLauncher) launcher = g_subprocess_launcher_new (G_SUBPROCESS_FLAGS_STDOUT_SILENCE);
  g_autoptr (GError) error = NULL;
  GSubprocess *process;

  g_subprocess_launcher_set_child_setup (launcher, die_with_parent, NULL, NULL);
  process = g_subprocess_launcher_spawnv (launcher, argv, &error);
  g_assert_no_error (error);
  return process;
}

Qemu *
qemu_start (const char *const *args)
{
  Qemu *qemu = g_new0 (Qemu, 1);
  g_autoptr (GPtrArray) argv = g_ptr_array_new ();
  g_autofree char *qmp = NULL;
  g_autofree char *witness = NULL;
  const char *const always[] = { binary (), "-display", "none", "-nodefaults", "-no-user-config",
                                 "-accel",  "tcg",      "-qmp", NULL };

  qemu->folder = g_dir_make_tmp ("memferry-qemu-XXXXXX", NULL);
  qemu->qmp_path = g_build_filename (qemu->folder, "qmp", NULL);
  qemu->witness_path = g_build_filename (qemu->folder, "witness", NULL);
  qmp = g_strdup_printf ("unix:%s,server=on,wait=off", qemu->qmp_path);
  witness = g_strdup_printf ("unix:%s,server=on,wait=off", qemu->witness_path);
  for (guint i = 0; always[i] != NULL; i++)
    g_ptr_array_add (argv, (gpointer) always[i]);
  g_ptr_array_add (argv, qmp);
  g_ptr_array_add (argv, (gpointer) "-qmp");
  g_ptr_array_add (argv, witness);
  for (; *args != NULL; args++)
    g_ptr_array_add (argv, (gpointer) *args);
  g_ptr_array_add (argv, NULL);
  qemu->process = spawn ((const char *const *) argv->pdata);
  await_monitor (qemu, qemu->qmp_path);
  await_monitor (qemu, qemu->witness_path);
  return qemu;
}

void
qemu_free (Qemu *qemu)
{
  g_autoptr (GDir) dir = g_dir_open (qemu->folder, 0, NULL);
  const char *name;

  g_subprocess_force_exit (qemu->process);
  g_subprocess_wait (qemu->process, NULL, NULL);
  g_object_unref (qemu->process);
  while (dir != NULL && (name = g_dir_read_name (dir)) != NULL) {
    g_autofree char *path = g_build_filename (qemu->folder, name, NULL);

    g_unlink (path);
  }
  g_rmdir (qemu->folder);
  g_free (qemu->witness_path);
  g_free (qemu->qmp_path);
  g_free (qemu->folder);
  g_free (qemu);
}
