/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nbd-lane.h"
#include "nbd-peer.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* The lane over libnbd, against our server. */

#define PAGE LANE_PAGE
#define MIB  (1u << 20)

static mf_lane *
connect_to (Fixture *f, const mf_nbd_client_options *options)
{
  g_autoptr (GError) error = NULL;
  int client, server = lane_stream_pair (&client);
  mf_lane *lane;

  g_assert_true (mf_nbd_server_serve_fd (f->server, server, options->spin, &error));
  lane = mf_nbd_client_new_fd (client, "", options, LANE_TIMEOUT, &error);
  g_assert_no_error (error);
  return lane;
}

static gboolean
is_hole (const mf_request *request, guint page)
{
  return request->holes[page / 64] >> page % 64 & 1;
}

/* Every byte is the fixture's: those of pages that came as holes are zeroes there. */
static void
assert_request (const mf_request *request, const Fixture *f)
{
  g_assert_cmpint (request->error, ==, 0);
  g_assert_cmpint (request->done_usec, >=, request->submitted_usec);
  for (guint page = 0; page * PAGE < request->length; page++) {
    uint32_t part = MIN (PAGE, request->length - page * PAGE);
    const uint8_t *expected = f->bytes + request->offset + page * PAGE;

    if (is_hole (request, page)) {
      for (uint32_t i = 0; i < part; i++)
        g_assert_cmpuint (expected[i], ==, 0);
    } else {
      g_assert_cmpmem ((uint8_t *) request->buffer + page * PAGE, part, expected, part);
    }
  }
}

static void
test_read (void)
{
  const uint64_t size = 5 * MIB + 3 * PAGE + 77;
  g_autoptr (Fixture) f = fixture_new (size, "##.0#..##0", NULL);
  const mf_nbd_client_options *all[] = { &lane_structured, &lane_simple };

  for (guint i = 0; i < G_N_ELEMENTS (all); i++) {
    g_autoptr (mf_lane) lane = connect_to (f, all[i]);
    g_autoptr (GPtrArray) requests = g_ptr_array_new_with_free_func ((GDestroyNotify) lane_request_free);
    guint done = 0;

    g_assert_cmpuint (mf_lane_size (lane), ==, size);
    for (uint64_t offset = 0; offset < size; offset += MIB)
      g_ptr_array_add (requests, lane_request_new (offset, (uint32_t) MIN (MIB, size - offset), &done));
    for (uint64_t offset = 0; offset < size; offset += 37 * PAGE)
      g_ptr_array_add (requests, lane_request_new (offset, (uint32_t) MIN (PAGE, size - offset), &done));
    for (guint r = 0; r < requests->len; r++)
      mf_lane_submit (lane, g_ptr_array_index (requests, r));
    g_assert_cmpuint (mf_lane_in_flight (lane), ==, requests->len - done);
    lane_poll_until (lane, &done, requests->len);
    g_assert_cmpuint (mf_lane_in_flight (lane), ==, 0);
    for (guint r = 0; r < requests->len; r++)
      assert_request (g_ptr_array_index (requests, r), f);
  }
}

/* Pages that came as holes are told apart, the tail of the region too; without structured replies there are none. */
static void
test_holes (void)
{
  g_autoptr (Fixture) f = fixture_new (9 * PAGE + 100, "#.0##..#..", NULL);
  g_autoptr (mf_lane) lane = connect_to (f, &lane_structured), plain = connect_to (f, &lane_simple);
  static const gboolean holes[] = { FALSE, TRUE, TRUE, FALSE, FALSE, TRUE, TRUE, FALSE, TRUE, TRUE };
  guint done = 0;
  g_autoptr (mf_request) request = lane_request_new (0, 9 * PAGE + 100, &done);

  mf_lane_submit (lane, request);
  lane_poll_until (lane, &done, 1);
  for (guint page = 0; page < 10; page++)
    g_assert_cmpint (is_hole (request, page), ==, holes[page]);
  assert_request (request, f);

  mf_lane_submit (plain, request);
  lane_poll_until (plain, &done, 2);
  for (guint page = 0; page < 10; page++)
    g_assert_false (is_hole (request, page));
  assert_request (request, f);
}

typedef struct {
  mf_lane *lane;
  guint left, done;
} Chain;

static void
submit_again (mf_request *request, gpointer user_data)
{
  Chain *chain = user_data;

  chain->done++;
  if (chain->left-- > 0)
    mf_lane_submit (chain->lane, request);
}

/* `done` may submit, also requests that complete at once. */
static void
test_submit_from_done (void)
{
  g_autoptr (Fixture) f = fixture_new (MIB, "#", NULL);
  g_autoptr (mf_lane) lane = connect_to (f, &lane_structured);
  Chain chain = { .lane = lane, .left = 100 };
  g_autoptr (mf_request) request = lane_request_new (0, PAGE, NULL), bad = lane_request_new (0, PAGE, NULL);

  request->done = submit_again;
  request->user_data = &chain;
  mf_lane_submit (lane, request);
  lane_poll_until (lane, &chain.done, 101);
  assert_request (request, f);

  chain = (Chain){ .lane = lane, .left = 100000 };
  *bad =
      (mf_request){ .length = 0, .page_bytes = PAGE, .buffer = bad->buffer, .done = submit_again, .user_data = &chain };
  mf_lane_submit (lane, bad);
  g_assert_cmpuint (chain.done, ==, 100001);
}

static void
test_bad_requests (void)
{
  static const struct {
    uint64_t offset;
    uint32_t length, page_bytes;
  } cases[] = {
    { 0, 0, PAGE }, { MIB, 1, PAGE },        { MIB - PAGE, PAGE + 1, PAGE }, { UINT64_MAX - 4095, PAGE, PAGE },
    { 1, 1, PAGE }, { 0, 257 * PAGE, PAGE }, { 0, 64 << 20, 2 << 20 },       { MIB, 1, 0 },
  };
  g_autoptr (Fixture) f = fixture_new (MIB, "#", NULL);
  g_autoptr (mf_lane) lane = connect_to (f, &lane_structured);
  guint done = 0;
  g_autoptr (mf_request) good = lane_request_new (0, PAGE, &done);

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    mf_request request = { .offset = cases[i].offset,
                           .length = cases[i].length,
                           .page_bytes = cases[i].page_bytes,
                           .done = lane_count_done,
                           .user_data = &done };

    mf_lane_submit (lane, &request);
    g_assert_cmpuint (done, ==, i + 1);
    g_assert_cmpint (request.error, ==, EINVAL);
  }
  done = 0;
  mf_lane_submit (lane, good);
  lane_poll_until (lane, &done, 1);
  assert_request (good, f);
}

static void
do_one (mf_lane *lane, mf_request_operation operation, uint64_t offset, uint32_t length, void *buffer)
{
  guint done = 0;
  mf_request request = { .operation = operation,
                         .offset = offset,
                         .length = length,
                         .buffer = buffer,
                         .done = lane_count_done,
                         .user_data = &done };

  mf_lane_submit (lane, &request);
  lane_poll_until (lane, &done, 1);
  g_assert_cmpint (request.error, ==, 0);
}

/* Writes, zeroes and reads at any offset; holes of a read that is not one of pages are zeroes in its buffer. */
static void
test_write (void)
{
  g_autoptr (Fixture) f = fixture_new (MIB + 77, "#.", NULL);
  const mf_nbd_client_options *all[] = { &lane_structured, &lane_simple };
  g_autofree uint8_t *buffer = g_malloc (f->size);

  for (guint i = 0; i < G_N_ELEMENTS (all); i++) {
    g_autoptr (mf_lane) lane = connect_to (f, all[i]);
    uint64_t at = 3 * PAGE + 100 + i;
    mf_nbd_export_facts facts;

    mf_nbd_client_get_facts (lane, &facts);
    g_assert_true (facts.can_zero && facts.can_flush && facts.multi_conn && !facts.read_only);
    g_assert_cmpuint (facts.block_bytes, ==, 1);
    memset (buffer, 'w' + (int) i, 2 * PAGE);
    memcpy (f->bytes + at, buffer, 2 * PAGE);
    do_one (lane, MF_REQUEST_WRITE, at, 2 * PAGE, buffer);
    memset (f->bytes + 9 * PAGE - 7, 0, PAGE + 13 + i);
    do_one (lane, MF_REQUEST_ZERO, 9 * PAGE - 7, PAGE + 13 + i, NULL);

    memset (buffer, 0xee, f->size);
    do_one (lane, MF_REQUEST_READ, 0, (uint32_t) f->size, buffer);
    g_assert_cmpmem (buffer, f->size, f->bytes, f->size);
    memset (buffer, 0xee, f->size);
    do_one (lane, MF_REQUEST_READ, PAGE + 1, 3 * PAGE, buffer);
    g_assert_cmpmem (buffer, 3 * PAGE, f->bytes + PAGE + 1, 3 * PAGE);
    g_assert_cmpuint (buffer[3 * PAGE], ==, 0xee);
  }
}

/* A server that refuses writes: an error, and the lane lives. */
static void
test_write_refused (void)
{
  const mf_nbd_export_options read_only = { .read_only = TRUE };
  g_autoptr (Fixture) f = fixture_new (MIB, "#", &read_only);
  g_autoptr (mf_lane) lane = connect_to (f, &lane_structured);
  guint done = 0;
  g_autoptr (mf_request) request = lane_request_new (0, PAGE, &done);
  mf_nbd_export_facts facts;

  mf_nbd_client_get_facts (lane, &facts);
  g_assert_true (facts.read_only);
  request->operation = MF_REQUEST_WRITE;
  mf_lane_submit (lane, request);
  g_assert_cmpuint (done, ==, 1);
  g_assert_cmpint (request->error, !=, 0);
  request->operation = MF_REQUEST_READ;
  mf_lane_submit (lane, request);
  lane_poll_until (lane, &done, 2);
  assert_request (request, f);
}

static gpointer
kick_lane (gpointer lane)
{
  mf_lane_kick (lane);
  return NULL;
}

static void
test_poll (void)
{
  g_autoptr (Fixture) f = fixture_new (MIB, "#", NULL);
  g_autoptr (mf_lane) lane = connect_to (f, &lane_structured);
  g_autoptr (GError) error = NULL;
  struct pollfd extra = { .fd = eventfd (0, EFD_CLOEXEC), .events = POLLIN };
  gint64 start = g_get_monotonic_time ();
  GThread *thread;

  /* Only a look, and the time that was given. */
  g_assert_true (mf_lane_poll (lane, &extra, 1, 0, &error));
  g_assert_cmpint (extra.revents, ==, 0);
  g_assert_true (mf_lane_poll (lane, NULL, 0, 30000, &error));
  g_assert_cmpint (g_get_monotonic_time () - start, >=, 30000);

  /* A kick, from before and from meanwhile. */
  mf_lane_kick (lane);
  g_assert_true (mf_lane_poll (lane, NULL, 0, -1, &error));
  thread = g_thread_new ("kick", kick_lane, lane);
  g_assert_true (mf_lane_poll (lane, NULL, 0, -1, &error));
  g_thread_join (thread);

  eventfd_write (extra.fd, 1);
  g_assert_true (mf_lane_poll (lane, &extra, 1, -1, &error));
  g_assert_cmpint (extra.revents, ==, POLLIN);
  g_assert_no_error (error);
  close (extra.fd);
}

static GArray *
extents_of (mf_lane *lane, const char *context, uint64_t offset, uint64_t length)
{
  GArray *extents = g_array_new (FALSE, FALSE, sizeof (mf_extent));
  g_autoptr (GError) error = NULL;

  mf_lane_extents (lane, context, offset, length, extents, &error);
  g_assert_no_error (error);
  return extents;
}

static void
test_extents (void)
{
  g_autoptr (Fixture) f = fixture_new (8 * PAGE + 7, "##..#...#", NULL);
  g_autoptr (mf_lane) lane = connect_to (f, &lane_structured), tracking = connect_to (f, &lane_tracking);
  g_autoptr (GArray) all = extents_of (lane, MF_NBD_CONTEXT_ALLOCATION, 0, 8 * PAGE + 7);
  g_autoptr (GArray) part = extents_of (lane, MF_NBD_CONTEXT_ALLOCATION, PAGE, 2 * PAGE);
  g_autoptr (GArray) none = extents_of (lane, MF_NBD_CONTEXT_ALLOCATION, PAGE, 0);
  g_autoptr (GArray) dirty = NULL;
  g_autoptr (GError) missing = NULL, outside = NULL;
  guint done = 0;
  g_autoptr (mf_request) request = lane_request_new (PAGE, 2 * PAGE, &done);

  g_assert_cmpuint (all->len, ==, 5);
  lane_assert_extent (all, 0, 2 * PAGE, 0);
  lane_assert_extent (all, 1, 2 * PAGE, 3);
  lane_assert_extent (all, 2, PAGE, 0);
  lane_assert_extent (all, 3, 3 * PAGE, 3);
  lane_assert_extent (all, 4, 7, 0);
  g_assert_cmpuint (part->len, ==, 2);
  lane_assert_extent (part, 0, PAGE, 0);
  lane_assert_extent (part, 1, PAGE, 3);
  g_assert_cmpuint (none->len, ==, 0);

  mf_lane_submit (tracking, request);
  lane_poll_until (tracking, &done, 1);
  dirty = extents_of (tracking, MF_NBD_CONTEXT_DIRTY, 0, 8 * PAGE + 7);
  g_assert_cmpuint (dirty->len, ==, 3);
  lane_assert_extent (dirty, 0, PAGE, MF_NBD_DIRTY);
  lane_assert_extent (dirty, 1, 2 * PAGE, 0);
  lane_assert_extent (dirty, 2, 5 * PAGE + 7, MF_NBD_DIRTY);

  /* Each has what it asked for and no more. */
  g_assert_false (mf_lane_extents (tracking, MF_NBD_CONTEXT_ALLOCATION, 0, PAGE, dirty, &missing));
  g_assert_error (missing, MF_ERROR, MF_ERROR_NOT_SUPPORTED);
  g_assert_false (mf_lane_extents (tracking, MF_NBD_CONTEXT_DIRTY, 8 * PAGE, 8, dirty, &outside));
  g_assert_error (outside, MF_ERROR, MF_ERROR_INVALID);
}

/* More extents than one reply holds, and more bytes than one request asks for. */
static void
test_long_extents (void)
{
  const uint64_t size = (UINT64_C (5) << 30) + 300000 * PAGE;
  g_autoptr (GError) error = NULL;
  g_autoptr (MfStore) store = mf_store_memfd ("long", size, &error);
  g_autoptr (MfRegion) region = mf_region_new ("long", store, &error);
  g_autoptr (Fixture) f = fixture_new (PAGE, "#", NULL);
  g_autoptr (GArray) extents = NULL;
  g_autoptr (mf_lane) lane = NULL;
  uint64_t covered = 0;

  g_assert_no_error (error);
  for (uint64_t page = 0; page < 150000; page += 2)
    g_assert_true (mf_store_write (store, page * PAGE, "x", 1, NULL));
  g_assert_true (mf_store_write (store, size - 1, "x", 1, NULL));
  mf_nbd_server_unexport (f->server, "");
  g_assert_true (mf_nbd_server_export (f->server, "", region, NULL, NULL));
  lane = connect_to (f, &lane_structured);
  extents = extents_of (lane, MF_NBD_CONTEXT_ALLOCATION, 0, size);
  g_assert_cmpuint (extents->len, ==, 150001);
  for (guint i = 0; i < extents->len; i++) {
    mf_extent extent = g_array_index (extents, mf_extent, i);

    g_assert_cmpuint (extent.flags, ==, i % 2 ? 3 : 0);
    if (i < 149999)
      g_assert_cmpuint (extent.length, ==, PAGE);
    covered += extent.length;
  }
  g_assert_cmpuint (covered, ==, size);
  lane_assert_extent (extents, 150000, PAGE, 0);
}

static void
test_flush (void)
{
  g_autoptr (Fixture) f = fixture_new (MIB, "#", NULL);
  g_autoptr (mf_lane) lane = connect_to (f, &lane_simple);
  g_autoptr (GError) error = NULL;

  g_assert_true (mf_lane_flush (lane, &error));
  g_assert_no_error (error);
}

/* Requests in flight when the lane is closed complete, once. */
static void
test_close_in_flight (void)
{
  g_autoptr (Fixture) f = fixture_new (32 * MIB, "#", NULL);
  mf_lane *lane = connect_to (f, &lane_structured);
  mf_request *requests[32];
  guint done = 0, cancelled = 0;

  for (guint i = 0; i < G_N_ELEMENTS (requests); i++) {
    requests[i] = lane_request_new (i * MIB, MIB, &done);
    mf_lane_submit (lane, requests[i]);
  }
  mf_lane_close (lane);
  g_assert_cmpuint (done, ==, G_N_ELEMENTS (requests));
  for (guint i = 0; i < G_N_ELEMENTS (requests); i++) {
    cancelled += requests[i]->error == ECANCELED;
    lane_request_free (requests[i]);
  }
  g_assert_cmpuint (cancelled, >, 0);
}

static void
test_handshake_fails (void)
{
  g_autoptr (Fixture) f = fixture_new (MIB, "#", NULL);
  g_autoptr (GError) silent = NULL, gone = NULL, unknown = NULL, wrong = NULL, nobody = NULL, bad = NULL;
  int client, server = lane_stream_pair (&client);

  g_assert_null (mf_nbd_client_new_fd (client, "", &lane_structured, 50000, &silent));
  g_assert_error (silent, MF_ERROR, MF_ERROR_TIMED_OUT);
  close (server);

  server = lane_stream_pair (&client);
  close (server);
  g_assert_null (mf_nbd_client_new_fd (client, "", &lane_structured, LANE_TIMEOUT, &gone));
  g_assert_error (gone, MF_ERROR, MF_ERROR_CONNECTION);

  server = lane_stream_pair (&client);
  g_assert_true (mf_nbd_server_serve_fd (f->server, server, FALSE, NULL));
  g_assert_null (mf_nbd_client_new_fd (client, "other", &lane_structured, LANE_TIMEOUT, &unknown));
  g_assert_error (unknown, MF_ERROR, MF_ERROR_NOT_FOUND);

  server = lane_stream_pair (&client);
  g_assert_cmpint (send (server, "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", 40, MSG_NOSIGNAL), ==, 40);
  g_assert_null (mf_nbd_client_new_fd (client, "", &lane_structured, LANE_TIMEOUT, &wrong));
  g_assert_nonnull (wrong);
  close (server);

  g_assert_null (
      mf_nbd_client_new_uri ("nbd+unix:///?socket=/nonexistent/socket", &lane_structured, LANE_TIMEOUT, &nobody));
  g_assert_error (nobody, MF_ERROR, MF_ERROR_NOT_FOUND);
  g_assert_null (mf_nbd_client_new_uri ("gopher://host/", &lane_structured, LANE_TIMEOUT, &bad));
  g_assert_nonnull (bad);
}

/* Our server goes away while a client waits. */
static void
test_server_ends (void)
{
  g_autoptr (Fixture) f = fixture_new (MIB, "#", NULL);
  g_autoptr (mf_lane) lane = connect_to (f, &lane_structured);
  guint done = 0;

  g_clear_pointer (&f->server, mf_nbd_server_free);
  f->server = mf_nbd_server_new ();
  lane_assert_lost (lane, NULL, 0, &done);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/nbd-client/read", test_read);
  g_test_add_func ("/nbd-client/holes", test_holes);
  g_test_add_func ("/nbd-client/submit-from-done", test_submit_from_done);
  g_test_add_func ("/nbd-client/bad-requests", test_bad_requests);
  g_test_add_func ("/nbd-client/write", test_write);
  g_test_add_func ("/nbd-client/write-refused", test_write_refused);
  g_test_add_func ("/nbd-client/poll", test_poll);
  g_test_add_func ("/nbd-client/extents", test_extents);
  g_test_add_func ("/nbd-client/long-extents", test_long_extents);
  g_test_add_func ("/nbd-client/flush", test_flush);
  g_test_add_func ("/nbd-client/close-in-flight", test_close_in_flight);
  g_test_add_func ("/nbd-client/handshake-fails", test_handshake_fails);
  g_test_add_func ("/nbd-client/server-ends", test_server_ends);
  return g_test_run ();
}
