/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A listener that takes every stream and keeps it, a folder for its socket, and peers that misbehave.
 */
#include "link/mf-link.h"
#include <pthread.h>

#define SESSION_BYTE_UNKNOWN 0xee /* accept refuses a session that begins with this: not found */
#define SESSION_BYTE_BUSY    0xbb /* ... with this: busy */
#define SESSION_BYTE_FAILING 0xff /* ... with this: another error */
#define SESSION_BYTE_BLOCKS  0xb1 /* accept doesn't return before fixture_unblock() */

typedef struct {
  char *folder;
  char *path;               /* of the UNIX socket */
  mf_peer_address *address; /* unix:path */
  MfLinkListener *listener;

  pthread_mutex_t lock;
  pthread_cond_t changed;
  GArray *taken; /* of int: the streams that were accepted, in order */
  mf_preface last;
  gboolean unblocked;
  guint n_blocked;
} Fixture;

/* Listens at a UNIX socket. */
Fixture *fixture_new (void);
void fixture_free (Fixture *fixture);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (Fixture, fixture_free)
/* The next stream that was accepted and not returned before; fails the test after 10 s. */
int fixture_take (Fixture *fixture);
void fixture_unblock (Fixture *fixture);
void fixture_await_blocked (Fixture *fixture, guint n);
/* Adds tcp://127.0.0.1 at a free port, and returns that address with its port. */
mf_peer_address *fixture_add_tcp (Fixture *fixture);

mf_preface preface_of (mf_stream_kind kind, guint8 session_byte);
mf_peer_address *parse_address (const char *format, ...) G_GNUC_PRINTF (1, 2);
/* Dials, or fails the test. */
int dial (const mf_peer_address *address, mf_stream_kind kind, guint8 session_byte);
/* Dials and expects this error. Returns its message. */
char *dial_error (const mf_peer_address *address, guint8 session_byte, gint64 timeout_usec, int code);

/* A plain connection to the fixture's listener, without a preface. */
int connect_raw (Fixture *fixture);
void send_all (int fd, const void *bytes, size_t n);
void receive_all (int fd, void *bytes, size_t n);
/* Waits until the other side closes (or resets) the connection, reading what comes; fails the test after `timeout_usec`. */
void await_end (int fd, gint64 timeout_usec);

/* A listener at tcp://127.0.0.1 that is not memferry: for its one connection it reads `reads_first` bytes, sends `bytes` one each
 * `pause_usec` (0: all at once), and, if `closes`, closes; otherwise it keeps silent until it is freed. */
typedef struct _Stranger Stranger;
Stranger *stranger_new (const void *bytes, size_t n_bytes, size_t reads_first, gint64 pause_usec, gboolean closes);
const mf_peer_address *stranger_address (Stranger *stranger);
void stranger_free (Stranger *stranger);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (Stranger, stranger_free)
