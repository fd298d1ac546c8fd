/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "core/mf-nbd-protocol.h"
#include "core/mf-wire.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

uint32_t
mf_nbd_error_from_errno (int error)
{
  switch (error) {
  case 0:
    return MF_NBD_OK;
  case EPERM:
  case EACCES:
  case EROFS:
    return MF_NBD_EPERM;
  case ENOMEM:
    return MF_NBD_ENOMEM;
  case EINVAL:
    return MF_NBD_EINVAL;
  case ENOSPC:
  case EDQUOT:
  case EFBIG:
    return MF_NBD_ENOSPC;
  case EOVERFLOW:
    return MF_NBD_EOVERFLOW;
  case EOPNOTSUPP:
    return MF_NBD_ENOTSUP;
  case ESHUTDOWN:
    return MF_NBD_ESHUTDOWN;
  default:
    return MF_NBD_EIO;
  }
}

int
mf_nbd_error_to_errno (uint32_t error)
{
  switch (error) {
  case MF_NBD_OK:
    return 0;
  case MF_NBD_EPERM:
    return EPERM;
  case MF_NBD_ENOMEM:
    return ENOMEM;
  case MF_NBD_EINVAL:
    return EINVAL;
  case MF_NBD_ENOSPC:
    return ENOSPC;
  case MF_NBD_EOVERFLOW:
    return EOVERFLOW;
  case MF_NBD_ENOTSUP:
    return EOPNOTSUPP;
  case MF_NBD_ESHUTDOWN:
    return ESHUTDOWN;
  default:
    return EIO;
  }
}

/* ---- Reading a message from its beginning to its end ---- */

typedef struct {
  const uint8_t *data;
  size_t left;
} reader;

static bool
read_u16 (reader *r, uint16_t *out)
{
  if (r->left < 2)
    return false;
  *out = mf_get_be16 (r->data);
  r->data += 2;
  r->left -= 2;
  return true;
}

static bool
read_u32 (reader *r, uint32_t *out)
{
  if (r->left < 4)
    return false;
  *out = mf_get_be32 (r->data);
  r->data += 4;
  r->left -= 4;
  return true;
}

static bool
read_u64 (reader *r, uint64_t *out)
{
  if (r->left < 8)
    return false;
  *out = mf_get_be64 (r->data);
  r->data += 8;
  r->left -= 8;
  return true;
}

/* The next `length` bytes as a string. */
static bool
read_string (reader *r, size_t length, mf_nbd_string *out)
{
  if (length > r->left || length > MF_NBD_STRING_MAX)
    return false;
  if (length > 0 && memchr (r->data, 0, length) != NULL)
    return false;
  /* Not `data` of an empty message, which may be NULL: adding to that is undefined. */
  *out = (mf_nbd_string){ length > 0 ? (const char *) r->data : "", (uint32_t) length };
  if (length > 0)
    r->data += length;
  r->left -= length;
  return true;
}

/* A string after its 32-bit length. */
static bool
read_counted_string (reader *r, mf_nbd_string *out)
{
  uint32_t length;
  return read_u32 (r, &length) && read_string (r, length, out);
}

/* ---- Handshake ---- */

void
mf_nbd_encode_greeting (uint16_t flags, uint8_t out[MF_NBD_GREETING_BYTES])
{
  mf_put_be64 (out, MF_NBD_GREETING_MAGIC);
  mf_put_be64 (out + 8, MF_NBD_OPTION_MAGIC);
  mf_put_be16 (out + 16, flags);
}

bool
mf_nbd_decode_greeting (const uint8_t *data, size_t length, uint16_t *flags)
{
  if (length != MF_NBD_GREETING_BYTES || mf_get_be64 (data) != MF_NBD_GREETING_MAGIC ||
      mf_get_be64 (data + 8) != MF_NBD_OPTION_MAGIC)
    return false;
  *flags = mf_get_be16 (data + 16);
  return true;
}

void
mf_nbd_encode_client_flags (uint32_t flags, uint8_t out[MF_NBD_CLIENT_FLAGS_BYTES])
{
  mf_put_be32 (out, flags);
}

bool
mf_nbd_decode_client_flags (const uint8_t *data, size_t length, uint32_t *flags)
{
  if (length != MF_NBD_CLIENT_FLAGS_BYTES)
    return false;
  uint32_t value = mf_get_be32 (data);
  if ((value & ~(MF_NBD_FLAG_C_FIXED_NEWSTYLE | MF_NBD_FLAG_C_NO_ZEROES)) != 0)
    return false;
  *flags = value;
  return true;
}

void
mf_nbd_encode_option (const mf_nbd_option *option, uint8_t out[MF_NBD_OPTION_BYTES])
{
  mf_put_be64 (out, MF_NBD_OPTION_MAGIC);
  mf_put_be32 (out + 8, option->option);
  mf_put_be32 (out + 12, option->length);
}

bool
mf_nbd_decode_option (const uint8_t *data, size_t length, mf_nbd_option *out)
{
  if (length != MF_NBD_OPTION_BYTES || mf_get_be64 (data) != MF_NBD_OPTION_MAGIC)
    return false;
  mf_nbd_option option = { .option = mf_get_be32 (data + 8), .length = mf_get_be32 (data + 12) };
  if (option.length > MF_NBD_OPTION_MAX)
    return false;
  *out = option;
  return true;
}

void
mf_nbd_encode_option_reply (const mf_nbd_option_reply *reply, uint8_t out[MF_NBD_OPTION_REPLY_BYTES])
{
  mf_put_be64 (out, MF_NBD_OPTION_REPLY_MAGIC);
  mf_put_be32 (out + 8, reply->option);
  mf_put_be32 (out + 12, reply->type);
  mf_put_be32 (out + 16, reply->length);
}

bool
mf_nbd_decode_option_reply (const uint8_t *data, size_t length, mf_nbd_option_reply *out)
{
  if (length != MF_NBD_OPTION_REPLY_BYTES || mf_get_be64 (data) != MF_NBD_OPTION_REPLY_MAGIC)
    return false;
  mf_nbd_option_reply reply = { .option = mf_get_be32 (data + 8),
                                .type = mf_get_be32 (data + 12),
                                .length = mf_get_be32 (data + 16) };
  if (reply.length > MF_NBD_OPTION_MAX)
    return false;
  *out = reply;
  return true;
}

bool
mf_nbd_decode_export_name (const uint8_t *data, size_t length, mf_nbd_string *name)
{
  reader r = { data, length };
  return read_string (&r, length, name);
}

void
mf_nbd_encode_export_name_reply (uint64_t size_bytes, uint16_t flags, uint8_t out[MF_NBD_EXPORT_NAME_REPLY_BYTES])
{
  memset (out, 0, MF_NBD_EXPORT_NAME_REPLY_BYTES);
  mf_put_be64 (out, size_bytes);
  mf_put_be16 (out + 8, flags);
}

bool
mf_nbd_decode_info_request (const uint8_t *data, size_t length, mf_nbd_info_request *out)
{
  reader r = { data, length };
  mf_nbd_info_request request;

  if (!read_counted_string (&r, &request.name) || !read_u16 (&r, &request.n_infos) ||
      r.left != (size_t) request.n_infos * 2)
    return false;
  request.infos = r.data;
  *out = request;
  return true;
}

bool
mf_nbd_wants_info (const mf_nbd_info_request *request, uint16_t type)
{
  for (size_t i = 0; i < request->n_infos; i++)
    if (mf_get_be16 (request->infos + 2 * i) == type)
      return true;
  return false;
}

bool
mf_nbd_decode_meta_request (const uint8_t *data, size_t length, mf_nbd_meta_request *out)
{
  reader r = { data, length };
  mf_nbd_meta_request request;
  mf_nbd_string query;

  if (!read_counted_string (&r, &request.name) || !read_u32 (&r, &request.n_queries))
    return false;
  request.queries = r.data;
  request.queries_bytes = r.left;
  /* Each turn eats four bytes or ends: a huge count costs nothing. */
  for (uint32_t i = 0; i < request.n_queries; i++)
    if (!read_counted_string (&r, &query))
      return false;
  if (r.left != 0)
    return false;
  *out = request;
  return true;
}

bool
mf_nbd_next_query (mf_nbd_meta_request *request, mf_nbd_string *query)
{
  reader r = { request->queries, request->queries_bytes };

  if (request->n_queries == 0 || !read_counted_string (&r, query))
    return false;
  request->n_queries--;
  request->queries = r.data;
  request->queries_bytes = r.left;
  return true;
}

bool
mf_nbd_string_is (mf_nbd_string query, const char *text)
{
  return query.length == strlen (text) && memcmp (query.text, text, query.length) == 0;
}

void
mf_nbd_encode_server (uint32_t name_length, uint8_t out[MF_NBD_SERVER_BYTES])
{
  mf_put_be32 (out, name_length);
}

bool
mf_nbd_decode_server (const uint8_t *data, size_t length, mf_nbd_string *name, mf_nbd_string *details)
{
  reader r = { data, length };
  mf_nbd_string first, rest;

  if (!read_counted_string (&r, &first) || !read_string (&r, r.left, &rest))
    return false;
  *name = first;
  *details = rest;
  return true;
}

void
mf_nbd_encode_meta_context (uint32_t id, uint8_t out[MF_NBD_META_CONTEXT_BYTES])
{
  mf_put_be32 (out, id);
}

bool
mf_nbd_decode_meta_context (const uint8_t *data, size_t length, uint32_t *id, mf_nbd_string *name)
{
  reader r = { data, length };
  uint32_t value;

  if (!read_u32 (&r, &value) || !read_string (&r, r.left, name))
    return false;
  *id = value;
  return true;
}

void
mf_nbd_encode_info_export (const mf_nbd_info_export *info, uint8_t out[MF_NBD_INFO_EXPORT_BYTES])
{
  mf_put_be16 (out, MF_NBD_INFO_EXPORT);
  mf_put_be64 (out + 2, info->size_bytes);
  mf_put_be16 (out + 10, info->flags);
}

bool
mf_nbd_decode_info_export (const uint8_t *data, size_t length, mf_nbd_info_export *out)
{
  if (length != MF_NBD_INFO_EXPORT_BYTES || mf_get_be16 (data) != MF_NBD_INFO_EXPORT)
    return false;
  *out = (mf_nbd_info_export){ .size_bytes = mf_get_be64 (data + 2), .flags = mf_get_be16 (data + 10) };
  return true;
}

void
mf_nbd_encode_info_block_size (const mf_nbd_info_block_size *info, uint8_t out[MF_NBD_INFO_BLOCK_SIZE_BYTES])
{
  mf_put_be16 (out, MF_NBD_INFO_BLOCK_SIZE);
  mf_put_be32 (out + 2, info->minimum);
  mf_put_be32 (out + 6, info->preferred);
  mf_put_be32 (out + 10, info->maximum);
}

static bool
is_power_of_two (uint32_t value)
{
  return value != 0 && (value & (value - 1)) == 0;
}

bool
mf_nbd_decode_info_block_size (const uint8_t *data, size_t length, mf_nbd_info_block_size *out)
{
  if (length != MF_NBD_INFO_BLOCK_SIZE_BYTES || mf_get_be16 (data) != MF_NBD_INFO_BLOCK_SIZE)
    return false;
  mf_nbd_info_block_size info = { .minimum = mf_get_be32 (data + 2),
                                  .preferred = mf_get_be32 (data + 6),
                                  .maximum = mf_get_be32 (data + 10) };
  if (!is_power_of_two (info.minimum) || info.minimum > 65536 || !is_power_of_two (info.preferred) ||
      info.preferred < 512 || info.preferred < info.minimum || info.maximum < info.preferred)
    return false;
  *out = info;
  return true;
}

/* ---- Transmission ---- */

void
mf_nbd_encode_request (const mf_nbd_request *request, uint8_t out[MF_NBD_REQUEST_BYTES])
{
  mf_put_be32 (out, MF_NBD_REQUEST_MAGIC);
  mf_put_be16 (out + 4, request->flags);
  mf_put_be16 (out + 6, request->type);
  mf_put_be64 (out + 8, request->cookie);
  mf_put_be64 (out + 16, request->offset);
  mf_put_be32 (out + 24, request->length);
}

bool
mf_nbd_decode_request (const uint8_t *data, size_t length, mf_nbd_request *out)
{
  if (length != MF_NBD_REQUEST_BYTES || mf_get_be32 (data) != MF_NBD_REQUEST_MAGIC)
    return false;
  *out = (mf_nbd_request){ .flags = mf_get_be16 (data + 4),
                           .type = mf_get_be16 (data + 6),
                           .cookie = mf_get_be64 (data + 8),
                           .offset = mf_get_be64 (data + 16),
                           .length = mf_get_be32 (data + 24) };
  return true;
}

bool
mf_nbd_request_within (const mf_nbd_request *request, uint64_t size_bytes)
{
  return request->offset <= size_bytes && request->length <= size_bytes - request->offset;
}

void
mf_nbd_encode_simple_reply (const mf_nbd_simple_reply *reply, uint8_t out[MF_NBD_SIMPLE_REPLY_BYTES])
{
  mf_put_be32 (out, MF_NBD_SIMPLE_REPLY_MAGIC);
  mf_put_be32 (out + 4, reply->error);
  mf_put_be64 (out + 8, reply->cookie);
}

bool
mf_nbd_decode_simple_reply (const uint8_t *data, size_t length, mf_nbd_simple_reply *out)
{
  if (length != MF_NBD_SIMPLE_REPLY_BYTES || mf_get_be32 (data) != MF_NBD_SIMPLE_REPLY_MAGIC)
    return false;
  *out = (mf_nbd_simple_reply){ .error = mf_get_be32 (data + 4), .cookie = mf_get_be64 (data + 8) };
  return true;
}

void
mf_nbd_encode_chunk (const mf_nbd_chunk *chunk, uint8_t out[MF_NBD_CHUNK_BYTES])
{
  mf_put_be32 (out, MF_NBD_STRUCTURED_REPLY_MAGIC);
  mf_put_be16 (out + 4, chunk->flags);
  mf_put_be16 (out + 6, chunk->type);
  mf_put_be64 (out + 8, chunk->cookie);
  mf_put_be32 (out + 16, chunk->length);
}

bool
mf_nbd_decode_chunk (const uint8_t *data, size_t length, mf_nbd_chunk *out)
{
  if (length != MF_NBD_CHUNK_BYTES || mf_get_be32 (data) != MF_NBD_STRUCTURED_REPLY_MAGIC)
    return false;
  mf_nbd_chunk chunk = { .flags = mf_get_be16 (data + 4),
                         .type = mf_get_be16 (data + 6),
                         .cookie = mf_get_be64 (data + 8),
                         .length = mf_get_be32 (data + 16) };
  if (chunk.length > MF_NBD_CHUNK_MAX)
    return false;
  *out = chunk;
  return true;
}

void
mf_nbd_encode_offset_data (uint64_t offset, uint8_t out[MF_NBD_OFFSET_DATA_BYTES])
{
  mf_put_be64 (out, offset);
}

bool
mf_nbd_decode_offset_data (const uint8_t *data, uint32_t chunk_length, uint64_t *offset, uint32_t *data_length)
{
  if (chunk_length <= MF_NBD_OFFSET_DATA_BYTES || chunk_length > MF_NBD_CHUNK_MAX)
    return false;
  *offset = mf_get_be64 (data);
  *data_length = chunk_length - MF_NBD_OFFSET_DATA_BYTES;
  return true;
}

void
mf_nbd_encode_offset_hole (uint64_t offset, uint32_t hole_length, uint8_t out[MF_NBD_OFFSET_HOLE_BYTES])
{
  mf_put_be64 (out, offset);
  mf_put_be32 (out + 8, hole_length);
}

bool
mf_nbd_decode_offset_hole (const uint8_t *data, size_t length, uint64_t *offset, uint32_t *hole_length)
{
  if (length != MF_NBD_OFFSET_HOLE_BYTES || mf_get_be32 (data + 8) == 0)
    return false;
  *offset = mf_get_be64 (data);
  *hole_length = mf_get_be32 (data + 8);
  return true;
}

void
mf_nbd_encode_status (uint32_t context_id, uint8_t out[MF_NBD_STATUS_BYTES])
{
  mf_put_be32 (out, context_id);
}

void
mf_nbd_encode_extent (mf_nbd_extent extent, uint8_t out[MF_NBD_EXTENT_BYTES])
{
  mf_put_be32 (out, extent.length);
  mf_put_be32 (out + 4, extent.flags);
}

bool
mf_nbd_decode_status (const uint8_t *data, size_t length, mf_nbd_status *out)
{
  if (length < MF_NBD_STATUS_BYTES + MF_NBD_EXTENT_BYTES || (length - MF_NBD_STATUS_BYTES) % MF_NBD_EXTENT_BYTES != 0)
    return false;
  size_t n_extents = (length - MF_NBD_STATUS_BYTES) / MF_NBD_EXTENT_BYTES;
  if (n_extents > MF_NBD_EXTENTS_MAX)
    return false;
  mf_nbd_status status = { .context_id = mf_get_be32 (data),
                           .n_extents = (uint32_t) n_extents,
                           .extents = data + MF_NBD_STATUS_BYTES };
  for (uint32_t i = 0; i < status.n_extents; i++)
    if (mf_nbd_status_extent (&status, i).length == 0)
      return false;
  *out = status;
  return true;
}

mf_nbd_extent
mf_nbd_status_extent (const mf_nbd_status *status, uint32_t index)
{
  assert (index < status->n_extents);
  const uint8_t *data = status->extents + (size_t) index * MF_NBD_EXTENT_BYTES;
  return (mf_nbd_extent){ .length = mf_get_be32 (data), .flags = mf_get_be32 (data + 4) };
}

size_t
mf_nbd_encode_error (const mf_nbd_error *error, uint8_t out[MF_NBD_ERROR_MAX_BYTES])
{
  assert (error->error != 0);
  uint16_t message = (uint16_t) (error->message.length < MF_NBD_STRING_MAX ? error->message.length : MF_NBD_STRING_MAX);
  size_t length = MF_NBD_ERROR_BYTES;

  mf_put_be32 (out, error->error);
  mf_put_be16 (out + 4, message);
  if (message > 0)
    memcpy (out + length, error->message.text, message);
  length += message;
  if (error->has_offset) {
    mf_put_be64 (out + length, error->offset);
    length += 8;
  }
  return length;
}

bool
mf_nbd_decode_error (uint16_t type, const uint8_t *data, size_t length, mf_nbd_error *out)
{
  reader r = { data, length };
  mf_nbd_error error = { .has_offset = type == MF_NBD_REPLY_TYPE_ERROR_OFFSET };
  uint16_t message;

  if ((type & MF_NBD_REPLY_TYPE_FLAG_ERROR) == 0 || length > MF_NBD_CHUNK_MAX)
    return false;
  if (!read_u32 (&r, &error.error) || error.error == 0 || !read_u16 (&r, &message) ||
      !read_string (&r, message, &error.message))
    return false;
  if (error.has_offset && !read_u64 (&r, &error.offset))
    return false;
  if (r.left != 0 && (type == MF_NBD_REPLY_TYPE_ERROR || error.has_offset))
    return false;
  *out = error;
  return true;
}
