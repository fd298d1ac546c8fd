/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Answering READ.
 *
 * Bytes leave in one of two ways. *Through the buffer*: mf_region_read() into the connection's buffer, and from there
 * to the socket. It waits for missing pages, checks that they were there until the end, never allocates a hole and
 * never faults: so it is the way of small requests (a fault), of simple replies, of stores on disk and of hugetlbfs.
 * *From the mapping*: the socket takes the bytes where they are, the one copy there has to be; the way of large
 * requests for a store in RAM.
 *
 * Measured in this server: 1 GiB of random bytes out of tmpfs in requests of 1 MiB to a client that only receives, 2
 * processors shared with other work; the server's processor time in ms, and GB/s (medians of 7; the GB/s vary by
 * half):
 *
 *                 UNIX, 1 connection   UNIX, 2      TCP, 1       TCP, 2
 *   mapping       136   3.8            160   4.5    208   2.1    221   2.8
 *   buffer        203   2.2            227   2.9    295   1.4    314   1.2
 *   sendfile      122   2.4            123   4.1    180   1.1    319   1.2
 *
 * To give the mapping's pages back every 16 MiB costs 10 % of the processor time and keeps 1 GB out of the service's
 * resident memory.
 *
 * Holes must not be touched through the mapping. SEEK_HOLE is no way to find them: it walks every page up to the next
 * hole, 7 ms for a full GiB, with the file locked. SEEK_DATA is cheap, and mincore() says of each page whether it is
 * there (10 us for 1 MiB); a page that isn't there, a hole or swapped out, goes through the buffer. A hole punched
 * between the question and the read is allocated again with zeroes: harmless.
 *
 * A page that was PRESENT when the request came may be invalidated while its bytes are on their way to the socket. So
 * a large reply ends with a chunk of its own, sent after its data, and that chunk is an error when pages were
 * invalidated meanwhile (mf_region_peek_begin()).
 */
#include "mf-schedule.h"
#include "nbd/mf-nbd-connection.h"

#include <string.h>
#include <sys/mman.h>

/* Zeroes are looked for in steps of this, whatever the store's page: also mincore()'s. */
#define STEP_BYTES 4096u

/* Up to here a request goes through the buffer: so small, the two ways cost the same. */
#define SMALL_BYTES (64u << 10)

/* How much of the mapping is looked at with one mincore(). */
#define WINDOW_BYTES (1u << 20)

/* The service's page tables forget what was served in steps of this. */
#define FORGET_BYTES (16u << 20)

/* Chunks that wait for one writev(). */
#define MAX_CHUNKS 32

static const uint8_t zeroes[64 << 10];

typedef struct {
  uint64_t offset;
  uint32_t length;
  const uint8_t *bytes; /* NULL: a hole */
} Chunk;

/* A structured reply being put together. */
typedef struct {
  mf_nbd_connection *connection;
  const mf_nbd_request *request;
  Chunk chunks[MAX_CHUNKS];
  guint n_chunks;
} Reply;

static gboolean
is_zero (const uint8_t *bytes, size_t length)
{
  return memcmp (bytes, zeroes, length) == 0;
}

static size_t
encode_chunk_head (const Reply *reply, const Chunk *chunk, gboolean done,
                   uint8_t out[MF_NBD_CHUNK_BYTES + MF_NBD_OFFSET_HOLE_BYTES])
{
  mf_nbd_chunk head = { .flags = done ? MF_NBD_REPLY_FLAG_DONE : 0, .cookie = reply->request->cookie };

  if (chunk->bytes) {
    head.type = MF_NBD_REPLY_TYPE_OFFSET_DATA;
    head.length = MF_NBD_OFFSET_DATA_BYTES + chunk->length;
    mf_nbd_encode_chunk (&head, out);
    mf_nbd_encode_offset_data (chunk->offset, out + MF_NBD_CHUNK_BYTES);
    return MF_NBD_CHUNK_BYTES + MF_NBD_OFFSET_DATA_BYTES;
  }
  head.type = MF_NBD_REPLY_TYPE_OFFSET_HOLE;
  head.length = MF_NBD_OFFSET_HOLE_BYTES;
  mf_nbd_encode_chunk (&head, out);
  mf_nbd_encode_offset_hole (chunk->offset, chunk->length, out + MF_NBD_CHUNK_BYTES);
  return MF_NBD_CHUNK_BYTES + MF_NBD_OFFSET_HOLE_BYTES;
}

/* Sends the chunks that wait. `done`: the last of them ends the reply. */
static gboolean
reply_flush (Reply *reply, gboolean done)
{
  uint8_t heads[MAX_CHUNKS][MF_NBD_CHUNK_BYTES + MF_NBD_OFFSET_HOLE_BYTES];
  struct iovec iov[2 * MAX_CHUNKS];
  uint64_t data = 0, holes = 0;
  guint n = 0;

  for (guint i = 0; i < reply->n_chunks; i++) {
    const Chunk *chunk = &reply->chunks[i];

    iov[n].iov_base = heads[i];
    iov[n++].iov_len = encode_chunk_head (reply, chunk, done && i + 1 == reply->n_chunks, heads[i]);
    if (chunk->bytes) {
      iov[n++] = (struct iovec){ (void *) chunk->bytes, chunk->length };
      data += chunk->length;
    } else {
      holes += chunk->length;
    }
  }
  reply->n_chunks = 0;
  atomic_fetch_add_explicit (&reply->connection->counters->bytes_read, data, memory_order_relaxed);
  atomic_fetch_add_explicit (&reply->connection->counters->hole_bytes, holes, memory_order_relaxed);
  return mf_nbd_stream_writev (&reply->connection->stream, iov, n, !done);
}

/* Adds bytes, or (NULL) a hole, to the reply; joins it with its neighbour if it can. */
static gboolean
reply_add (Reply *reply, uint64_t offset, uint32_t length, const uint8_t *bytes)
{
  Chunk *last = reply->n_chunks > 0 ? &reply->chunks[reply->n_chunks - 1] : NULL;

  if (last && last->offset + last->length == offset &&
      (bytes ? last->bytes && last->bytes + last->length == bytes : !last->bytes)) {
    last->length += length;
    return TRUE;
  }
  if (reply->n_chunks == MAX_CHUNKS && !reply_flush (reply, FALSE))
    return FALSE;
  reply->chunks[reply->n_chunks++] = (Chunk){ offset, length, bytes };
  return TRUE;
}

/* Adds bytes and leaves out pages of zeroes. */
static gboolean
reply_add_looking (Reply *reply, uint64_t offset, uint32_t length, const uint8_t *bytes)
{
  while (length > 0) {
    uint32_t part = MIN (length, STEP_BYTES - (uint32_t) (offset % STEP_BYTES));

    if (!reply_add (reply, offset, part, is_zero (bytes, part) ? NULL : bytes))
      return FALSE;
    offset += part;
    bytes += part;
    length -= part;
  }
  return TRUE;
}

/* The whole pages of the request: a page of which only a part is read stays dirty. */
static mf_run
whole_pages (const mf_nbd_export *export, const mf_nbd_request *request)
{
  uint64_t page_bytes = mf_region_page_bytes (export->region);
  uint64_t end = request->offset + request->length;
  uint64_t first = (request->offset + page_bytes - 1) / page_bytes;
  uint64_t past = end == export->size_bytes ? mf_region_n_pages (export->region) : end / page_bytes;

  return (mf_run){ first, past > first ? past - first : 0 };
}

/* The request failed: what was taken for it has not been read after all. */
static gboolean
reply_failed (mf_nbd_connection *connection, const mf_nbd_request *request, uint32_t error, const char *why)
{
  mf_run run = whole_pages (connection->export, request);

  if (connection->reader && run.count > 0)
    mf_dirty_log_note (mf_region_dirty_log (connection->export->region), run);
  return mf_nbd_reply (connection, request, error, why);
}

/* Ends the reply with a chunk without data: an error's, or (0) the one that says that all is well. */
static gboolean
reply_end (Reply *reply, uint32_t error, const char *why)
{
  mf_nbd_chunk head = { .flags = MF_NBD_REPLY_FLAG_DONE,
                        .type = MF_NBD_REPLY_TYPE_NONE,
                        .cookie = reply->request->cookie };
  uint8_t bytes[MF_NBD_CHUNK_BYTES];

  if (reply->n_chunks > 0 && !reply_flush (reply, FALSE))
    return FALSE;
  if (error != MF_NBD_OK)
    return reply_failed (reply->connection, reply->request, error, why);
  mf_nbd_encode_chunk (&head, bytes);
  return mf_nbd_stream_write (&reply->connection->stream, bytes, sizeof bytes);
}

/* Whether the bytes from `offset` on are there, and how many of up to `length`. */
static gboolean
present_at (const mf_nbd_export *export, uint64_t offset, uint64_t length, uint64_t *same)
{
  uint32_t page_bytes = mf_region_page_bytes (export->region);
  const mf_page_map *map = mf_region_map (export->region);
  mf_run run, found;
  uint64_t change;

  *same = length;
  if (!mf_run_from_bytes (offset, length, page_bytes, mf_page_map_pages (map), &run))
    return FALSE;
  if (!mf_page_map_next_run (map, run, MF_PAGE_PRESENT, &found))
    return FALSE;
  change = found.first > run.first ? found.first : found.first + found.count;
  *same = MIN (length, change * page_bytes - offset);
  return found.first == run.first;
}

/* Where the next data is at or after `offset`, at most `end`. */
static uint64_t
data_from (const mf_nbd_export *export, uint64_t offset, uint64_t end)
{
  return MIN (mf_store_data_from (mf_region_store (export->region), offset), end);
}

/* How many bytes from `offset` on are PRESENT and a hole. */
static uint64_t
hole_at (const mf_nbd_export *export, uint64_t offset, uint64_t end)
{
  uint64_t same;

  if (!present_at (export, offset, end - offset, &same))
    return 0;
  return data_from (export, offset, offset + same) - offset;
}

/* Adds up to a buffer of bytes from `*offset` on, through the buffer, and sends it: the buffer is free again then.
 * Sets `error` when the region could not be read; FALSE without: the stream is broken. */
static gboolean
add_through_buffer (Reply *reply, uint64_t *offset, uint64_t end, GError **error)
{
  mf_nbd_connection *connection = reply->connection;
  uint8_t *scratch = mf_nbd_connection_scratch (connection);
  uint32_t part = (uint32_t) MIN (end - *offset, MF_NBD_SCRATCH_BYTES - *offset % STEP_BYTES);

  if (!mf_nbd_connection_read (connection, *offset, scratch, part, error))
    return FALSE;
  if (!reply_add_looking (reply, *offset, part, scratch) || !reply_flush (reply, FALSE))
    return FALSE;
  *offset += part;
  return TRUE;
}

/* Remembers what of the mapping was touched, and now and then gives it back. */
static void
note_mapped (mf_nbd_connection *connection, uint64_t offset, uint64_t length)
{
  if (connection->mapped_bytes == 0) {
    connection->mapped_start = offset;
    connection->mapped_end = offset + length;
  }
  connection->mapped_start = MIN (connection->mapped_start, offset);
  connection->mapped_end = MAX (connection->mapped_end, offset + length);
  connection->mapped_bytes += length;
}

static void
forget_mapped (mf_nbd_connection *connection)
{
  if (connection->mapped_bytes < FORGET_BYTES)
    return;
  mf_store_map_forget (mf_region_store (connection->export->region), connection->mapped_start,
                       connection->mapped_end - connection->mapped_start);
  connection->mapped_bytes = 0;
}

/* Adds what a window of the mapping holds, from `*offset` on, as far as the pages are in memory. Where the first is
 * not, nothing is added, and `*absent` is the end of those that are not. */
static gboolean
add_from_mapping (Reply *reply, const uint8_t *mapping, uint64_t *offset, uint64_t end, uint64_t *absent)
{
  uint8_t resident[WINDOW_BYTES / STEP_BYTES];
  uint64_t base = *offset - *offset % STEP_BYTES;
  uint64_t stop = MIN (end, base + WINDOW_BYTES), at;
  gboolean here;
  guint step = 0;

  *absent = *offset;
  if (mincore ((void *) (mapping + base), stop - base, resident) == -1)
    memset (resident, 0, sizeof resident);
  here = resident[0] & 1;
  while (base + (uint64_t) step * STEP_BYTES < stop && (gboolean) (resident[step] & 1) == here)
    step++;
  at = MIN (stop, base + (uint64_t) step * STEP_BYTES);
  if (!here) {
    *absent = at;
    return TRUE;
  }
  if (!reply_add_looking (reply, *offset, (uint32_t) (at - *offset), mapping + *offset))
    return FALSE;
  note_mapped (reply->connection, *offset, at - *offset);
  *offset = *absent = at;
  return TRUE;
}

/* Adds some of the bytes from `*offset` on. */
static gboolean
add_some (Reply *reply, const uint8_t *mapping, uint64_t *offset, uint64_t end, GError **error)
{
  const mf_nbd_export *export = reply->connection->export;
  uint64_t hole = hole_at (export, *offset, end), absent, same;

  if (hole > 0) {
    if (!reply_add (reply, *offset, (uint32_t) hole, NULL))
      return FALSE;
    *offset += hole;
    return TRUE;
  }
  if (!mapping || !present_at (export, *offset, end - *offset, &same))
    return add_through_buffer (reply, offset, end, error);
  if (!add_from_mapping (reply, mapping, offset, *offset + same, &absent))
    return FALSE;
  return absent == *offset || add_through_buffer (reply, offset, absent, error);
}

/* A large structured reply. `mapping`: of a store in RAM, or NULL. */
static gboolean
reply_in_chunks (mf_nbd_connection *connection, const mf_nbd_request *request, const uint8_t *mapping)
{
  MfRegion *region = connection->export->region;
  Reply reply = { .connection = connection, .request = request };
  uint64_t offset = request->offset, end = request->offset + request->length;
  g_autoptr (GError) error = NULL;
  guint stamp;
  gboolean peek = mf_region_peek_begin (region, &stamp);

  while (offset < end) {
    gboolean ok =
        peek ? add_some (&reply, mapping, &offset, end, &error) : add_through_buffer (&reply, &offset, end, &error);

    if (!ok)
      return error ? reply_end (&reply, mf_nbd_error_number (error), "the region could not be read") : FALSE;
  }
  if (reply.n_chunks > 0 && !reply_flush (&reply, FALSE))
    return FALSE;
  mf_schedule_carried ();
  forget_mapped (connection);
  if (mapping && mf_store_is_cut (mf_region_store (region)))
    return reply_end (&reply, MF_NBD_EIO, "somebody has cut the file short");
  if (peek && !mf_region_peek_end (region, stamp))
    return reply_end (&reply, MF_NBD_EIO, "pages were invalidated while they were read");
  return reply_end (&reply, MF_NBD_OK, NULL);
}

/* A structured reply of few bytes, in one send. */
static gboolean
reply_small (mf_nbd_connection *connection, const mf_nbd_request *request)
{
  uint8_t *scratch = mf_nbd_connection_scratch (connection);
  Reply reply = { .connection = connection, .request = request };
  g_autoptr (GError) error = NULL;

  if (!mf_nbd_connection_read (connection, request->offset, scratch, request->length, &error))
    return reply_end (&reply, mf_nbd_error_number (error), "the region could not be read");
  return reply_add_looking (&reply, request->offset, request->length, scratch) && reply_flush (&reply, TRUE);
}

/* A reply without chunks: `head`, then all the bytes, zeroes too. Once the head is out an error can only be shown by
 * hanging up. */
static gboolean
reply_whole (mf_nbd_connection *connection, const mf_nbd_request *request, const void *head, size_t head_length)
{
  uint8_t *scratch = mf_nbd_connection_scratch (connection);
  uint64_t offset = request->offset, end = request->offset + request->length;

  while (offset < end) {
    uint32_t part = (uint32_t) MIN (end - offset, MF_NBD_SCRATCH_BYTES - offset % STEP_BYTES);
    struct iovec iov[] = { { (void *) head, head_length }, { scratch, part } };
    g_autoptr (GError) error = NULL;

    if (!mf_nbd_connection_read (connection, offset, scratch, part, &error)) {
      if (offset > request->offset)
        return FALSE;
      return reply_failed (connection, request, mf_nbd_error_number (error), "the region could not be read");
    }
    if (!mf_nbd_stream_writev (&connection->stream, iov, G_N_ELEMENTS (iov), offset + part < end))
      return FALSE;
    head_length = 0;
    offset += part;
  }
  atomic_fetch_add_explicit (&connection->counters->bytes_read, request->length, memory_order_relaxed);
  return TRUE;
}

static gboolean
reply_simple (mf_nbd_connection *connection, const mf_nbd_request *request)
{
  mf_nbd_simple_reply simple = { .error = MF_NBD_OK, .cookie = request->cookie };
  uint8_t head[MF_NBD_SIMPLE_REPLY_BYTES];

  mf_nbd_encode_simple_reply (&simple, head);
  return reply_whole (connection, request, head, sizeof head);
}

/* "Don't fragment": one chunk of data. */
static gboolean
reply_unfragmented (mf_nbd_connection *connection, const mf_nbd_request *request)
{
  Reply reply = { .connection = connection, .request = request };
  Chunk chunk = { request->offset, request->length, zeroes };
  uint8_t head[MF_NBD_CHUNK_BYTES + MF_NBD_OFFSET_HOLE_BYTES];

  return reply_whole (connection, request, head, encode_chunk_head (&reply, &chunk, TRUE, head));
}

/* The store's mapping, if it is to be read from. */
static const uint8_t *
mapping_of (const mf_nbd_export *export)
{
  MfStore *store = mf_region_store (export->region);
  MfStoreKind kind = mf_store_kind (store);

  if (kind != MF_STORE_TMPFS && kind != MF_STORE_MEMFD)
    return NULL;
  /* Of somebody else's file that one may only read mincore() says nothing. */
  if (mf_store_read_only (store))
    return NULL;
  return mf_store_map (store, NULL);
}

gboolean
mf_nbd_reply_read (mf_nbd_connection *connection, const mf_nbd_request *request)
{
  mf_run run = whole_pages (connection->export, request);

  if (mf_nbd_server_refuses_reads (connection->server))
    return mf_nbd_reply (connection, request, MF_NBD_EIO, "the bytes can't be trusted any more");
  if (connection->reader && run.count > 0)
    mf_dirty_reader_take (connection->reader, run);
  if (!connection->structured)
    return reply_simple (connection, request);
  if (request->flags & MF_NBD_CMD_FLAG_DF)
    return reply_unfragmented (connection, request);
  if (request->length <= SMALL_BYTES)
    return reply_small (connection, request);
  return reply_in_chunks (connection, request, mapping_of (connection->export));
}
