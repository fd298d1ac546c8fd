/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A cache: a store on disk whose page map survives the process.
 *
 * FILE has the bytes, FILE.map says which pages of it are there and which have not been sent. The map is a shared mapping, changed in an order that makes it right whenever the
 * process is killed:
 *   - a page is noted as dirty before its bytes are written, and as present after they were written; so one that is dirty and not present was being
 *     written for the first time, by somebody who was never told that it was done: it is missing;
 *   - a page is no longer dirty when the remote has flushed it and nobody has begun to write it since it was taken to be sent (`touched`).
 * All of this happens under the lock of the page's stripe.
 *
 * When the whole host goes down, pages and map may reach the disk in any order. So the map has the boot in which it is used, and whether it was closed: one that was not, in another boot, is
 * only good for nothing, or is refused if it has pages that were never sent.
 */
#include "region/mf-region.h"

G_BEGIN_DECLS

typedef struct _mf_mount_cache mf_mount_cache;

/* Opens the cache of `name`, or makes it. MF_ERROR_EXISTS: FILE is something else, the cache of something else, or half written; MF_ERROR_BUSY: it is in use. */
mf_mount_cache *mf_mount_cache_open (const char *path, const char *name, uint64_t size_bytes, GError **error);
void mf_mount_cache_free (mf_mount_cache *cache);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_mount_cache, mf_mount_cache_free)

MfStore *mf_mount_cache_store (mf_mount_cache *cache);
const char *mf_mount_cache_path (mf_mount_cache *cache);
/* Brings `region`, a new one over the store, into the state that the cache has kept, and keeps it from now on. Before anybody uses it. */
gboolean mf_mount_cache_load (mf_mount_cache *cache, MfRegion *region, GError **error);
/* What is dirty: for the pusher, after load. */
const mf_bitmap *mf_mount_cache_dirty (mf_mount_cache *cache);
/* For the pusher's callbacks of these names. */
void mf_mount_cache_taking (mf_mount_cache *cache, mf_run run);
void mf_mount_cache_sent (mf_mount_cache *cache, mf_run run);
/* Bytes and map are on the disk. */
gboolean mf_mount_cache_sync (mf_mount_cache *cache, GError **error);
/* The same at the end, when nobody uses it any more: it is closed. */
gboolean mf_mount_cache_close (mf_mount_cache *cache, GError **error);

G_END_DECLS
