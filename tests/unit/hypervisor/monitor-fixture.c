/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "monitor-fixture.h"
#include "mf-wait.h"

#include <glib/gstdio.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PATIENCE_USEC (20 * G_USEC_PER_SEC)

struct _Monitor {
  const MonitorStep *script;
  gboolean closes;
  char *folder, *path;
  int listen_fd;
  GCancellable *stop;
  pthread_t thread;
  int fd;
  int done_fd; /* readable when the script was followed to its end */
  _Atomic int is_done;
};

/* The next line, or NULL when the test or the connection ends first. */
static char *
hear (Monitor *monitor, int fd)
{
  GString *line = g_string_new (NULL);
  char c;

  while (mf_wait_fd (fd, POLLIN, -1, monitor->stop, NULL) && read (fd, &c, 1) == 1) {
    if (c == '\n')
      return g_string_free (line, FALSE);
    g_string_append_c (line, c);
  }
  g_string_free (line, TRUE);
  return NULL;
}

static char *
id_of (const char *line)
{
  const char *id = strstr (line, "\"id\":");

  g_assert_nonnull (id);
  return g_strdup_printf ("%ld", strtol (id + strlen ("\"id\":"), NULL, 10));
}

static gboolean
say (int fd, const char *text, const char *id)
{
  g_auto (GStrv) parts = g_strsplit (text, "@", -1);
  g_autofree char *whole = g_strjoinv (id, parts);

  for (size_t sent = 0; sent < strlen (whole);) {
    ssize_t n = send (fd, whole + sent, strlen (whole) - sent, MSG_NOSIGNAL);

    if (n < 0)
      return FALSE;
    sent += n;
  }
  return TRUE;
}

static gboolean
follow (Monitor *monitor, int fd)
{
  g_autofree char *id = g_strdup ("0");

  for (const MonitorStep *step = monitor->script; step->hears != NULL || step->says != NULL; step++) {
    while (step->hears != NULL) {
      g_autofree char *line = hear (monitor, fd);

      if (line == NULL)
        return FALSE;
      g_free (id);
      id = id_of (line);
      if (strstr (line, step->hears) != NULL)
        break;
      g_test_message ("the monitor heard %s instead of %s", line, step->hears);
      return FALSE;
    }
    if (step->says != NULL && !say (fd, step->says, id))
      return FALSE;
  }
  return TRUE;
}

static void *
monitor_thread (void *data)
{
  Monitor *monitor = data;

  if (!mf_wait_fd (monitor->listen_fd, POLLIN, -1, monitor->stop, NULL))
    return NULL;
  monitor->fd = accept (monitor->listen_fd, NULL, NULL);
  if (!follow (monitor, monitor->fd))
    return NULL;
  if (monitor->closes)
    shutdown (monitor->fd, SHUT_RDWR);
  atomic_store (&monitor->is_done, TRUE);
  eventfd_write (monitor->done_fd, 1);
  return NULL;
}

Monitor *
monitor_new (const MonitorStep *script, gboolean closes)
{
  Monitor *monitor = g_new0 (Monitor, 1);
  struct sockaddr_un name = { .sun_family = AF_UNIX };

  monitor->script = script;
  monitor->closes = closes;
  monitor->fd = -1;
  monitor->done_fd = eventfd (0, EFD_CLOEXEC);
  monitor->folder = g_dir_make_tmp ("memferry-monitor-XXXXXX", NULL);
  monitor->path = g_build_filename (monitor->folder, "qmp", NULL);
  monitor->stop = g_cancellable_new ();
  monitor->listen_fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  g_strlcpy (name.sun_path, monitor->path, sizeof name.sun_path);
  g_assert_cmpint (bind (monitor->listen_fd, (struct sockaddr *) &name, sizeof name), ==, 0);
  g_assert_cmpint (listen (monitor->listen_fd, 1), ==, 0);
  g_assert_cmpint (pthread_create (&monitor->thread, NULL, monitor_thread, monitor), ==, 0);
  return monitor;
}

const char *
monitor_path (Monitor *monitor)
{
  return monitor->path;
}

void
monitor_await_script (Monitor *monitor)
{
  g_autoptr (GError) error = NULL;

  mf_wait_fd (monitor->done_fd, POLLIN, mf_deadline_after (PATIENCE_USEC), NULL, &error);
  g_assert_no_error (error);
  g_assert_true (atomic_load (&monitor->is_done));
}

void
monitor_say (Monitor *monitor, const char *text)
{
  g_assert_true (say (monitor->fd, text, ""));
}

gboolean
monitor_await_client_end (Monitor *monitor, gint64 timeout_usec)
{
  char ignored;

  return mf_wait_fd (monitor->fd, POLLIN, mf_deadline_after (timeout_usec), NULL, NULL) &&
         read (monitor->fd, &ignored, 1) <= 0;
}

void
monitor_free (Monitor *monitor)
{
  g_cancellable_cancel (monitor->stop);
  pthread_join (monitor->thread, NULL);
  g_assert_true (atomic_load (&monitor->is_done));
  if (monitor->fd >= 0)
    close (monitor->fd);
  close (monitor->done_fd);
  close (monitor->listen_fd);
  g_unlink (monitor->path);
  g_rmdir (monitor->folder);
  g_object_unref (monitor->stop);
  g_free (monitor->path);
  g_free (monitor->folder);
  g_free (monitor);
}
