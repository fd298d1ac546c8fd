/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nbd-peer.h"

#include <stdatomic.h>
#include <string.h>

/* An export of which pages are missing: they are waited for, never taken for holes. */

#define PAGE 4096u
#define MIB  (1u << 20)

/* Makes `run` MISSING. */
static void
lose_pages (Fixture *f, mf_run run)
{
  mf_bitmap *pages = mf_bitmap_new (mf_region_n_pages (f->region));
  g_autoptr (GError) error = NULL;

  mf_bitmap_set_run (pages, run);
  mf_region_invalidate (f->region, pages, &error);
  mf_bitmap_free (pages);
  g_assert_no_error (error);
}

/* Brings it again, of the fixture's bytes. */
static void
bring_pages (Fixture *f, mf_run run)
{
  g_autoptr (GError) error = NULL;

  mf_region_put (f->region, run, f->bytes + run.first * PAGE, NULL, MF_PUT_REPLACE, &error);
  g_assert_no_error (error);
}

/* What a fetcher was asked for and nobody has looked at. */
typedef struct {
  GMutex lock;
  GCond more;
  mf_run runs[64];
  guint n;
} Asked;

static void
note_asked (mf_run run, gpointer user_data)
{
  Asked *asked = user_data;

  g_mutex_lock (&asked->lock);
  g_assert_cmpuint (asked->n, <, G_N_ELEMENTS (asked->runs));
  asked->runs[asked->n++] = run;
  g_cond_signal (&asked->more);
  g_mutex_unlock (&asked->lock);
}

/* Waits until the fetcher is asked, and forgets all that it was asked but the first run. */
static mf_run
next_asked (Asked *asked)
{
  gint64 deadline = g_get_monotonic_time () + 20 * G_USEC_PER_SEC;
  mf_run first;

  g_mutex_lock (&asked->lock);
  while (asked->n == 0)
    g_assert_true (g_cond_wait_until (&asked->more, &asked->lock, deadline));
  first = asked->runs[0];
  asked->n = 0;
  g_mutex_unlock (&asked->lock);
  return first;
}

static guint
count_asked (Asked *asked)
{
  guint n;

  g_mutex_lock (&asked->lock);
  n = asked->n;
  g_mutex_unlock (&asked->lock);
  return n;
}

static void
test_waits (void)
{
  static const struct {
    guint how;
    uint16_t flags;
    uint64_t offset;
    uint32_t length;
  } cases[] = {
    { 0, 0, 5 * PAGE, PAGE },
    { 0, 0, 0, 2 * MIB },
    { PEER_STRUCTURED, 0, 5 * PAGE + 100, 100 },
    { PEER_STRUCTURED, 0, 0, 2 * MIB },
    { PEER_STRUCTURED, MF_NBD_CMD_FLAG_DF, 0, 2 * MIB },
  };
  const mf_run missing = { 5, 3 };
  g_autoptr (Fixture) f = fixture_new (2 * MIB, "####.0##", NULL);
  Asked asked = { 0 };

  for (uint64_t page = missing.first; page < missing.first + missing.count; page++)
    fixture_fill (f, page * PAGE, PAGE, 3);
  mf_region_set_fetcher (f->region, note_asked, &asked);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    g_autoptr (Peer) peer = peer_open (f->server, cases[i].how);
    g_autofree uint8_t *bytes = g_malloc (cases[i].length);
    mf_run first;

    lose_pages (f, missing);
    peer_request (peer, MF_NBD_CMD_READ, cases[i].flags, cases[i].offset, cases[i].length);
    first = next_asked (&asked);
    g_assert_cmpuint (mf_run_intersect (first, missing).count, ==, first.count);
    bring_pages (f, missing);
    g_assert_cmpuint (peer_read_reply (peer, cases[i].offset, cases[i].length, bytes).error, ==, MF_NBD_OK);
    g_assert_cmpmem (bytes, cases[i].length, f->bytes + cases[i].offset, cases[i].length);
    if (count_asked (&asked) > 0)
      next_asked (&asked);
  }
  mf_region_set_fetcher (f->region, NULL, NULL);
}

/* A write of whole pages needs nobody; of a part of a page, the rest of it first. */
static void
test_write (void)
{
  g_autoptr (Fixture) f = fixture_new (MIB, "#", NULL);
  Asked asked = { 0 };
  g_autoptr (Peer) peer = peer_open (f->server, PEER_STRUCTURED);
  uint8_t data[2 * PAGE];

  memset (data, 0x77, sizeof data);
  mf_region_set_fetcher (f->region, note_asked, &asked);
  lose_pages (f, (mf_run){ 10, 10 });
  g_assert_cmpuint (peer_write (peer, 0, 10 * PAGE, data, 2 * PAGE), ==, MF_NBD_OK);
  g_assert_cmpuint (peer_command (peer, MF_NBD_CMD_WRITE_ZEROES, 0, 12 * PAGE, 2 * PAGE), ==, MF_NBD_OK);
  g_assert_cmpuint (count_asked (&asked), ==, 0);
  memcpy (f->bytes + 10 * PAGE, data, 2 * PAGE);
  memset (f->bytes + 12 * PAGE, 0, 2 * PAGE);
  peer_assert_read (peer, f, 10 * PAGE, 4 * PAGE);

  peer_request (peer, MF_NBD_CMD_WRITE, 0, 15 * PAGE + 10, 20);
  peer_send (peer, data, 20);
  g_assert_cmpuint (next_asked (&asked).first, ==, 15);
  bring_pages (f, (mf_run){ 14, 6 });
  g_assert_cmpuint (peer_reply (peer), ==, MF_NBD_OK);
  memcpy (f->bytes + 15 * PAGE + 10, data, 20);
  peer_assert_read (peer, f, 0, MIB);
  mf_region_set_fetcher (f->region, NULL, NULL);
}

/* A missing page is data, elsewhere. */
static void
test_allocation (void)
{
  g_autoptr (Fixture) f = fixture_new (16 * PAGE, "##..", NULL);
  g_autoptr (Peer) peer = peer_open (f->server, PEER_ALLOCATION);
  g_autofree char *before = NULL, *after = NULL, *none = NULL;

  before = peer_status (peer, 0, 0, 16 * PAGE, peer->allocation_id);
  g_assert_cmpstr (before, ==, "2:0 2:3 2:0 2:3 2:0 2:3 2:0 2:3");
  lose_pages (f, (mf_run){ 3, 4 });
  after = peer_status (peer, 0, 0, 16 * PAGE, peer->allocation_id);
  g_assert_cmpstr (after, ==, "2:0 1:3 4:0 1:3 2:0 2:3 2:0 2:3");
  g_assert_true (mf_region_reset (f->region, NULL));
  none = peer_status (peer, 0, 0, 16 * PAGE, peer->allocation_id);
  g_assert_cmpstr (none, ==, "16:0");
}

/* The end of the server, or of the export, ends the waiting. */
static void
test_end_while_waiting (void)
{
  for (int whole_server = 0; whole_server < 2; whole_server++) {
    g_autoptr (Fixture) f = fixture_new (MIB, "#", NULL);
    Asked asked = { 0 };
    g_autoptr (Peer) reader = peer_open (f->server, 0), writer = peer_open (f->server, 0);
    const uint8_t byte = 1;

    mf_region_set_fetcher (f->region, note_asked, &asked);
    lose_pages (f, (mf_run){ 0, 2 });
    peer_request (reader, MF_NBD_CMD_READ, 0, 0, PAGE);
    next_asked (&asked);
    peer_request (writer, MF_NBD_CMD_WRITE, 0, PAGE, 1);
    peer_send (writer, &byte, 1);
    next_asked (&asked);
    if (whole_server)
      g_clear_pointer (&f->server, mf_nbd_server_free);
    else
      mf_nbd_server_unexport (f->server, "");
    if (whole_server)
      f->server = mf_nbd_server_new ();
    mf_region_set_fetcher (f->region, NULL, NULL);
  }
}

/* A client that hangs up is not waited for, whatever it wanted. */
static void
test_client_leaves (void)
{
  g_autoptr (Fixture) f = fixture_new (MIB, "#", NULL);
  const uint8_t byte = 1;
  Asked asked = { 0 };
  mf_nbd_server_stats stats;
  gint64 deadline = g_get_monotonic_time () + 20 * G_USEC_PER_SEC;

  mf_region_set_fetcher (f->region, note_asked, &asked);
  lose_pages (f, (mf_run){ 0, 2 });
  for (int i = 0; i < 3; i++) {
    g_autoptr (Peer) peer = peer_open (f->server, i == 1 ? PEER_STRUCTURED : 0);

    if (i < 2) {
      peer_request (peer, MF_NBD_CMD_READ, 0, 0, i == 0 ? PAGE : MIB);
    } else {
      peer_request (peer, MF_NBD_CMD_WRITE, 0, PAGE, 1);
      peer_send (peer, &byte, 1);
    }
    next_asked (&asked);
  }
  do {
    g_assert_cmpint (g_get_monotonic_time (), <, deadline);
    mf_nbd_server_get_stats (f->server, &stats);
  } while (stats.connections > 0);
  mf_region_set_fetcher (f->region, NULL, NULL);
}

typedef struct {
  Fixture *f;
  guint seed;
  atomic_bool *stop;
  guint good, refused;
} Churn;

static gpointer
run_churner (gpointer data)
{
  Churn *churn = data;
  g_autoptr (GRand) rand = g_rand_new_with_seed (churn->seed);
  uint64_t pages = mf_region_n_pages (churn->f->region);

  while (!atomic_load (churn->stop)) {
    uint64_t first = (uint64_t) g_rand_int_range (rand, 0, (gint32) pages);
    uint64_t count = (uint64_t) g_rand_int_range (rand, 1, 20);
    mf_run run = { first, MIN (pages - first, count) };

    lose_pages (churn->f, run);
    bring_pages (churn->f, run);
    /* Room for a reply now and then that nobody disturbs. */
    if (g_rand_int_range (rand, 0, 4) == 0)
      g_usleep (2000);
  }
  return NULL;
}

static gpointer
run_reader (gpointer data)
{
  Churn *churn = data;
  Fixture *f = churn->f;
  g_autoptr (GRand) rand = g_rand_new_with_seed (churn->seed);
  g_autoptr (Peer) peer = peer_open (f->server, PEER_STRUCTURED);
  g_autofree uint8_t *bytes = g_malloc (MIB);

  for (guint i = 0; i < 2000; i++) {
    uint32_t length = (uint32_t) g_rand_int_range (rand, 1, i % 2 ? 3 * PAGE : MIB);
    uint64_t offset = (uint64_t) g_rand_int_range (rand, 0, (gint32) (f->size - length));
    PeerRead r = peer_read (peer, 0, offset, length, bytes);

    if (r.error == MF_NBD_OK) {
      g_assert_cmpmem (bytes, length, f->bytes + offset, length);
      churn->good++;
    } else {
      g_assert_cmpuint (r.error, ==, MF_NBD_EIO);
      g_assert_cmpuint (length, >, 3 * PAGE);
      churn->refused++;
    }
  }
  return NULL;
}

static void
ask_nobody (mf_run run, gpointer user_data)
{
}

/* Pages go away and come again while they are read: what a reply says is right, or it ends with an error. Small reads
 * never fail, for they go by the page map while they read. */
static void
test_invalidated_while_read (void)
{
  g_autoptr (Fixture) f = fixture_new (2 * MIB, "####.###", NULL);
  atomic_bool stop = false;
  Churn churner = { f, 1, &stop, 0, 0 }, readers[2] = { { f, 2, &stop, 0, 0 }, { f, 3, &stop, 0, 0 } };
  GThread *churn_thread, *threads[2];

  mf_region_set_fetcher (f->region, ask_nobody, NULL);
  churn_thread = g_thread_new ("churner", run_churner, &churner);
  for (guint i = 0; i < G_N_ELEMENTS (readers); i++)
    threads[i] = g_thread_new ("reader", run_reader, &readers[i]);
  for (guint i = 0; i < G_N_ELEMENTS (readers); i++) {
    g_thread_join (threads[i]);
    g_assert_cmpuint (readers[i].good, >=, 1000);
    g_test_message ("reader %u: %u right, %u refused", i, readers[i].good, readers[i].refused);
  }
  atomic_store (&stop, true);
  g_thread_join (churn_thread);
  mf_region_set_fetcher (f->region, NULL, NULL);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/nbd-missing/waits", test_waits);
  g_test_add_func ("/nbd-missing/write", test_write);
  g_test_add_func ("/nbd-missing/allocation", test_allocation);
  g_test_add_func ("/nbd-missing/end-while-waiting", test_end_while_waiting);
  g_test_add_func ("/nbd-missing/client-leaves", test_client_leaves);
  g_test_add_func ("/nbd-missing/invalidated-while-read", test_invalidated_while_read);
  return g_test_run ();
}
