/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "service/mf-service-bus.h"

#include "service/mf-service-objects.h"
#include <errno.h>
#include <glib/gstdio.h>
#include <grp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct _MfServiceBus {
  GDBusServer *server;
  GDBusAuthObserver *observer;
  char *path;
  gid_t group;        /* written before the server starts, read by its threads */
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

/* In a thread of the server. */
static gboolean
authorize (GDBusAuthObserver *observer, GIOStream *stream, GCredentials *credentials, gpointer user_data)
{
  MfServiceBus *bus = user_data;
  uid_t uid = credentials ? g_credentials_get_unix_user (credentials, NULL) : (uid_t) -1;

  if (uid == (uid_t) -1)
    return FALSE;
  if (uid == 0 || uid == geteuid ())
    return TRUE;
  if (is_member (g_socket_connection_get_socket (G_SOCKET_CONNECTION (stream)), bus->group))
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

static gboolean
client_came (GDBusServer *server, GDBusConnection *connection, gpointer user_data)
{
  MfServiceBus *bus = user_data;

  mf_service_objects_connect (bus->objects, connection);
  g_signal_connect (connection, "closed", G_CALLBACK (client_closed), bus);
  g_ptr_array_add (bus->clients, g_object_ref (connection));
  return TRUE;
}

static gboolean
find_group (MfServiceBus *bus, const char *name, GError **error)
{
  const struct group *found;

  bus->group = getegid ();
  if (!name)
    return TRUE;
  errno = 0;
  found = getgrnam (name);
  if (!found) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "there is no group %s", name);
    return FALSE;
  }
  bus->group = found->gr_gid;
  return TRUE;
}

static gboolean
make_server (MfServiceBus *bus, GError **error)
{
  g_autofree char *escaped = g_dbus_address_escape_value (bus->path);
  g_autofree char *address = g_strdup_printf ("unix:path=%s", escaped);
  g_autofree char *guid = g_dbus_generate_guid ();
  g_autoptr (GError) wrong = NULL;

  if (strlen (bus->path) >= sizeof (((struct sockaddr_un *) NULL)->sun_path)) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s: too long for a socket's path: give a shorter --runtime-dir",
                 bus->path);
    return FALSE;
  }
  if (unlink (bus->path) != 0 && errno != ENOENT)
    return mf_error_from_errno (error, errno, "%s", bus->path);
  bus->server = g_dbus_server_new_sync (address, G_DBUS_SERVER_FLAGS_NONE, guid, bus->observer, NULL, &wrong);
  if (!bus->server) {
    g_set_error (error, MF_ERROR, MF_ERROR_FAILED, "listening at %s: %s", bus->path, wrong->message);
    return FALSE;
  }
  /* Nobody is let in by the umask before. */
  if (bus->group != getegid () && chown (bus->path, (uid_t) -1, bus->group) != 0)
    return mf_error_from_errno (error, errno, "giving %s to its group", bus->path);
  if (g_chmod (bus->path, 0660) != 0)
    return mf_error_from_errno (error, errno, "%s", bus->path);
  return TRUE;
}

MfServiceBus *
mf_service_bus_new (const char *path, const char *group, mf_service_bus_gone gone, gpointer user_data, GError **error)
{
  g_autoptr (MfServiceBus) bus = g_new0 (MfServiceBus, 1);

  bus->path = g_strdup (path);
  bus->gone = gone;
  bus->user_data = user_data;
  bus->clients = g_ptr_array_new_with_free_func (g_object_unref);
  bus->objects = mf_service_objects_new (MF_SERVICE_PATH);
  bus->observer = g_dbus_auth_observer_new ();
  g_signal_connect (bus->observer, "allow-mechanism", G_CALLBACK (allow_mechanism), bus);
  g_signal_connect (bus->observer, "authorize-authenticated-peer", G_CALLBACK (authorize), bus);
  if (!find_group (bus, group, error) || !make_server (bus, error))
    return NULL;
  g_signal_connect (bus->server, "new-connection", G_CALLBACK (client_came), bus);
  return g_steal_pointer (&bus);
}

void
mf_service_bus_start (MfServiceBus *bus)
{
  g_dbus_server_start (bus->server);
}

void
mf_service_bus_free (MfServiceBus *bus)
{
  if (bus->server) {
    g_signal_handlers_disconnect_by_data (bus->server, bus);
    g_dbus_server_stop (bus->server);
    g_object_unref (bus->server);
    unlink (bus->path);
  }
  g_signal_handlers_disconnect_by_data (bus->observer, bus);
  g_object_unref (bus->observer);
  for (guint i = 0; i < bus->clients->len; i++) {
    g_signal_handlers_disconnect_by_data (bus->clients->pdata[i], bus);
    g_dbus_connection_close (bus->clients->pdata[i], NULL, NULL, NULL);
  }
  mf_service_objects_free (bus->objects);
  g_ptr_array_unref (bus->clients);
  g_free (bus->path);
  g_free (bus);
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
