/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Any alignment over a backend with fixed blocks.
 *
 * A request is worked through in pieces, one after the other, in submit(): whole blocks go straight through, in requests as long as the backend takes;
 * a block that is touched in part is read, and for a write changed and written back. While somebody writes, the blocks that he
 * touches are his (`blocks_busy` of the backend): otherwise two who change different parts of one block would lose one of the two changes.
 */
#include "mf-backend.h"

#include <errno.h>
#include <string.h>

typedef struct {
  mf_lane base;
  MfBackend *backend; /* a reference */
  mf_lane *inner;
  uint8_t *block; /* block_bytes, made at first use */
  gboolean woken; /* a kick may have been taken for somebody else's */
  GQueue queue;   /* of mf_request that were submitted from a `done` */
  gboolean busy;
} BlockLane;

typedef struct {
  uint64_t first, end; /* bytes, whole blocks */
} Blocks;

/* --- Who writes where --- */

static gboolean
is_busy (MfBackend *backend, Blocks wanted)
{
  for (guint i = 0; i < backend->blocks_busy->len; i++) {
    Blocks *busy = &g_array_index (backend->blocks_busy, Blocks, i);

    if (busy->first < wanted.end && wanted.first < busy->end)
      return TRUE;
  }
  return FALSE;
}

static void
take_blocks (MfBackend *backend, Blocks wanted)
{
  g_mutex_lock (&backend->blocks_lock);
  if (backend->blocks_busy == NULL)
    backend->blocks_busy = g_array_new (FALSE, FALSE, sizeof (Blocks));
  while (is_busy (backend, wanted))
    g_cond_wait (&backend->blocks_free, &backend->blocks_lock);
  g_array_append_val (backend->blocks_busy, wanted);
  g_mutex_unlock (&backend->blocks_lock);
}

static void
release_blocks (MfBackend *backend, Blocks taken)
{
  g_mutex_lock (&backend->blocks_lock);
  for (guint i = 0; i < backend->blocks_busy->len; i++) {
    if (g_array_index (backend->blocks_busy, Blocks, i).first == taken.first) {
      g_array_remove_index_fast (backend->blocks_busy, i);
      break;
    }
  }
  g_cond_broadcast (&backend->blocks_free);
  g_mutex_unlock (&backend->blocks_lock);
}

/* --- One request of the backend --- */

static void
on_done (mf_request *request, gpointer is_done)
{
  *(gboolean *) is_done = TRUE;
}

/* Returns an errno value, or 0. */
static int
do_one (BlockLane *lane, mf_request_operation operation, uint64_t offset, uint32_t length, void *buffer)
{
  gboolean is_done = FALSE;
  mf_request request = {
    .operation = operation, .offset = offset, .length = length, .buffer = buffer, .done = on_done, .user_data = &is_done
  };

  mf_lane_submit (lane->inner, &request);
  while (!is_done) {
    if (!mf_lane_poll (lane->inner, NULL, 0, -1, NULL))
      break;
    lane->woken = TRUE;
  }
  /* A lane that fails completes what it has before it says so. */
  return is_done ? request.error : ENOTCONN;
}

/* --- Pieces --- */

/* The part of a request that is done next: whole blocks, or one block of which it touches a part. */
typedef struct {
  uint64_t offset; /* of the block or blocks */
  uint32_t length;
  gboolean whole;
  uint64_t from, to; /* what the request touches of it */
} Piece;

static Piece
next_piece (const mf_backend_limits *limits, uint64_t at, uint64_t end)
{
  const uint64_t block = limits->block_bytes;
  uint64_t first = at / block * block;
  uint64_t past = MIN (first + block, limits->size_bytes);

  if (first < at || end < past)
    return (Piece){ first, (uint32_t) (past - first), FALSE, at, MIN (end, past) };
  past = end == limits->size_bytes ? end : end / block * block;
  past = MIN (past, at + limits->request_bytes);
  return (Piece){ at, (uint32_t) (past - at), TRUE, at, past };
}

static int
do_part (BlockLane *lane, const mf_request *request, Piece piece, uint8_t *buffer)
{
  uint8_t *touched;
  int error;

  if (lane->block == NULL)
    lane->block = g_malloc (lane->backend->limits.block_bytes);
  touched = lane->block + (piece.from - piece.offset);
  error = do_one (lane, MF_REQUEST_READ, piece.offset, piece.length, lane->block);
  if (error != 0)
    return error;
  switch (request->operation) {
  case MF_REQUEST_READ:
    memcpy (buffer, touched, piece.to - piece.from);
    return 0;
  case MF_REQUEST_WRITE:
    memcpy (touched, buffer, piece.to - piece.from);
    break;
  case MF_REQUEST_ZERO:
    memset (touched, 0, piece.to - piece.from);
    break;
  case MF_REQUEST_FLUSH:
    return EINVAL;
  }
  return do_one (lane, MF_REQUEST_WRITE, piece.offset, piece.length, lane->block);
}

static int
do_pieces (BlockLane *lane, const mf_request *request)
{
  const uint64_t end = request->offset + request->length;
  int error = 0;

  for (uint64_t at = request->offset; error == 0 && at < end;) {
    Piece piece = next_piece (&lane->backend->limits, at, end);
    uint8_t *buffer = request->buffer != NULL ? (uint8_t *) request->buffer + (at - request->offset) : NULL;

    error = piece.whole ? do_one (lane, request->operation, piece.offset, piece.length, buffer)
                        : do_part (lane, request, piece, buffer);
    at = piece.to;
  }
  return error;
}

static int
check_request (BlockLane *lane, const mf_request *request)
{
  const uint64_t size = lane->backend->limits.size_bytes;

  if (request->operation == MF_REQUEST_FLUSH)
    return request->length != 0 || request->offset != 0 ? EINVAL : 0;
  if (request->length == 0 || request->offset > size || request->length > size - request->offset)
    return EINVAL;
  if (request->operation == MF_REQUEST_READ && request->page_bytes != 0 &&
      ((request->length - 1) / request->page_bytes >= MF_REQUEST_MAX_PAGES ||
       request->offset % request->page_bytes != 0))
    return EINVAL;
  return request->operation != MF_REQUEST_READ && lane->backend->limits.read_only ? EROFS : 0;
}

/* The backend's holes got lost on the way here. */
static void
find_zero_pages (mf_request *request)
{
  for (uint32_t at = 0; at < request->length; at += request->page_bytes) {
    const uint8_t *page = (const uint8_t *) request->buffer + at;
    uint32_t length = MIN (request->page_bytes, request->length - at), n = at / request->page_bytes;

    if (page[0] == 0 && memcmp (page, page + 1, length - 1) == 0)
      request->holes[n / 64] |= UINT64_C (1) << n % 64;
  }
}

static void
run_request (BlockLane *lane, mf_request *request)
{
  const uint64_t block = lane->backend->limits.block_bytes;

  request->error = check_request (lane, request);
  if (request->error == 0 && request->operation == MF_REQUEST_FLUSH) {
    request->error = do_one (lane, MF_REQUEST_FLUSH, 0, 0, NULL);
  } else if (request->error == 0) {
    const uint64_t end = request->offset + request->length;
    Blocks blocks = { request->offset / block * block, (end + block - 1) / block * block };

    if (request->operation != MF_REQUEST_READ)
      take_blocks (lane->backend, blocks);
    request->error = do_pieces (lane, request);
    if (request->operation != MF_REQUEST_READ)
      release_blocks (lane->backend, blocks);
    else if (request->error == 0 && request->page_bytes != 0)
      find_zero_pages (request);
  }
  request->done_usec = g_get_monotonic_time ();
  request->done (request, request->user_data);
}

/* --- The lane --- */

static void
lane_submit (mf_lane *base, mf_request *request)
{
  BlockLane *lane = (BlockLane *) base;

  request->submitted_usec = g_get_monotonic_time ();
  memset (request->holes, 0, sizeof request->holes);
  g_queue_push_tail (&lane->queue, request);
  if (lane->busy)
    return;
  lane->busy = TRUE;
  while ((request = g_queue_pop_head (&lane->queue)) != NULL)
    run_request (lane, request);
  lane->busy = FALSE;
}

static gboolean
lane_poll (mf_lane *base, struct pollfd *extra, guint n_extra, gint64 timeout_usec, GError **error)
{
  BlockLane *lane = (BlockLane *) base;
  gboolean woken = lane->woken;

  lane->woken = FALSE;
  return mf_lane_poll (lane->inner, extra, n_extra, woken ? 0 : timeout_usec, error);
}

static uint64_t
lane_size (mf_lane *base)
{
  return ((BlockLane *) base)->backend->limits.size_bytes;
}

static guint
lane_in_flight (mf_lane *base)
{
  return g_queue_get_length (&((BlockLane *) base)->queue);
}

static void
lane_kick (mf_lane *base)
{
  mf_lane_kick (((BlockLane *) base)->inner);
}

static void
lane_shutdown (mf_lane *base)
{
  mf_lane_shutdown (((BlockLane *) base)->inner);
}

static gboolean
lane_flush (mf_lane *base, GError **error)
{
  return mf_lane_flush (((BlockLane *) base)->inner, error);
}

static gboolean
lane_extents (mf_lane *base, const char *context, uint64_t offset, uint64_t length, GArray *extents, GError **error)
{
  return mf_lane_extents (((BlockLane *) base)->inner, context, offset, length, extents, error);
}

static void
lane_close (mf_lane *base)
{
  BlockLane *lane = (BlockLane *) base;

  mf_lane_close (lane->inner);
  mf_backend_unref (lane->backend);
  g_free (lane->block);
  g_free (lane);
}

static const mf_lane_ops lane_ops = {
  .size = lane_size,
  .submit = lane_submit,
  .poll = lane_poll,
  .in_flight = lane_in_flight,
  .kick = lane_kick,
  .shutdown = lane_shutdown,
  .flush = lane_flush,
  .extents = lane_extents,
  .close = lane_close,
};

mf_lane *
mf_block_lane_new (MfBackend *backend, mf_lane *inner)
{
  BlockLane *lane = g_new0 (BlockLane, 1);

  lane->base.ops = &lane_ops;
  lane->backend = mf_backend_ref (backend);
  lane->inner = inner;
  g_queue_init (&lane->queue);
  return &lane->base;
}
