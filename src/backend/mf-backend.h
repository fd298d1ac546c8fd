/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A backend: where a region's bytes come from and go to. It is named by SCHEME:WHAT, and gives lanes.
 *
 * Two kinds. A *plugin* (memferry-backend.h; linked in or loaded from a folder) has blocking calls, which its lanes make in
 * submit(): so a lane is one call at a time, and who wants more takes more lanes. A *driver* (an NBD server) brings lanes of its own.
 *
 * Threads: every function from any thread; a lane belongs to who took it, and keeps the backend alive.
 */
#include "backend/memferry-backend.h"
#include "backend/mf-lane.h"

G_BEGIN_DECLS

typedef struct _MfBackend MfBackend;

typedef struct {
  uint64_t size_bytes;
  uint32_t
      block_bytes; /* offset and length are multiples of it (the last block ends at the size): a power of two, at least 1 */
  uint32_t request_bytes; /* in one request at most, a multiple of block_bytes */
  guint lanes;            /* more of them at once are of no use; at least 1 */
  gboolean read_only;
  gboolean pipelined; /* a lane has many requests under way at once: more lanes are no quicker by themselves */
} mf_backend_limits;

/* Opens `name`: SCHEME:WHAT. MF_ERROR_INVALID: no such scheme, option or value, or the place isn't what it should be; others as the place has them. */
MfBackend *mf_backend_open (const char *name, gboolean read_only, GError **error);
MfBackend *mf_backend_ref (MfBackend *backend);
void mf_backend_unref (MfBackend *backend);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (MfBackend, mf_backend_unref)

const char *mf_backend_name (MfBackend *backend); /* as it was opened */
const mf_backend_limits *mf_backend_get_limits (MfBackend *backend);

/* A lane whose requests begin and end at multiples of `granule` bytes (or at the size; a power of two). When the backend's blocks are larger, or it doesn't take requests
 * of MF_LANE_REQUEST_BYTES, the lane is an adapter that reads, changes and writes whole blocks; otherwise the backend's own. A request that is outside of
 * what the backend takes completes with EINVAL and never gets there. Blocks until the lane is connected, `timeout_usec` at most (-1: no limit).
 * MF_ERROR_CONNECTION and _TIMED_OUT: it may work later. */
#define MF_LANE_REQUEST_BYTES (1u << 20)
/* Larger blocks than this are refused. */
#define MF_BACKEND_BLOCK_MAX (32u << 20)
mf_lane *mf_backend_open_lane (MfBackend *backend, uint32_t granule, gint64 timeout_usec, GError **error);

/* --- For those who make backends --- */

typedef struct {
  mf_lane *(*open_lane) (MfBackend *backend, gint64 timeout_usec, GError **error);
  void (*free) (MfBackend *backend); /* what the implementation's struct has besides `base`, and the struct */
} mf_backend_ops;

/* A driver: the schemes that it knows. `open` gets the whole name. */
typedef struct {
  const char *const *schemes; /* NULL at the end */
  const char *usage;          /* for messages: "nbd://HOST[:PORT]/[EXPORT]" */
  MfBackend *(*open) (const char *name, gboolean read_only, GError **error);
} mf_backend_driver;

/* Not while somebody opens one. `driver` stays the caller's. The same twice is once. */
void mf_backend_register (const mf_backend_driver *driver);

/* An implementation's own struct begins with this. */
struct _MfBackend {
  gatomicrefcount refs;
  const mf_backend_ops *ops;
  char *name;
  mf_backend_limits limits;

  /* Blocks that an adapter reads, changes and writes: mf-block-lane.c. */
  GMutex blocks_lock;
  GCond blocks_free;
  GArray *blocks_busy;
};
/* Fills the base of `backend`, with one reference. */
void mf_backend_init (MfBackend *backend, const mf_backend_ops *ops, const char *name);
/* Looks through limits that came from outside. MF_ERROR_INVALID: they make no sense. */
gboolean mf_backend_check_limits (const char *name, const mf_backend_limits *limits, GError **error);

/* The parts. A backend by a plugin that is there already: */
MfBackend *mf_plugin_backend_open (const memferry_backend *plugin, const char *name, gboolean read_only,
                                   GError **error);
/* The plugin for `scheme`, linked in or from a folder; NULL without an error: there is none. */
const memferry_backend *mf_backend_find_plugin (const char *scheme, GError **error);
/* Whether memferry can use it: its API, its size, its functions. `origin` is for the message. */
gboolean mf_backend_check_plugin (const memferry_backend *plugin, const char *origin, GError **error);
/* What SCHEME: is followed by, after the plugin's table: for mf_backend_values_free(). */
memferry_value *mf_backend_parse_values (const memferry_backend *plugin, const char *text, GError **error);
void mf_backend_values_free (const memferry_backend *plugin, memferry_value *values);
/* Any alignment and length over `inner` (taken over), a lane of `backend`. */
mf_lane *mf_block_lane_new (MfBackend *backend, mf_lane *inner);

G_END_DECLS
