/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nbd-peer.h"

#include <string.h>

/* The handshake of the NBD server, byte by byte: every option, and every way to get it wrong. */

#define FIXED (MF_NBD_FLAG_C_FIXED_NEWSTYLE | MF_NBD_FLAG_C_NO_ZEROES)

static Peer *
greeted (const Fixture *f)
{
  Peer *peer = peer_new (f->server);

  peer_greet (peer, FIXED);
  return peer;
}

static void
go_structured (Peer *peer)
{
  peer_send_option (peer, MF_NBD_OPT_STRUCTURED_REPLY, NULL, 0);
  g_assert_cmpuint (peer_option_reply (peer, MF_NBD_OPT_STRUCTURED_REPLY, NULL), ==, MF_NBD_REP_ACK);
  peer->structured = TRUE;
}

static void
test_export_name (void)
{
  g_autoptr (Fixture) f = fixture_new (10000, "#", NULL);

  for (int zeroes = 0; zeroes < 2; zeroes++) {
    g_autoptr (Peer) peer = peer_new (f->server);
    uint8_t reply[MF_NBD_EXPORT_NAME_REPLY_BYTES];
    uint8_t expected[MF_NBD_EXPORT_NAME_REPLY_BYTES];
    size_t length = zeroes ? sizeof reply : MF_NBD_EXPORT_NAME_REPLY_SHORT;

    peer_greet (peer, zeroes ? MF_NBD_FLAG_C_FIXED_NEWSTYLE : FIXED);
    peer_send_option (peer, MF_NBD_OPT_EXPORT_NAME, NULL, 0);
    peer_receive (peer, reply, length);
    mf_nbd_encode_export_name_reply (10000,
                                     MF_NBD_FLAG_HAS_FLAGS | MF_NBD_FLAG_SEND_FLUSH | MF_NBD_FLAG_SEND_FUA |
                                         MF_NBD_FLAG_SEND_TRIM | MF_NBD_FLAG_SEND_WRITE_ZEROES |
                                         MF_NBD_FLAG_CAN_MULTI_CONN,
                                     expected);
    g_assert_cmpmem (reply, length, expected, length);
    peer_assert_read (peer, f, 0, 10000);
  }
}

/* A client that knows no replies to options has EXPORT_NAME, and nothing else. */
static void
test_not_fixed (void)
{
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  g_autoptr (Peer) old = peer_new (f->server);
  g_autoptr (Peer) confused = peer_new (f->server);
  uint8_t reply[MF_NBD_EXPORT_NAME_REPLY_BYTES];

  peer_greet (old, 0);
  peer_send_option (old, MF_NBD_OPT_EXPORT_NAME, NULL, 0);
  peer_receive (old, reply, sizeof reply);
  peer_assert_read (old, f, 0, 4096);

  peer_greet (confused, 0);
  peer_send_option (confused, MF_NBD_OPT_LIST, NULL, 0);
  peer_assert_dropped (confused);
}

static void
test_unknown_flags (void)
{
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  g_autoptr (Peer) peer = peer_new (f->server);

  peer_greet (peer, FIXED | 1u << 2);
  peer_assert_dropped (peer);
}

/* EXPORT_NAME has no way to say no. */
static void
test_export_name_unknown (void)
{
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  g_autoptr (Peer) peer = greeted (f);

  peer_send_option (peer, MF_NBD_OPT_EXPORT_NAME, "other", 5);
  peer_assert_dropped (peer);
}

static void
test_list (void)
{
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  const mf_nbd_export_options options = { .description = "the second" };
  g_autoptr (Peer) peer = greeted (f);
  g_autoptr (GError) error = NULL;
  static const char *const names[] = { "", "b" }, *const texts[] = { "", "the second" };

  mf_nbd_server_export (f->server, "b", f->region, &options, &error);
  g_assert_no_error (error);
  peer_send_option (peer, MF_NBD_OPT_LIST, NULL, 0);
  for (int i = 0; i < 2; i++) {
    g_autoptr (GByteArray) data = NULL;
    mf_nbd_string name, details;

    g_assert_cmpuint (peer_option_reply (peer, MF_NBD_OPT_LIST, &data), ==, MF_NBD_REP_SERVER);
    g_assert_true (mf_nbd_decode_server (data->data, data->len, &name, &details));
    g_assert_true (mf_nbd_string_is (name, names[i]));
    g_assert_true (mf_nbd_string_is (details, texts[i]));
  }
  g_assert_cmpuint (peer_option_reply (peer, MF_NBD_OPT_LIST, NULL), ==, MF_NBD_REP_ACK);

  peer_send_option (peer, MF_NBD_OPT_LIST, "x", 1);
  g_assert_cmpuint (peer_option_reply (peer, MF_NBD_OPT_LIST, NULL), ==, MF_NBD_REP_ERR_INVALID);
}

static void
test_info (void)
{
  g_autoptr (Fixture) f = fixture_new (10000, "#", NULL);
  const mf_nbd_export_options options = { .description = "some words", .read_only = TRUE };
  const uint16_t infos[] = { MF_NBD_INFO_NAME, MF_NBD_INFO_DESCRIPTION, MF_NBD_INFO_BLOCK_SIZE, 77 };
  g_autoptr (Peer) peer = greeted (f);
  guint seen = 0;

  g_assert_true (mf_nbd_server_export (f->server, "r", f->region, &options, NULL));
  go_structured (peer);
  peer_send_info (peer, MF_NBD_OPT_INFO, "r", infos, G_N_ELEMENTS (infos));
  for (;;) {
    g_autoptr (GByteArray) data = NULL;
    mf_nbd_info_block_size sizes;
    mf_nbd_info_export info;

    if (peer_option_reply (peer, MF_NBD_OPT_INFO, &data) != MF_NBD_REP_INFO)
      break;
    if (mf_nbd_decode_info_export (data->data, data->len, &info)) {
      g_assert_cmpuint (info.size_bytes, ==, 10000);
      g_assert_cmpuint (info.flags, ==,
                        MF_NBD_FLAG_HAS_FLAGS | MF_NBD_FLAG_READ_ONLY | MF_NBD_FLAG_SEND_FLUSH | MF_NBD_FLAG_SEND_DF |
                            MF_NBD_FLAG_CAN_MULTI_CONN);
      seen |= 1;
    } else if (mf_nbd_decode_info_block_size (data->data, data->len, &sizes)) {
      g_assert_cmpuint (sizes.minimum, ==, 1);
      g_assert_cmpuint (sizes.preferred, ==, 4096);
      g_assert_cmpuint (sizes.maximum, ==, MF_NBD_PAYLOAD_MAX);
      seen |= 2;
    } else if (data->data[1] == MF_NBD_INFO_NAME) {
      g_assert_cmpmem (data->data + 2, data->len - 2, "r", 1);
      seen |= 4;
    } else {
      g_assert_cmpuint (data->data[1], ==, MF_NBD_INFO_DESCRIPTION);
      g_assert_cmpmem (data->data + 2, data->len - 2, "some words", 10);
      seen |= 8;
    }
  }
  g_assert_cmpuint (seen, ==, 15);

  /* INFO leaves the handshake open. */
  peer_send_info (peer, MF_NBD_OPT_GO, "", NULL, 0);
  g_assert_cmpuint (peer_take_infos (peer, MF_NBD_OPT_GO), ==, MF_NBD_REP_ACK);
  peer_assert_read (peer, f, 0, 10000);
}

static void
test_unknown_export (void)
{
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  static const uint32_t options[] = { MF_NBD_OPT_INFO, MF_NBD_OPT_GO };
  static const char *const none[] = { NULL };
  g_autoptr (Peer) peer = greeted (f);

  for (guint i = 0; i < G_N_ELEMENTS (options); i++) {
    peer_send_info (peer, options[i], "other", NULL, 0);
    g_assert_cmpuint (peer_take_infos (peer, options[i]), ==, MF_NBD_REP_ERR_UNKNOWN);
  }
  go_structured (peer);
  peer_send_meta (peer, MF_NBD_OPT_SET_META_CONTEXT, "other", none);
  g_assert_cmpuint (peer_option_reply (peer, MF_NBD_OPT_SET_META_CONTEXT, NULL), ==, MF_NBD_REP_ERR_UNKNOWN);
  peer_send_meta (peer, MF_NBD_OPT_LIST_META_CONTEXT, "other", none);
  g_assert_cmpuint (peer_option_reply (peer, MF_NBD_OPT_LIST_META_CONTEXT, NULL), ==, MF_NBD_REP_ERR_UNKNOWN);
  peer_send_info (peer, MF_NBD_OPT_GO, "", NULL, 0);
  g_assert_cmpuint (peer_take_infos (peer, MF_NBD_OPT_GO), ==, MF_NBD_REP_ACK);
}

/* Data that is no request: answered, and the next option is understood. */
static void
test_malformed_data (void)
{
  static const struct {
    uint32_t option;
    const char *data;
    size_t length;
  } cases[] = {
    { MF_NBD_OPT_GO, "", 0 },
    { MF_NBD_OPT_GO, "\0\0\0", 3 },
    { MF_NBD_OPT_GO, "\0\0\0\0", 4 },             /* no count */
    { MF_NBD_OPT_GO, "\0\0\0\0\0\1", 6 },         /* an info is missing */
    { MF_NBD_OPT_GO, "\0\0\0\0\0\0x", 7 },        /* bytes left over */
    { MF_NBD_OPT_GO, "\0\0\0\5ab\0\0", 8 },       /* name passes the end */
    { MF_NBD_OPT_GO, "\377\377\377\377\0\0", 6 }, /* and overflows */
    { MF_NBD_OPT_INFO, "\177\377\377\377ab\0\0", 8 },
    { MF_NBD_OPT_SET_META_CONTEXT, "", 0 },
    { MF_NBD_OPT_SET_META_CONTEXT, "\0\0\0\0", 4 },
    { MF_NBD_OPT_SET_META_CONTEXT, "\0\0\0\0\0\0\0\1", 8 },
    { MF_NBD_OPT_SET_META_CONTEXT, "\0\0\0\0\0\0\0\1\0\0\0\5base", 16 },
    { MF_NBD_OPT_SET_META_CONTEXT, "\0\0\0\0\377\377\377\377\0\0\0\1x", 13 },
    { MF_NBD_OPT_LIST_META_CONTEXT, "\0\0\0\0\0\0\0\0x", 9 },
    { MF_NBD_OPT_STRUCTURED_REPLY, "x", 1 },
    { MF_NBD_OPT_STARTTLS, "x", 1 },
  };
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  g_autoptr (Peer) peer = greeted (f);

  go_structured (peer);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    peer_send_option (peer, cases[i].option, cases[i].data, cases[i].length);
    g_assert_cmpuint (peer_option_reply (peer, cases[i].option, NULL), ==, MF_NBD_REP_ERR_INVALID);
  }
  peer_send_info (peer, MF_NBD_OPT_GO, "", NULL, 0);
  g_assert_cmpuint (peer_take_infos (peer, MF_NBD_OPT_GO), ==, MF_NBD_REP_ACK);
  peer_assert_read (peer, f, 0, 4096);
}

/* An export's name that is too long, or with a NUL in it, in the option that can only hang up. */
static void
test_export_name_malformed (void)
{
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  g_autofree char *name = g_strnfill (MF_NBD_STRING_MAX + 1, 'x');
  g_autoptr (Peer) nul = greeted (f), long_name = greeted (f);

  peer_send_option (nul, MF_NBD_OPT_EXPORT_NAME, "\0", 1);
  peer_assert_dropped (nul);
  peer_send_option (long_name, MF_NBD_OPT_EXPORT_NAME, name, strlen (name));
  peer_assert_dropped (long_name);
}

static void
test_starttls (void)
{
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  g_autoptr (Peer) peer = greeted (f);

  peer_send_option (peer, MF_NBD_OPT_STARTTLS, NULL, 0);
  g_assert_cmpuint (peer_option_reply (peer, MF_NBD_OPT_STARTTLS, NULL), ==, MF_NBD_REP_ERR_UNSUP);
  peer_send_info (peer, MF_NBD_OPT_GO, "", NULL, 0);
  g_assert_cmpuint (peer_take_infos (peer, MF_NBD_OPT_GO), ==, MF_NBD_REP_ACK);
}

static void
test_unknown_option (void)
{
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  g_autoptr (Peer) peer = greeted (f);
  g_autofree char *data = g_strnfill (MF_NBD_OPTION_MAX, 'x');
  static const uint32_t options[] = { 0, 4, MF_NBD_OPT_EXTENDED_HEADERS, 12, 0xffffffff };

  for (guint i = 0; i < G_N_ELEMENTS (options); i++) {
    peer_send_option (peer, options[i], data, i % 2 ? MF_NBD_OPTION_MAX : 0);
    g_assert_cmpuint (peer_option_reply (peer, options[i], NULL), ==, MF_NBD_REP_ERR_UNSUP);
  }
}

static void
test_abort (void)
{
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  g_autoptr (Peer) peer = greeted (f);

  peer_send_option (peer, MF_NBD_OPT_ABORT, NULL, 0);
  g_assert_cmpuint (peer_option_reply (peer, MF_NBD_OPT_ABORT, NULL), ==, MF_NBD_REP_ACK);
  peer_assert_dropped (peer);
}

static void
test_bad_magic (void)
{
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  g_autoptr (Peer) peer = greeted (f);

  peer_send (peer, "IHAVENOT\0\0\0\7\0\0\0\0", 16);
  peer_assert_dropped (peer);
}

static void
test_option_too_long (void)
{
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  g_autoptr (Peer) peer = greeted (f);

  peer_send (peer, "IHAVEOPT\0\0\0\7\377\377\377\377", 16);
  peer_assert_dropped (peer);
}

static void
test_too_many_options (void)
{
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  g_autoptr (Peer) peer = greeted (f);

  for (int i = 0; i < 128; i++) {
    peer_send_option (peer, MF_NBD_OPT_LIST, "x", 1);
    g_assert_cmpuint (peer_option_reply (peer, MF_NBD_OPT_LIST, NULL), ==, MF_NBD_REP_ERR_INVALID);
  }
  peer_send_option (peer, MF_NBD_OPT_LIST, "x", 1);
  peer_assert_dropped (peer);
}

/* A client that says nothing, or half a word, doesn't stay for ever. */
static void
test_deadline (void)
{
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  g_autoptr (Peer) silent = peer_new (f->server), slow = greeted (f);
  gint64 start = g_get_monotonic_time ();

  peer_send (slow, "IHAVE", 5);
  peer_greet (silent, FIXED);
  peer_assert_dropped (silent);
  peer_assert_dropped (slow);
  g_assert_cmpint (g_get_monotonic_time () - start, >, 5 * G_USEC_PER_SEC);
}

/* A client that leaves at any byte of a whole conversation. */
static void
test_leaves_anywhere (void)
{
  static const uint8_t talk[] = "\0\0\0\3"
                                "IHAVEOPT\0\0\0\10\0\0\0\0"
                                "IHAVEOPT\0\0\0\12\0\0\0\36\0\0\0\0\0\0\0\1\0\0\0\22memferry:dirty....."
                                "IHAVEOPT\0\0\0\7\0\0\0\6\0\0\0\0\0\0"
                                "\x25\x60\x95\x13\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\20\0"
                                "\x25\x60\x95\x13\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\0\0\0\0\4abcd";
  g_autoptr (Fixture) f = fixture_new (8192, "#", NULL);
  mf_nbd_server_stats stats;

  for (size_t length = 0; length < sizeof talk; length++) {
    g_autoptr (Peer) peer = peer_new (f->server);

    peer_send (peer, talk, length);
  }
  do
    mf_nbd_server_get_stats (f->server, &stats);
  while (stats.connections > 0);
}

static void
assert_contexts (Peer *peer, uint32_t option, const char *const *queries, const char *expected)
{
  g_autoptr (GString) got = g_string_new (NULL);

  peer_send_meta (peer, option, "", queries);
  for (;;) {
    g_autoptr (GByteArray) data = NULL;
    uint32_t type = peer_option_reply (peer, option, &data), id;
    mf_nbd_string name;

    if (type == MF_NBD_REP_ACK)
      break;
    g_assert_cmpuint (type, ==, MF_NBD_REP_META_CONTEXT);
    g_assert_true (mf_nbd_decode_meta_context (data->data, data->len, &id, &name));
    g_string_append_len (got, name.text, name.length);
    g_string_append_c (got, ' ');
  }
  g_assert_cmpstr (got->str, ==, expected);
}

#define QUERIES(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void
test_meta_context (void)
{
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  g_autoptr (Peer) peer = greeted (f);
  static const char *const none[] = { NULL };
  const uint32_t list = MF_NBD_OPT_LIST_META_CONTEXT, set = MF_NBD_OPT_SET_META_CONTEXT;

  /* Not before structured replies. */
  peer_send_meta (peer, set, "", none);
  g_assert_cmpuint (peer_option_reply (peer, set, NULL), ==, MF_NBD_REP_ERR_INVALID);
  go_structured (peer);

  assert_contexts (peer, list, none, "base:allocation memferry:dirty ");
  assert_contexts (peer, list, QUERIES ("base:"), "base:allocation ");
  assert_contexts (peer, list, QUERIES ("memferry:"), "memferry:dirty ");
  assert_contexts (peer, list, QUERIES ("memferry:dirty", "qemu:", "base:"), "base:allocation memferry:dirty ");
  assert_contexts (peer, list, QUERIES ("base", "base:alloc", "base:allocation2", ":", ""), "");

  /* A namespace alone chooses nothing, and no query means no context. */
  assert_contexts (peer, set, none, "");
  assert_contexts (peer, set, QUERIES ("base:", "memferry:"), "");
  assert_contexts (peer, set, QUERIES ("base:allocation", "x-other:y"), "base:allocation ");
  assert_contexts (peer, set, QUERIES ("memferry:dirty", "memferry:dirty"), "memferry:dirty ");
}

/* Contexts that were chosen for one export are not those of another. */
static void
test_contexts_of_another_export (void)
{
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  g_autoptr (Peer) peer = greeted (f);

  g_assert_true (mf_nbd_server_export (f->server, "b", f->region, NULL, NULL));
  go_structured (peer);
  assert_contexts (peer, MF_NBD_OPT_SET_META_CONTEXT, QUERIES ("base:allocation", "memferry:dirty"),
                   "base:allocation memferry:dirty ");
  peer_send_info (peer, MF_NBD_OPT_GO, "b", NULL, 0);
  g_assert_cmpuint (peer_take_infos (peer, MF_NBD_OPT_GO), ==, MF_NBD_REP_ACK);
  g_assert_cmpuint (peer_command (peer, MF_NBD_CMD_BLOCK_STATUS, 0, 0, 4096), ==, MF_NBD_EINVAL);
}

/* Another connection of a client would be another tracking session: unless they share one. */
static void
test_multi_conn (void)
{
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  g_autoptr (mf_dirty_session) session = NULL;
  mf_nbd_export_options options = { 0 };
  g_autoptr (Peer) plain = peer_open (f->server, PEER_STRUCTURED | PEER_ALLOCATION);
  g_autoptr (Peer) tracking = peer_open (f->server, PEER_DIRTY);
  g_autoptr (Peer) sharing = NULL;

  g_assert_cmpuint (plain->flags & MF_NBD_FLAG_CAN_MULTI_CONN, !=, 0);
  g_assert_cmpuint (tracking->flags & MF_NBD_FLAG_CAN_MULTI_CONN, ==, 0);

  session = mf_dirty_session_open (mf_region_dirty_log (f->region), NULL, NULL, NULL);
  options.session = session;
  mf_nbd_server_unexport (f->server, "");
  g_assert_true (mf_nbd_server_export (f->server, "", f->region, &options, NULL));
  sharing = peer_open (f->server, PEER_DIRTY);
  g_assert_cmpuint (sharing->flags & MF_NBD_FLAG_CAN_MULTI_CONN, !=, 0);
}

static void
test_name_taken (void)
{
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  g_autofree char *name = g_strnfill (MF_NBD_STRING_MAX + 1, 'x');
  g_autoptr (GError) taken = NULL, too_long = NULL;

  g_assert_false (mf_nbd_server_export (f->server, "", f->region, NULL, &taken));
  g_assert_error (taken, MF_ERROR, MF_ERROR_EXISTS);
  g_assert_false (mf_nbd_server_export (f->server, name, f->region, NULL, &too_long));
  g_assert_error (too_long, MF_ERROR, MF_ERROR_INVALID);
}

/* unexport() ends the connections to that export, in whatever state, and no other. */
static void
test_unexport (void)
{
  g_autoptr (Fixture) f = fixture_new (4096, "#", NULL);
  g_autoptr (Peer) reading = peer_open (f->server, PEER_STRUCTURED);
  g_autoptr (Peer) negotiating = greeted (f);
  g_autoptr (Peer) other = NULL;

  g_assert_true (mf_nbd_server_export (f->server, "b", f->region, NULL, NULL));
  go_structured (negotiating);
  assert_contexts (negotiating, MF_NBD_OPT_SET_META_CONTEXT, QUERIES ("memferry:dirty"), "memferry:dirty ");
  other = greeted (f);
  peer_send_info (other, MF_NBD_OPT_GO, "b", NULL, 0);
  g_assert_cmpuint (peer_take_infos (other, MF_NBD_OPT_GO), ==, MF_NBD_REP_ACK);

  mf_nbd_server_unexport (f->server, "");
  peer_assert_dropped (reading);
  peer_assert_dropped (negotiating);
  peer_assert_read (other, f, 0, 4096);
  mf_nbd_server_unexport (f->server, "never there");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/nbd-handshake/export-name", test_export_name);
  g_test_add_func ("/nbd-handshake/not-fixed", test_not_fixed);
  g_test_add_func ("/nbd-handshake/unknown-flags", test_unknown_flags);
  g_test_add_func ("/nbd-handshake/export-name-unknown", test_export_name_unknown);
  g_test_add_func ("/nbd-handshake/export-name-malformed", test_export_name_malformed);
  g_test_add_func ("/nbd-handshake/list", test_list);
  g_test_add_func ("/nbd-handshake/info", test_info);
  g_test_add_func ("/nbd-handshake/unknown-export", test_unknown_export);
  g_test_add_func ("/nbd-handshake/malformed-data", test_malformed_data);
  g_test_add_func ("/nbd-handshake/starttls", test_starttls);
  g_test_add_func ("/nbd-handshake/unknown-option", test_unknown_option);
  g_test_add_func ("/nbd-handshake/abort", test_abort);
  g_test_add_func ("/nbd-handshake/bad-magic", test_bad_magic);
  g_test_add_func ("/nbd-handshake/option-too-long", test_option_too_long);
  g_test_add_func ("/nbd-handshake/too-many-options", test_too_many_options);
  g_test_add_func ("/nbd-handshake/deadline", test_deadline);
  g_test_add_func ("/nbd-handshake/leaves-anywhere", test_leaves_anywhere);
  g_test_add_func ("/nbd-handshake/meta-context", test_meta_context);
  g_test_add_func ("/nbd-handshake/contexts-of-another-export", test_contexts_of_another_export);
  g_test_add_func ("/nbd-handshake/multi-conn", test_multi_conn);
  g_test_add_func ("/nbd-handshake/name-taken", test_name_taken);
  g_test_add_func ("/nbd-handshake/unexport", test_unexport);
  return g_test_run ();
}
