/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A control stream is one GDBusConnection without a bus. Calls to us are dispatched in the main context and handed on at once; calls by us are
 * synchronous, from a migration's thread, so that a stage reads as one line where it is used.
 */
#include "migrate/mf-peer.h"

#include "link/mf-link.h"
#include "migrate/mf-peer-dbus.h"
#include "mf-config.h"
#include <string.h>

#define OBJECT_PATH        "/org/memferry/Peer"
#define HELLO_TIMEOUT_USEC (10 * G_USEC_PER_SEC)
/* The other side has as long for its dialling as we would, and says which of its limits passed. */
#define DIAL_BACK_USEC (15 * G_USEC_PER_SEC)

struct _mf_peer {
  gatomicrefcount refs;
  mf_peer_address *address; /* NULL: accepted */
  GDBusConnection *connection;
  MfDbusPeer1 *skeleton; /* NULL: dialled by the source of a migration, whom nobody calls */
  char *host;
  mf_peer_handlers handlers;
  gpointer user_data;
  gulong closed_handler;
  gint lost;
};

static GVariant *
hello (void)
{
  GVariantDict dict;

  g_variant_dict_init (&dict, NULL);
  g_variant_dict_insert (&dict, "version", "s", MF_VERSION);
  g_variant_dict_insert (&dict, "host", "s", g_get_host_name ());
  return g_variant_dict_end (&dict);
}

/* Whose error it is. Two services of one host would not be told apart by its name. */
static void
say_whose (mf_peer *peer, GError **error)
{
  if (peer->host == NULL || g_str_equal (peer->host, g_get_host_name ()))
    g_prefix_error (error, mf_peer_is_source (peer) ? "on the source: " : "on the target: ");
  else
    g_prefix_error (error, "on %s: ", peer->host);
}

/* An error that came over the stream, or from the stream, as one of ours. */
static void
propagate (mf_peer *peer, GError **error, GError *from)
{
  gboolean is_remote = g_dbus_error_is_remote_error (from);

  g_dbus_error_strip_remote_error (from);
  if (from->domain == MF_ERROR) {
    g_propagate_error (error, from);
    if (is_remote)
      say_whose (peer, error);
    return;
  }
  if (g_error_matches (from, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
    g_set_error (error, MF_ERROR, MF_ERROR_CANCELLED, "cancelled");
    g_error_free (from);
    return;
  }
  if (g_error_matches (from, G_IO_ERROR, G_IO_ERROR_TIMED_OUT) ||
      g_error_matches (from, G_DBUS_ERROR, G_DBUS_ERROR_NO_REPLY))
    g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT, "the peer's service did not answer in time");
  else if (from->domain == G_IO_ERROR)
    g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION, "the link to the peer's service is lost (%s)", from->message);
  else
    g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "the peer's service answered: %s", from->message);
  g_error_free (from);
}

static void
on_closed (GDBusConnection *connection, gboolean remote_vanished, GError *error, gpointer user_data)
{
  mf_peer *peer = user_data;

  if (g_atomic_int_exchange (&peer->lost, 1) == 0 && peer->handlers.lost != NULL)
    peer->handlers.lost (peer, peer->user_data);
}

static gboolean
session_from_variant (GVariant *value, uint8_t session[MF_SESSION_BYTES])
{
  gsize length;
  const uint8_t *bytes = g_variant_get_fixed_array (value, &length, 1);

  if (length != MF_SESSION_BYTES)
    return FALSE;
  memcpy (session, bytes, MF_SESSION_BYTES);
  return TRUE;
}

static gboolean
on_hello (MfDbusPeer1 *skeleton, GDBusMethodInvocation *invocation, GVariant *mine, gpointer user_data)
{
  mf_peer *peer = user_data;

  if (peer->host == NULL)
    g_variant_lookup (mine, "host", "s", &peer->host);
  mf_dbus_peer1_complete_hello (skeleton, invocation, hello ());
  return TRUE;
}

static gboolean
on_stage (MfDbusPeer1 *skeleton, GDBusMethodInvocation *invocation, GVariant *session_value, const char *stage,
          GVariant *arguments, gpointer user_data)
{
  mf_peer *peer = user_data;
  uint8_t session[MF_SESSION_BYTES];

  if (!session_from_variant (session_value, session))
    g_dbus_method_invocation_return_error (invocation, MF_ERROR, MF_ERROR_PROTOCOL, "a session has %d bytes",
                                           MF_SESSION_BYTES);
  else
    peer->handlers.stage (peer, session, stage, arguments, invocation, peer->user_data);
  return TRUE;
}

static gboolean
on_abort (MfDbusPeer1 *skeleton, GDBusMethodInvocation *invocation, GVariant *session_value, const char *reason,
          gpointer user_data)
{
  mf_peer *peer = user_data;
  uint8_t session[MF_SESSION_BYTES];

  if (!session_from_variant (session_value, session))
    g_dbus_method_invocation_return_error (invocation, MF_ERROR, MF_ERROR_PROTOCOL, "a session has %d bytes",
                                           MF_SESSION_BYTES);
  else
    peer->handlers.abort (peer, session, reason, invocation, peer->user_data);
  return TRUE;
}

static gboolean
on_request (MfDbusPeer1 *skeleton, GDBusMethodInvocation *invocation, const char *domain, GVariant *options,
            gpointer user_data)
{
  mf_peer *peer = user_data;

  if (mf_peer_is_source (peer))
    g_dbus_method_invocation_return_error (invocation, MF_ERROR, MF_ERROR_PROTOCOL,
                                           "only who has dialled may ask for regions");
  else
    peer->handlers.request (peer, domain, options, invocation, peer->user_data);
  return TRUE;
}

static gboolean
on_dial (MfDbusPeer1 *skeleton, GDBusMethodInvocation *invocation, GVariant *session_value, guint32 kind, guint32 index,
         guint32 lane, gpointer user_data)
{
  mf_peer *peer = user_data;
  mf_preface preface = { .kind = kind, .index = index, .lane = lane };

  if (!mf_peer_is_source (peer))
    g_dbus_method_invocation_return_error (invocation, MF_ERROR, MF_ERROR_PROTOCOL,
                                           "only who has dialled can be asked to dial");
  else if (!session_from_variant (session_value, preface.session) ||
           (kind != MF_STREAM_DATA && kind != MF_STREAM_STATE) || lane > MF_LANE_FAULT)
    g_dbus_method_invocation_return_error (invocation, MF_ERROR, MF_ERROR_PROTOCOL, "there is no such stream");
  else
    peer->handlers.dial (peer, &preface, invocation, peer->user_data);
  return TRUE;
}

void
mf_peer_answer_dial (GDBusMethodInvocation *invocation)
{
  g_dbus_method_invocation_return_value (invocation, NULL);
}

void
mf_peer_answer_request (GDBusMethodInvocation *invocation)
{
  g_dbus_method_invocation_return_value (invocation, NULL);
}

char *
mf_peer_dup_local_address (mf_peer *peer)
{
  GIOStream *stream = g_dbus_connection_get_stream (peer->connection);
  g_autoptr (GSocketAddress) local = NULL;
  GInetAddress *address;

  if (G_IS_SOCKET_CONNECTION (stream))
    local = g_socket_connection_get_local_address (G_SOCKET_CONNECTION (stream), NULL);
  if (!G_IS_INET_SOCKET_ADDRESS (local))
    return NULL;
  address = g_inet_socket_address_get_address (G_INET_SOCKET_ADDRESS (local));
  return g_inet_address_to_string (address);
}

void
mf_peer_answer_stage (GDBusMethodInvocation *invocation, GVariant *results)
{
  if (results == NULL)
    results = g_variant_new_array (G_VARIANT_TYPE ("{sv}"), NULL, 0);
  g_dbus_method_invocation_return_value (invocation, g_variant_new ("(@a{sv})", results));
}

void
mf_peer_answer_abort (GDBusMethodInvocation *invocation)
{
  g_dbus_method_invocation_return_value (invocation, NULL);
}

static mf_peer *
peer_new (GDBusConnection *connection)
{
  mf_peer *peer = g_new0 (mf_peer, 1);

  g_atomic_ref_count_init (&peer->refs);
  peer->connection = connection;
  g_dbus_connection_set_exit_on_close (connection, FALSE);
  return peer;
}

/* From here on the peer may call us. */
static gboolean
serve (mf_peer *peer, const mf_peer_handlers *handlers, gpointer user_data, GError **error)
{
  peer->handlers = *handlers;
  peer->user_data = user_data;
  peer->skeleton = mf_dbus_peer1_skeleton_new ();
  g_signal_connect (peer->skeleton, "handle-hello", G_CALLBACK (on_hello), peer);
  g_signal_connect (peer->skeleton, "handle-stage", G_CALLBACK (on_stage), peer);
  g_signal_connect (peer->skeleton, "handle-abort", G_CALLBACK (on_abort), peer);
  g_signal_connect (peer->skeleton, "handle-request", G_CALLBACK (on_request), peer);
  g_signal_connect (peer->skeleton, "handle-dial", G_CALLBACK (on_dial), peer);
  if (!g_dbus_interface_skeleton_export (G_DBUS_INTERFACE_SKELETON (peer->skeleton), peer->connection, OBJECT_PATH,
                                         error))
    return FALSE;
  peer->closed_handler = g_signal_connect (peer->connection, "closed", G_CALLBACK (on_closed), peer);
  return TRUE;
}

/* `handlers` NULL: the peer has nothing to ask of us. */
static mf_peer *
dial (const char *text, const mf_peer_handlers *handlers, gpointer user_data, gint64 timeout_usec,
      GCancellable *cancellable, GError **error)
{
  g_autoptr (mf_peer_address) address = mf_peer_address_parse (text, error);
  g_autoptr (GVariant) answer = NULL;
  g_autoptr (GVariant) theirs = NULL;
  mf_preface preface = { .kind = MF_STREAM_CONTROL };
  GDBusConnection *connection;
  g_autoptr (mf_peer) peer = NULL;
  GError *local_error = NULL;
  int fd;

  if (address == NULL)
    return NULL;
  fd = mf_link_dial (address, &preface, timeout_usec, cancellable, error);
  if (fd < 0)
    return NULL;
  connection = mf_link_control (fd, FALSE, cancellable, error);
  if (connection == NULL)
    return NULL;
  peer = peer_new (connection);
  peer->address = g_steal_pointer (&address);
  if (handlers != NULL && !serve (peer, handlers, user_data, error))
    return NULL;
  g_dbus_connection_start_message_processing (connection);

  answer = g_dbus_connection_call_sync (connection, NULL, OBJECT_PATH, "org.memferry.Peer1", "Hello",
                                        g_variant_new ("(@a{sv})", hello ()), G_VARIANT_TYPE ("(a{sv})"),
                                        G_DBUS_CALL_FLAGS_NONE, HELLO_TIMEOUT_USEC / 1000, cancellable, &local_error);
  if (answer == NULL) {
    propagate (peer, error, local_error);
    g_prefix_error (error, "%s: ", text);
    return NULL;
  }
  theirs = g_variant_get_child_value (answer, 0);
  g_variant_lookup (theirs, "host", "s", &peer->host);
  return g_steal_pointer (&peer);
}

mf_peer *
mf_peer_dial (const char *address, gint64 timeout_usec, GCancellable *cancellable, GError **error)
{
  return dial (address, NULL, NULL, timeout_usec, cancellable, error);
}

mf_peer *
mf_peer_dial_source (const char *address, const mf_peer_handlers *handlers, gpointer user_data, gint64 timeout_usec,
                     GCancellable *cancellable, GError **error)
{
  return dial (address, handlers, user_data, timeout_usec, cancellable, error);
}

mf_peer *
mf_peer_new_accepted (int fd, const mf_peer_handlers *handlers, gpointer user_data, GError **error)
{
  GDBusConnection *connection = mf_link_control (fd, TRUE, NULL, error);
  g_autoptr (mf_peer) peer = NULL;

  if (connection == NULL)
    return NULL;
  peer = peer_new (connection);
  if (!serve (peer, handlers, user_data, error))
    return NULL;
  g_dbus_connection_start_message_processing (connection);
  return g_steal_pointer (&peer);
}

mf_peer *
mf_peer_ref (mf_peer *peer)
{
  g_atomic_ref_count_inc (&peer->refs);
  return peer;
}

void
mf_peer_unref (mf_peer *peer)
{
  if (!g_atomic_ref_count_dec (&peer->refs))
    return;
  if (peer->closed_handler)
    g_signal_handler_disconnect (peer->connection, peer->closed_handler);
  if (peer->skeleton) {
    g_signal_handlers_disconnect_by_data (peer->skeleton, peer);
    g_dbus_interface_skeleton_unexport (G_DBUS_INTERFACE_SKELETON (peer->skeleton));
    g_object_unref (peer->skeleton);
  }
  if (!g_dbus_connection_is_closed (peer->connection))
    g_dbus_connection_close (peer->connection, NULL, NULL, NULL);
  g_object_unref (peer->connection);
  g_clear_pointer (&peer->address, mf_peer_address_free);
  g_free (peer->host);
  g_free (peer);
}

void
mf_peer_close (mf_peer *peer)
{
  g_dbus_connection_close (peer->connection, NULL, NULL, NULL);
}

gboolean
mf_peer_is_lost (mf_peer *peer)
{
  return g_atomic_int_get (&peer->lost) || g_dbus_connection_is_closed (peer->connection);
}

gboolean
mf_peer_is_source (mf_peer *peer)
{
  return peer->address != NULL && peer->skeleton != NULL;
}

const char *
mf_peer_host (mf_peer *peer)
{
  return peer->host;
}

static GVariant *
session_variant (const uint8_t session[MF_SESSION_BYTES])
{
  return g_variant_new_fixed_array (G_VARIANT_TYPE_BYTE, session, MF_SESSION_BYTES, 1);
}

GVariant *
mf_peer_stage (mf_peer *peer, const uint8_t session[MF_SESSION_BYTES], const char *stage, GVariant *arguments,
               gint64 timeout_usec, GCancellable *cancellable, GError **error)
{
  g_autoptr (GVariant) answer = NULL;
  GError *local_error = NULL;

  if (arguments == NULL)
    arguments = g_variant_new_array (G_VARIANT_TYPE ("{sv}"), NULL, 0);
  answer = g_dbus_connection_call_sync (peer->connection, NULL, OBJECT_PATH, "org.memferry.Peer1", "Stage",
                                        g_variant_new ("(@ays@a{sv})", session_variant (session), stage, arguments),
                                        G_VARIANT_TYPE ("(a{sv})"), G_DBUS_CALL_FLAGS_NONE,
                                        timeout_usec < 0 ? G_MAXINT : (gint) MAX (1, timeout_usec / 1000), cancellable,
                                        &local_error);
  if (answer == NULL) {
    propagate (peer, error, local_error);
    return NULL;
  }
  return g_variant_get_child_value (answer, 0);
}

void
mf_peer_begin_stage (mf_peer *peer, const uint8_t session[MF_SESSION_BYTES], const char *stage, GVariant *arguments)
{
  g_dbus_connection_call (peer->connection, NULL, OBJECT_PATH, "org.memferry.Peer1", "Stage",
                          g_variant_new ("(@ays@a{sv})", session_variant (session), stage, arguments), NULL,
                          G_DBUS_CALL_FLAGS_NONE, G_MAXINT, NULL, NULL, NULL);
}

typedef struct {
  mf_peer_answered answered;
  gpointer user_data;
} question;

static void
question_answered (GObject *connection, GAsyncResult *result, gpointer user_data)
{
  question *asked = user_data;
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) answer = g_dbus_connection_call_finish (G_DBUS_CONNECTION (connection), result, &error);
  g_autoptr (GVariant) results = answer ? g_variant_get_child_value (answer, 0) : NULL;

  asked->answered (results, error, asked->user_data);
  g_free (asked);
}

void
mf_peer_ask_stage (mf_peer *peer, const uint8_t session[MF_SESSION_BYTES], const char *stage, GVariant *arguments,
                   mf_peer_answered answered, gpointer user_data)
{
  question *asked = g_new0 (question, 1);

  asked->answered = answered;
  asked->user_data = user_data;
  g_dbus_connection_call (peer->connection, NULL, OBJECT_PATH, "org.memferry.Peer1", "Stage",
                          g_variant_new ("(@ays@a{sv})", session_variant (session), stage, arguments),
                          G_VARIANT_TYPE ("(a{sv})"), G_DBUS_CALL_FLAGS_NONE, G_MAXINT, NULL, question_answered, asked);
}

gboolean
mf_peer_request (mf_peer *peer, const char *domain, GVariant *options, GCancellable *cancellable, GError **error)
{
  g_autoptr (GVariant) answer = NULL;
  GError *local_error = NULL;

  answer = g_dbus_connection_call_sync (peer->connection, NULL, OBJECT_PATH, "org.memferry.Peer1", "Request",
                                        g_variant_new ("(s@a{sv})", domain, options), NULL, G_DBUS_CALL_FLAGS_NONE,
                                        G_MAXINT, cancellable, &local_error);
  if (answer == NULL) {
    propagate (peer, error, local_error);
    return FALSE;
  }
  return TRUE;
}

gboolean
mf_peer_abort (mf_peer *peer, const uint8_t session[MF_SESSION_BYTES], const char *reason, GError **error)
{
  g_autoptr (GVariant) answer = NULL;
  GError *local_error = NULL;

  answer = g_dbus_connection_call_sync (peer->connection, NULL, OBJECT_PATH, "org.memferry.Peer1", "Abort",
                                        g_variant_new ("(@ays)", session_variant (session), reason), NULL,
                                        G_DBUS_CALL_FLAGS_NONE, HELLO_TIMEOUT_USEC / 1000, NULL, &local_error);
  if (answer == NULL) {
    propagate (peer, error, local_error);
    return FALSE;
  }
  return TRUE;
}

gboolean
mf_peer_call_for_stream (mf_peer *peer, const mf_preface *preface, GCancellable *cancellable, GError **error)
{
  g_autoptr (GVariant) answer = NULL;
  GError *local_error = NULL;

  answer = g_dbus_connection_call_sync (peer->connection, NULL, OBJECT_PATH, "org.memferry.Peer1", "Dial",
                                        g_variant_new ("(@ayuuu)", session_variant (preface->session),
                                                       (guint32) preface->kind, preface->index, preface->lane),
                                        NULL, G_DBUS_CALL_FLAGS_NONE, DIAL_BACK_USEC / 1000, cancellable, &local_error);
  if (answer == NULL) {
    propagate (peer, error, local_error);
    return FALSE;
  }
  return TRUE;
}

int
mf_peer_open_stream (mf_peer *peer, const mf_preface *preface, GCancellable *cancellable, GError **error)
{
  g_return_val_if_fail (peer->address != NULL, -1);
  return mf_link_dial (peer->address, preface, HELLO_TIMEOUT_USEC, cancellable, error);
}
