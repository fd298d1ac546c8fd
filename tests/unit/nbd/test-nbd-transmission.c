/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nbd-peer.h"

#include <string.h>
#include <unistd.h>

/* The transmission phase of the NBD server: every command, every byte, and every way to get it wrong. */

#define PAGE 4096u
#define MIB  (1u << 20)

/* One copy of everything: small and large, aligned and not, in each form of reply. */
static void
test_read (void)
{
  static const guint hows[] = { 0, PEER_STRUCTURED };
  const uint64_t size = 3 * MIB + 5 * PAGE + 123;
  g_autoptr (Fixture) f = fixture_new (size, "##.0#..##0", NULL);

  for (guint i = 0; i < G_N_ELEMENTS (hows); i++) {
    g_autoptr (Peer) peer = peer_open (f->server, hows[i]);

    g_assert_cmpuint (peer->size, ==, size);
    peer_assert_read (peer, f, 0, 1);
    peer_assert_read (peer, f, 0, PAGE);
    peer_assert_read (peer, f, 4095, 2);
    peer_assert_read (peer, f, 1, 64 << 10);
    peer_assert_read (peer, f, 0, 64 << 10);
    peer_assert_read (peer, f, 0, (64 << 10) + 1);
    peer_assert_read (peer, f, 777, MIB + 1);
    peer_assert_read (peer, f, size - 1, 1);
    peer_assert_read (peer, f, size - 200 * PAGE - 7, 200 * PAGE + 7);
    peer_assert_read (peer, f, 0, (uint32_t) size);
  }
}

/* Holes and pages of zeroes travel as holes, and reading them allocates nothing. */
static void
test_holes (void)
{
  g_autoptr (Fixture) f = fixture_new (4 * MIB,
                                       "................................................................"
                                       "0000000000000000000000000000000000000000000000000000000000000000"
                                       "################################################################",
                                       NULL);
  g_autoptr (Peer) peer = peer_open (f->server, PEER_STRUCTURED);
  uint64_t allocated = mf_store_allocated (f->store);
  mf_nbd_server_stats stats;
  PeerRead r;

  r = peer_assert_read (peer, f, 0, 4 * MIB);
  g_assert_cmpuint (r.hole_bytes, ==, 704 * PAGE);
  r = peer_assert_read (peer, f, 64 * PAGE, PAGE);
  g_assert_cmpuint (r.n_data, ==, 0);
  r = peer_assert_read (peer, f, 63 * PAGE, 3 * PAGE);
  g_assert_cmpuint (r.n_data, ==, 0);
  r = peer_assert_read (peer, f, 127 * PAGE, 2 * PAGE);
  g_assert_cmpuint (r.hole_bytes, ==, PAGE);
  g_assert_cmpuint (mf_store_allocated (f->store), ==, allocated);

  mf_nbd_server_get_stats (f->server, &stats);
  g_assert_cmpuint (stats.hole_bytes, ==, (704 + 1 + 3 + 1) * PAGE);
  g_assert_cmpuint (stats.bytes_read, ==, (320 + 1) * PAGE);
  g_assert_cmpuint (stats.requests, ==, 4);
}

static void
test_dont_fragment (void)
{
  g_autoptr (Fixture) f = fixture_new (MIB, "#.0#", NULL);
  g_autoptr (Peer) peer = peer_open (f->server, PEER_STRUCTURED);
  g_autofree uint8_t *bytes = g_malloc (MIB);
  PeerRead r = peer_read (peer, MF_NBD_CMD_FLAG_DF, 10, MIB - 20, bytes);

  g_assert_cmpuint (r.error, ==, MF_NBD_OK);
  g_assert_cmpuint (r.n_data, ==, 1);
  g_assert_cmpuint (r.n_holes, ==, 0);
  g_assert_cmpmem (bytes, MIB - 20, f->bytes + 10, MIB - 20);
}

/* The same from a file on disk and from one that may only be read: other ways through the server. */
static void
test_other_stores (void)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = NULL;
  int fd = g_file_open_tmp ("mf-nbd-XXXXXX", &path, &error);

  g_assert_no_error (error);
  for (int read_only = 0; read_only < 2; read_only++) {
    g_autoptr (Fixture) f = fixture_new (2 * MIB + 100, "#..0##", NULL);
    g_autoptr (MfStore) store = NULL;
    g_autoptr (MfRegion) region = NULL;
    g_autoptr (Peer) peer = NULL;

    g_assert_cmpint (ftruncate (fd, 0), ==, 0);
    g_assert_cmpint (pwrite (fd, f->bytes, f->size, 0), ==, (ssize_t) f->size);
    store = mf_store_open (path, read_only, &error);
    g_assert_no_error (error);
    region = mf_region_new ("other", store, &error);
    g_assert_no_error (error);
    mf_nbd_server_unexport (f->server, "");
    g_assert_true (mf_nbd_server_export (f->server, "", region, NULL, NULL));
    peer = peer_open (f->server, PEER_STRUCTURED);
    g_assert_cmpint ((peer->flags & MF_NBD_FLAG_READ_ONLY) != 0, ==, read_only);
    peer_assert_read (peer, f, 0, (uint32_t) f->size);
    peer_assert_read (peer, f, 5, 100);
    if (!read_only) {
      g_assert_cmpuint (peer_write (peer, MF_NBD_CMD_FLAG_FUA, 100, f->bytes, 100), ==, MF_NBD_OK);
      g_assert_cmpuint (peer_command (peer, MF_NBD_CMD_FLUSH, 0, 0, 0), ==, MF_NBD_OK);
      memcpy (f->bytes + 100, f->bytes, 100);
      peer_assert_read (peer, f, 0, PAGE);
    }
    mf_nbd_server_unexport (f->server, "");
  }
  unlink (path);
  close (fd);
}

static void
test_write (void)
{
  static const struct {
    uint64_t offset;
    uint32_t length;
  } cases[] = { { 0, 1 }, { 5, 100 }, { PAGE - 1, 2 }, { 3 * PAGE, PAGE }, { 12345, 700001 }, { 2 * MIB - 11, 11 } };
  g_autoptr (Fixture) f = fixture_new (2 * MIB, "#.", NULL);
  g_autoptr (Peer) peer = peer_open (f->server, PEER_STRUCTURED);
  g_autoptr (Peer) other = peer_open (f->server, 0);
  mf_nbd_server_stats stats;
  uint64_t written = 0;

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    g_autofree uint8_t *data = g_malloc (cases[i].length);

    for (uint32_t b = 0; b < cases[i].length; b++)
      data[b] = (uint8_t) (b * 31 + i + 1);
    g_assert_cmpuint (peer_write (peer, i % 2 ? MF_NBD_CMD_FLAG_FUA : 0, cases[i].offset, data, cases[i].length), ==,
                      MF_NBD_OK);
    memcpy (f->bytes + cases[i].offset, data, cases[i].length);
    written += cases[i].length;
    peer_assert_read (other, f, 0, 2 * MIB);
  }
  g_assert_cmpuint (peer_command (peer, MF_NBD_CMD_FLUSH, 0, 0, 0), ==, MF_NBD_OK);
  mf_nbd_server_get_stats (f->server, &stats);
  g_assert_cmpuint (stats.bytes_written, ==, written);
}

static void
test_zeroes (void)
{
  static const struct {
    uint16_t type, flags;
  } ways[] = { { MF_NBD_CMD_WRITE_ZEROES, 0 },
               { MF_NBD_CMD_WRITE_ZEROES, MF_NBD_CMD_FLAG_NO_HOLE | MF_NBD_CMD_FLAG_FUA },
               { MF_NBD_CMD_TRIM, 0 } };

  for (guint i = 0; i < G_N_ELEMENTS (ways); i++) {
    g_autoptr (Fixture) f = fixture_new (MIB + 100, "#", NULL);
    g_autoptr (Peer) peer = peer_open (f->server, PEER_STRUCTURED | PEER_ALLOCATION);
    g_autofree char *status = NULL;

    g_assert_cmpuint (peer_command (peer, ways[i].type, ways[i].flags, 100, 10 * PAGE), ==, MF_NBD_OK);
    memset (f->bytes + 100, 0, 10 * PAGE);
    g_assert_cmpuint (peer_command (peer, ways[i].type, ways[i].flags, MIB - PAGE, PAGE + 100), ==, MF_NBD_OK);
    memset (f->bytes + MIB - PAGE, 0, PAGE + 100);
    peer_assert_read (peer, f, 0, MIB + 100);
    status = peer_status (peer, 0, 0, MIB + 100, peer->allocation_id);
    if (ways[i].flags & MF_NBD_CMD_FLAG_NO_HOLE)
      g_assert_cmpstr (status, ==, "b1048676:0");
    else
      g_assert_cmpstr (status, ==, "1:0 9:3 245:0 b4196:3");
  }
}

/* What is a hole already is not allocated and not dirty. */
static void
test_zeroes_over_holes (void)
{
  g_autoptr (Fixture) f = fixture_new (64 * PAGE, ".", NULL);
  g_autoptr (Peer) peer = peer_open (f->server, PEER_DIRTY);
  g_autofree char *status = NULL;

  peer_assert_read (peer, f, 0, 64 * PAGE);
  g_assert_cmpuint (peer_command (peer, MF_NBD_CMD_WRITE_ZEROES, 0, 0, 64 * PAGE), ==, MF_NBD_OK);
  g_assert_cmpuint (mf_store_allocated (f->store), ==, 0);
  status = peer_status (peer, 0, 0, 64 * PAGE, peer->dirty_id);
  g_assert_cmpstr (status, ==, "64:0");
}

static void
test_allocation (void)
{
  g_autoptr (Fixture) f = fixture_new (8 * PAGE + 77, "#.#..0##", NULL);
  g_autoptr (Peer) peer = peer_open (f->server, PEER_ALLOCATION);
  static const struct {
    uint16_t flags;
    uint64_t offset;
    uint32_t length;
    const char *expected;
  } cases[] = {
    { 0, 0, 8 * PAGE + 77, "1:0 1:3 1:0 2:3 b12365:0" },
    { 0, PAGE, PAGE, "1:3" },
    { 0, PAGE + 1, PAGE, "b4095:3 b1:0" },
    { 0, 8 * PAGE, 77, "b77:0" },
    { 0, 10, 10, "b10:0" },
    { MF_NBD_CMD_FLAG_REQ_ONE, 0, 8 * PAGE, "1:0" },
    { MF_NBD_CMD_FLAG_REQ_ONE, 3 * PAGE, 5 * PAGE, "2:3" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    g_autofree char *status = peer_status (peer, cases[i].flags, cases[i].offset, cases[i].length, peer->allocation_id);

    g_assert_cmpstr (status, ==, cases[i].expected);
  }
}

/* A reply is cut, and goes on where it ended. */
static void
test_many_extents (void)
{
  const uint64_t pages = 140000;
  g_autoptr (Fixture) f = fixture_new (pages * PAGE, ".", NULL);
  g_autoptr (Peer) peer = peer_open (f->server, PEER_ALLOCATION);
  g_autofree char *first = NULL, *second = NULL;
  g_auto (GStrv) extents = NULL;

  for (uint64_t page = 0; page < pages; page += 2)
    g_assert_true (mf_store_write (f->store, page * PAGE, "x", 1, NULL));
  first = peer_status (peer, 0, 0, (uint32_t) (pages * PAGE), peer->allocation_id);
  extents = g_strsplit (first, " ", -1);
  g_assert_cmpuint (g_strv_length (extents), ==, 65536);
  g_assert_cmpstr (extents[0], ==, "1:0");
  g_assert_cmpstr (extents[65535], ==, "1:3");
  second = peer_status (peer, 0, 65536ull * PAGE, (uint32_t) ((pages - 65536) * PAGE), peer->allocation_id);
  g_assert_true (g_str_has_prefix (second, "1:0 1:3 1:0 "));
}

/* Every request that can't be carried out has an error, and the next one is understood. */
static void
test_refused (void)
{
  const uint64_t size = 64ull << 20;
  static const struct {
    uint16_t type, flags;
    uint64_t offset;
    uint32_t length;
    uint32_t error;
  } cases[] = {
    { MF_NBD_CMD_READ, 0, 0, 0, MF_NBD_EINVAL },
    { MF_NBD_CMD_READ, 0, 64u << 20, 1, MF_NBD_EINVAL },
    { MF_NBD_CMD_READ, 0, (64u << 20) - 1, 2, MF_NBD_EINVAL },
    { MF_NBD_CMD_READ, 0, UINT64_MAX, 1, MF_NBD_EINVAL },
    { MF_NBD_CMD_READ, 0, UINT64_MAX - 4095, 4096, MF_NBD_EINVAL },
    { MF_NBD_CMD_READ, 0, 0, UINT32_MAX, MF_NBD_EINVAL },
    { MF_NBD_CMD_READ, 0, 0, (32u << 20) + 1, MF_NBD_EINVAL },
    { MF_NBD_CMD_READ, MF_NBD_CMD_FLAG_DF, 0, (32u << 20) + 1, MF_NBD_EOVERFLOW },
    { MF_NBD_CMD_READ, MF_NBD_CMD_FLAG_NO_HOLE, 0, 4096, MF_NBD_EINVAL },
    { MF_NBD_CMD_READ, MF_NBD_CMD_FLAG_PAYLOAD_LEN, 0, 4096, MF_NBD_EINVAL },
    { MF_NBD_CMD_READ, 1u << 15, 0, 4096, MF_NBD_EINVAL },
    { MF_NBD_CMD_FLUSH, 0, 1, 0, MF_NBD_EINVAL },
    { MF_NBD_CMD_FLUSH, 0, 0, 1, MF_NBD_EINVAL },
    { MF_NBD_CMD_TRIM, 0, 0, 0, MF_NBD_EINVAL },
    { MF_NBD_CMD_TRIM, 0, 64u << 20, 1, MF_NBD_EINVAL },
    { MF_NBD_CMD_TRIM, MF_NBD_CMD_FLAG_NO_HOLE, 0, 1, MF_NBD_EINVAL },
    { MF_NBD_CMD_WRITE_ZEROES, 0, 0, 0, MF_NBD_EINVAL },
    { MF_NBD_CMD_WRITE_ZEROES, 0, 0, UINT32_MAX, MF_NBD_ENOSPC },
    { MF_NBD_CMD_WRITE_ZEROES, 0, UINT64_MAX, UINT32_MAX, MF_NBD_ENOSPC },
    { MF_NBD_CMD_WRITE_ZEROES, MF_NBD_CMD_FLAG_FAST_ZERO, 0, 1, MF_NBD_EINVAL },
    { MF_NBD_CMD_BLOCK_STATUS, 0, 0, 0, MF_NBD_EINVAL },
    { MF_NBD_CMD_BLOCK_STATUS, 0, 0, UINT32_MAX, MF_NBD_EINVAL },
    { MF_NBD_CMD_BLOCK_STATUS, MF_NBD_CMD_FLAG_DF, 0, 4096, MF_NBD_EINVAL },
    { MF_NBD_CMD_CACHE, 0, 0, 4096, MF_NBD_EINVAL },
    { 8, 0, 0, 4096, MF_NBD_EINVAL },
    { 0xffff, 0, 0, 4096, MF_NBD_EINVAL },
  };
  g_autoptr (Fixture) f = fixture_new (size, "#.", NULL);
  g_autoptr (Peer) peer = peer_open (f->server, PEER_ALLOCATION);

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    g_assert_cmpuint (peer_command (peer, cases[i].type, cases[i].flags, cases[i].offset, cases[i].length), ==,
                      cases[i].error);
    peer_assert_read (peer, f, i * PAGE, PAGE);
  }
}

/* A WRITE that is refused has its payload taken off the stream. */
static void
test_write_refused (void)
{
  g_autoptr (Fixture) f = fixture_new (MIB, "#", NULL);
  g_autoptr (Peer) peer = peer_open (f->server, 0);
  g_autofree uint8_t *data = g_malloc0 (2 * MIB);

  g_assert_cmpuint (peer_write (peer, 0, MIB, data, 1), ==, MF_NBD_ENOSPC);
  g_assert_cmpuint (peer_write (peer, 0, 0, data, MIB + 1), ==, MF_NBD_ENOSPC);
  g_assert_cmpuint (peer_write (peer, 0, UINT64_MAX - 2, data, 100), ==, MF_NBD_ENOSPC);
  g_assert_cmpuint (peer_write (peer, MF_NBD_CMD_FLAG_DF, 0, data, 100), ==, MF_NBD_EINVAL);
  g_assert_cmpuint (peer_write (peer, 0, 0, data, 0), ==, MF_NBD_EINVAL);
  peer_assert_read (peer, f, 0, MIB);
}

static void
test_read_only (void)
{
  const mf_nbd_export_options options = { .read_only = TRUE };
  g_autoptr (Fixture) f = fixture_new (MIB, "#", &options);
  g_autoptr (Peer) peer = peer_open (f->server, 0);
  const uint8_t data[100] = { 0 };

  g_assert_cmpuint (peer_write (peer, 0, 0, data, sizeof data), ==, MF_NBD_EPERM);
  g_assert_cmpuint (peer_command (peer, MF_NBD_CMD_WRITE_ZEROES, 0, 0, PAGE), ==, MF_NBD_EPERM);
  g_assert_cmpuint (peer_command (peer, MF_NBD_CMD_TRIM, 0, 0, PAGE), ==, MF_NBD_EPERM);
  g_assert_cmpuint (peer_command (peer, MF_NBD_CMD_FLUSH, 0, 0, 0), ==, MF_NBD_OK);
  peer_assert_read (peer, f, 0, MIB);
}

/* DF and BLOCK_STATUS are part of structured replies. */
static void
test_needs_structured (void)
{
  g_autoptr (Fixture) f = fixture_new (MIB, "#", NULL);
  g_autoptr (Peer) peer = peer_open (f->server, 0);

  g_assert_cmpuint (peer_command (peer, MF_NBD_CMD_READ, MF_NBD_CMD_FLAG_DF, 0, PAGE), ==, MF_NBD_EINVAL);
  g_assert_cmpuint (peer_command (peer, MF_NBD_CMD_BLOCK_STATUS, 0, 0, PAGE), ==, MF_NBD_EINVAL);
}

static void
test_bad_magic (void)
{
  g_autoptr (Fixture) f = fixture_new (MIB, "#", NULL);
  g_autoptr (Peer) peer = peer_open (f->server, 0);
  const uint8_t noise[MF_NBD_REQUEST_BYTES] = { 1, 2, 3, 4 };

  peer_send (peer, noise, sizeof noise);
  peer_assert_dropped (peer);
}

/* Nobody waits for the end of 4 GiB of refused payload. */
static void
test_huge_write (void)
{
  g_autoptr (Fixture) f = fixture_new (MIB, "#", NULL);
  g_autoptr (Peer) peer = peer_open (f->server, 0);

  peer_request (peer, MF_NBD_CMD_WRITE, 0, 0, MF_NBD_PAYLOAD_MAX + 1);
  peer_assert_dropped (peer);
}

static void
test_disconnect (void)
{
  g_autoptr (Fixture) f = fixture_new (MIB, "#", NULL);
  g_autoptr (Peer) peer = peer_open (f->server, 0);

  peer_request (peer, MF_NBD_CMD_DISC, 0, 0, 0);
  peer_assert_dropped (peer);
}

/* Requests that come in one piece, and one that comes in two. */
static void
test_pipelined (void)
{
  g_autoptr (Fixture) f = fixture_new (MIB, "#", NULL);
  g_autoptr (Peer) peer = peer_open (f->server, 0);
  g_autoptr (GByteArray) all = g_byte_array_new ();
  uint8_t bytes[100];

  for (guint i = 0; i < 200; i++) {
    mf_nbd_request request = { .type = MF_NBD_CMD_READ, .cookie = i, .offset = i * 1000, .length = sizeof bytes };
    uint8_t wire[MF_NBD_REQUEST_BYTES];

    mf_nbd_encode_request (&request, wire);
    g_byte_array_append (all, wire, sizeof wire);
  }
  peer_send (peer, all->data, all->len - 5);
  for (guint i = 0; i < 200; i++) {
    if (i == 199)
      peer_send (peer, all->data + all->len - 5, 5);
    peer->cookie = i;
    g_assert_cmpuint (peer_reply (peer), ==, MF_NBD_OK);
    peer_receive (peer, bytes, sizeof bytes);
    g_assert_cmpmem (bytes, sizeof bytes, f->bytes + i * 1000, sizeof bytes);
  }
}

/* A client that asks for much and reads nothing holds up nobody else, nor the end of the server. */
static void
test_stuck_client (void)
{
  g_autoptr (Fixture) f = fixture_new (32 * MIB, "#", NULL);
  g_autoptr (Peer) stuck = peer_open (f->server, PEER_STRUCTURED), other = peer_open (f->server, 0);

  for (int i = 0; i < 10; i++)
    peer_request (stuck, MF_NBD_CMD_READ, 0, 0, 32 * MIB);
  peer_assert_read (other, f, 0, MIB);
  g_clear_pointer (&f->server, mf_nbd_server_free);
  f->server = mf_nbd_server_new ();
}

typedef struct {
  Fixture *f;
  guint seed;
} Reader;

static gpointer
run_reader (gpointer data)
{
  Reader *reader = data;
  g_autoptr (GRand) rand = g_rand_new_with_seed (reader->seed);

  for (int connection = 0; connection < 5; connection++) {
    g_autoptr (Peer) peer = peer_open (reader->f->server, connection % 2 ? PEER_STRUCTURED : 0);

    for (int i = 0; i < 20; i++) {
      uint32_t offset = (uint32_t) g_rand_int_range (rand, 0, 4 * MIB);
      uint32_t length = (uint32_t) g_rand_int_range (rand, 1, (gint32) (4 * MIB - offset + 1));

      peer_assert_read (peer, reader->f, offset, length);
    }
  }
  return NULL;
}

static void
test_several_connections (void)
{
  g_autoptr (Fixture) f = fixture_new (4 * MIB, "##.#0", NULL);
  Reader readers[4];
  GThread *threads[4];
  mf_nbd_server_stats stats;

  for (guint i = 0; i < G_N_ELEMENTS (readers); i++) {
    readers[i] = (Reader){ f, i };
    threads[i] = g_thread_new ("reader", run_reader, &readers[i]);
  }
  for (guint i = 0; i < G_N_ELEMENTS (readers); i++)
    g_thread_join (threads[i]);
  do
    mf_nbd_server_get_stats (f->server, &stats);
  while (stats.connections > 0);
  g_assert_cmpuint (stats.requests, ==, 4 * 5 * 20);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/nbd-transmission/read", test_read);
  g_test_add_func ("/nbd-transmission/holes", test_holes);
  g_test_add_func ("/nbd-transmission/dont-fragment", test_dont_fragment);
  g_test_add_func ("/nbd-transmission/other-stores", test_other_stores);
  g_test_add_func ("/nbd-transmission/write", test_write);
  g_test_add_func ("/nbd-transmission/zeroes", test_zeroes);
  g_test_add_func ("/nbd-transmission/zeroes-over-holes", test_zeroes_over_holes);
  g_test_add_func ("/nbd-transmission/allocation", test_allocation);
  g_test_add_func ("/nbd-transmission/many-extents", test_many_extents);
  g_test_add_func ("/nbd-transmission/refused", test_refused);
  g_test_add_func ("/nbd-transmission/write-refused", test_write_refused);
  g_test_add_func ("/nbd-transmission/read-only", test_read_only);
  g_test_add_func ("/nbd-transmission/needs-structured", test_needs_structured);
  g_test_add_func ("/nbd-transmission/bad-magic", test_bad_magic);
  g_test_add_func ("/nbd-transmission/huge-write", test_huge_write);
  g_test_add_func ("/nbd-transmission/disconnect", test_disconnect);
  g_test_add_func ("/nbd-transmission/pipelined", test_pipelined);
  g_test_add_func ("/nbd-transmission/stuck-client", test_stuck_client);
  g_test_add_func ("/nbd-transmission/several-connections", test_several_connections);
  return g_test_run ();
}
