/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The commands of a lane that block: flush and block status.
 */
#include "nbd/mf-nbd-lane.h"

#include <errno.h>
#include <string.h>

/* A block status request asks for this at most: 32 bits count its bytes. */
#define STATUS_BYTES (UINT64_C (2) << 30)

/* A server that splits more finely than disks have sectors wants our memory. */
#define MIN_EXTENT_BYTES 512

/* Drives libnbd until the one command with `cookie` is complete. */
static gboolean
run_command (mf_nbd_lane *lane, int64_t cookie, const char *what, GError **error)
{
  struct pollfd pfd = { .fd = lane->fd };
  g_autoptr (GError) why = NULL;
  int r;

  if (cookie == -1)
    return mf_error_from_nbd (error, "%s", what);
  while ((r = nbd_aio_command_completed (lane->nbd, (uint64_t) cookie)) == 0) {
    pfd.events = mf_nbd_lane_events (lane);
    if (mf_nbd_wait (&pfd, 1, -1) == -1)
      return mf_error_from_errno (error, errno, "polling");
    if (!mf_nbd_lane_drive (lane, pfd.revents, &why)) {
      mf_nbd_lane_lose (lane, g_steal_pointer (&why));
      return mf_nbd_lane_fail_again (lane, error);
    }
  }
  return r == 1 ? TRUE : mf_error_from_nbd (error, "%s", what);
}

static gboolean
check_quiet (mf_nbd_lane *lane, GError **error)
{
  if (lane->lost)
    return mf_nbd_lane_fail_again (lane, error);
  g_return_val_if_fail (lane->in_flight == 0, FALSE);
  return TRUE;
}

gboolean
mf_nbd_lane_flush (mf_lane *base, GError **error)
{
  mf_nbd_lane *lane = (mf_nbd_lane *) base;

  if (!check_quiet (lane, error))
    return FALSE;
  /* A server without it has nothing that a flush could do. */
  if (nbd_can_flush (lane->nbd) != 1)
    return TRUE;
  return run_command (lane, nbd_aio_flush (lane->nbd, NBD_NULL_COMPLETION, 0), "flushing", error);
}

/* A block status reply being read. */
typedef struct {
  const char *context;
  GArray *extents;
  uint64_t offset, end; /* still to be told of */
  guint limit;          /* entries of `extents` */
  gboolean bad;
} StatusReply;

static int
on_extents (void *user_data, const char *context, uint64_t offset, uint32_t *entries, size_t n_entries, int *error)
{
  StatusReply *reply = user_data;

  if (strcmp (context, reply->context) != 0)
    return 0;
  for (size_t i = 0; i + 1 < n_entries && reply->offset < reply->end; i += 2) {
    mf_extent extent = { MIN (entries[i], reply->end - reply->offset), entries[i + 1] };
    mf_extent *last =
        reply->extents->len > 0 ? &g_array_index (reply->extents, mf_extent, reply->extents->len - 1) : NULL;

    reply->offset += extent.length;
    if (last && last->flags == extent.flags) {
      last->length += extent.length;
      continue;
    }
    if (extent.length == 0 || reply->extents->len == reply->limit) {
      reply->bad = TRUE;
      return 0;
    }
    g_array_append_val (reply->extents, extent);
  }
  return 0;
}

gboolean
mf_nbd_lane_extents (mf_lane *base, const char *context, uint64_t offset, uint64_t length, GArray *extents,
                     GError **error)
{
  mf_nbd_lane *lane = (mf_nbd_lane *) base;
  StatusReply reply = { .context = context, .extents = extents, .offset = offset };

  if (!check_quiet (lane, error))
    return FALSE;
  if (offset > lane->size_bytes || length > lane->size_bytes - offset) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "block status past the end of the export");
    return FALSE;
  }
  if (nbd_can_meta_context (lane->nbd, context) != 1) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED, "the NBD server has no block status '%s'", context);
    return FALSE;
  }
  reply.end = offset + length;
  reply.limit = extents->len + (guint) MIN (length / MIN_EXTENT_BYTES + 2, G_MAXINT);
  while (reply.offset < reply.end) {
    nbd_extent_callback callback = { .callback = on_extents, .user_data = &reply };
    uint64_t start = reply.offset, left = reply.end - start;
    int64_t cookie =
        nbd_aio_block_status (lane->nbd, MIN (left, STATUS_BYTES), start, callback, NBD_NULL_COMPLETION, 0);

    if (!run_command (lane, cookie, "asking for block status", error))
      return FALSE;
    if (reply.bad || reply.offset == start) {
      g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "the NBD server's block status makes no sense");
      return FALSE;
    }
  }
  return TRUE;
}
