/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Answering BLOCK_STATUS: a chunk for each context that was negotiated. A reply is cut after MAX_EXTENTS; the client
 * asks on from there.
 */
#include "nbd/mf-nbd-connection.h"

#define MAX_EXTENTS (64u << 10)

/* The extents of one context being put together. */
typedef struct {
  GByteArray *bytes; /* as on the wire, behind the context's id */
  mf_nbd_extent last;
  guint count, limit;
  uint64_t covered; /* bytes */
} Extents;

/* FALSE: no more fit. Extents come in order and without gaps. */
static gboolean
extents_add (Extents *extents, uint64_t length, uint32_t flags)
{
  uint8_t wire[MF_NBD_EXTENT_BYTES];

  if (extents->count > 0 && extents->last.flags == flags) {
    extents->last.length += (uint32_t) length;
    extents->covered += length;
    return TRUE;
  }
  if (extents->count == extents->limit)
    return FALSE;
  if (extents->count > 0) {
    mf_nbd_encode_extent (extents->last, wire);
    g_byte_array_append (extents->bytes, wire, sizeof wire);
  }
  extents->last = (mf_nbd_extent){ (uint32_t) length, flags };
  extents->count++;
  extents->covered += length;
  return TRUE;
}

static void
extents_finish (Extents *extents)
{
  uint8_t wire[MF_NBD_EXTENT_BYTES];

  mf_nbd_encode_extent (extents->last, wire);
  g_byte_array_append (extents->bytes, wire, sizeof wire);
}

/* base:allocation of [offset, end), all of it PRESENT. */
static gboolean
add_stored (Extents *extents, MfStore *store, uint64_t offset, uint64_t end)
{
  while (offset < end) {
    uint64_t data, data_end;

    if (!mf_store_next_data (store, offset, &data, &data_end))
      data = data_end = end;
    data = CLAMP (data, offset, end);
    data_end = CLAMP (data_end, data, end);
    if (data > offset && !extents_add (extents, data - offset, MF_NBD_STATE_HOLE | MF_NBD_STATE_ZERO))
      return FALSE;
    if (data_end > data && !extents_add (extents, data_end - data, 0))
      return FALSE;
    offset = data_end;
  }
  return TRUE;
}

/* A page that is missing is not a hole: its data is elsewhere. */
static void
add_allocation (Extents *extents, const mf_nbd_export *export, uint64_t offset, uint64_t end)
{
  const mf_page_map *map = mf_region_map (export->region);
  uint32_t page_bytes = mf_region_page_bytes (export->region);
  mf_run run, present;

  while (offset < end && mf_run_from_bytes (offset, end - offset, page_bytes, mf_page_map_pages (map), &run)) {
    uint64_t start = end, stop = end;

    if (mf_page_map_next_run (map, run, MF_PAGE_PRESENT, &present)) {
      start = CLAMP (present.first * page_bytes, offset, end);
      stop = MIN ((present.first + present.count) * page_bytes, end);
    }
    if (start > offset && !extents_add (extents, start - offset, 0))
      return;
    if (!add_stored (extents, mf_region_store (export->region), start, stop))
      return;
    offset = stop;
  }
}

/* memferry:dirty of [offset, end): the dirty pages with their heat; 0 where nothing is dirty. */
static void
add_dirty (Extents *extents, const mf_nbd_export *export, mf_dirty_session *session, uint64_t offset, uint64_t end)
{
  const mf_bitmap *bits = mf_dirty_session_bits (session);
  mf_dirty_log *log = mf_region_dirty_log (export->region);
  uint64_t page_bytes = mf_region_page_bytes (export->region);
  mf_run run, dirty;

  while (offset < end && mf_run_from_bytes (offset, end - offset, (uint32_t) page_bytes, mf_bitmap_size (bits), &run)) {
    if (!mf_bitmap_next_run (bits, run, true, &dirty)) {
      extents_add (extents, end - offset, 0);
      return;
    }
    for (uint64_t page = dirty.first; page < dirty.first + dirty.count; page++) {
      uint64_t start = MAX (page * page_bytes, offset), stop = MIN ((page + 1) * page_bytes, end);
      uint32_t heat = mf_dirty_log_heat (log, page);

      if (start > offset && !extents_add (extents, start - offset, 0))
        return;
      if (!extents_add (extents, stop - start, MF_NBD_DIRTY | heat << MF_NBD_HEAT_SHIFT))
        return;
      offset = stop;
    }
  }
}

static gboolean
send_status (mf_nbd_connection *connection, const mf_nbd_request *request, const GByteArray *bytes, gboolean done)
{
  mf_nbd_chunk head = { .flags = done ? MF_NBD_REPLY_FLAG_DONE : 0,
                        .type = MF_NBD_REPLY_TYPE_BLOCK_STATUS,
                        .cookie = request->cookie,
                        .length = bytes->len };
  uint8_t wire[MF_NBD_CHUNK_BYTES];
  struct iovec iov[] = { { wire, sizeof wire }, { bytes->data, bytes->len } };

  mf_nbd_encode_chunk (&head, wire);
  return mf_nbd_stream_writev (&connection->stream, iov, G_N_ELEMENTS (iov), !done);
}

/* Asks the tracker, unless the owner of the session wants to do that himself, or this request goes on where the one
 * before ended: then the two are one look at the region, and a scan in between would only cost and change the heat. */
static gboolean
collect (mf_nbd_connection *connection, mf_dirty_session *session, uint64_t offset, GError **error)
{
  if (!mf_dirty_session_live_scans (session) || (offset > 0 && offset == connection->status_end))
    return TRUE;
  return mf_dirty_log_collect (mf_region_dirty_log (connection->export->region), NULL, error);
}

gboolean
mf_nbd_reply_status (mf_nbd_connection *connection, const mf_nbd_request *request)
{
  const mf_nbd_export *export = connection->export;
  mf_dirty_session *session = export->session ? export->session : connection->session;
  uint64_t offset = request->offset, end = request->offset + request->length;
  guint limit = request->flags & MF_NBD_CMD_FLAG_REQ_ONE ? 1 : MAX_EXTENTS;
  g_autoptr (GByteArray) bytes = g_byte_array_new ();
  uint8_t id[MF_NBD_STATUS_BYTES];
  g_autoptr (GError) error = NULL;

  if ((connection->contexts & MF_NBD_ID_DIRTY) && !collect (connection, session, offset, &error))
    return mf_nbd_reply (connection, request, mf_nbd_error_number (error), "the writes could not be collected");
  if (connection->contexts & MF_NBD_ID_ALLOCATION) {
    Extents extents = { .bytes = bytes, .limit = limit };

    mf_nbd_encode_status (MF_NBD_ID_ALLOCATION, id);
    g_byte_array_append (bytes, id, sizeof id);
    add_allocation (&extents, export, offset, end);
    extents_finish (&extents);
    if (!send_status (connection, request, bytes, !(connection->contexts & MF_NBD_ID_DIRTY)))
      return FALSE;
    g_byte_array_set_size (bytes, 0);
  }
  if (connection->contexts & MF_NBD_ID_DIRTY) {
    Extents extents = { .bytes = bytes, .limit = limit };

    mf_nbd_encode_status (MF_NBD_ID_DIRTY, id);
    g_byte_array_append (bytes, id, sizeof id);
    add_dirty (&extents, export, session, offset, end);
    extents_finish (&extents);
    connection->status_end = offset + extents.covered;
    return send_status (connection, request, bytes, TRUE);
  }
  return TRUE;
}
