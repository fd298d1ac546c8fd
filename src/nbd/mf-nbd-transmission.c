/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The transmission: requests one after the other, each answered before the next is looked at. That keeps the order in
 * which FLUSH speaks of READs, and a client that wants more at once opens more connections.
 */
#include "nbd/mf-nbd-connection.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* A message for people is cut there. */
#define WHY_MAX 128

gboolean
mf_nbd_reply (mf_nbd_connection *connection, const mf_nbd_request *request, uint32_t error, const char *why)
{
  mf_nbd_simple_reply simple = { .error = error, .cookie = request->cookie };
  uint8_t wire[MF_NBD_CHUNK_BYTES + MF_NBD_ERROR_MAX_BYTES];
  mf_nbd_chunk head = { .flags = MF_NBD_REPLY_FLAG_DONE, .type = MF_NBD_REPLY_TYPE_ERROR, .cookie = request->cookie };
  mf_nbd_error details = { .error = error };

  if (!connection->structured || error == MF_NBD_OK) {
    mf_nbd_encode_simple_reply (&simple, wire);
    return mf_nbd_stream_write (&connection->stream, wire, MF_NBD_SIMPLE_REPLY_BYTES);
  }
  if (why)
    details.message = (mf_nbd_string){ why, (uint32_t) strnlen (why, WHY_MAX) };
  head.length = (uint32_t) mf_nbd_encode_error (&details, wire + MF_NBD_CHUNK_BYTES);
  mf_nbd_encode_chunk (&head, wire);
  return mf_nbd_stream_write (&connection->stream, wire, MF_NBD_CHUNK_BYTES + head.length);
}

/* Flags that a command may carry. */
static uint16_t
legal_flags (uint16_t type)
{
  switch (type) {
  case MF_NBD_CMD_READ:
    return MF_NBD_CMD_FLAG_DF | MF_NBD_CMD_FLAG_FUA;
  case MF_NBD_CMD_BLOCK_STATUS:
    return MF_NBD_CMD_FLAG_REQ_ONE | MF_NBD_CMD_FLAG_FUA;
  case MF_NBD_CMD_WRITE_ZEROES:
    return MF_NBD_CMD_FLAG_FUA | MF_NBD_CMD_FLAG_NO_HOLE;
  default:
    return MF_NBD_CMD_FLAG_FUA;
  }
}

static gboolean
changes_bytes (uint16_t type)
{
  return type == MF_NBD_CMD_WRITE || type == MF_NBD_CMD_WRITE_ZEROES || type == MF_NBD_CMD_TRIM;
}

/* Whether a request can be carried out: MF_NBD_OK, or why not. */
static uint32_t
check_request (mf_nbd_connection *connection, const mf_nbd_request *request, const char **why)
{
  const mf_nbd_export *export = connection->export;

  *why = "unknown command";
  if (request->type > MF_NBD_CMD_BLOCK_STATUS || request->type == MF_NBD_CMD_CACHE)
    return MF_NBD_EINVAL;
  *why = "the command does not take such flags";
  if (request->flags & ~legal_flags (request->type))
    return MF_NBD_EINVAL;
  if ((request->flags & MF_NBD_CMD_FLAG_DF) && !connection->structured)
    return MF_NBD_EINVAL;
  if (request->type == MF_NBD_CMD_FLUSH) {
    *why = "FLUSH takes no offset and no length";
    return request->offset || request->length ? MF_NBD_EINVAL : MF_NBD_OK;
  }
  *why = "the export is read-only";
  if (changes_bytes (request->type) && export->read_only)
    return MF_NBD_EPERM;
  *why = "a length of 0";
  if (request->length == 0)
    return MF_NBD_EINVAL;
  *why = "past the end of the export";
  if (!mf_nbd_request_within (request, export->size_bytes))
    return changes_bytes (request->type) && request->type != MF_NBD_CMD_TRIM ? MF_NBD_ENOSPC : MF_NBD_EINVAL;
  *why = "more than 32 MiB at once";
  if (request->type == MF_NBD_CMD_READ && request->length > MF_NBD_PAYLOAD_MAX)
    return request->flags & MF_NBD_CMD_FLAG_DF ? MF_NBD_EOVERFLOW : MF_NBD_EINVAL;
  *why = "no context was negotiated";
  if (request->type == MF_NBD_CMD_BLOCK_STATUS && connection->contexts == 0)
    return MF_NBD_EINVAL;
  *why = NULL;
  return MF_NBD_OK;
}

/* What was written before is on stable storage: a store in RAM has none. */
static gboolean
sync_store (const mf_nbd_export *export, GError **error)
{
  MfStore *store = mf_region_store (export->region);

  if (mf_store_kind (store) == MF_STORE_FILE && !mf_store_read_only (store) && fdatasync (mf_store_fd (store)) == -1)
    return mf_error_from_errno (error, errno, "flushing");
  return TRUE;
}

/* Ends a request that changes bytes. */
static gboolean
reply_changed (mf_nbd_connection *connection, const mf_nbd_request *request, GError *failure)
{
  g_autoptr (GError) error = NULL;

  if (!failure && (request->flags & MF_NBD_CMD_FLAG_FUA) && !sync_store (connection->export, &error))
    failure = error;
  if (failure)
    return mf_nbd_reply (connection, request, mf_nbd_error_number (failure), "the region could not be written");
  atomic_fetch_add_explicit (&connection->counters->bytes_written, request->length, memory_order_relaxed);
  return mf_nbd_reply (connection, request, MF_NBD_OK, NULL);
}

static gboolean
reply_write (mf_nbd_connection *connection, const mf_nbd_request *request)
{
  uint8_t *scratch = mf_nbd_connection_scratch (connection);
  uint64_t offset = request->offset, end = request->offset + request->length;
  g_autoptr (GError) error = NULL;

  while (offset < end) {
    /* Cut at multiples, so that no page is cut. */
    size_t part = (size_t) MIN (end - offset, MF_NBD_SCRATCH_BYTES - offset % MF_NBD_SCRATCH_BYTES);

    if (!mf_nbd_stream_read (&connection->stream, scratch, part))
      return FALSE;
    /* After an error the rest of the payload still has to be taken off the stream. */
    if (!error)
      mf_nbd_connection_write (connection, offset, scratch, part, &error);
    offset += part;
  }
  return reply_changed (connection, request, error);
}

static gboolean
reply_zero (mf_nbd_connection *connection, const mf_nbd_request *request)
{
  g_autoptr (GError) error = NULL;

  mf_nbd_connection_zero (connection, request->offset, request->length, !(request->flags & MF_NBD_CMD_FLAG_NO_HOLE),
                          &error);
  return reply_changed (connection, request, error);
}

static gboolean
reply_flush (mf_nbd_connection *connection, const mf_nbd_request *request)
{
  g_autoptr (GError) error = NULL;

  if (!sync_store (connection->export, &error))
    return mf_nbd_reply (connection, request, mf_nbd_error_number (error), "the store could not be flushed");
  if (connection->reader)
    mf_dirty_reader_acknowledge (connection->reader);
  return mf_nbd_reply (connection, request, MF_NBD_OK, NULL);
}

static gboolean
handle_request (mf_nbd_connection *connection, const mf_nbd_request *request)
{
  const char *why;
  uint32_t error = check_request (connection, request, &why);

  if (request->type != MF_NBD_CMD_BLOCK_STATUS)
    connection->status_end = 0;
  if (error != MF_NBD_OK) {
    if (request->type == MF_NBD_CMD_WRITE && !mf_nbd_stream_skip (&connection->stream, request->length))
      return FALSE;
    return mf_nbd_reply (connection, request, error, why);
  }
  switch (request->type) {
  case MF_NBD_CMD_READ:
    return mf_nbd_reply_read (connection, request);
  case MF_NBD_CMD_WRITE:
    return reply_write (connection, request);
  case MF_NBD_CMD_FLUSH:
    return reply_flush (connection, request);
  case MF_NBD_CMD_TRIM:
  case MF_NBD_CMD_WRITE_ZEROES:
    return reply_zero (connection, request);
  case MF_NBD_CMD_BLOCK_STATUS:
    return mf_nbd_reply_status (connection, request);
  default:
    return FALSE;
  }
}

void
mf_nbd_transmission (mf_nbd_connection *connection)
{
  mf_dirty_session *session = connection->export->session ? connection->export->session : connection->session;
  mf_nbd_request request;

  if (session)
    connection->reader = mf_dirty_reader_new (session);
  for (;;) {
    const uint8_t *header = mf_nbd_stream_take (&connection->stream, MF_NBD_REQUEST_BYTES);

    /* Without the magic nobody knows where the next request begins. */
    if (!header || !mf_nbd_decode_request (header, MF_NBD_REQUEST_BYTES, &request))
      return;
    if (request.type == MF_NBD_CMD_DISC)
      return;
    if (request.type == MF_NBD_CMD_WRITE && request.length > MF_NBD_PAYLOAD_MAX)
      return;
    atomic_fetch_add_explicit (&connection->counters->requests, 1, memory_order_relaxed);
    if (!handle_request (connection, &request))
      return;
  }
}
