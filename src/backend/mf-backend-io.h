/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Requests to a backend from any thread, that wait: a pool of lanes, each used by one caller at a time, in the caller's own thread.
 *
 * A lane that is lost is replaced, with a growing pause between the attempts, and the request goes out again: for as long as the limit says. An error of a backend that
 * can be reached is the caller's at once.
 */
#include "backend/mf-backend.h"
#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _mf_backend_io mf_backend_io;

/* The pause before an attempt to reach a backend again: the first, and at most. */
#define MF_BACKOFF_MIN_USEC (100 * 1000)
#define MF_BACKOFF_MAX_USEC (3 * G_USEC_PER_SEC)

/* Requests begin and end at multiples of `granule` (or at the size). Up to `lanes` at once; `limit_usec` is how long one waits, -1 without end. No lane is opened before it is needed. */
mf_backend_io *mf_backend_io_new (MfBackend *backend, uint32_t granule, guint lanes, gint64 limit_usec);
/* Nobody uses it any more. */
void mf_backend_io_free (mf_backend_io *io);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_backend_io, mf_backend_io_free)

/* Does `request`, whose `done` and `user_data` are not the caller's to fill. At most MF_LANE_REQUEST_BYTES. A flush covers all that was written before through this io, by whichever lane: if a lane was lost
 * on which something had been written and not flushed, it fails once, with MF_ERROR_IO, since that may be lost. MF_ERROR_TIMED_OUT, MF_ERROR_CANCELLED, or what the backend says. */
gboolean mf_backend_io_do (mf_backend_io *io, mf_request *request, GCancellable *cancellable, GError **error);

/* Gives it a lane that somebody has already. */
void mf_backend_io_add_lane (mf_backend_io *io, mf_lane *lane);

G_END_DECLS
