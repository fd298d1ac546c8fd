/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The FUSE attachment: a region, or whatever else has bytes, as one file.
 *
 * The file is mounted over a regular file, which is made, and removed at the end, when there is none. Several threads answer the kernel. A request that waits for the
 * remote ends when the program that made it is killed or interrupted; so nobody waits without an end who doesn't want to.
 *
 * The kernel's page cache is used: mmap works, shared too. Who opens the file with O_DIRECT goes past it.
 */
#include "mf-error.h"
#include <gio/gio.h>
#include <stdint.h>

G_BEGIN_DECLS

/* Where the bytes are. Called from several threads at once; they may block until the cancellable says no. */
typedef struct {
  gboolean (*read) (gpointer file, uint64_t offset, void *buffer, size_t length, GCancellable *cancellable,
                    GError **error);
  gboolean (*write) (gpointer file, uint64_t offset, const void *buffer, size_t length, GCancellable *cancellable,
                     GError **error);
  gboolean (*zero) (gpointer file, uint64_t offset, uint64_t length, gboolean punch, GCancellable *cancellable,
                    GError **error);
  gboolean (*sync) (gpointer file, GCancellable *cancellable, GError **error);
} mf_file_ops;

typedef struct {
  const char *path;
  const char *source; /* what mount(8) shows as the device */
  uint64_t size_bytes;
  gboolean read_only;
  gboolean
      changes_elsewhere; /* others change the bytes too: they are looked at again whenever somebody opens the file */
  /* Somebody has unmounted it; from a thread of the attachment. May be NULL. */
  void (*ended) (gpointer user_data);
  gpointer user_data;
} mf_fuse_options;

typedef struct _mf_fuse mf_fuse;

/* Mounts. MF_ERROR_NOT_SUPPORTED: no FUSE here; MF_ERROR_BUSY: something is mounted there; MF_ERROR_EXISTS: the file isn't empty, or it is no file; MF_ERROR_PERMISSION. What a mount that died has left
 * behind at `path` is cleared away. */
mf_fuse *mf_fuse_new (const mf_fuse_options *options, const mf_file_ops *ops, gpointer file, GError **error);
/* Makes the kernel hand over what it still has of shared mappings; that is no sync. Requests have to be answered meanwhile, so not from a thread of the attachment. */
gboolean mf_fuse_flush (mf_fuse *fuse, GError **error);
/* Requests that wait, and those that come, fail from now on. */
void mf_fuse_stop (mf_fuse *fuse);
/* Unmounts. */
void mf_fuse_free (mf_fuse *fuse);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_fuse, mf_fuse_free)

G_END_DECLS
