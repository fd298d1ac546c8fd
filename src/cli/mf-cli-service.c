/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-service.h"

#include <gio/gunixsocketaddress.h>
#include <string.h>
#include <sys/un.h>

#define SOCKET_PATH_MAX ((int) sizeof (((struct sockaddr_un *) NULL)->sun_path) - 1)

static GSocketConnection *
connect_socket (const char *path, GError **error)
{
  g_autoptr (GSocketClient) client = g_socket_client_new ();
  g_autoptr (GSocketAddress) address = NULL;
  g_autoptr (GError) wrong = NULL;
  GSocketConnection *stream;

  /* GUnixSocketAddress would cut the path and connect somewhere else. */
  if (strlen (path) > (size_t) SOCKET_PATH_MAX) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s: too long for a socket's path (%d bytes at most)", path,
                 SOCKET_PATH_MAX);
    return NULL;
  }
  address = g_unix_socket_address_new (path);
  stream = g_socket_client_connect (client, G_SOCKET_CONNECTABLE (address), NULL, &wrong);
  if (stream)
    return stream;
  if (g_error_matches (wrong, G_IO_ERROR, G_IO_ERROR_NOT_FOUND) ||
      g_error_matches (wrong, G_IO_ERROR, G_IO_ERROR_CONNECTION_REFUSED))
    g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION,
                 "no service answers at %s: start memferryd, or name its socket with --socket", path);
  else if (g_error_matches (wrong, G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED))
    g_set_error (
        error, MF_ERROR, MF_ERROR_PERMISSION,
        "no permission to use the service at %s: run as its user, as root, or as a member of the socket's group", path);
  else
    g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION, "%s: %s", path, wrong->message);
  return NULL;
}

/* The handshake of D-Bus, which has no time limit of its own: a service that was stopped, or something else that answers at the socket, must not
 * keep the command waiting for ever. */
typedef struct {
  GMainLoop *loop;
  GCancellable *cancellable;
  GDBusConnection *connection;
  GError *error;
} handshake;

static void
handshake_done (GObject *source, GAsyncResult *result, gpointer user_data)
{
  handshake *shake = user_data;

  shake->connection = g_dbus_connection_new_finish (result, &shake->error);
  g_main_loop_quit (shake->loop);
}

static gboolean
handshake_timed_out (gpointer user_data)
{
  handshake *shake = user_data;

  g_cancellable_cancel (shake->cancellable);
  return G_SOURCE_CONTINUE;
}

GDBusConnection *
mf_cli_connect (const char *path, GError **error)
{
  return mf_cli_connect_within (path, MF_CLI_TIMEOUT_MSEC, error);
}

GDBusConnection *
mf_cli_connect_within (const char *path, guint timeout_msec, GError **error)
{
  g_autoptr (GMainLoop) loop = g_main_loop_new (NULL, FALSE);
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  g_autoptr (GSocketConnection) stream = NULL;
  handshake shake = { loop, cancellable, NULL, NULL };
  guint timer;

  /* Registers the names of our errors, so that they arrive as MF_ERROR. */
  mf_error_quark ();
  stream = connect_socket (path, error);
  if (!stream)
    return NULL;
  timer = g_timeout_add (timeout_msec, handshake_timed_out, &shake);
  g_dbus_connection_new (G_IO_STREAM (stream), NULL, G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT, NULL, cancellable,
                         handshake_done, &shake);
  g_main_loop_run (loop);
  g_source_remove (timer);
  if (shake.connection)
    return shake.connection;
  if (g_cancellable_is_cancelled (cancellable))
    g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT, "the service at %s does not answer", path);
  else
    g_set_error (error, MF_ERROR, MF_ERROR_PERMISSION, "the service at %s refused: not its user, root, or its group",
                 path);
  g_clear_error (&shake.error);
  return NULL;
}

gboolean
mf_cli_take_error (GError **error, GError *remote)
{
  g_dbus_error_strip_remote_error (remote);
  if (remote->domain == MF_ERROR)
    g_propagate_error (error, remote);
  else {
    if (g_error_matches (remote, G_IO_ERROR, G_IO_ERROR_CLOSED))
      g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION, "the service has ended");
    else if (g_error_matches (remote, G_IO_ERROR, G_IO_ERROR_TIMED_OUT))
      g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT, "the service does not answer");
    else
      g_set_error (error, MF_ERROR, MF_ERROR_FAILED, "the service: %s", remote->message);
    g_error_free (remote);
  }
  return FALSE;
}

MfDbusManager1 *
mf_cli_manager (GDBusConnection *connection, GError **error)
{
  g_autoptr (GError) remote = NULL;
  MfDbusManager1 *manager;

  manager = mf_dbus_manager1_proxy_new_sync (connection, G_DBUS_PROXY_FLAGS_NONE, NULL, "/org/memferry/manager", NULL,
                                             &remote);
  if (!manager)
    mf_cli_take_error (error, g_steal_pointer (&remote));
  else
    g_dbus_proxy_set_default_timeout (G_DBUS_PROXY (manager), MF_CLI_TIMEOUT_MSEC);
  return manager;
}

GDBusObjectManager *
mf_cli_objects (GDBusConnection *connection, GError **error)
{
  g_autoptr (GError) remote = NULL;
  GDBusObjectManager *objects;

  objects = mf_dbus_object_manager_client_new_sync (connection, G_DBUS_OBJECT_MANAGER_CLIENT_FLAGS_NONE, NULL,
                                                    "/org/memferry", NULL, &remote);
  if (!objects)
    mf_cli_take_error (error, g_steal_pointer (&remote));
  return objects;
}

static int
by_name (gconstpointer a, gconstpointer b)
{
  return g_strcmp0 (mf_dbus_region1_get_name (*(MfDbusRegion1 *const *) a),
                    mf_dbus_region1_get_name (*(MfDbusRegion1 *const *) b));
}

static int
by_id (gconstpointer a, gconstpointer b)
{
  guint first = mf_dbus_job1_get_id (*(MfDbusJob1 *const *) a);
  guint second = mf_dbus_job1_get_id (*(MfDbusJob1 *const *) b);

  return (first > second) - (first < second);
}

GPtrArray *
mf_cli_regions (GDBusObjectManager *objects)
{
  GPtrArray *found = g_ptr_array_new_with_free_func (g_object_unref);
  GList *all = g_dbus_object_manager_get_objects (objects);

  for (GList *l = all; l; l = l->next) {
    MfDbusRegion1 *region = mf_dbus_object_get_region1 (l->data);

    if (region)
      g_ptr_array_add (found, region);
  }
  g_list_free_full (all, g_object_unref);
  g_ptr_array_sort (found, by_name);
  return found;
}

GPtrArray *
mf_cli_jobs (GDBusObjectManager *objects)
{
  GPtrArray *found = g_ptr_array_new_with_free_func (g_object_unref);
  GList *all = g_dbus_object_manager_get_objects (objects);

  for (GList *l = all; l; l = l->next) {
    MfDbusJob1 *job = mf_dbus_object_get_job1 (l->data);

    if (job)
      g_ptr_array_add (found, job);
  }
  g_list_free_full (all, g_object_unref);
  g_ptr_array_sort (found, by_id);
  return found;
}

MfDbusRegion1 *
mf_cli_find_region (GDBusObjectManager *objects, const char *name, GError **error)
{
  g_autoptr (GPtrArray) regions = mf_cli_regions (objects);

  for (guint i = 0; i < regions->len; i++)
    if (g_strcmp0 (mf_dbus_region1_get_name (regions->pdata[i]), name) == 0)
      return g_object_ref (regions->pdata[i]);
  g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "%s: there is no such region; memferry list shows them", name);
  return NULL;
}

MfDbusJob1 *
mf_cli_find_job (GDBusObjectManager *objects, const char *number, GError **error)
{
  g_autoptr (GPtrArray) jobs = mf_cli_jobs (objects);
  guint64 id = 0;

  if (!g_ascii_string_to_unsigned (number, 10, 1, G_MAXUINT32, &id, NULL)) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s is not a job: give its number; memferry jobs shows them",
                 number);
    return NULL;
  }
  for (guint i = 0; i < jobs->len; i++)
    if (mf_dbus_job1_get_id (jobs->pdata[i]) == id)
      return g_object_ref (jobs->pdata[i]);
  g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "%s: there is no such job; memferry jobs shows them", number);
  return NULL;
}
