/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nbd-peer.h"

/* memferry:dirty: the session rules. A page is dirty in a session from its last write until the session reads it;
 * FLUSH acknowledges what a connection has read; what a connection read and did not acknowledge is dirty again when it
 * ends. */

#define PAGE  4096u
#define PAGES 16u

/* A tracker that reports what the test says. */
typedef struct {
  mf_tracker tracker;
  mf_bitmap *written;
  guint collects;
  gboolean broken;
  int started; /* atomic */
} Tracker;

static gboolean
tracker_start (mf_tracker *base, GError **error)
{
  Tracker *t = (Tracker *) base;

  if (t->broken) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED, "no tracking here");
    return FALSE;
  }
  g_atomic_int_set (&t->started, TRUE);
  return TRUE;
}

static gboolean
tracker_collect (mf_tracker *base, mf_bitmap *written, GError **error)
{
  Tracker *t = (Tracker *) base;

  if (t->broken) {
    g_set_error (error, MF_ERROR, MF_ERROR_IO, "the scan failed");
    return FALSE;
  }
  t->collects++;
  mf_bitmap_move (written, t->written);
  return TRUE;
}

static void
tracker_stop (mf_tracker *base)
{
  g_atomic_int_set (&((Tracker *) base)->started, FALSE);
}

static void
tracker_free (mf_tracker *base)
{
  Tracker *t = (Tracker *) base;

  mf_bitmap_free (t->written);
  g_free (t);
}

static const mf_tracker_ops tracker_ops = { tracker_start, tracker_collect, tracker_stop, tracker_free };

/* The fixture's region gets it. */
static Tracker *
tracker_new (Fixture *f)
{
  Tracker *t = g_new0 (Tracker, 1);
  g_autoptr (GError) error = NULL;

  t->tracker.ops = &tracker_ops;
  t->written = mf_bitmap_new (mf_region_n_pages (f->region));
  mf_dirty_log_set_tracker (mf_region_dirty_log (f->region), &t->tracker, &error);
  g_assert_no_error (error);
  return t;
}

static void
assert_dirty (Peer *peer, const char *expected)
{
  g_autofree char *status = peer_status (peer, 0, 0, (uint32_t) peer->size, peer->dirty_id);

  g_assert_cmpstr (status, ==, expected);
}

/* Reads every page, and acknowledges. */
static void
read_all (Peer *peer, const Fixture *f)
{
  peer_assert_read (peer, f, 0, (uint32_t) f->size);
  g_assert_cmpuint (peer_command (peer, MF_NBD_CMD_FLUSH, 0, 0, 0), ==, MF_NBD_OK);
}

/* The server ends a connection in its own time. */
static void
wait_for_connections (const Fixture *f, guint n)
{
  gint64 deadline = g_get_monotonic_time () + 20 * G_USEC_PER_SEC;
  mf_nbd_server_stats stats;

  do {
    g_assert_cmpint (g_get_monotonic_time (), <, deadline);
    mf_nbd_server_get_stats (f->server, &stats);
  } while (stats.connections != n);
}

static void
test_until_read (void)
{
  g_autoptr (Fixture) f = fixture_new (PAGES * PAGE, "#", NULL);
  g_autoptr (Peer) peer = peer_open (f->server, PEER_DIRTY), writer = peer_open (f->server, 0);
  const uint8_t byte = 0xaa;

  assert_dirty (peer, "16:1");
  peer_assert_read (peer, f, 2 * PAGE, 3 * PAGE);
  assert_dirty (peer, "2:1 3:0 11:1");
  read_all (peer, f);
  assert_dirty (peer, "16:0");

  /* A write on any connection, of any part of a page. The scan above is the one before the latest: heat 8 from the
   * first that follows the write. */
  g_assert_cmpuint (peer_write (writer, 0, 5 * PAGE + 7, &byte, 1), ==, MF_NBD_OK);
  f->bytes[5 * PAGE + 7] = byte;
  assert_dirty (peer, "5:0 1:129 10:0");
  peer_assert_read (peer, f, 5 * PAGE, PAGE);
  assert_dirty (peer, "16:0");
  g_assert_cmpuint (peer_command (writer, MF_NBD_CMD_WRITE_ZEROES, 0, PAGE, 2 * PAGE), ==, MF_NBD_OK);
  assert_dirty (peer, "1:0 2:129 13:0");
}

/* A page of which only a part was read was not read. The last page is whole when it is read to the region's end. */
static void
test_parts_of_pages (void)
{
  g_autoptr (Fixture) f = fixture_new (3 * PAGE + 100, "#", NULL);
  g_autoptr (Peer) peer = peer_open (f->server, PEER_DIRTY);

  peer_assert_read (peer, f, 1, PAGE - 1);
  peer_assert_read (peer, f, 0, PAGE - 1);
  peer_assert_read (peer, f, 100, PAGE);
  peer_assert_read (peer, f, 3 * PAGE, 99);
  assert_dirty (peer, "b12388:1");
  peer_assert_read (peer, f, PAGE - 1, PAGE + 2);
  assert_dirty (peer, "1:1 1:0 b4196:1");
  peer_assert_read (peer, f, 3 * PAGE, 100);
  assert_dirty (peer, "1:1 1:0 1:1 b100:0");
}

/* Each client that brings no session along has its own. */
static void
test_own_sessions (void)
{
  g_autoptr (Fixture) f = fixture_new (PAGES * PAGE, "#", NULL);
  g_autoptr (Peer) a = peer_open (f->server, PEER_DIRTY), b = peer_open (f->server, PEER_DIRTY);
  g_autoptr (Peer) plain = peer_open (f->server, PEER_STRUCTURED);

  read_all (a, f);
  assert_dirty (a, "16:0");
  assert_dirty (b, "16:1");
  read_all (plain, f);
  assert_dirty (b, "16:1");
}

/* The connections of one migration share a session, those that did not ask for the context too. */
static void
test_shared_session (void)
{
  g_autoptr (Fixture) f = fixture_new (PAGES * PAGE, "#", NULL);
  g_autoptr (mf_dirty_session) session = mf_dirty_session_open (mf_region_dirty_log (f->region), NULL, NULL, NULL);
  const mf_nbd_export_options options = { .session = session };
  g_autoptr (Peer) a = NULL, b = NULL, plain = NULL;

  mf_nbd_server_unexport (f->server, "");
  g_assert_true (mf_nbd_server_export (f->server, "", f->region, &options, NULL));
  a = peer_open (f->server, PEER_DIRTY);
  b = peer_open (f->server, PEER_DIRTY);
  plain = peer_open (f->server, 0);
  peer_assert_read (a, f, 0, 4 * PAGE);
  peer_assert_read (b, f, 4 * PAGE, 4 * PAGE);
  peer_assert_read (plain, f, 8 * PAGE, 4 * PAGE);
  assert_dirty (a, "12:0 4:1");
  assert_dirty (b, "12:0 4:1");
  g_assert_cmpuint (mf_dirty_session_count (session), ==, 4);
}

/* What was read and not acknowledged when the connection breaks is dirty again, and only that. */
static void
test_connection_lost (void)
{
  g_autoptr (Fixture) f = fixture_new (PAGES * PAGE, "#", NULL);
  g_autoptr (mf_dirty_session) session = mf_dirty_session_open (mf_region_dirty_log (f->region), NULL, NULL, NULL);
  const mf_nbd_export_options options = { .session = session };
  g_autoptr (Peer) again = NULL;
  Peer *broken, *polite;

  mf_nbd_server_unexport (f->server, "");
  g_assert_true (mf_nbd_server_export (f->server, "", f->region, &options, NULL));
  broken = peer_open (f->server, PEER_DIRTY);
  peer_assert_read (broken, f, 0, 4 * PAGE);
  g_assert_cmpuint (peer_command (broken, MF_NBD_CMD_FLUSH, 0, 0, 0), ==, MF_NBD_OK);
  peer_assert_read (broken, f, 4 * PAGE, 4 * PAGE);
  assert_dirty (broken, "8:0 8:1");
  peer_free (broken);
  wait_for_connections (f, 0);

  again = peer_open (f->server, PEER_DIRTY);
  assert_dirty (again, "4:0 12:1");

  /* A goodbye acknowledges nothing. */
  polite = peer_open (f->server, PEER_DIRTY);
  peer_assert_read (polite, f, 8 * PAGE, 8 * PAGE);
  assert_dirty (again, "4:0 4:1 8:0");
  peer_request (polite, MF_NBD_CMD_DISC, 0, 0, 0);
  peer_assert_dropped (polite);
  peer_free (polite);
  wait_for_connections (f, 1);
  assert_dirty (again, "4:0 12:1");
}

/* A FLUSH speaks for its own connection: what another one read may still be under way. */
static void
test_flush_of_another (void)
{
  g_autoptr (Fixture) f = fixture_new (PAGES * PAGE, "#", NULL);
  g_autoptr (mf_dirty_session) session = mf_dirty_session_open (mf_region_dirty_log (f->region), NULL, NULL, NULL);
  const mf_nbd_export_options options = { .session = session };
  g_autoptr (Peer) other = NULL;
  Peer *reader;

  mf_nbd_server_unexport (f->server, "");
  g_assert_true (mf_nbd_server_export (f->server, "", f->region, &options, NULL));
  reader = peer_open (f->server, 0);
  other = peer_open (f->server, PEER_DIRTY);
  peer_assert_read (reader, f, 0, PAGES * PAGE);
  g_assert_cmpuint (peer_command (other, MF_NBD_CMD_FLUSH, 0, 0, 0), ==, MF_NBD_OK);
  assert_dirty (other, "16:0");
  peer_free (reader);
  wait_for_connections (f, 1);
  assert_dirty (other, "16:1");
}

/* The tracker is asked when a look at the region begins, not for each part of it, and not while the owner collects
 * himself. */
static void
test_collects (void)
{
  g_autoptr (Fixture) f = fixture_new (PAGES * PAGE, "#", NULL);
  Tracker *t = tracker_new (f);
  g_autoptr (mf_dirty_session) session = mf_dirty_session_open (mf_region_dirty_log (f->region), NULL, NULL, NULL);
  const mf_nbd_export_options options = { .session = session };
  g_autoptr (Peer) peer = NULL;
  g_autofree char *first = NULL, *second = NULL, *third = NULL;

  g_assert_true (g_atomic_int_get (&t->started));
  mf_nbd_server_unexport (f->server, "");
  g_assert_true (mf_nbd_server_export (f->server, "", f->region, &options, NULL));
  peer = peer_open (f->server, PEER_DIRTY | PEER_ALLOCATION);
  read_all (peer, f);

  mf_bitmap_set (t->written, 3);
  mf_bitmap_set (t->written, 12);
  first = peer_status (peer, 0, 0, 8 * PAGE, peer->dirty_id);
  g_assert_cmpstr (first, ==, "3:0 1:129 4:0");
  mf_bitmap_set (t->written, 14);
  second = peer_status (peer, 0, 8 * PAGE, 8 * PAGE, peer->dirty_id);
  g_assert_cmpstr (second, ==, "4:0 1:129 3:0");
  g_assert_cmpuint (t->collects, ==, 1);
  third = peer_status (peer, 0, 8 * PAGE, 8 * PAGE, peer->dirty_id);
  g_assert_cmpstr (third, ==, "4:0 1:65 1:0 1:129 1:0");
  g_assert_cmpuint (t->collects, ==, 2);

  /* Something in between: not the same look any more. */
  g_free (peer_status (peer, 0, 0, 8 * PAGE, peer->dirty_id));
  peer_assert_read (peer, f, 0, PAGE);
  g_free (peer_status (peer, 0, 8 * PAGE, 8 * PAGE, peer->dirty_id));
  g_assert_cmpuint (t->collects, ==, 4);

  mf_dirty_session_set_live_scans (session, FALSE);
  read_all (peer, f);
  mf_bitmap_set (t->written, 1);
  assert_dirty (peer, "16:0");
  g_assert_cmpuint (t->collects, ==, 4);
  g_assert_true (mf_dirty_log_collect (mf_region_dirty_log (f->region), NULL, NULL));
  assert_dirty (peer, "1:0 1:129 14:0");
}

/* Where the latest scans found a page: the newest counts most. */
static void
test_heat (void)
{
  g_autoptr (Fixture) f = fixture_new (PAGES * PAGE, "#", NULL);
  Tracker *t = tracker_new (f);
  g_autoptr (Peer) peer = peer_open (f->server, PEER_DIRTY);

  read_all (peer, f);
  for (int scan = 0; scan < 5; scan++) {
    mf_bitmap_set (t->written, 0);
    if (scan == 4)
      mf_bitmap_set (t->written, 1);
    if (scan == 3)
      mf_bitmap_set (t->written, 2);
    g_free (peer_status (peer, MF_NBD_CMD_FLAG_REQ_ONE, 0, PAGE, peer->dirty_id));
  }
  mf_bitmap_set (t->written, 3);
  /* Each 1 + 16 x heat: 0111, 0100, 0010 and 1000. */
  assert_dirty (peer, "1:113 1:65 1:33 1:129 12:0");
}

/* Without a tracker that works there is no context to have. */
static void
test_no_tracking (void)
{
  g_autoptr (Fixture) f = fixture_new (PAGES * PAGE, "#", NULL);
  Tracker *t = tracker_new (f);
  g_autoptr (Peer) peer = NULL;

  t->broken = TRUE;
  peer = peer_open (f->server, PEER_DIRTY | PEER_ALLOCATION);
  g_assert_cmpuint (peer->dirty_id, ==, 0);
  g_assert_cmpuint (peer->allocation_id, !=, 0);
  peer_assert_read (peer, f, 0, PAGES * PAGE);
}

/* A scan that fails is an error, not "nothing is dirty". */
static void
test_scan_fails (void)
{
  g_autoptr (Fixture) f = fixture_new (PAGES * PAGE, "#", NULL);
  Tracker *t = tracker_new (f);
  g_autoptr (Peer) peer = peer_open (f->server, PEER_DIRTY);

  t->broken = TRUE;
  g_assert_cmpuint (peer_command (peer, MF_NBD_CMD_BLOCK_STATUS, 0, 0, PAGE), ==, MF_NBD_EIO);
  t->broken = FALSE;
  assert_dirty (peer, "16:1");
}

/* A READ that failed has not read. */
static void
test_read_fails (void)
{
  g_autoptr (Fixture) f = fixture_new (PAGES * PAGE, "#", NULL);
  mf_bitmap *gone = mf_bitmap_new (PAGES);
  g_autoptr (Peer) peer = peer_open (f->server, PEER_DIRTY);
  g_autofree uint8_t *bytes = g_malloc (PAGES * PAGE);
  g_autoptr (GError) error = NULL;

  mf_bitmap_set (gone, 3);
  mf_region_invalidate (f->region, gone, &error);
  mf_bitmap_free (gone);
  g_assert_no_error (error);
  /* Nobody can bring the page. */
  g_assert_cmpuint (peer_read (peer, 0, 0, PAGES * PAGE, bytes).error, ==, MF_NBD_EIO);
  g_assert_cmpuint (peer_command (peer, MF_NBD_CMD_FLUSH, 0, 0, 0), ==, MF_NBD_OK);
  /* As if they had just been written. */
  assert_dirty (peer, "16:129");
}

/* Tracking costs something: it ends with the last session. */
static void
test_tracking_ends (void)
{
  g_autoptr (Fixture) f = fixture_new (PAGES * PAGE, "#", NULL);
  Tracker *t = tracker_new (f);
  Peer *peer = peer_open (f->server, PEER_DIRTY);

  g_assert_true (g_atomic_int_get (&t->started));
  peer_free (peer);
  wait_for_connections (f, 0);
  g_assert_false (g_atomic_int_get (&t->started));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/nbd-dirty/until-read", test_until_read);
  g_test_add_func ("/nbd-dirty/parts-of-pages", test_parts_of_pages);
  g_test_add_func ("/nbd-dirty/own-sessions", test_own_sessions);
  g_test_add_func ("/nbd-dirty/shared-session", test_shared_session);
  g_test_add_func ("/nbd-dirty/connection-lost", test_connection_lost);
  g_test_add_func ("/nbd-dirty/flush-of-another", test_flush_of_another);
  g_test_add_func ("/nbd-dirty/collects", test_collects);
  g_test_add_func ("/nbd-dirty/heat", test_heat);
  g_test_add_func ("/nbd-dirty/no-tracking", test_no_tracking);
  g_test_add_func ("/nbd-dirty/scan-fails", test_scan_fails);
  g_test_add_func ("/nbd-dirty/read-fails", test_read_fails);
  g_test_add_func ("/nbd-dirty/tracking-ends", test_tracking_ends);
  return g_test_run ();
}
