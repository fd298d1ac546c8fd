/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The other host's service, at the end of a control stream: org.memferry.Peer1 in both directions.
 *
 * Calls are made from a migration's thread and block. What the peer calls arrives at the handlers, in the main context; they must not block. Any thread
 * may look whether the peer is lost.
 */
#include "core/mf-preface.h"
#include "mf-error.h"
#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _mf_peer mf_peer;

typedef struct {
  /* The peer asks for a stage. The handler takes `invocation` over: it is answered with mf_peer_answer_stage() or g_dbus_method_invocation_return_gerror(), from any
   * thread. `arguments` (transfer none). */
  void (*stage) (mf_peer *peer, const uint8_t session[MF_SESSION_BYTES], const char *stage, GVariant *arguments,
                 GDBusMethodInvocation *invocation, gpointer user_data);
  /* As above; answered with mf_peer_answer_abort(). */
  void (*abort) (mf_peer *peer, const uint8_t session[MF_SESSION_BYTES], const char *reason,
                 GDBusMethodInvocation *invocation, gpointer user_data);
  /* The peer asks for a domain. As above; answered with mf_peer_answer_request(). `options` (transfer none). */
  void (*request) (mf_peer *peer, const char *domain, GVariant *options, GDBusMethodInvocation *invocation,
                   gpointer user_data);
  /* The peer asks this side, which has dialled, for one more stream. As above; answered with mf_peer_answer_dial(). */
  void (*dial) (mf_peer *peer, const mf_preface *preface, GDBusMethodInvocation *invocation, gpointer user_data);
  /* The control stream ended. Once; nothing comes after it. */
  void (*lost) (mf_peer *peer, gpointer user_data);
} mf_peer_handlers;

/* Makes a control stream to `address` and says hello. */
mf_peer *mf_peer_dial (const char *address, gint64 timeout_usec, GCancellable *cancellable, GError **error);
/* The same to the source of a migration, which will ask for stages and streams on it: `handlers` (copied) are called from before this returns. */
mf_peer *mf_peer_dial_source (const char *address, const mf_peer_handlers *handlers, gpointer user_data,
                              gint64 timeout_usec, GCancellable *cancellable, GError **error);
/* The other end of it: `fd` (taken over) came in. */
mf_peer *mf_peer_new_accepted (int fd, const mf_peer_handlers *handlers, gpointer user_data, GError **error);
mf_peer *mf_peer_ref (mf_peer *peer);
void mf_peer_unref (mf_peer *peer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_peer, mf_peer_unref)
/* Ends the control stream; `lost` follows on both sides. */
void mf_peer_close (mf_peer *peer);
gboolean mf_peer_is_lost (mf_peer *peer);
/* Whether this side made it with mf_peer_dial_source(). */
gboolean mf_peer_is_source (mf_peer *peer);
/* The peer's host name as it gave it, or NULL. */
const char *mf_peer_host (mf_peer *peer);

/* Asks for a stage. `arguments` a{sv}, floating allowed. `timeout_usec` -1: as long as the control stream lives. The results a{sv} (transfer full), or NULL: the peer's own error,
 * with words before it that say whose it is, MF_ERROR_CONNECTION when it is lost. */
GVariant *mf_peer_stage (mf_peer *peer, const uint8_t session[MF_SESSION_BYTES], const char *stage, GVariant *arguments,
                         gint64 timeout_usec, GCancellable *cancellable, GError **error);
/* The same without waiting: whatever is asked for afterwards is done after it, and what it came to shows there. */
void mf_peer_begin_stage (mf_peer *peer, const uint8_t session[MF_SESSION_BYTES], const char *stage,
                          GVariant *arguments);
/* The same with an answer: `answered` is called in the main context, once. `results` NULL: `error` says why. */
typedef void (*mf_peer_answered) (GVariant *results, const GError *error, gpointer user_data);
void mf_peer_ask_stage (mf_peer *peer, const uint8_t session[MF_SESSION_BYTES], const char *stage, GVariant *arguments,
                        mf_peer_answered answered, gpointer user_data);
/* Asks for a domain; `options` a{sv}, floating allowed. Waits until all is ready for it to be migrated. */
gboolean mf_peer_request (mf_peer *peer, const char *domain, GVariant *options, GCancellable *cancellable,
                          GError **error);
/* Asks the peer, which has dialled, to dial one more stream here, and waits until it has. */
gboolean mf_peer_call_for_stream (mf_peer *peer, const mf_preface *preface, GCancellable *cancellable, GError **error);
gboolean mf_peer_abort (mf_peer *peer, const uint8_t session[MF_SESSION_BYTES], const char *reason, GError **error);

/* One more stream to where this peer was dialled. */
int mf_peer_open_stream (mf_peer *peer, const mf_preface *preface, GCancellable *cancellable, GError **error);

/* `results` a{sv} or NULL for none. */
void mf_peer_answer_stage (GDBusMethodInvocation *invocation, GVariant *results);
void mf_peer_answer_request (GDBusMethodInvocation *invocation);
void mf_peer_answer_dial (GDBusMethodInvocation *invocation);
/* The address that this host has in the eyes of the peer ("10.0.0.1", "fe80::1"); NULL: they talk over no network. (transfer full) */
char *mf_peer_dup_local_address (mf_peer *peer);
void mf_peer_answer_abort (GDBusMethodInvocation *invocation);

G_END_DECLS
