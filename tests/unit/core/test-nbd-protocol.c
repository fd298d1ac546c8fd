/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "core/mf-nbd-protocol.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

/* ---- Bytes as a test writes them ---- */

static void
put (GByteArray *bytes, uint64_t value, guint n_bytes)
{
  while (n_bytes-- > 0) {
    uint8_t byte = (uint8_t) (value >> (8 * n_bytes));
    g_byte_array_append (bytes, &byte, 1);
  }
}

static void
put_text (GByteArray *bytes, const char *text, gsize length)
{
  g_byte_array_append (bytes, (const guint8 *) text, (guint) length);
}

static void
put_counted (GByteArray *bytes, const char *text)
{
  put (bytes, strlen (text), 4);
  put_text (bytes, text, strlen (text));
}

static GByteArray *
bytes_of (const char *hex)
{
  GByteArray *bytes = g_byte_array_new ();
  int high = -1;

  for (; *hex != '\0'; hex++) {
    if (!g_ascii_isxdigit (*hex))
      continue;
    if (high < 0) {
      high = g_ascii_xdigit_value (*hex);
      continue;
    }
    put (bytes, (uint64_t) (high << 4 | g_ascii_xdigit_value (*hex)), 1);
    high = -1;
  }
  g_assert_cmpint (high, ==, -1);
  return bytes;
}

static void
assert_bytes (const uint8_t *data, gsize length, const char *hex)
{
  g_autoptr (GByteArray) expected = bytes_of (hex);
  g_assert_cmpmem (data, length, expected->data, expected->len);
}

/* Decodes a message of one of the kinds below; what comes out is of no interest. */
typedef bool (*decoder) (const uint8_t *data, size_t length);

/* Every length but the right one is refused. Each try gets a block of its own size, so that AddressSanitizer sees a
 * read past the end. */
static void
assert_only_whole (decoder decode, const uint8_t *data, gsize length)
{
  for (gsize tried = 0; tried <= length + 9; tried++) {
    g_autofree uint8_t *copy = g_malloc0 (MAX (tried, 1));
    memcpy (copy, data, MIN (tried, length));
    g_assert_cmpint (decode (copy, tried), ==, tried == length);
  }
}

#define DECODER(name, type)                                                                                            \
  static bool try_##name (const uint8_t *data, size_t length)                                                          \
  {                                                                                                                    \
    type out;                                                                                                          \
    return mf_nbd_decode_##name (data, length, &out);                                                                  \
  }
DECODER (greeting, uint16_t)
DECODER (client_flags, uint32_t)
DECODER (option, mf_nbd_option)
DECODER (option_reply, mf_nbd_option_reply)
DECODER (info_request, mf_nbd_info_request)
DECODER (meta_request, mf_nbd_meta_request)
DECODER (info_export, mf_nbd_info_export)
DECODER (info_block_size, mf_nbd_info_block_size)
DECODER (request, mf_nbd_request)
DECODER (simple_reply, mf_nbd_simple_reply)
DECODER (chunk, mf_nbd_chunk)

/* ---- Handshake ---- */

static void
test_greeting (void)
{
  uint8_t data[MF_NBD_GREETING_BYTES];
  uint16_t flags = 0;

  mf_nbd_encode_greeting (MF_NBD_FLAG_FIXED_NEWSTYLE | MF_NBD_FLAG_NO_ZEROES, data);
  assert_bytes (data, sizeof data, "4e42444d41474943 49484156454f5054 0003");
  g_assert_true (mf_nbd_decode_greeting (data, sizeof data, &flags));
  g_assert_cmphex (flags, ==, 3);
  assert_only_whole (try_greeting, data, sizeof data);

  data[0] ^= 1;
  g_assert_false (mf_nbd_decode_greeting (data, sizeof data, &flags));
  data[0] ^= 1;
  data[15] ^= 1; /* an old server's second magic */
  g_assert_false (mf_nbd_decode_greeting (data, sizeof data, &flags));
}

static void
test_client_flags (void)
{
  uint8_t data[MF_NBD_CLIENT_FLAGS_BYTES];
  uint32_t flags = 7;

  for (guint bit = 0; bit < 32; bit++) {
    mf_nbd_encode_client_flags (UINT32_C (1) << bit, data);
    g_assert_cmpint (mf_nbd_decode_client_flags (data, sizeof data, &flags), ==, bit < 2);
  }
  g_assert_cmphex (flags, ==, 2);
  mf_nbd_encode_client_flags (3, data);
  assert_only_whole (try_client_flags, data, sizeof data);
}

static void
test_option (void)
{
  uint8_t data[MF_NBD_OPTION_BYTES];
  mf_nbd_option option = { MF_NBD_OPT_GO, 0x1234 }, out = { 0 };

  mf_nbd_encode_option (&option, data);
  assert_bytes (data, sizeof data, "49484156454f5054 00000007 00001234");
  g_assert_true (mf_nbd_decode_option (data, sizeof data, &out));
  g_assert_cmpuint (out.option, ==, MF_NBD_OPT_GO);
  g_assert_cmpuint (out.length, ==, 0x1234);
  assert_only_whole (try_option, data, sizeof data);

  option.length = MF_NBD_OPTION_MAX;
  mf_nbd_encode_option (&option, data);
  g_assert_true (mf_nbd_decode_option (data, sizeof data, &out));
  option.length = MF_NBD_OPTION_MAX + 1;
  mf_nbd_encode_option (&option, data);
  g_assert_false (mf_nbd_decode_option (data, sizeof data, &out));
  option.length = UINT32_MAX;
  mf_nbd_encode_option (&option, data);
  g_assert_false (mf_nbd_decode_option (data, sizeof data, &out));
  g_assert_cmpuint (out.length, ==, MF_NBD_OPTION_MAX);

  option.length = 0;
  mf_nbd_encode_option (&option, data);
  data[7] ^= 0x80;
  g_assert_false (mf_nbd_decode_option (data, sizeof data, &out));
}

static void
test_option_reply (void)
{
  uint8_t data[MF_NBD_OPTION_REPLY_BYTES];
  mf_nbd_option_reply reply = { MF_NBD_OPT_GO, MF_NBD_REP_ERR_UNKNOWN, 5 }, out = { 0 };

  mf_nbd_encode_option_reply (&reply, data);
  assert_bytes (data, sizeof data, "0003e889045565a9 00000007 80000006 00000005");
  g_assert_true (mf_nbd_decode_option_reply (data, sizeof data, &out));
  g_assert_cmpmem (&out, sizeof out, &reply, sizeof reply);
  assert_only_whole (try_option_reply, data, sizeof data);

  reply.length = MF_NBD_OPTION_MAX + 1;
  mf_nbd_encode_option_reply (&reply, data);
  g_assert_false (mf_nbd_decode_option_reply (data, sizeof data, &out));
}

static void
test_export_name (void)
{
  g_autofree char *longest = g_strnfill (MF_NBD_STRING_MAX + 1, 'x');
  uint8_t reply[MF_NBD_EXPORT_NAME_REPLY_BYTES];
  mf_nbd_string name = { "untouched", 9 };

  g_assert_false (mf_nbd_decode_export_name ((const uint8_t *) longest, MF_NBD_STRING_MAX + 1, &name));
  g_assert_false (mf_nbd_decode_export_name ((const uint8_t *) "a\0b", 3, &name));
  g_assert_cmpuint (name.length, ==, 9);
  g_assert_true (mf_nbd_decode_export_name ((const uint8_t *) longest, MF_NBD_STRING_MAX, &name));
  g_assert_cmpuint (name.length, ==, MF_NBD_STRING_MAX);
  g_assert_true (mf_nbd_decode_export_name (NULL, 0, &name));
  g_assert_true (mf_nbd_string_is (name, ""));
  g_assert_true (mf_nbd_decode_export_name ((const uint8_t *) "vm1", 3, &name));
  g_assert_true (mf_nbd_string_is (name, "vm1"));
  g_assert_false (mf_nbd_string_is (name, "vm"));
  g_assert_false (mf_nbd_string_is (name, "vm12"));

  memset (reply, 0xee, sizeof reply);
  mf_nbd_encode_export_name_reply (UINT64_C (0x0102030405060708), 0x090a, reply);
  assert_bytes (reply, MF_NBD_EXPORT_NAME_REPLY_SHORT, "0102030405060708 090a");
  for (gsize i = MF_NBD_EXPORT_NAME_REPLY_SHORT; i < sizeof reply; i++)
    g_assert_cmpuint (reply[i], ==, 0);
}

static void
test_info_request (void)
{
  g_autoptr (GByteArray) data = bytes_of ("00000003 766d31 0002 0003 0001");
  g_autoptr (GByteArray) smallest = bytes_of ("00000000 0000");
  mf_nbd_info_request request;

  g_assert_true (mf_nbd_decode_info_request (data->data, data->len, &request));
  g_assert_true (mf_nbd_string_is (request.name, "vm1"));
  g_assert_cmpuint (request.n_infos, ==, 2);
  g_assert_true (mf_nbd_wants_info (&request, MF_NBD_INFO_BLOCK_SIZE));
  g_assert_true (mf_nbd_wants_info (&request, MF_NBD_INFO_NAME));
  g_assert_false (mf_nbd_wants_info (&request, MF_NBD_INFO_DESCRIPTION));
  assert_only_whole (try_info_request, data->data, data->len);

  g_assert_true (mf_nbd_decode_info_request (smallest->data, smallest->len, &request));
  g_assert_cmpuint (request.name.length, ==, 0);
  g_assert_false (mf_nbd_wants_info (&request, MF_NBD_INFO_EXPORT));
  assert_only_whole (try_info_request, smallest->data, smallest->len);
}

static void
test_info_request_limits (void)
{
  mf_nbd_info_request request = { .n_infos = 77 };

  for (guint extra = 0; extra < 2; extra++) {
    g_autoptr (GByteArray) data = g_byte_array_new ();
    g_autofree char *name = g_strnfill (MF_NBD_STRING_MAX + extra, 'n');
    put_counted (data, name);
    put (data, 0, 2);
    g_assert_cmpint (mf_nbd_decode_info_request (data->data, data->len, &request), ==, extra == 0);
  }
  g_assert_cmpuint (request.n_infos, ==, 0);

  /* Lengths that lie, a NUL in the name. */
  const char *bad[] = { "ffffffff 766d31 0000",      "00000004 766d31 0000",         "00000003 760031 0000",
                        "00000003 766d31 ffff 0003", "00000003 766d31 0001 0003 00", "80000003 766d31 0000" };
  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++) {
    g_autoptr (GByteArray) data = bytes_of (bad[i]);
    g_assert_false (mf_nbd_decode_info_request (data->data, data->len, &request));
  }
}

static void
test_meta_request (void)
{
  g_autoptr (GByteArray) data = g_byte_array_new ();
  mf_nbd_meta_request request;
  mf_nbd_string query;

  put_counted (data, "vm1");
  put (data, 3, 4);
  put_counted (data, MF_NBD_CONTEXT_ALLOCATION);
  put_counted (data, "");
  put_counted (data, MF_NBD_CONTEXT_DIRTY);
  assert_only_whole (try_meta_request, data->data, data->len);

  g_assert_true (mf_nbd_decode_meta_request (data->data, data->len, &request));
  g_assert_true (mf_nbd_string_is (request.name, "vm1"));
  g_assert_cmpuint (request.n_queries, ==, 3);
  mf_nbd_meta_request again = request;
  g_assert_true (mf_nbd_next_query (&request, &query));
  g_assert_true (mf_nbd_string_is (query, "base:allocation"));
  g_assert_true (mf_nbd_next_query (&request, &query));
  g_assert_true (mf_nbd_string_is (query, ""));
  g_assert_true (mf_nbd_next_query (&request, &query));
  g_assert_true (mf_nbd_string_is (query, "memferry:dirty"));
  g_assert_false (mf_nbd_next_query (&request, &query));
  g_assert_true (mf_nbd_next_query (&again, &query));
  g_assert_true (mf_nbd_string_is (query, "base:allocation"));
}

static void
test_meta_request_limits (void)
{
  mf_nbd_meta_request request = { .n_queries = 77 };
  mf_nbd_string query;
  const char *bad[] = {
    "00000000 00000001",             /* a query that isn't there */
    "00000000 ffffffff",             /* very many of them */
    "00000000 ffffffff 00000000",    /* all but one missing */
    "00000000 00000000 00000000",    /* one too many */
    "00000000 00000001 00000002 61", /* a query past the end */
    "00000000 00000001 ffffffff 61",
    "00000000 00000001 00000001 00",
    "00001001 00000000",
  };

  for (gsize i = 0; i < G_N_ELEMENTS (bad); i++) {
    g_autoptr (GByteArray) data = bytes_of (bad[i]);
    g_assert_false (mf_nbd_decode_meta_request (data->data, data->len, &request));
  }
  for (guint extra = 0; extra < 2; extra++) {
    g_autoptr (GByteArray) data = g_byte_array_new ();
    g_autofree char *text = g_strnfill (MF_NBD_STRING_MAX + extra, 'q');
    put (data, 0, 4);
    put (data, 1, 4);
    put_counted (data, text);
    g_assert_cmpint (mf_nbd_decode_meta_request (data->data, data->len, &request), ==, extra == 0);
  }
  g_assert_cmpuint (request.n_queries, ==, 1);

  g_autoptr (GByteArray) none = bytes_of ("00000000 00000000");
  g_assert_true (mf_nbd_decode_meta_request (none->data, none->len, &request));
  g_assert_false (mf_nbd_next_query (&request, &query));
}

static void
test_list_replies (void)
{
  g_autoptr (GByteArray) data = g_byte_array_new ();
  uint8_t head[MF_NBD_SERVER_BYTES], context[MF_NBD_META_CONTEXT_BYTES];
  mf_nbd_string name = { 0 }, details = { 0 };
  uint32_t id = 0;

  mf_nbd_encode_server (3, head);
  g_byte_array_append (data, head, sizeof head);
  put_text (data, "vm1 of mine", 11);
  g_assert_true (mf_nbd_decode_server (data->data, data->len, &name, &details));
  g_assert_true (mf_nbd_string_is (name, "vm1"));
  g_assert_true (mf_nbd_string_is (details, " of mine"));
  g_assert_true (mf_nbd_decode_server (data->data, 7, &name, &details));
  g_assert_true (mf_nbd_string_is (details, ""));
  g_assert_false (mf_nbd_decode_server (data->data, 6, &name, &details));
  g_assert_false (mf_nbd_decode_server (data->data, 3, &name, &details));

  mf_nbd_encode_meta_context (0xfedcba98, context);
  g_byte_array_set_size (data, 0);
  g_byte_array_append (data, context, sizeof context);
  put_text (data, "base:allocation", 15);
  g_assert_true (mf_nbd_decode_meta_context (data->data, data->len, &id, &name));
  g_assert_cmphex (id, ==, 0xfedcba98);
  g_assert_true (mf_nbd_string_is (name, MF_NBD_CONTEXT_ALLOCATION));
  g_assert_false (mf_nbd_decode_meta_context (data->data, 3, &id, &name));
}

static void
test_infos (void)
{
  uint8_t data[MF_NBD_INFO_BLOCK_SIZE_BYTES];
  mf_nbd_info_export export = { UINT64_C (1) << 63, 0x0105 }, export_out = { 0 };
  mf_nbd_info_block_size size = { 1, 4096, MF_NBD_PAYLOAD_MAX }, size_out = { 0 };

  mf_nbd_encode_info_export (&export, data);
  assert_bytes (data, MF_NBD_INFO_EXPORT_BYTES, "0000 8000000000000000 0105");
  g_assert_true (mf_nbd_decode_info_export (data, MF_NBD_INFO_EXPORT_BYTES, &export_out));
  g_assert_cmpuint (export_out.size_bytes, ==, export.size_bytes);
  g_assert_cmphex (export_out.flags, ==, 0x0105);
  assert_only_whole (try_info_export, data, MF_NBD_INFO_EXPORT_BYTES);

  mf_nbd_encode_info_block_size (&size, data);
  assert_bytes (data, sizeof data, "0003 00000001 00001000 02000000");
  g_assert_true (mf_nbd_decode_info_block_size (data, sizeof data, &size_out));
  g_assert_cmpmem (&size_out, sizeof size_out, &size, sizeof size);
  assert_only_whole (try_info_block_size, data, sizeof data);
  data[1] = 0; /* another information */
  g_assert_false (mf_nbd_decode_info_block_size (data, sizeof data, &size_out));
}

static void
test_block_size_limits (void)
{
  const struct {
    mf_nbd_info_block_size size;
    bool right;
  } cases[] = {
    { { 1, 512, 512 }, true },
    { { 65536, 65536, UINT32_MAX }, true },
    { { 0, 512, 512 }, false },
    { { 3, 512, 4096 }, false },
    { { 131072, 131072, UINT32_MAX }, false },
    { { 1, 256, 4096 }, false },
    { { 1, 0, 4096 }, false },
    { { 1, 768, 4096 }, false },
    { { 4096, 512, 4096 }, false },
    { { 1, 4096, 4095 }, false },
  };

  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++) {
    uint8_t data[MF_NBD_INFO_BLOCK_SIZE_BYTES];
    mf_nbd_info_block_size out;
    mf_nbd_encode_info_block_size (&cases[i].size, data);
    g_assert_cmpint (mf_nbd_decode_info_block_size (data, sizeof data, &out), ==, cases[i].right);
  }
}

/* ---- Transmission ---- */

static void
test_request (void)
{
  uint8_t data[MF_NBD_REQUEST_BYTES];
  mf_nbd_request request = { MF_NBD_CMD_FLAG_REQ_ONE, MF_NBD_CMD_BLOCK_STATUS, UINT64_C (0x0102030405060708),
                             UINT64_MAX - 1, UINT32_MAX };
  mf_nbd_request out = { 0 };

  mf_nbd_encode_request (&request, data);
  assert_bytes (data, sizeof data, "25609513 0008 0007 0102030405060708 fffffffffffffffe ffffffff");
  g_assert_true (mf_nbd_decode_request (data, sizeof data, &out));
  g_assert_cmpuint (out.flags, ==, request.flags);
  g_assert_cmpuint (out.type, ==, request.type);
  g_assert_cmpuint (out.cookie, ==, request.cookie);
  g_assert_cmpuint (out.offset, ==, request.offset);
  g_assert_cmpuint (out.length, ==, request.length);
  assert_only_whole (try_request, data, sizeof data);
  data[3] ^= 1;
  g_assert_false (mf_nbd_decode_request (data, sizeof data, &out));
}

static void
test_request_within (void)
{
  mf_nbd_request r = { .offset = 0, .length = 0 };

  g_assert_true (mf_nbd_request_within (&r, 0));
  r = (mf_nbd_request){ .offset = 0, .length = 1 };
  g_assert_false (mf_nbd_request_within (&r, 0));
  g_assert_true (mf_nbd_request_within (&r, 1));
  r = (mf_nbd_request){ .offset = 1, .length = 0 };
  g_assert_true (mf_nbd_request_within (&r, 1));
  g_assert_false (mf_nbd_request_within (&r, 0));
  r = (mf_nbd_request){ .offset = UINT64_MAX, .length = UINT32_MAX };
  g_assert_false (mf_nbd_request_within (&r, UINT64_MAX));
  r = (mf_nbd_request){ .offset = UINT64_MAX - UINT32_MAX, .length = UINT32_MAX };
  g_assert_true (mf_nbd_request_within (&r, UINT64_MAX));
  r.offset++;
  g_assert_false (mf_nbd_request_within (&r, UINT64_MAX));
}

static void
test_simple_reply (void)
{
  uint8_t data[MF_NBD_SIMPLE_REPLY_BYTES];
  mf_nbd_simple_reply reply = { MF_NBD_EINVAL, UINT64_C (0x0102030405060708) }, out = { 0 };

  mf_nbd_encode_simple_reply (&reply, data);
  assert_bytes (data, sizeof data, "67446698 00000016 0102030405060708");
  g_assert_true (mf_nbd_decode_simple_reply (data, sizeof data, &out));
  g_assert_cmpuint (out.error, ==, MF_NBD_EINVAL);
  g_assert_cmpuint (out.cookie, ==, reply.cookie);
  assert_only_whole (try_simple_reply, data, sizeof data);
  data[0] ^= 1;
  g_assert_false (mf_nbd_decode_simple_reply (data, sizeof data, &out));
}

static void
test_chunk (void)
{
  uint8_t data[MF_NBD_CHUNK_BYTES];
  mf_nbd_chunk chunk = { MF_NBD_REPLY_FLAG_DONE, MF_NBD_REPLY_TYPE_OFFSET_DATA, UINT64_C (0x0102030405060708), 4104 };
  mf_nbd_chunk out = { 0 };

  mf_nbd_encode_chunk (&chunk, data);
  assert_bytes (data, sizeof data, "668e33ef 0001 0001 0102030405060708 00001008");
  g_assert_true (mf_nbd_decode_chunk (data, sizeof data, &out));
  g_assert_cmpuint (out.flags, ==, chunk.flags);
  g_assert_cmpuint (out.type, ==, chunk.type);
  g_assert_cmpuint (out.cookie, ==, chunk.cookie);
  g_assert_cmpuint (out.length, ==, chunk.length);
  assert_only_whole (try_chunk, data, sizeof data);

  chunk.length = MF_NBD_CHUNK_MAX;
  mf_nbd_encode_chunk (&chunk, data);
  g_assert_true (mf_nbd_decode_chunk (data, sizeof data, &out));
  chunk.length++;
  mf_nbd_encode_chunk (&chunk, data);
  g_assert_false (mf_nbd_decode_chunk (data, sizeof data, &out));
}

static void
test_content (void)
{
  uint8_t data[MF_NBD_OFFSET_HOLE_BYTES];
  uint64_t offset = 0;
  uint32_t length = 0;

  mf_nbd_encode_offset_data (UINT64_C (0x0102030405060708), data);
  assert_bytes (data, MF_NBD_OFFSET_DATA_BYTES, "0102030405060708");
  for (uint32_t refused = 0; refused <= 8; refused++)
    g_assert_false (mf_nbd_decode_offset_data (data, refused, &offset, &length));
  g_assert_false (mf_nbd_decode_offset_data (data, UINT32_MAX, &offset, &length));
  g_assert_true (mf_nbd_decode_offset_data (data, 9, &offset, &length));
  g_assert_cmpuint (offset, ==, UINT64_C (0x0102030405060708));
  g_assert_cmpuint (length, ==, 1);
  g_assert_true (mf_nbd_decode_offset_data (data, MF_NBD_PAYLOAD_MAX + 8, &offset, &length));
  g_assert_cmpuint (length, ==, MF_NBD_PAYLOAD_MAX);

  mf_nbd_encode_offset_hole (4096, UINT32_MAX, data);
  assert_bytes (data, sizeof data, "0000000000001000 ffffffff");
  g_assert_true (mf_nbd_decode_offset_hole (data, sizeof data, &offset, &length));
  g_assert_cmpuint (offset, ==, 4096);
  g_assert_cmpuint (length, ==, UINT32_MAX);
  g_assert_false (mf_nbd_decode_offset_hole (data, 11, &offset, &length));
  g_assert_false (mf_nbd_decode_offset_hole (data, 13, &offset, &length));
  mf_nbd_encode_offset_hole (4096, 0, data);
  g_assert_false (mf_nbd_decode_offset_hole (data, sizeof data, &offset, &length));
}

static void
test_status (void)
{
  g_autoptr (GByteArray) data = bytes_of ("00000009 00001000 00000001 00002000 000000f0");
  uint8_t written[MF_NBD_STATUS_BYTES + 2 * MF_NBD_EXTENT_BYTES];
  mf_nbd_status status;

  mf_nbd_encode_status (9, written);
  mf_nbd_encode_extent ((mf_nbd_extent){ 4096, MF_NBD_DIRTY }, written + 4);
  mf_nbd_encode_extent ((mf_nbd_extent){ 8192, MF_NBD_HEAT_MAX << MF_NBD_HEAT_SHIFT }, written + 12);
  g_assert_cmpmem (written, sizeof written, data->data, data->len);

  g_assert_true (mf_nbd_decode_status (data->data, data->len, &status));
  g_assert_cmpuint (status.context_id, ==, 9);
  g_assert_cmpuint (status.n_extents, ==, 2);
  g_assert_cmpuint (mf_nbd_status_extent (&status, 0).length, ==, 4096);
  g_assert_cmphex (mf_nbd_status_extent (&status, 1).flags, ==, 0xf0);
  for (gsize length = 0; length <= data->len; length++)
    g_assert_cmpint (mf_nbd_decode_status (data->data, length, &status), ==, length == 12 || length == 20);
  mf_nbd_encode_extent ((mf_nbd_extent){ 0, 0 }, written + 12);
  g_assert_false (mf_nbd_decode_status (written, sizeof written, &status));
}

static void
test_status_limit (void)
{
  gsize length = 4 + 8 * ((gsize) MF_NBD_EXTENTS_MAX + 1);
  g_autofree uint8_t *data = g_malloc (length);
  mf_nbd_status status;

  memset (data, 1, length);
  g_assert_false (mf_nbd_decode_status (data, length, &status));
  g_assert_true (mf_nbd_decode_status (data, length - 8, &status));
  g_assert_cmpuint (status.n_extents, ==, MF_NBD_EXTENTS_MAX);
}

static void
test_error (void)
{
  uint8_t data[MF_NBD_ERROR_MAX_BYTES];
  mf_nbd_error error = { .error = MF_NBD_EIO, .message = { "gone", 4 } }, out = { 0 };

  g_assert_cmpuint (mf_nbd_encode_error (&error, data), ==, 10);
  assert_bytes (data, 10, "00000005 0004 676f6e65");
  g_assert_true (mf_nbd_decode_error (MF_NBD_REPLY_TYPE_ERROR, data, 10, &out));
  g_assert_cmpuint (out.error, ==, MF_NBD_EIO);
  g_assert_true (mf_nbd_string_is (out.message, "gone"));
  g_assert_false (out.has_offset);
  for (gsize length = 0; length < 10; length++)
    g_assert_false (mf_nbd_decode_error (MF_NBD_REPLY_TYPE_ERROR, data, length, &out));
  g_assert_false (mf_nbd_decode_error (MF_NBD_REPLY_TYPE_ERROR, data, 11, &out));
  g_assert_false (mf_nbd_decode_error (MF_NBD_REPLY_TYPE_NONE, data, 10, &out));

  error.has_offset = true;
  error.offset = UINT64_MAX;
  g_assert_cmpuint (mf_nbd_encode_error (&error, data), ==, 18);
  g_assert_true (mf_nbd_decode_error (MF_NBD_REPLY_TYPE_ERROR_OFFSET, data, 18, &out));
  g_assert_true (out.has_offset);
  g_assert_cmpuint (out.offset, ==, UINT64_MAX);
  g_assert_false (mf_nbd_decode_error (MF_NBD_REPLY_TYPE_ERROR_OFFSET, data, 17, &out));
  g_assert_false (mf_nbd_decode_error (MF_NBD_REPLY_TYPE_ERROR, data, 18, &out));
  /* A type of tomorrow: its error and message still count. */
  g_assert_true (mf_nbd_decode_error (0x8abc, data, 18, &out));
  g_assert_true (mf_nbd_string_is (out.message, "gone"));
}

static void
test_error_limits (void)
{
  g_autofree char *text = g_strnfill (MF_NBD_STRING_MAX + 100, 'm');
  uint8_t data[MF_NBD_ERROR_MAX_BYTES + 1] = { 0 };
  mf_nbd_error error = { .error = MF_NBD_EIO, .message = { text, MF_NBD_STRING_MAX + 100 }, .has_offset = true };
  mf_nbd_error out;

  g_assert_cmpuint (mf_nbd_encode_error (&error, data), ==, MF_NBD_ERROR_MAX_BYTES);
  g_assert_true (mf_nbd_decode_error (MF_NBD_REPLY_TYPE_ERROR_OFFSET, data, MF_NBD_ERROR_MAX_BYTES, &out));
  g_assert_cmpuint (out.message.length, ==, MF_NBD_STRING_MAX);

  memset (data, 0, 6);
  g_assert_false (mf_nbd_decode_error (MF_NBD_REPLY_TYPE_ERROR, data, 6, &out)); /* error 0 */
  data[3] = 5;
  g_assert_true (mf_nbd_decode_error (MF_NBD_REPLY_TYPE_ERROR, data, 6, &out));
  data[4] = 0x10;
  data[5] = 0x01; /* a message of 4097 bytes */
  memset (data + 6, 'm', sizeof data - 6);
  g_assert_false (mf_nbd_decode_error (MF_NBD_REPLY_TYPE_ERROR, data, 6 + 4097, &out));
}

static void
test_error_numbers (void)
{
  const uint32_t numbers[] = { MF_NBD_OK,     MF_NBD_EPERM,     MF_NBD_EIO,     MF_NBD_ENOMEM,   MF_NBD_EINVAL,
                               MF_NBD_ENOSPC, MF_NBD_EOVERFLOW, MF_NBD_ENOTSUP, MF_NBD_ESHUTDOWN };

  for (gsize i = 0; i < G_N_ELEMENTS (numbers); i++)
    g_assert_cmpuint (mf_nbd_error_from_errno (mf_nbd_error_to_errno (numbers[i])), ==, numbers[i]);
  g_assert_cmpuint (mf_nbd_error_from_errno (EROFS), ==, MF_NBD_EPERM);
  g_assert_cmpuint (mf_nbd_error_from_errno (ECONNRESET), ==, MF_NBD_EIO);
  g_assert_cmpint (mf_nbd_error_to_errno (UINT32_MAX), ==, EIO);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/nbd-protocol/greeting", test_greeting);
  g_test_add_func ("/nbd-protocol/client-flags", test_client_flags);
  g_test_add_func ("/nbd-protocol/option", test_option);
  g_test_add_func ("/nbd-protocol/option-reply", test_option_reply);
  g_test_add_func ("/nbd-protocol/export-name", test_export_name);
  g_test_add_func ("/nbd-protocol/info-request", test_info_request);
  g_test_add_func ("/nbd-protocol/info-request/limits", test_info_request_limits);
  g_test_add_func ("/nbd-protocol/meta-request", test_meta_request);
  g_test_add_func ("/nbd-protocol/meta-request/limits", test_meta_request_limits);
  g_test_add_func ("/nbd-protocol/list-replies", test_list_replies);
  g_test_add_func ("/nbd-protocol/infos", test_infos);
  g_test_add_func ("/nbd-protocol/infos/block-size-limits", test_block_size_limits);
  g_test_add_func ("/nbd-protocol/request", test_request);
  g_test_add_func ("/nbd-protocol/request/within", test_request_within);
  g_test_add_func ("/nbd-protocol/simple-reply", test_simple_reply);
  g_test_add_func ("/nbd-protocol/chunk", test_chunk);
  g_test_add_func ("/nbd-protocol/content", test_content);
  g_test_add_func ("/nbd-protocol/status", test_status);
  g_test_add_func ("/nbd-protocol/status/limit", test_status_limit);
  g_test_add_func ("/nbd-protocol/error", test_error);
  g_test_add_func ("/nbd-protocol/error/limits", test_error_limits);
  g_test_add_func ("/nbd-protocol/error/numbers", test_error_numbers);
  return g_test_run ();
}
