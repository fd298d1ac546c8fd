/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A raw NBD client for tests of the server: sends what a test says, well-formed or not, and takes replies apart.
 * Everything that a peer can't do within DEADLINE seconds is a failure of the test.
 */
#include "core/mf-nbd-protocol.h"
#include "nbd/mf-nbd-server.h"

/* A region in a memfd and a server that exports it as "". */
typedef struct {
  MfStore *store;
  MfRegion *region;
  MfNbdServer *server;
  uint8_t *bytes; /* what the region should hold: size bytes */
  uint64_t size;
} Fixture;

/* Fills page n with a pattern of its own where `data_pages` (a string of '#' data, '0' written zeroes, '.' hole,
 * repeated) says so. */
Fixture *fixture_new (uint64_t size, const char *pages, const mf_nbd_export_options *options);
void fixture_free (Fixture *f);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (Fixture, fixture_free)
/* Writes to the store and the expectation. */
void fixture_fill (Fixture *f, uint64_t offset, uint64_t length, uint8_t seed);

typedef struct {
  int fd;
  gboolean structured;
  uint64_t size;
  uint16_t flags;
  uint64_t cookie;
  uint32_t dirty_id, allocation_id; /* 0: not negotiated */
} Peer;

/* Connects to the server, nothing said yet. */
Peer *peer_new (MfNbdServer *server);
void peer_free (Peer *peer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (Peer, peer_free)
void peer_send (Peer *peer, const void *data, size_t length);
void peer_receive (Peer *peer, void *out, size_t length);
/* Nothing more comes, and the connection is over. */
void peer_assert_dropped (Peer *peer);

/* Greeting read and answered with `flags`. */
void peer_greet (Peer *peer, uint32_t flags);
void peer_send_option (Peer *peer, uint32_t option, const void *data, size_t length);
/* One reply to `option`: returns its type; its data, if `data` is not NULL, for g_byte_array_unref(). */
uint32_t peer_option_reply (Peer *peer, uint32_t option, GByteArray **data);
/* GO or INFO for `name`, asking for `infos`. */
void peer_send_info (Peer *peer, uint32_t option, const char *name, const uint16_t *infos, guint n_infos);
/* Replies of a GO or INFO up to the ACK, or its error: which is returned. */
uint32_t peer_take_infos (Peer *peer, uint32_t option);
/* LIST or SET_META_CONTEXT. */
void peer_send_meta (Peer *peer, uint32_t option, const char *name, const char *const *queries);

#define PEER_STRUCTURED 1
#define PEER_ALLOCATION 2
#define PEER_DIRTY      4
/* From nothing to the transmission. */
Peer *peer_open (MfNbdServer *server, guint how);

/* Sends a request; returns its cookie. */
uint64_t peer_request (Peer *peer, uint16_t type, uint16_t flags, uint64_t offset, uint32_t length);
/* The reply without data to the latest request: its error. */
uint32_t peer_reply (Peer *peer);
/* Request and reply. */
uint32_t peer_command (Peer *peer, uint16_t type, uint16_t flags, uint64_t offset, uint32_t length);

typedef struct {
  uint32_t error;
  guint n_data, n_holes;
  uint64_t hole_bytes;
} PeerRead;
/* The reply to a READ of [offset, offset + length): bytes to `out`. */
PeerRead peer_read_reply (Peer *peer, uint64_t offset, uint32_t length, uint8_t *out);
PeerRead peer_read (Peer *peer, uint16_t flags, uint64_t offset, uint32_t length, uint8_t *out);
/* Reads and compares with the fixture. */
PeerRead peer_assert_read (Peer *peer, const Fixture *f, uint64_t offset, uint32_t length);
uint32_t peer_write (Peer *peer, uint16_t flags, uint64_t offset, const void *data, uint32_t length);

/* BLOCK_STATUS: the extents of context `id` as "length:flags length:flags", lengths in pages of 4096 where they are
 * whole ("2:1"), else bytes ("b100:1"). */
char *peer_status (Peer *peer, uint16_t flags, uint64_t offset, uint32_t length, uint32_t id);
