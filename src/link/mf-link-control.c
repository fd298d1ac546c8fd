/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "link/mf-link-socket.h"
#include "mf-wait.h"

#include <gio/gio.h>
#include <pthread.h>
#include <unistd.h>

/* Cancels `limited` when the deadline passes or `outer` is cancelled: GLib's D-Bus handshake has no time limit of its own, and a limit
 * on the socket would stay in force for the read that the connection's worker begins with. */
typedef struct {
  GCancellable *outer; /* nullable */
  GCancellable *limited;
  GCancellable *done;
  gint64 deadline_usec;
  pthread_t thread;
  gboolean runs;
  gulong outer_handler;
} Watchdog;

static void *
watchdog_thread (void *data)
{
  Watchdog *dog = data;
  g_autoptr (GError) error = NULL;

  if (!mf_wait_fd (-1, 0, dog->deadline_usec, dog->done, &error) &&
      g_error_matches (error, MF_ERROR, MF_ERROR_TIMED_OUT))
    g_cancellable_cancel (dog->limited);
  return NULL;
}

static void
on_outer_cancelled (GCancellable *outer, gpointer limited)
{
  g_cancellable_cancel (limited);
}

static gboolean
watchdog_start (Watchdog *dog, GError **error)
{
  int result;

  dog->limited = g_cancellable_new ();
  dog->done = g_cancellable_new ();
  dog->deadline_usec = mf_deadline_after (MF_LINK_HANDSHAKE_USEC);
  result = pthread_create (&dog->thread, NULL, watchdog_thread, dog);
  if (result != 0)
    return mf_error_from_errno (error, result, "starting a thread");
  dog->runs = TRUE;
  if (dog->outer != NULL)
    dog->outer_handler = g_cancellable_connect (dog->outer, G_CALLBACK (on_outer_cancelled), dog->limited, NULL);
  return TRUE;
}

static void
watchdog_stop (Watchdog *dog)
{
  if (dog->runs) {
    g_cancellable_cancel (dog->done);
    pthread_join (dog->thread, NULL);
    g_cancellable_disconnect (dog->outer, dog->outer_handler);
  }
  g_clear_object (&dog->limited);
  g_clear_object (&dog->done);
}

/* Only ANONYMOUS: the stream is what carries the authentication, and GLib would otherwise look for cookies in a home folder. */
static gboolean
on_allow_mechanism (GDBusAuthObserver *observer, const char *mechanism, gpointer user_data)
{
  return g_str_equal (mechanism, "ANONYMOUS");
}

static GDBusConnection *
connect_bus (GIOStream *stream, gboolean is_server, GCancellable *cancellable, GError **error)
{
  g_autoptr (GDBusAuthObserver) observer = g_dbus_auth_observer_new ();
  g_autofree char *guid = is_server ? g_dbus_generate_guid () : NULL;
  GDBusConnectionFlags flags = G_DBUS_CONNECTION_FLAGS_DELAY_MESSAGE_PROCESSING;

  if (is_server)
    flags |= G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_SERVER | G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_ALLOW_ANONYMOUS;
  else
    flags |= G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT;
  g_signal_connect (observer, "allow-mechanism", G_CALLBACK (on_allow_mechanism), NULL);
  return g_dbus_connection_new_sync (stream, guid, flags, observer, cancellable, error);
}

static GIOStream *
wrap_stream (int fd, GError **error)
{
  g_autoptr (GError) failure = NULL;
  g_autoptr (GSocket) gsocket = NULL;

  mf_link_set_control_options (fd);
  gsocket = g_socket_new_from_fd (fd, &failure);
  if (gsocket == NULL) {
    close (fd);
    g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION, "control connection: %s", failure->message);
    return NULL;
  }
  return G_IO_STREAM (g_socket_connection_factory_create_connection (gsocket));
}

GDBusConnection *
mf_link_control (int fd, gboolean is_server, GCancellable *cancellable, GError **error)
{
  g_autoptr (GIOStream) stream = wrap_stream (fd, error);
  g_autoptr (GDBusConnection) connection = NULL;
  g_autoptr (GError) failure = NULL;
  Watchdog dog = { .outer = cancellable };

  if (stream == NULL)
    return NULL;
  if (!watchdog_start (&dog, error)) {
    watchdog_stop (&dog);
    return NULL;
  }
  connection = connect_bus (stream, is_server, dog.limited, &failure);
  watchdog_stop (&dog);

  if (connection != NULL)
    return g_steal_pointer (&connection);
  if (g_cancellable_is_cancelled (cancellable))
    g_set_error (error, MF_ERROR, MF_ERROR_CANCELLED, "control connection: cancelled");
  else if (g_error_matches (failure, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT, "control connection: the peer doesn't answer");
  else
    g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION, "control connection: %s", failure->message);
  return NULL;
}
