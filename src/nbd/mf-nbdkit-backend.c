/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * nbdkit as a child.
 *
 * It is given a socket that listens already (systemd's way: LISTEN_FDS), so that nobody has to wait for it: who connects before nbdkit is ready
 * is in the queue, and who connects to one that has failed is hung up on. Its errors are read by a thread, which keeps the last line: that is what
 * the user is told when it fails.
 *
 * It is in a process group of its own: ^C is for memferry, which still has to write back what was changed.
 */
#include "nbd/mf-nbd-backend.h"

#include <errno.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* LISTEN_PID is known to the child only. */
#define START     "LISTEN_PID=$$ LISTEN_FDS=1 exec nbdkit \"$@\""
#define LISTEN_FD 3

typedef struct {
  char *folder, *socket;
  GSubprocess *process;
  GThread *reader;
  GMutex lock;     /* protects `complaint` */
  char *complaint; /* the last line that nbdkit said */
} Nbdkit;

static gpointer
read_complaints (gpointer data)
{
  Nbdkit *kit = data;
  g_autoptr (GDataInputStream) lines = g_data_input_stream_new (g_subprocess_get_stderr_pipe (kit->process));
  char *line;

  while ((line = g_data_input_stream_read_line (lines, NULL, NULL, NULL)) != NULL) {
    g_mutex_lock (&kit->lock);
    g_free (kit->complaint);
    kit->complaint = g_utf8_make_valid (line, -1);
    g_mutex_unlock (&kit->lock);
    g_free (line);
  }
  return NULL;
}

static void
nbdkit_free (gpointer data)
{
  Nbdkit *kit = data;

  if (kit->process != NULL) {
    g_subprocess_send_signal (kit->process, SIGTERM);
    g_subprocess_wait (kit->process, NULL, NULL);
  }
  if (kit->reader != NULL)
    g_thread_join (kit->reader);
  g_clear_object (&kit->process);
  if (kit->socket != NULL)
    g_unlink (kit->socket);
  if (kit->folder != NULL)
    g_rmdir (kit->folder);
  g_mutex_clear (&kit->lock);
  g_free (kit->complaint);
  g_free (kit->socket);
  g_free (kit->folder);
  g_free (kit);
}

static int
listen_at (const char *path, GError **error)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

  if (g_strlcpy (address.sun_path, path, sizeof address.sun_path) >= sizeof address.sun_path)
    errno = ENAMETOOLONG;
  else if (fd != -1 && bind (fd, (struct sockaddr *) &address, sizeof address) == 0 && listen (fd, SOMAXCONN) == 0)
    return fd;
  mf_error_from_errno (error, errno, "listening for nbdkit at %s", path);
  if (fd != -1)
    close (fd);
  return -1;
}

static void
leave_group (gpointer unused)
{
  setpgid (0, 0);
}

/* The words between single commas; two are one comma of a word. */
static void
add_words (GPtrArray *arguments, const char *text)
{
  g_autoptr (GString) word = g_string_new (NULL);

  for (const char *at = text;; at++) {
    if (*at == '\0' || (*at == ',' && at[1] != ',')) {
      if (word->len > 0)
        g_ptr_array_add (arguments, g_strdup (word->str));
      g_string_truncate (word, 0);
      if (*at == '\0')
        return;
      continue;
    }
    at += *at == ',';
    g_string_append_c (word, *at);
  }
}

static gboolean
start (Nbdkit *kit, const char *words, gboolean read_only, GError **error)
{
  g_autoptr (GSubprocessLauncher) launcher = g_subprocess_launcher_new (G_SUBPROCESS_FLAGS_STDERR_PIPE);
  g_autoptr (GPtrArray) arguments = g_ptr_array_new_with_free_func (g_free);
  const char *first[] = { "sh", "-c", START, "nbdkit", "--foreground", "--exit-with-parent" };
  int listener = listen_at (kit->socket, error);

  if (listener == -1)
    return FALSE;
  for (guint i = 0; i < G_N_ELEMENTS (first); i++)
    g_ptr_array_add (arguments, g_strdup (first[i]));
  if (read_only)
    g_ptr_array_add (arguments, g_strdup ("--readonly"));
  add_words (arguments, words);
  g_ptr_array_add (arguments, NULL);
  g_subprocess_launcher_take_fd (launcher, listener, LISTEN_FD);
  g_subprocess_launcher_set_child_setup (launcher, leave_group, NULL, NULL);
  kit->process = g_subprocess_launcher_spawnv (launcher, (const char *const *) arguments->pdata, error);
  if (kit->process == NULL)
    return FALSE;
  kit->reader = g_thread_new ("mf-nbdkit", read_complaints, kit);
  return TRUE;
}

/* Who couldn't connect is told why nbdkit has ended, if it has. */
static void
explain (Nbdkit *kit, const char *name, GError **error)
{
  g_autofree char *complaint = NULL;

  /* Either it has failed, or it makes no sense to let it run. */
  g_subprocess_send_signal (kit->process, SIGTERM);
  g_subprocess_wait (kit->process, NULL, NULL);
  g_thread_join (g_steal_pointer (&kit->reader));
  if (kit->complaint == NULL || error == NULL)
    return;
  complaint = g_strdelimit (g_strdup (kit->complaint), "\n\r", ' ');
  g_clear_error (error);
  if (strstr (complaint, "not found") != NULL && strstr (complaint, "sh:") != NULL)
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED, "%s: the program nbdkit is not installed", name);
  else
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s: %s", name, complaint);
}

static MfBackend *
open_nbdkit (const char *name, gboolean read_only, GError **error)
{
  const char *words = strchr (name, ':') + 1;
  g_autofree char *uri = NULL;
  Nbdkit *kit;
  MfBackend *backend;

  if (*words == '\0') {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s: write nbdkit:PLUGIN,ARG...", name);
    return NULL;
  }
  kit = g_new0 (Nbdkit, 1);
  g_mutex_init (&kit->lock);
  kit->folder = g_dir_make_tmp ("memferry-XXXXXX", error);
  kit->socket = kit->folder != NULL ? g_build_filename (kit->folder, "nbd", NULL) : NULL;
  if (kit->folder == NULL || !start (kit, words, read_only, error)) {
    nbdkit_free (kit);
    return NULL;
  }
  uri = g_strdup_printf ("nbd+unix:///?socket=%s", kit->socket);
  backend = mf_nbd_backend_new (name, uri, read_only, nbdkit_free, kit, error);
  if (backend == NULL) {
    explain (kit, name, error);
    nbdkit_free (kit);
  }
  return backend;
}

static const char *const schemes[] = { "nbdkit", NULL };

const mf_backend_driver mf_nbdkit_backend_driver = {
  .schemes = schemes,
  .usage = "nbdkit:PLUGIN,ARG...",
  .open = open_nbdkit,
};
