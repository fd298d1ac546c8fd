/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every other message of the protocol by itself: the first byte says which, the rest is the message. What was taken
 * must come out the same when it is encoded again. */
#include "mf-fuzz.h"

#include "core/mf-nbd-protocol.h"

#include <string.h>

/* Decodes as `type` and encodes again. */
#define SAME(name, type, bytes)                                                                                        \
  do {                                                                                                                 \
    uint8_t again[bytes];                                                                                              \
    type value;                                                                                                        \
    if (!mf_nbd_decode_##name (data, length, &value))                                                                  \
      break;                                                                                                           \
    mf_nbd_encode_##name (&value, again);                                                                              \
    MF_FUZZ_CHECK (length == sizeof again && memcmp (again, data, length) == 0);                                       \
  } while (0)

static void
check_greeting (const uint8_t *data, size_t length)
{
  uint8_t again[MF_NBD_GREETING_BYTES];
  uint16_t flags;

  if (!mf_nbd_decode_greeting (data, length, &flags))
    return;
  mf_nbd_encode_greeting (flags, again);
  MF_FUZZ_CHECK (length == sizeof again && memcmp (again, data, length) == 0);
}

static void
check_hole (const uint8_t *data, size_t length)
{
  uint8_t again[MF_NBD_OFFSET_HOLE_BYTES];
  uint32_t hole;
  uint64_t offset;

  if (!mf_nbd_decode_offset_hole (data, length, &offset, &hole))
    return;
  MF_FUZZ_CHECK (hole > 0);
  mf_nbd_encode_offset_hole (offset, hole, again);
  MF_FUZZ_CHECK (length == sizeof again && memcmp (again, data, length) == 0);
}

static void
check_status (const uint8_t *data, size_t length)
{
  mf_nbd_status status;

  if (!mf_nbd_decode_status (data, length, &status))
    return;
  MF_FUZZ_CHECK (MF_NBD_STATUS_BYTES + (size_t) status.n_extents * MF_NBD_EXTENT_BYTES == length);
  for (uint32_t i = 0; i < status.n_extents; i++)
    MF_FUZZ_CHECK (mf_nbd_status_extent (&status, i).length > 0);
}

static void
check_error (const uint8_t *data, size_t length, uint16_t type)
{
  uint8_t again[MF_NBD_ERROR_MAX_BYTES];
  mf_nbd_error error;

  if (!mf_nbd_decode_error (type, data, length, &error))
    return;
  MF_FUZZ_CHECK (error.error != 0 && error.message.length <= MF_NBD_STRING_MAX);
  MF_FUZZ_CHECK (mf_nbd_encode_error (&error, again) == length && memcmp (again, data, length) == 0);
}

static void
check_names (const uint8_t *data, size_t length)
{
  mf_nbd_string name, details;
  uint32_t id;

  if (mf_nbd_decode_server (data, length, &name, &details))
    MF_FUZZ_CHECK (4 + (size_t) name.length + details.length == length);
  if (mf_nbd_decode_meta_context (data, length, &id, &name))
    MF_FUZZ_CHECK (4 + (size_t) name.length == length);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t length)
{
  if (length == 0)
    return 0;
  unsigned which = *data++ % 11;
  length--;
  switch (which) {
  case 0:
    check_greeting (data, length);
    break;
  case 1:
    SAME (option_reply, mf_nbd_option_reply, MF_NBD_OPTION_REPLY_BYTES);
    break;
  case 2:
    SAME (info_export, mf_nbd_info_export, MF_NBD_INFO_EXPORT_BYTES);
    break;
  case 3:
    SAME (info_block_size, mf_nbd_info_block_size, MF_NBD_INFO_BLOCK_SIZE_BYTES);
    break;
  case 4:
    SAME (request, mf_nbd_request, MF_NBD_REQUEST_BYTES);
    break;
  case 5:
    SAME (simple_reply, mf_nbd_simple_reply, MF_NBD_SIMPLE_REPLY_BYTES);
    break;
  case 6:
    SAME (chunk, mf_nbd_chunk, MF_NBD_CHUNK_BYTES);
    break;
  case 7:
    check_hole (data, length);
    break;
  case 8:
    check_status (data, length);
    break;
  case 9:
    check_names (data, length);
    break;
  default:
    check_error (data, length, MF_NBD_REPLY_TYPE_ERROR);
    check_error (data, length, MF_NBD_REPLY_TYPE_ERROR_OFFSET);
    break;
  }
  return 0;
}

void
mf_fuzz_make_seeds (void)
{
  uint8_t bytes[1 + MF_NBD_ERROR_MAX_BYTES];
  mf_nbd_error error = { .error = MF_NBD_EIO, .message = { "gone", 4 }, .has_offset = true, .offset = 4096 };

  bytes[0] = 0;
  mf_nbd_encode_greeting (MF_NBD_FLAG_FIXED_NEWSTYLE, bytes + 1);
  mf_fuzz_seed ("greeting", bytes, 1 + MF_NBD_GREETING_BYTES);
  bytes[0] = 1;
  mf_nbd_encode_option_reply (&(mf_nbd_option_reply){ MF_NBD_OPT_GO, MF_NBD_REP_ACK, 0 }, bytes + 1);
  mf_fuzz_seed ("option-reply", bytes, 1 + MF_NBD_OPTION_REPLY_BYTES);
  bytes[0] = 2;
  mf_nbd_encode_info_export (&(mf_nbd_info_export){ 1 << 20, MF_NBD_FLAG_HAS_FLAGS }, bytes + 1);
  mf_fuzz_seed ("info-export", bytes, 1 + MF_NBD_INFO_EXPORT_BYTES);
  bytes[0] = 3;
  mf_nbd_encode_info_block_size (&(mf_nbd_info_block_size){ 1, 4096, MF_NBD_PAYLOAD_MAX }, bytes + 1);
  mf_fuzz_seed ("info-block-size", bytes, 1 + MF_NBD_INFO_BLOCK_SIZE_BYTES);
  bytes[0] = 4;
  mf_nbd_encode_request (&(mf_nbd_request){ 0, MF_NBD_CMD_READ, 1, 4096, 4096 }, bytes + 1);
  mf_fuzz_seed ("request", bytes, 1 + MF_NBD_REQUEST_BYTES);
  bytes[0] = 5;
  mf_nbd_encode_simple_reply (&(mf_nbd_simple_reply){ 0, 1 }, bytes + 1);
  mf_fuzz_seed ("simple-reply", bytes, 1 + MF_NBD_SIMPLE_REPLY_BYTES);
  bytes[0] = 6;
  mf_nbd_encode_chunk (&(mf_nbd_chunk){ MF_NBD_REPLY_FLAG_DONE, MF_NBD_REPLY_TYPE_NONE, 1, 0 }, bytes + 1);
  mf_fuzz_seed ("chunk", bytes, 1 + MF_NBD_CHUNK_BYTES);
  bytes[0] = 7;
  mf_nbd_encode_offset_hole (4096, 4096, bytes + 1);
  mf_fuzz_seed ("hole", bytes, 1 + MF_NBD_OFFSET_HOLE_BYTES);
  bytes[0] = 8;
  mf_nbd_encode_status (1, bytes + 1);
  mf_nbd_encode_extent ((mf_nbd_extent){ 4096, MF_NBD_DIRTY }, bytes + 1 + MF_NBD_STATUS_BYTES);
  mf_fuzz_seed ("status", bytes, 1 + MF_NBD_STATUS_BYTES + MF_NBD_EXTENT_BYTES);
  bytes[0] = 9;
  mf_nbd_encode_server (3, bytes + 1);
  memcpy (bytes + 5, "vm1", 3);
  mf_fuzz_seed ("server", bytes, 8);
  bytes[0] = 10;
  mf_fuzz_seed ("error", bytes, 1 + mf_nbd_encode_error (&error, bytes + 1));
}
