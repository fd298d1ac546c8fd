/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A lane: one connection to a backend, with many requests in flight, owned by one thread.
 *
 * A backend gives lanes; the puller owns some for bulk, a fault handler owns one of its own, so that a fault never waits behind bulk
 * data. Everything about a lane happens in its owner's thread: submit, poll, and the completions, which run inside poll() or submit(). Only
 * mf_lane_kick() and mf_lane_shutdown() may be called from other threads. A lane that failed stays failed: every request in flight and every later one
 * completes with an error, and the owner closes it.
 */
#include "core/mf-run.h"
#include "mf-error.h"
#include <poll.h>

G_BEGIN_DECLS

typedef struct _mf_lane mf_lane;
typedef struct _mf_request mf_request;

/* A request carries at most this many pages, whatever the page size. */
#define MF_REQUEST_MAX_PAGES 256

typedef enum {
  MF_REQUEST_READ,
  MF_REQUEST_WRITE,
  MF_REQUEST_ZERO,  /* what is read there later is zeroes; the backend may make a hole */
  MF_REQUEST_FLUSH, /* what completed before this was submitted is safe; it has neither offset nor length */
} mf_request_operation;

/* A request: by default a read of whole pages (the region's last page may be short). The caller owns it and `buffer`, and leaves both alone
 * until `done` has been called, which happens exactly once. Requests that are in flight together may be done in any order. */
struct _mf_request {
  mf_request_operation operation;
  uint64_t offset; /* bytes, a multiple of page_bytes when that is not 0 */
  uint32_t length; /* bytes, not 0 (but of a flush) */
  /* Of a read: 0 if it is not one of pages. Then it may begin and end anywhere, and holes come as zeroes. */
  uint32_t page_bytes;
  void *buffer;          /* `length` bytes; not changed by a write, unused by a zero */
  int error;             /* out: 0 or an errno value */
  gint64 submitted_usec; /* out: monotonic time of submit */
  gint64 done_usec;      /* out: monotonic time of completion */
  /* out, of a read of pages: bit n is set when page n of the request came as a hole: it is all zero, and its part of `buffer` is
   * undefined. */
  uint64_t holes[MF_REQUEST_MAX_PAGES / 64];
  void (*done) (mf_request *request, gpointer user_data);
  gpointer user_data;
};

/* One extent of block status: `flags` hold over `length` bytes. */
typedef struct {
  uint64_t length;
  uint32_t flags;
} mf_extent;

typedef struct {
  /* Bytes the remote holds. */
  uint64_t (*size) (mf_lane *lane);
  void (*submit) (mf_lane *lane, mf_request *request);
  /* Waits until something completed, the lane was kicked, `extra` (may be NULL) is ready, or the time is over (-1: no
   * limit; 0: only look). Returns FALSE with an error when the lane is lost; requests in flight have been completed with an error by then. */
  gboolean (*poll) (mf_lane *lane, struct pollfd *extra, guint n_extra, gint64 timeout_usec, GError **error);
  guint (*in_flight) (mf_lane *lane);
  void (*kick) (mf_lane *lane);
  void (*shutdown) (mf_lane *lane);
  /* Blocking; nothing else may be in flight on this lane. */
  gboolean (*flush) (mf_lane *lane, GError **error);
  /* Block status of [offset, offset + length) in the named context, all of it, in order: appended to `extents` (GArray of
   * mf_extent; neighbours with equal flags are joined). Blocking; nothing else may be in flight. */
  gboolean (*extents) (mf_lane *lane, const char *context, uint64_t offset, uint64_t length, GArray *extents,
                       GError **error);
  void (*close) (mf_lane *lane);
} mf_lane_ops;

/* An implementation's own struct begins with this. */
struct _mf_lane {
  const mf_lane_ops *ops;
};

static inline uint64_t
mf_lane_size (mf_lane *lane)
{
  return lane->ops->size (lane);
}

static inline void
mf_lane_submit (mf_lane *lane, mf_request *request)
{
  lane->ops->submit (lane, request);
}

static inline gboolean
mf_lane_poll (mf_lane *lane, struct pollfd *extra, guint n_extra, gint64 timeout_usec, GError **error)
{
  return lane->ops->poll (lane, extra, n_extra, timeout_usec, error);
}

static inline guint
mf_lane_in_flight (mf_lane *lane)
{
  return lane->ops->in_flight (lane);
}

/* Wakes the owner out of poll(). Any thread. */
static inline void
mf_lane_kick (mf_lane *lane)
{
  lane->ops->kick (lane);
}

/* Breaks the connection: what is in flight and whatever call the owner blocks in, flush and extents too, ends with an error, and the lane has failed.
 * Any thread, as long as the lane has not been closed. */
static inline void
mf_lane_shutdown (mf_lane *lane)
{
  lane->ops->shutdown (lane);
}

static inline gboolean
mf_lane_flush (mf_lane *lane, GError **error)
{
  return lane->ops->flush (lane, error);
}

static inline gboolean
mf_lane_extents (mf_lane *lane, const char *context, uint64_t offset, uint64_t length, GArray *extents, GError **error)
{
  return lane->ops->extents (lane, context, offset, length, extents, error);
}

/* Closes the connection and frees the lane; requests in flight complete with ECANCELED first. */
static inline void
mf_lane_close (mf_lane *lane)
{
  lane->ops->close (lane);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_lane, mf_lane_close)

G_END_DECLS
