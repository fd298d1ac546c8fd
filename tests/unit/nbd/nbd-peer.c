/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nbd-peer.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define DEADLINE 20
#define PAGE     4096u

void
fixture_fill (Fixture *f, uint64_t offset, uint64_t length, uint8_t seed)
{
  g_autoptr (GError) error = NULL;

  for (uint64_t i = 0; i < length; i++)
    f->bytes[offset + i] = (uint8_t) (1 + (seed + (offset + i) * 7 + (offset + i) / 251) % 255);
  mf_store_write (f->store, offset, f->bytes + offset, length, &error);
  g_assert_no_error (error);
}

Fixture *
fixture_new (uint64_t size, const char *pages, const mf_nbd_export_options *options)
{
  Fixture *f = g_new0 (Fixture, 1);
  g_autoptr (GError) error = NULL;

  f->size = size;
  f->bytes = g_malloc0 (size);
  f->store = mf_store_memfd ("test", size, &error);
  g_assert_no_error (error);
  for (uint64_t offset = 0; offset < size; offset += PAGE) {
    char kind = pages[offset / PAGE % strlen (pages)];
    uint64_t length = MIN (PAGE, size - offset);

    if (kind == '#')
      fixture_fill (f, offset, length, (uint8_t) (offset / PAGE));
    else if (kind == '0')
      g_assert_true (mf_store_write (f->store, offset, f->bytes + offset, length, NULL));
  }
  f->region = mf_region_new ("test", f->store, &error);
  g_assert_no_error (error);
  f->server = mf_nbd_server_new ();
  mf_nbd_server_export (f->server, "", f->region, options, &error);
  g_assert_no_error (error);
  return f;
}

void
fixture_free (Fixture *f)
{
  mf_nbd_server_free (f->server);
  g_object_unref (f->region);
  mf_store_unref (f->store);
  g_free (f->bytes);
  g_free (f);
}

Peer *
peer_new (MfNbdServer *server)
{
  const struct timeval limit = { DEADLINE, 0 };
  Peer *peer = g_new0 (Peer, 1);
  g_autoptr (GError) error = NULL;
  int fds[2];

  g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
  peer->fd = fds[0];
  setsockopt (peer->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt (peer->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  mf_nbd_server_serve_fd (server, fds[1], FALSE, &error);
  g_assert_no_error (error);
  return peer;
}

void
peer_free (Peer *peer)
{
  close (peer->fd);
  g_free (peer);
}

void
peer_send (Peer *peer, const void *data, size_t length)
{
  const uint8_t *from = data;

  while (length > 0) {
    ssize_t r = send (peer->fd, from, length, MSG_NOSIGNAL);

    if (r == -1)
      g_error ("sending to the server: %s", g_strerror (errno));
    from += r;
    length -= (size_t) r;
  }
}

void
peer_receive (Peer *peer, void *out, size_t length)
{
  uint8_t *to = out;

  while (length > 0) {
    ssize_t r = recv (peer->fd, to, length, 0);

    if (r == -1)
      g_error ("receiving from the server: %s", g_strerror (errno));
    if (r == 0)
      g_error ("the server has hung up, %zu bytes are missing", length);
    to += r;
    length -= (size_t) r;
  }
}

void
peer_assert_dropped (Peer *peer)
{
  uint8_t byte;
  ssize_t r = recv (peer->fd, &byte, 1, 0);

  if (r == 1)
    g_error ("a byte (0x%02x) where the server should have hung up", byte);
  if (r == -1 && errno != ECONNRESET)
    g_error ("the server has not hung up: %s", g_strerror (errno));
}

void
peer_greet (Peer *peer, uint32_t flags)
{
  uint8_t greeting[MF_NBD_GREETING_BYTES], answer[MF_NBD_CLIENT_FLAGS_BYTES];
  uint16_t server_flags;

  peer_receive (peer, greeting, sizeof greeting);
  g_assert_true (mf_nbd_decode_greeting (greeting, sizeof greeting, &server_flags));
  g_assert_cmpuint (server_flags, ==, MF_NBD_FLAG_FIXED_NEWSTYLE | MF_NBD_FLAG_NO_ZEROES);
  for (int i = 0; i < 4; i++)
    answer[i] = (uint8_t) (flags >> (24 - 8 * i));
  peer_send (peer, answer, sizeof answer);
}

void
peer_send_option (Peer *peer, uint32_t option, const void *data, size_t length)
{
  mf_nbd_option head = { option, (uint32_t) length };
  g_autofree uint8_t *wire = g_malloc (MF_NBD_OPTION_BYTES + length);

  /* In one piece: the server may hang up as soon as it has seen enough. */
  mf_nbd_encode_option (&head, wire);
  if (length > 0)
    memcpy (wire + MF_NBD_OPTION_BYTES, data, length);
  peer_send (peer, wire, MF_NBD_OPTION_BYTES + length);
}

uint32_t
peer_option_reply (Peer *peer, uint32_t option, GByteArray **data)
{
  uint8_t wire[MF_NBD_OPTION_REPLY_BYTES];
  g_autofree uint8_t *bytes = NULL;
  mf_nbd_option_reply reply;

  peer_receive (peer, wire, sizeof wire);
  g_assert_true (mf_nbd_decode_option_reply (wire, sizeof wire, &reply));
  g_assert_cmpuint (reply.option, ==, option);
  bytes = g_malloc (reply.length + 1);
  peer_receive (peer, bytes, reply.length);
  if (data)
    *data = g_byte_array_append (g_byte_array_new (), bytes, reply.length);
  return reply.type;
}

static void
append_be (GByteArray *array, uint64_t value, int bytes)
{
  for (int i = bytes - 1; i >= 0; i--) {
    uint8_t byte = (uint8_t) (value >> (8 * i));

    g_byte_array_append (array, &byte, 1);
  }
}

void
peer_send_info (Peer *peer, uint32_t option, const char *name, const uint16_t *infos, guint n_infos)
{
  g_autoptr (GByteArray) data = g_byte_array_new ();

  append_be (data, strlen (name), 4);
  g_byte_array_append (data, (const uint8_t *) name, (guint) strlen (name));
  append_be (data, n_infos, 2);
  for (guint i = 0; i < n_infos; i++)
    append_be (data, infos[i], 2);
  peer_send_option (peer, option, data->data, data->len);
}

uint32_t
peer_take_infos (Peer *peer, uint32_t option)
{
  for (;;) {
    g_autoptr (GByteArray) data = NULL;
    uint32_t type = peer_option_reply (peer, option, &data);
    mf_nbd_info_export info;

    if (type != MF_NBD_REP_INFO)
      return type;
    if (mf_nbd_decode_info_export (data->data, data->len, &info)) {
      peer->size = info.size_bytes;
      peer->flags = info.flags;
    }
  }
}

void
peer_send_meta (Peer *peer, uint32_t option, const char *name, const char *const *queries)
{
  g_autoptr (GByteArray) data = g_byte_array_new ();

  append_be (data, strlen (name), 4);
  g_byte_array_append (data, (const uint8_t *) name, (guint) strlen (name));
  append_be (data, g_strv_length ((char **) queries), 4);
  for (guint i = 0; queries[i]; i++) {
    append_be (data, strlen (queries[i]), 4);
    g_byte_array_append (data, (const uint8_t *) queries[i], (guint) strlen (queries[i]));
  }
  peer_send_option (peer, option, data->data, data->len);
}

/* Chooses contexts and remembers their ids. */
static void
set_contexts (Peer *peer, guint how)
{
  const char *queries[3] = { NULL };
  guint n = 0;

  if (how & PEER_ALLOCATION)
    queries[n++] = MF_NBD_CONTEXT_ALLOCATION;
  if (how & PEER_DIRTY)
    queries[n++] = MF_NBD_CONTEXT_DIRTY;
  peer_send_meta (peer, MF_NBD_OPT_SET_META_CONTEXT, "", queries);
  for (;;) {
    g_autoptr (GByteArray) data = NULL;
    uint32_t type = peer_option_reply (peer, MF_NBD_OPT_SET_META_CONTEXT, &data), id;
    mf_nbd_string name;

    if (type == MF_NBD_REP_ACK)
      return;
    g_assert_cmpuint (type, ==, MF_NBD_REP_META_CONTEXT);
    g_assert_true (mf_nbd_decode_meta_context (data->data, data->len, &id, &name));
    if (mf_nbd_string_is (name, MF_NBD_CONTEXT_DIRTY))
      peer->dirty_id = id;
    else if (mf_nbd_string_is (name, MF_NBD_CONTEXT_ALLOCATION))
      peer->allocation_id = id;
    else
      g_error ("a context that was not asked for");
  }
}

Peer *
peer_open (MfNbdServer *server, guint how)
{
  Peer *peer = peer_new (server);

  peer_greet (peer, MF_NBD_FLAG_C_FIXED_NEWSTYLE | MF_NBD_FLAG_C_NO_ZEROES);
  if (how & (PEER_STRUCTURED | PEER_ALLOCATION | PEER_DIRTY)) {
    peer_send_option (peer, MF_NBD_OPT_STRUCTURED_REPLY, NULL, 0);
    g_assert_cmpuint (peer_option_reply (peer, MF_NBD_OPT_STRUCTURED_REPLY, NULL), ==, MF_NBD_REP_ACK);
    peer->structured = TRUE;
  }
  if (how & (PEER_ALLOCATION | PEER_DIRTY))
    set_contexts (peer, how);
  peer_send_info (peer, MF_NBD_OPT_GO, "", NULL, 0);
  g_assert_cmpuint (peer_take_infos (peer, MF_NBD_OPT_GO), ==, MF_NBD_REP_ACK);
  return peer;
}

uint64_t
peer_request (Peer *peer, uint16_t type, uint16_t flags, uint64_t offset, uint32_t length)
{
  mf_nbd_request request = {
    .flags = flags, .type = type, .cookie = ++peer->cookie, .offset = offset, .length = length
  };
  uint8_t wire[MF_NBD_REQUEST_BYTES];

  mf_nbd_encode_request (&request, wire);
  peer_send (peer, wire, sizeof wire);
  return request.cookie;
}

/* The rest of an error chunk. */
static uint32_t
take_error (Peer *peer, const mf_nbd_chunk *chunk)
{
  g_autofree uint8_t *payload = g_malloc (chunk->length);
  mf_nbd_error error;

  peer_receive (peer, payload, chunk->length);
  g_assert_true (mf_nbd_decode_error (chunk->type, payload, chunk->length, &error));
  g_assert_cmpuint (chunk->flags & MF_NBD_REPLY_FLAG_DONE, !=, 0);
  return error.error;
}

static mf_nbd_chunk
take_chunk (Peer *peer, const uint8_t start[MF_NBD_SIMPLE_REPLY_BYTES])
{
  uint8_t wire[MF_NBD_CHUNK_BYTES];
  mf_nbd_chunk chunk;

  memcpy (wire, start, MF_NBD_SIMPLE_REPLY_BYTES);
  peer_receive (peer, wire + MF_NBD_SIMPLE_REPLY_BYTES, MF_NBD_CHUNK_BYTES - MF_NBD_SIMPLE_REPLY_BYTES);
  g_assert_true (mf_nbd_decode_chunk (wire, sizeof wire, &chunk));
  g_assert_cmpuint (chunk.cookie, ==, peer->cookie);
  return chunk;
}

uint32_t
peer_reply (Peer *peer)
{
  uint8_t wire[MF_NBD_SIMPLE_REPLY_BYTES];
  mf_nbd_simple_reply reply;
  mf_nbd_chunk chunk;

  peer_receive (peer, wire, sizeof wire);
  if (mf_nbd_decode_simple_reply (wire, sizeof wire, &reply)) {
    g_assert_cmpuint (reply.cookie, ==, peer->cookie);
    return reply.error;
  }
  g_assert_true (peer->structured);
  chunk = take_chunk (peer, wire);
  if (chunk.type & MF_NBD_REPLY_TYPE_FLAG_ERROR)
    return take_error (peer, &chunk);
  g_assert_cmpuint (chunk.type, ==, MF_NBD_REPLY_TYPE_NONE);
  g_assert_cmpuint (chunk.length, ==, 0);
  return MF_NBD_OK;
}

uint32_t
peer_command (Peer *peer, uint16_t type, uint16_t flags, uint64_t offset, uint32_t length)
{
  peer_request (peer, type, flags, offset, length);
  return peer_reply (peer);
}

/* One chunk of a READ. `seen` has a byte for each byte of the request. */
static void
take_read_chunk (Peer *peer, const mf_nbd_chunk *chunk, uint64_t offset, uint32_t length, uint8_t *out, uint8_t *seen,
                 PeerRead *result)
{
  uint8_t wire[MF_NBD_OFFSET_HOLE_BYTES];
  uint64_t at;
  uint32_t count;

  if (chunk->type == MF_NBD_REPLY_TYPE_OFFSET_DATA) {
    peer_receive (peer, wire, MF_NBD_OFFSET_DATA_BYTES);
    g_assert_true (mf_nbd_decode_offset_data (wire, chunk->length, &at, &count));
    result->n_data++;
  } else {
    g_assert_cmpuint (chunk->type, ==, MF_NBD_REPLY_TYPE_OFFSET_HOLE);
    peer_receive (peer, wire, MF_NBD_OFFSET_HOLE_BYTES);
    g_assert_true (mf_nbd_decode_offset_hole (wire, chunk->length, &at, &count));
    result->n_holes++;
    result->hole_bytes += count;
  }
  g_assert_cmpuint (at, >=, offset);
  g_assert_cmpuint (at + count, <=, offset + length);
  g_assert_null (memchr (seen + (at - offset), 1, count));
  memset (seen + (at - offset), 1, count);
  if (chunk->type == MF_NBD_REPLY_TYPE_OFFSET_DATA)
    peer_receive (peer, out + (at - offset), count);
  else
    memset (out + (at - offset), 0, count);
}

PeerRead
peer_read_reply (Peer *peer, uint64_t offset, uint32_t length, uint8_t *out)
{
  g_autofree uint8_t *seen = g_malloc0 (length);
  PeerRead result = { 0 };
  gboolean done = FALSE;

  if (!peer->structured) {
    result.error = peer_reply (peer);
    if (result.error == MF_NBD_OK)
      peer_receive (peer, out, length);
    return result;
  }
  while (!done) {
    uint8_t start[MF_NBD_SIMPLE_REPLY_BYTES];
    mf_nbd_chunk chunk;

    peer_receive (peer, start, sizeof start);
    chunk = take_chunk (peer, start);
    done = (chunk.flags & MF_NBD_REPLY_FLAG_DONE) != 0;
    if (chunk.type & MF_NBD_REPLY_TYPE_FLAG_ERROR)
      result.error = take_error (peer, &chunk);
    else if (chunk.type != MF_NBD_REPLY_TYPE_NONE)
      take_read_chunk (peer, &chunk, offset, length, out, seen, &result);
    else
      g_assert_cmpuint (chunk.length, ==, 0);
  }
  if (result.error == MF_NBD_OK)
    g_assert_null (memchr (seen, 0, length));
  return result;
}

PeerRead
peer_read (Peer *peer, uint16_t flags, uint64_t offset, uint32_t length, uint8_t *out)
{
  peer_request (peer, MF_NBD_CMD_READ, flags, offset, length);
  return peer_read_reply (peer, offset, length, out);
}

PeerRead
peer_assert_read (Peer *peer, const Fixture *f, uint64_t offset, uint32_t length)
{
  g_autofree uint8_t *bytes = g_malloc (length);
  PeerRead result;

  memset (bytes, 0xee, length);
  result = peer_read (peer, 0, offset, length, bytes);
  g_assert_cmpuint (result.error, ==, MF_NBD_OK);
  g_assert_cmpmem (bytes, length, f->bytes + offset, length);
  return result;
}

uint32_t
peer_write (Peer *peer, uint16_t flags, uint64_t offset, const void *data, uint32_t length)
{
  peer_request (peer, MF_NBD_CMD_WRITE, flags, offset, length);
  peer_send (peer, data, length);
  return peer_reply (peer);
}

static void
describe (GString *text, const mf_nbd_status *status)
{
  for (uint32_t i = 0; i < status->n_extents; i++) {
    mf_nbd_extent extent = mf_nbd_status_extent (status, i);

    if (extent.length % PAGE == 0)
      g_string_append_printf (text, "%s%u:%u", i ? " " : "", extent.length / PAGE, extent.flags);
    else
      g_string_append_printf (text, "%sb%u:%u", i ? " " : "", extent.length, extent.flags);
  }
}

char *
peer_status (Peer *peer, uint16_t flags, uint64_t offset, uint32_t length, uint32_t id)
{
  GString *text = g_string_new (NULL);
  gboolean done = FALSE;

  peer_request (peer, MF_NBD_CMD_BLOCK_STATUS, flags, offset, length);
  while (!done) {
    g_autofree uint8_t *payload = NULL;
    uint8_t start[MF_NBD_SIMPLE_REPLY_BYTES];
    mf_nbd_status status;
    mf_nbd_chunk chunk;

    peer_receive (peer, start, sizeof start);
    chunk = take_chunk (peer, start);
    done = (chunk.flags & MF_NBD_REPLY_FLAG_DONE) != 0;
    g_assert_cmpuint (chunk.type, ==, MF_NBD_REPLY_TYPE_BLOCK_STATUS);
    payload = g_malloc (chunk.length);
    peer_receive (peer, payload, chunk.length);
    g_assert_true (mf_nbd_decode_status (payload, chunk.length, &status));
    if (status.context_id == id)
      describe (text, &status);
  }
  return g_string_free (text, FALSE);
}
