/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * One client of the NBD server, from its first byte to its last. Private to src/nbd.
 *
 * A connection belongs to its thread. The server shares with it, under the server's lock, the export that it is bound
 * to and the right to break its stream; nothing else is touched by another thread.
 */
#include "core/mf-nbd-protocol.h"
#include "nbd/mf-nbd-server.h"
#include "nbd/mf-nbd-stream.h"
#include <stdatomic.h>

G_BEGIN_DECLS

/* An export, shared by the server's table and the connections. Never changed once made. */
typedef struct {
  gatomicrefcount refs;
  char *name;
  char *description; /* may be NULL */
  MfRegion *region;
  uint64_t size_bytes;
  gboolean read_only;
  mf_dirty_session *session; /* may be NULL */
} mf_nbd_export;

mf_nbd_export *mf_nbd_export_new (const char *name, MfRegion *region, const mf_nbd_export_options *options);
mf_nbd_export *mf_nbd_export_ref (mf_nbd_export *export);
void mf_nbd_export_unref (mf_nbd_export *export);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_nbd_export, mf_nbd_export_unref)

/* The contexts a client chose, as bits; the ids on the wire are these numbers. */
#define MF_NBD_ID_ALLOCATION 1u
#define MF_NBD_ID_DIRTY      2u

/* Counted by all connections. */
typedef struct {
  atomic_uint_fast64_t requests, bytes_read, bytes_written, hole_bytes;
} mf_nbd_counters;

/* Bytes that pass through a connection's own buffer at once. */
#define MF_NBD_SCRATCH_BYTES (256u << 10)

typedef struct {
  MfNbdServer *server;
  mf_nbd_counters *counters;
  GThread *thread;
  GCancellable *cancellable; /* ends waiting for missing pages */
  mf_nbd_stream stream;

  /* Under the server's lock. */
  mf_nbd_export *export; /* a reference; changed by mf_nbd_server_bind() */
  gboolean waits;        /* for missing pages: see mf_nbd_server_watch() */

  /* What was agreed in the handshake. */
  gboolean no_zeroes;
  gboolean structured;
  unsigned contexts;         /* MF_NBD_ID_* */
  mf_dirty_session *session; /* NULL: reads are not tracked */

  mf_dirty_reader *reader;
  uint64_t status_end; /* where the latest reply about memferry:dirty ended, when nothing came in between; 0 none */
  uint8_t *scratch;    /* MF_NBD_SCRATCH_BYTES, made at first use */

  /* What was read through the store's mapping and not forgotten yet. */
  uint64_t mapped_bytes, mapped_start, mapped_end;
} mf_nbd_connection;

/* Takes `fd` over. */
mf_nbd_connection *mf_nbd_connection_new (MfNbdServer *server, mf_nbd_counters *counters, int fd, gboolean spin);
/* Lets go of the region, session and export: what was read and not acknowledged is dirty again. */
void mf_nbd_connection_let_go (mf_nbd_connection *connection);
void mf_nbd_connection_free (mf_nbd_connection *connection);
/* mf_region_read(), _write() and _zero() that give up when the client hangs up while they wait for missing pages. */
gboolean mf_nbd_connection_read (mf_nbd_connection *connection, uint64_t offset, void *buffer, size_t length,
                                 GError **error);
gboolean mf_nbd_connection_write (mf_nbd_connection *connection, uint64_t offset, const void *buffer, size_t length,
                                  GError **error);
gboolean mf_nbd_connection_zero (mf_nbd_connection *connection, uint64_t offset, uint64_t length, gboolean punch,
                                 GError **error);
/* The connection's buffer. */
uint8_t *mf_nbd_connection_scratch (mf_nbd_connection *connection);

/* Negotiates. FALSE: the connection is over. */
gboolean mf_nbd_handshake (mf_nbd_connection *connection);
/* Serves requests until the connection is over. */
void mf_nbd_transmission (mf_nbd_connection *connection);

/* The transmission flags of `export` for this client. */
uint16_t mf_nbd_transmission_flags (mf_nbd_connection *connection, const mf_nbd_export *export);

/* Answers `request`, which was found good. FALSE: the stream is broken. */
gboolean mf_nbd_reply_read (mf_nbd_connection *connection, const mf_nbd_request *request);
gboolean mf_nbd_reply_status (mf_nbd_connection *connection, const mf_nbd_request *request);
/* `error`: MF_NBD_*; `why` for people, may be NULL. */
gboolean mf_nbd_reply (mf_nbd_connection *connection, const mf_nbd_request *request, uint32_t error, const char *why);
/* The protocol's number for a GError. */
uint32_t mf_nbd_error_number (const GError *error);

/* What a connection asks of the server. */

/* Binds the connection to export `name`, instead of what it was bound to. NULL: there is none. */
mf_nbd_export *mf_nbd_server_bind (MfNbdServer *server, mf_nbd_connection *connection, mf_nbd_string name);
/* A reference to export `name`, or NULL. */
mf_nbd_export *mf_nbd_server_find (MfNbdServer *server, mf_nbd_string name);
/* From here on (until called with FALSE) the connection's cancellable is cancelled when its client hangs up. */
void mf_nbd_server_watch (MfNbdServer *server, mf_nbd_connection *connection, gboolean on);
/* See mf_nbd_server_refuse_reads(). */
gboolean mf_nbd_server_refuses_reads (MfNbdServer *server);
/* All exports (of mf_nbd_export, references). */
GPtrArray *mf_nbd_server_list (MfNbdServer *server);

G_END_DECLS
