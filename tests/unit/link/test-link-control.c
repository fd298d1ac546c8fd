/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "link-fixture.h"
#include "link/mf-link-socket.h"

#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATH           "/org/memferry/Test"
#define IFACE          "org.memferry.Test"
#define PATIENCE_MSEC  10000
#define BIG_BYTES      (24u << 20)
#define DEAD_HOST_USEC (12 * G_USEC_PER_SEC)

static const char introspection[] = "<node><interface name='" IFACE "'>"
                                    "<method name='Reverse'><arg type='ay' direction='in'/>"
                                    "<arg type='ay' direction='out'/></method>"
                                    "</interface></node>";

typedef struct {
  GDBusConnection *connection;
  gboolean is_closed;
  gint64 closed_usec;
} Side;

static void
on_call (GDBusConnection *connection, const char *sender, const char *path, const char *interface, const char *method,
         GVariant *parameters, GDBusMethodInvocation *invocation, gpointer user_data)
{
  g_autoptr (GVariant) argument = g_variant_get_child_value (parameters, 0);
  gsize n;
  const guint8 *bytes = g_variant_get_fixed_array (argument, &n, 1);
  guint8 *reversed = g_malloc (n);

  for (gsize i = 0; i < n; i++)
    reversed[i] = bytes[n - 1 - i];
  g_dbus_method_invocation_return_value (
      invocation, g_variant_new ("(@ay)", g_variant_new_from_data (G_VARIANT_TYPE_BYTESTRING, reversed, n, TRUE, g_free,
                                                                   reversed)));
}

static void
on_closed (GDBusConnection *connection, gboolean remote_vanished, GError *error, gpointer user_data)
{
  Side *side = user_data;

  side->is_closed = TRUE;
  side->closed_usec = g_get_monotonic_time ();
}

static void
side_init (Side *side, GDBusConnection *connection)
{
  static const GDBusInterfaceVTable vtable = { .method_call = on_call };
  g_autoptr (GDBusNodeInfo) node = g_dbus_node_info_new_for_xml (introspection, NULL);
  g_autoptr (GError) error = NULL;

  *side = (Side){ .connection = connection };
  g_signal_connect (connection, "closed", G_CALLBACK (on_closed), side);
  g_dbus_connection_register_object (connection, PATH, node->interfaces[0], &vtable, NULL, NULL, &error);
  g_assert_no_error (error);
  g_dbus_connection_start_message_processing (connection);
}

typedef struct {
  int fd;
  GDBusConnection *connection;
} Dialler;

/* The two sides of a handshake wait for each other, so one of them has a thread. Both take their messages in the main context. */
static void *
dialler_thread (void *data)
{
  Dialler *dialler = data;
  g_autoptr (GError) error = NULL;

  dialler->connection = mf_link_control (dialler->fd, FALSE, NULL, &error);
  g_assert_no_error (error);
  return NULL;
}

static void
join_sides (int dialled_fd, int accepted_fd, Side *client, Side *server)
{
  Dialler dialler = { .fd = dialled_fd };
  g_autoptr (GError) error = NULL;
  pthread_t thread;
  GDBusConnection *accepted;

  g_assert_cmpint (pthread_create (&thread, NULL, dialler_thread, &dialler), ==, 0);
  accepted = mf_link_control (accepted_fd, TRUE, NULL, &error);
  g_assert_no_error (error);
  pthread_join (thread, NULL);
  side_init (client, dialler.connection);
  side_init (server, accepted);
}

static gboolean
on_timeout (gpointer fired)
{
  *(gboolean *) fired = TRUE;
  return G_SOURCE_CONTINUE;
}

static void
run_until (const gboolean *done, guint timeout_msec)
{
  gboolean is_late = FALSE;
  guint id = g_timeout_add (timeout_msec, on_timeout, &is_late);

  while (!*done && !is_late)
    g_main_context_iteration (NULL, TRUE);
  g_source_remove (id);
  g_assert_true (*done);
}

static void
on_answer (GObject *object, GAsyncResult *result, gpointer answer)
{
  g_autoptr (GError) error = NULL;

  *(GVariant **) answer = g_dbus_connection_call_finish (G_DBUS_CONNECTION (object), result, &error);
  g_assert_no_error (error);
}

static void
assert_call (Side *side, gsize n)
{
  guint8 *bytes = g_malloc (n);
  GVariant *answer = NULL;
  g_autoptr (GVariant) child = NULL;
  const guint8 *got;
  gsize n_got;

  for (gsize i = 0; i < n; i++)
    bytes[i] = (guint8) (i * 31 + (i >> 8));
  g_dbus_connection_call (
      side->connection, NULL, PATH, IFACE, "Reverse",
      g_variant_new ("(@ay)", g_variant_new_from_data (G_VARIANT_TYPE_BYTESTRING, bytes, n, TRUE, NULL, NULL)), NULL,
      G_DBUS_CALL_FLAGS_NONE, PATIENCE_MSEC, NULL, on_answer, &answer);
  while (answer == NULL)
    g_main_context_iteration (NULL, TRUE);
  child = g_variant_get_child_value (answer, 0);
  got = g_variant_get_fixed_array (child, &n_got, 1);
  g_assert_cmpuint (n_got, ==, n);
  for (gsize i = 0; i < n; i++)
    if (got[i] != bytes[n - 1 - i])
      g_error ("byte %" G_GSIZE_FORMAT " differs", i);
  g_variant_unref (answer);
  g_free (bytes);
}

/* Both sides export objects and call the other's; a message may be large. */
static void
test_calls (gconstpointer use_tcp)
{
  g_autoptr (Fixture) f = fixture_new ();
  g_autoptr (mf_peer_address) tcp = fixture_add_tcp (f);
  int dialled = dial (GPOINTER_TO_INT (use_tcp) ? tcp : f->address, MF_STREAM_CONTROL, 0);
  Side client, server;

  join_sides (dialled, fixture_take (f), &client, &server);
  assert_call (&client, 10);
  assert_call (&server, 10);
  assert_call (&client, BIG_BYTES);
  assert_call (&server, BIG_BYTES);

  g_assert_true (g_dbus_connection_close_sync (client.connection, NULL, NULL));
  run_until (&server.is_closed, 1000);
  g_object_unref (client.connection);
  g_object_unref (server.connection);
}

/* The peer's process dies: no farewell, only the end of the stream. */
static void
test_peer_dies (void)
{
  g_autoptr (Fixture) f = fixture_new ();
  int dialled = dial (f->address, MF_STREAM_CONTROL, 0);
  int accepted = fixture_take (f);
  int also_accepted = dup (accepted);
  Side client, server;

  join_sides (dialled, accepted, &client, &server);
  assert_call (&client, 10);
  shutdown (also_accepted, SHUT_RDWR);
  run_until (&client.is_closed, 1000);
  close (also_accepted);
  g_dbus_connection_close_sync (server.connection, NULL, NULL);
  g_object_unref (client.connection);
  g_object_unref (server.connection);
}

static void
assert_no_control (int fd, gboolean is_server, GCancellable *cancellable, int code)
{
  g_autoptr (GError) error = NULL;

  g_assert_null (mf_link_control (fd, is_server, cancellable, &error));
  g_assert_error (error, MF_ERROR, code);
  g_assert_null (strchr (error->message, '\n'));
  g_test_message ("%s", error->message);
}

static void
test_silent_peer (void)
{
  int pair[2];
  gint64 begin = g_get_monotonic_time ();

  g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
  assert_no_control (pair[0], TRUE, NULL, MF_ERROR_TIMED_OUT);
  g_assert_cmpint (g_get_monotonic_time () - begin, >=, MF_LINK_HANDSHAKE_USEC);
  g_assert_cmpint (g_get_monotonic_time () - begin, <, 2 * MF_LINK_HANDSHAKE_USEC);
  close (pair[1]);
}

static void
test_no_dbus (void)
{
  for (int is_server = 0; is_server < 2; is_server++) {
    int pair[2];

    g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
    send_all (pair[1], "GET / HTTP/1.1\r\n\r\n", 18);
    shutdown (pair[1], SHUT_WR);
    assert_no_control (pair[0], is_server, NULL, MF_ERROR_CONNECTION);
    close (pair[1]);
  }
}

static void
test_cancelled (void)
{
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  int pair[2];

  g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
  g_cancellable_cancel (cancellable);
  assert_no_control (pair[0], TRUE, cancellable, MF_ERROR_CANCELLED);
  /* The descriptor was taken over all the same. */
  await_end (pair[1], G_USEC_PER_SEC);
  close (pair[1]);
}

/* --- The other host dies --- */

static gboolean
set_loopback (gboolean is_up)
{
  struct ifreq request = { .ifr_name = "lo", .ifr_flags = is_up ? IFF_UP | IFF_RUNNING : 0 };
  int fd = socket (AF_INET, SOCK_DGRAM, 0);
  gboolean ok = ioctl (fd, SIOCSIFFLAGS, &request) == 0;

  close (fd);
  return ok;
}

typedef struct {
  int dialled, accepted, control_fd;
  gboolean is_possible;
} Island;

/* A network of this thread's own, in which two sockets are connected. */
static void *
island_thread (void *data)
{
  Island *island = data;
  struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr.s_addr = htonl (INADDR_LOOPBACK) };
  socklen_t size = sizeof name;
  int listening;

  if (unshare (CLONE_NEWNET) < 0)
    return NULL;
  g_assert_true (set_loopback (TRUE));
  listening = socket (AF_INET, SOCK_STREAM, 0);
  g_assert_cmpint (bind (listening, (struct sockaddr *) &name, size), ==, 0);
  g_assert_cmpint (listen (listening, 1), ==, 0);
  g_assert_cmpint (getsockname (listening, (struct sockaddr *) &name, &size), ==, 0);
  island->dialled = socket (AF_INET, SOCK_STREAM, 0);
  g_assert_cmpint (connect (island->dialled, (struct sockaddr *) &name, size), ==, 0);
  island->accepted = accept (listening, NULL, NULL);
  island->control_fd = socket (AF_INET, SOCK_DGRAM, 0);
  close (listening);
  island->is_possible = TRUE;
  return NULL;
}

static void
cut_island (Island *island)
{
  struct ifreq request = { .ifr_name = "lo" };

  g_assert_cmpint (ioctl (island->control_fd, SIOCSIFFLAGS, &request), ==, 0);
}

/* The network is gone without a word. The side that has something to say and the side that only listens both notice. */
static void
test_dead_host (void)
{
  Island island = { 0 };
  Side client, server;
  pthread_t thread;
  gint64 begin;

  g_assert_cmpint (pthread_create (&thread, NULL, island_thread, &island), ==, 0);
  pthread_join (thread, NULL);
  if (!island.is_possible) {
    g_test_skip ("only root can make a network namespace");
    return;
  }
  mf_link_set_stream_options (island.dialled);
  mf_link_set_stream_options (island.accepted);
  join_sides (island.dialled, island.accepted, &client, &server);
  assert_call (&client, 10);
  cut_island (&island);
  begin = g_get_monotonic_time ();
  g_dbus_connection_call (client.connection, NULL, PATH, IFACE, "Reverse", g_variant_new ("(ay)", NULL), NULL,
                          G_DBUS_CALL_FLAGS_NONE, G_MAXINT, NULL, NULL, NULL);
  run_until (&client.is_closed, 15000);
  run_until (&server.is_closed, 15000);
  g_test_message ("noticed after %.1f s by the one that speaks, %.1f s by the other",
                  (client.closed_usec - begin) / 1e6, (server.closed_usec - begin) / 1e6);
  g_assert_cmpint (client.closed_usec - begin, <, DEAD_HOST_USEC);
  g_assert_cmpint (server.closed_usec - begin, <, DEAD_HOST_USEC);
  close (island.control_fd);
  g_object_unref (client.connection);
  g_object_unref (server.connection);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_data_func ("/link-control/calls/unix", GINT_TO_POINTER (FALSE), test_calls);
  g_test_add_data_func ("/link-control/calls/tcp", GINT_TO_POINTER (TRUE), test_calls);
  g_test_add_func ("/link-control/peer-dies", test_peer_dies);
  g_test_add_func ("/link-control/silent-peer", test_silent_peer);
  g_test_add_func ("/link-control/no-dbus", test_no_dbus);
  g_test_add_func ("/link-control/cancelled", test_cancelled);
  g_test_add_func ("/link-control/dead-host", test_dead_host);
  return g_test_run ();
}
