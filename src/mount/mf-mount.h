/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A mount: the bytes of a backend, for use in place.
 *
 *   direct    every access goes to the backend.
 *   managed   a store on this host; pages are pulled in the background, and those that somebody reads first; what is written is pushed
 *             in the background, and by a sync.
 *
 * When the backend can't be reached, requests wait for it, up to the limit, and fail then: never zeroes, never old bytes. What is here already goes on.
 *
 * Threads: reads, writes and syncs from any thread, several at once; they block. new, close and free: the owner, when nobody else uses it. The
 * callback comes from a thread of the mount.
 */
#include "mf-error.h"
#include <gio/gio.h>
#include <stdint.h>

G_BEGIN_DECLS

typedef struct _mf_mount mf_mount;

typedef struct {
  uint64_t offset, length; /* bytes; length not 0 */
} mf_byte_range;

typedef struct {
  gboolean direct;
  gboolean read_only;
  const mf_byte_range *pull_first; /* in this order, before the rest */
  guint n_pull_first;
  const char *cache; /* managed: keep the bytes in this file, and what is known of them beside it; NULL: in memory */
  gint64 push_interval_usec; /* 0: only by a sync */
  gint64 limit_usec;         /* how long a request waits for the backend; -1: without end */
  /* What happens to the backend, in a line for people: it was lost, it is back, it refuses. May be NULL. */
  void (*tell) (const char *line, gpointer user_data);
  gpointer user_data;
} mf_mount_options;

/* Opens the backend, and begins to pull. MF_ERROR_INVALID: a range that lies outside; otherwise as mf_backend_open(), or MF_ERROR_NO_SPACE. */
mf_mount *mf_mount_new (const char *backend, const mf_mount_options *options, GError **error);
/* At once: what hasn't been pushed is not. */
void mf_mount_free (mf_mount *mount);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_mount, mf_mount_free)

uint64_t mf_mount_size (mf_mount *mount);
gboolean mf_mount_is_read_only (mf_mount *mount);

gboolean mf_mount_read (mf_mount *mount, uint64_t offset, void *buffer, size_t length, GCancellable *cancellable,
                        GError **error);
gboolean mf_mount_write (mf_mount *mount, uint64_t offset, const void *buffer, size_t length, GCancellable *cancellable,
                         GError **error);
/* `punch`: the room may be given back, here and there. */
gboolean mf_mount_zero (mf_mount *mount, uint64_t offset, uint64_t length, gboolean punch, GCancellable *cancellable,
                        GError **error);
/* All that was written before is at the backend, and flushed there. With a cache, while the backend is away: it is in the cache, on its disk. */
gboolean mf_mount_sync (mf_mount *mount, GCancellable *cancellable, GError **error);

/* The end: nobody reads or writes any more. The last sync, always to the backend. The error says how much could not be written, and why. */
gboolean mf_mount_close (mf_mount *mount, GCancellable *cancellable, GError **error);

typedef struct {
  uint64_t local_bytes;                /* managed: here already */
  uint64_t dirty_bytes;                /* not yet known to be safe at the backend */
  uint64_t pulled_bytes, pushed_bytes; /* over the link */
} mf_mount_status;
void mf_mount_get_status (mf_mount *mount, mf_mount_status *status);

G_END_DECLS
