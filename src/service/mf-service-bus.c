/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "service/mf-service-bus.h"

#include "service/mf-service-objects.h"
#include <errno.h>
#include <glib/gstdio.h>
#include <grp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Who says nothing is not waited for longer: threads of all of the process wait with him. */
#define AUTHENTICATION_SECONDS 5
#define BACKLOG                64

struct _MfServiceBus {
  GSocket *socket;
  gboolean is_ours; /* the socket's file goes with it */
  GSocketService *server;
  GCancellable *ending; /* clients that are still being let in */
  GDBusAuthObserver *observer;
  char *guid;
  char *path;
  gid_t group;
  GPtrArray *clients; /* of GDBusConnection */
  MfServiceObjects *objects;
  mf_service_bus_gone gone;
  gpointer user_data;
};

static gboolean
allow_mechanism (GDBusAuthObserver *observer, const char *mechanism, gpointer user_data)
{
  /* The one that rests on the credentials that the kernel gives. */
  return strcmp (mechanism, "EXTERNAL") == 0;
}

static gboolean
is_member (GSocket *socket, gid_t group)
{
  gid_t groups[1024];
  socklen_t length = sizeof groups;
  int fd = g_socket_get_fd (socket);
  struct ucred credentials;
  socklen_t credentials_length = sizeof credentials;

  if (getsockopt (fd, SOL_SOCKET, SO_PEERCRED, &credentials, &credentials_length) != 0)
    return FALSE;
  if (credentials.gid == group)
    return TRUE;
  if (getsockopt (fd, SOL_SOCKET, SO_PEERGROUPS, groups, &length) != 0)
    return FALSE;
  for (guint i = 0; i < length / sizeof *groups; i++)
    if (groups[i] == group)
      return TRUE;
  return FALSE;
}

/* In a thread, perhaps after the bus has ended: all that it knows is the group. */
static gboolean
authorize (GDBusAuthObserver *observer, GIOStream *stream, GCredentials *credentials, gpointer user_data)
{
  gid_t group = GPOINTER_TO_UINT (user_data);
  uid_t uid = credentials ? g_credentials_get_unix_user (credentials, NULL) : (uid_t) -1;

  if (uid == (uid_t) -1)
    return FALSE;
  if (uid == 0 || uid == geteuid ())
    return TRUE;
  if (is_member (g_socket_connection_get_socket (G_SOCKET_CONNECTION (stream)), group))
    return TRUE;
  g_message ("refused a client of user %u", uid);
  return FALSE;
}

static void
client_closed (GDBusConnection *connection, gboolean vanished, GError *error, gpointer user_data)
{
  MfServiceBus *bus = user_data;
  g_autoptr (GDBusConnection) kept = g_object_ref (connection);

  g_signal_handlers_disconnect_by_data (connection, bus);
  mf_service_objects_disconnect (bus->objects, connection);
  g_ptr_array_remove_fast (bus->clients, connection);
  bus->gone (kept, bus->user_data);
}

static void
client_is_in (GObject *object, GAsyncResult *result, gpointer user_data)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GDBusConnection) connection = g_dbus_connection_new_finish (result, &error);
  MfServiceBus *bus = user_data;

  /* Also said when the bus has ended: it is not to be looked at then. */
  if (!connection)
    return;
  g_socket_set_timeout (
      g_socket_connection_get_socket (G_SOCKET_CONNECTION (g_dbus_connection_get_stream (connection))), 0);
  mf_service_objects_connect (bus->objects, connection);
  g_signal_connect (connection, "closed", G_CALLBACK (client_closed), bus);
  g_ptr_array_add (bus->clients, g_object_ref (connection));
  g_dbus_connection_start_message_processing (connection);
}

/* Let in by a thread: who it is comes in a few messages, each of which may take its time. */
static gboolean
client_came (GSocketService *server, GSocketConnection *stream, GObject *source, gpointer user_data)
{
  MfServiceBus *bus = user_data;

  g_socket_set_timeout (g_socket_connection_get_socket (stream), AUTHENTICATION_SECONDS);
  g_dbus_connection_new (G_IO_STREAM (stream), bus->guid,
                         G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_SERVER |
                             G_DBUS_CONNECTION_FLAGS_DELAY_MESSAGE_PROCESSING,
                         bus->observer, bus->ending, client_is_in, bus);
  return TRUE;
}

static gboolean
find_group (MfServiceBus *bus, const char *name, GError **error)
{
  const struct group *found;
  struct stat st;

  bus->group = getegid ();
  if (!name && bus->is_ours)
    return TRUE;
  if (!name) {
    if (stat (bus->path, &st) != 0)
      return mf_error_from_errno (error, errno, "%s", bus->path);
    bus->group = st.st_gid;
    return TRUE;
  }
  errno = 0;
  found = getgrnam (name);
  if (!found) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "there is no group %s", name);
    return FALSE;
  }
  bus->group = found->gr_gid;
  return TRUE;
}

/* Nobody can connect yet: that comes when it has its mode and group. */
static gboolean
bind_socket (MfServiceBus *bus, int fd, GError **error)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };

  if (strlen (bus->path) >= sizeof address.sun_path) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s: too long for a socket's path: give a shorter --runtime-dir",
                 bus->path);
    return FALSE;
  }
  strcpy (address.sun_path, bus->path);
  if (unlink (bus->path) != 0 && errno != ENOENT)
    return mf_error_from_errno (error, errno, "%s", bus->path);
  if (bind (fd, (struct sockaddr *) &address, sizeof address) != 0)
    return mf_error_from_errno (error, errno, "listening at %s", bus->path);
  bus->is_ours = TRUE;
  return TRUE;
}

/* `fd` is taken over. */
static gboolean
make_socket (MfServiceBus *bus, int fd, GError **error)
{
  g_autoptr (GError) wrong = NULL;

  bus->socket = g_socket_new_from_fd (fd, &wrong);
  if (!bus->socket) {
    close (fd);
    g_set_error (error, MF_ERROR, MF_ERROR_FAILED, "listening at %s: %s", bus->path, wrong->message);
    return FALSE;
  }
  return TRUE;
}

static gboolean
open_socket (MfServiceBus *bus, const char *group, GError **error)
{
  int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

  if (fd < 0)
    return mf_error_from_errno (error, errno, "making a socket");
  if (!make_socket (bus, fd, error) || !bind_socket (bus, fd, error) || !find_group (bus, group, error))
    return FALSE;
  if (bus->group != getegid () && chown (bus->path, (uid_t) -1, bus->group) != 0)
    return mf_error_from_errno (error, errno, "giving %s to its group", bus->path);
  if (g_chmod (bus->path, 0660) != 0)
    return mf_error_from_errno (error, errno, "%s", bus->path);
  return listen (fd, BACKLOG) == 0 || mf_error_from_errno (error, errno, "listening at %s", bus->path);
}

static gboolean
take_socket (MfServiceBus *bus, int listen_fd, const char *group, GError **error)
{
  if (!make_socket (bus, listen_fd, error) || !find_group (bus, group, error))
    return FALSE;
  return !group || chown (bus->path, (uid_t) -1, bus->group) == 0 ||
         mf_error_from_errno (error, errno, "giving %s to its group", bus->path);
}

MfServiceBus *
mf_service_bus_new (const char *path, int listen_fd, const char *group, mf_service_bus_gone gone, gpointer user_data,
                    GError **error)
{
  g_autoptr (MfServiceBus) bus = g_new0 (MfServiceBus, 1);

  bus->path = g_strdup (path);
  bus->guid = g_dbus_generate_guid ();
  bus->gone = gone;
  bus->user_data = user_data;
  bus->clients = g_ptr_array_new_with_free_func (g_object_unref);
  bus->objects = mf_service_objects_new (MF_SERVICE_PATH);
  bus->ending = g_cancellable_new ();
  bus->observer = g_dbus_auth_observer_new ();
  if (listen_fd >= 0 ? !take_socket (bus, listen_fd, group, error) : !open_socket (bus, group, error))
    return NULL;
  g_signal_connect (bus->observer, "allow-mechanism", G_CALLBACK (allow_mechanism), NULL);
  g_signal_connect (bus->observer, "authorize-authenticated-peer", G_CALLBACK (authorize),
                    GUINT_TO_POINTER (bus->group));
  return g_steal_pointer (&bus);
}

void
mf_service_bus_start (MfServiceBus *bus)
{
  g_autoptr (GError) error = NULL;

  bus->server = g_socket_service_new ();
  g_signal_connect (bus->server, "incoming", G_CALLBACK (client_came), bus);
  if (!g_socket_listener_add_socket (G_SOCKET_LISTENER (bus->server), bus->socket, NULL, &error))
    g_critical ("%s: %s", bus->path, error->message);
}

void
mf_service_bus_free (MfServiceBus *bus)
{
  if (bus->server) {
    g_signal_handlers_disconnect_by_data (bus->server, bus);
    g_socket_service_stop (bus->server);
    g_socket_listener_close (G_SOCKET_LISTENER (bus->server));
    g_object_unref (bus->server);
  }
  g_cancellable_cancel (bus->ending);
  g_object_unref (bus->ending);
  if (bus->is_ours)
    unlink (bus->path);
  g_clear_object (&bus->socket);
  g_object_unref (bus->observer);
  for (guint i = 0; i < bus->clients->len; i++) {
    g_signal_handlers_disconnect_by_data (bus->clients->pdata[i], bus);
    g_dbus_connection_close (bus->clients->pdata[i], NULL, NULL, NULL);
  }
  mf_service_objects_free (bus->objects);
  g_ptr_array_unref (bus->clients);
  g_free (bus->guid);
  g_free (bus->path);
  g_free (bus);
}

gid_t
mf_service_bus_group (MfServiceBus *bus)
{
  return bus->group;
}

void
mf_service_bus_export (MfServiceBus *bus, GDBusObjectSkeleton *object)
{
  mf_service_objects_add (bus->objects, object);
}

void
mf_service_bus_unexport (MfServiceBus *bus, GDBusObjectSkeleton *object)
{
  mf_service_objects_remove (bus->objects, object);
}
