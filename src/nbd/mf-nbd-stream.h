/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A stream socket as the NBD server reads and writes it: one recv() brings as many requests as have come, one send()
 * takes header and payload. Owned by one thread; only mf_nbd_stream_break() may be called from others.
 */
#include "core/mf-spin.h"
#include <glib.h>
#include <stdint.h>
#include <sys/uio.h>

G_BEGIN_DECLS

/* What one recv() brings at most ahead of what was asked for; also the longest mf_nbd_stream_take(). */
#define MF_NBD_STREAM_BUFFER 4096

typedef struct {
  int fd;
  gboolean spin; /* the stream carries faults: look for a while before sleeping, where that helps */
  mf_spin waiting;
  gint64 deadline_usec; /* monotonic: reads fail after it; -1 none */
  uint32_t start, end;  /* what `buffer` holds and was not taken */
  uint8_t buffer[MF_NBD_STREAM_BUFFER];
} mf_nbd_stream;

/* Takes `fd` over. */
void mf_nbd_stream_init (mf_nbd_stream *stream, int fd, gboolean spin);
void mf_nbd_stream_clear (mf_nbd_stream *stream);
/* Reads and writes fail from here on, those under way too. The file descriptor stays open. */
void mf_nbd_stream_break (mf_nbd_stream *stream);
/* Both ways at once: reads fail after `usec` from now, and a write that can't go on for that long fails. -1: no limit. */
void mf_nbd_stream_set_timeout (mf_nbd_stream *stream, gint64 usec);

/* The next `length` <= MF_NBD_STREAM_BUFFER bytes, valid until the next call. NULL: the stream ended before, broke, or
 * the deadline is over. */
const uint8_t *mf_nbd_stream_take (mf_nbd_stream *stream, size_t length);
/* Reads `length` bytes. */
gboolean mf_nbd_stream_read (mf_nbd_stream *stream, void *out, size_t length);
/* Reads `length` bytes and forgets them. */
gboolean mf_nbd_stream_skip (mf_nbd_stream *stream, uint64_t length);

/* Writes all of the `n` buffers (which it changes). `more`: something follows at once. */
gboolean mf_nbd_stream_writev (mf_nbd_stream *stream, struct iovec *iov, size_t n, gboolean more);
gboolean mf_nbd_stream_write (mf_nbd_stream *stream, const void *data, size_t length);

G_END_DECLS
