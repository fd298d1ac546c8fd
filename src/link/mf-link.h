/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The link: streams between two services. unix:PATH, tcp://HOST[:PORT] (default port 10810), ssh://[USER@]HOST[:PORT][/SOCKET]; each begins with the preface of core/mf-preface.h,
 * sent by the dialler and answered by the acceptor, in which a status says whether the stream is taken.
 */
#include "core/mf-preface.h"
#include "link/mf-kept-sockets.h"
#include "mf-error.h"
#include <gio/gio.h>

G_BEGIN_DECLS

#define MF_LINK_DEFAULT_PORT 10810

/* How long a dialler waits for the answer to its preface (once connected), and an acceptor for the preface. */
#define MF_LINK_HANDSHAKE_USEC (5 * G_USEC_PER_SEC)

typedef struct _mf_peer_address mf_peer_address;

/* Parses PEER. MF_ERROR_INVALID names the forms there are; MF_ERROR_NOT_SUPPORTED for forms that this build can't do. */
mf_peer_address *mf_peer_address_parse (const char *text, GError **error);
void mf_peer_address_free (mf_peer_address *address);
const char *mf_peer_address_text (const mf_peer_address *address);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_peer_address, mf_peer_address_free)

/* Connects and exchanges prefaces. Blocking (not in the main loop), at most `timeout_usec` (below 0: no limit but that of the handshake), cancellable. `preface`'s version and
 * flags fields are filled here. Returns the socket (close-on-exec, blocking, TCP_NODELAY, keepalive) or -1: MF_ERROR_CONNECTION (nobody there, or closed without an answer),
 * _TIMED_OUT, _PROTOCOL (something else answers there), _VERSION, _NOT_FOUND (the session isn't known there), _BUSY, _PERMISSION, _FAILED (refused: the other side's log says why), _CANCELLED. */
int mf_link_dial (const mf_peer_address *address, const mf_preface *preface, gint64 timeout_usec,
                  GCancellable *cancellable, GError **error);

typedef struct _MfLinkListener MfLinkListener;

/* A stream has come in with a good preface. Called in a thread of the listener, several at once; may block, for long at the cost of other streams (MF_LINK_MAX_ACCEPTS). Takes `fd`
 * (blocking, close-on-exec, TCP_NODELAY, keepalive) over and returns TRUE, or returns FALSE with an error, which the dialler is told of by status (MF_ERROR_NOT_FOUND: no such session;
 * MF_ERROR_BUSY; anything else: failed), and `fd` is closed. The answer to the dialler goes out before `accept` returns TRUE only through mf_link_answer(), which `accept` calls when it
 * has decided to take it; after that it has to return TRUE, also when the stream is of no use any more (then it closes `fd` itself). */
typedef gboolean (*mf_link_accept) (int fd, const mf_preface *preface, gpointer user_data, GError **error);

/* Prefaces that may be awaited at once (one more ends the oldest wait), and calls of `accept` (one more is told that the service is busy). */
#define MF_LINK_MAX_HANDSHAKES 64
#define MF_LINK_MAX_ACCEPTS    16

MfLinkListener *mf_link_listener_new (mf_link_accept accept, gpointer user_data);
/* From now on sockets that outlive the process are taken from `kept`, and new internet sockets put there. It is the caller's; NULL: no more. */
void mf_link_listener_use_kept (MfLinkListener *listener, mf_kept_sockets *kept);
/* Listens at one more address, all of the addresses of a host. A UNIX socket has mode 0660; a stale socket file is replaced; a live one is MF_ERROR_BUSY, as is a port in use. Port 0:
 * one that is free (of a host with one address). */
gboolean mf_link_listener_add (MfLinkListener *listener, const mf_peer_address *address, GError **error);
/* The port of the tcp address that was added last, 0 when there is none. */
guint16 mf_link_listener_port (MfLinkListener *listener);
/* Closes the sockets and removes their files, ends the handshakes, waits for the calls of `accept` and joins the threads. Not from `accept`. */
void mf_link_listener_free (MfLinkListener *listener);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (MfLinkListener, mf_link_listener_free)

/* Tells the dialler that its stream is taken. */
gboolean mf_link_answer (int fd, const mf_preface *preface, GError **error);

/* The control stream: peer-to-peer D-Bus over a stream that has had its preface and, from the acceptor, its answer. `is_server`: this side accepted it. No bus, no authentication beyond
 * the stream's own. Takes `fd` over, also when it fails. Blocking, at most MF_LINK_HANDSHAKE_USEC, cancellable; the connection's signals and calls arrive in the caller's
 * thread-default main context.
 *
 * **Nothing is received before g_dbus_connection_start_message_processing() is called**: export the objects and connect to "closed" first, so that the peer's first call
 * finds them. Ends with g_dbus_connection_close(); the peer sees "closed" at once, and within about 10 s when this host dies. */
GDBusConnection *mf_link_control (int fd, gboolean is_server, GCancellable *cancellable, GError **error);

G_END_DECLS
