/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory-lane.h"
#include "own-tmpfs.h"
#include "region/mf-puller.h"

#include <glib/gstdio.h>
#include <string.h>

#define PAGE     4096u
#define SIZE     (700 * PAGE + 55)
#define PAGES    701
#define DEADLINE (g_get_monotonic_time () + 30 * G_USEC_PER_SEC)

typedef struct {
  Remote remote;
  MfRegion *region;
  mf_puller *puller;
  guint failed; /* atomic: lanes that were reported lost */
} Fixture;

static void
on_failed (mf_puller *puller, const GError *error, gpointer user_data)
{
  Fixture *f = user_data;

  g_assert_error (error, MF_ERROR, MF_ERROR_CONNECTION);
  g_atomic_int_inc (&f->failed);
}

/* Every tenth page of the remote is zero; the others are filled with their number. */
static uint8_t
byte_of (uint64_t page)
{
  return page % 10 == 3 ? 0 : (uint8_t) (1 + page % 255);
}

static void
set_up (Fixture *f, gconstpointer data)
{
  const mf_puller_callbacks callbacks = { on_failed, f };
  g_autoptr (MfStore) store = mf_store_memfd ("puller", SIZE, NULL);
  g_autoptr (GError) error = NULL;

  remote_init (&f->remote, SIZE, PAGE);
  f->remote.shuffle = TRUE;
  for (uint64_t at = 0; at < SIZE; at++)
    f->remote.bytes[at] = byte_of (at / PAGE);
  f->region = mf_region_new ("pulled", store, &error);
  g_assert_no_error (error);
  g_assert_true (mf_region_reset (f->region, NULL));
  f->puller = mf_puller_new (f->region, &callbacks, &error);
  g_assert_no_error (error);
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  mf_puller_free (f->puller);
  g_assert_cmpuint (mf_page_map_count (mf_region_map (f->region), MF_PAGE_WANTED), ==, 0);
  g_object_unref (f->region);
  remote_clear (&f->remote);
}

static void
add_lane (Fixture *f, guint lives)
{
  g_autoptr (GError) error = NULL;

  g_assert_true (mf_puller_add_lane (f->puller, memory_lane_new (&f->remote, f->remote.submitted + 1, lives), &error));
  g_assert_no_error (error);
}

static void
queue_all (Fixture *f)
{
  mf_puller_queue (f->puller, (mf_run){ 0, PAGES }, MF_PULL_LINEAR);
}

static void
wait_idle (Fixture *f)
{
  g_autoptr (GError) error = NULL;

  mf_puller_wait_idle (f->puller, DEADLINE, NULL, &error);
  g_assert_no_error (error);
}

static void
assert_wait_fails (Fixture *f, gint64 deadline, GCancellable *cancellable, MfError code)
{
  g_autoptr (GError) error = NULL;

  g_assert_false (mf_puller_wait_idle (f->puller, deadline, cancellable, &error));
  g_assert_error (error, MF_ERROR, (int) code);
}

/* The region is what the remote is, byte for byte, and nothing of it is missing. */
static void
assert_same (Fixture *f)
{
  g_autofree uint8_t *bytes = g_malloc (SIZE);
  g_autoptr (GError) error = NULL;

  g_assert_cmpuint (mf_page_map_count (mf_region_map (f->region), MF_PAGE_PRESENT), ==, PAGES);
  g_assert_true (mf_region_read (f->region, 0, bytes, SIZE, NULL, &error));
  g_assert_no_error (error);
  g_assert_cmpmem (bytes, SIZE, f->remote.bytes, SIZE);
}

static void
test_pull (Fixture *f, gconstpointer data)
{
  mf_puller_stats stats;

  wait_idle (f);
  add_lane (f, G_MAXUINT);
  add_lane (f, G_MAXUINT);
  g_assert_cmpuint (mf_puller_n_lanes (f->puller), ==, 2);
  wait_idle (f);
  g_assert_cmpuint (f->remote.submitted, ==, 0);

  queue_all (f);
  wait_idle (f);
  assert_same (f);
  mf_puller_get_stats (f->puller, &stats);
  g_assert_cmpuint (stats.pages, ==, PAGES);
  g_assert_cmpuint (stats.hole_pages, ==, 70);
  g_assert_cmpuint (stats.bytes, ==, SIZE - 70 * PAGE);
  g_assert_cmpuint (stats.queued_pages, ==, 0);
  g_assert_cmpuint (stats.in_flight_bytes, ==, 0);
  g_assert_cmpuint (stats.requests, ==, f->remote.submitted);
  g_assert_cmpuint (stats.rate, >, 0);
  g_assert_cmpint (stats.min_delay_usec, >, 0);
  /* Holes take no room. */
  g_assert_cmpuint (mf_store_allocated (mf_region_store (f->region)), ==, (PAGES - 70) * PAGE);
  /* All that was read has been acknowledged, by each lane that read something. */
  g_assert_cmpuint (f->remote.flushes, >=, 1);

  /* What is there is not asked for again. */
  queue_all (f);
  wait_idle (f);
  g_assert_cmpuint (stats.requests, ==, f->remote.submitted);
}

static void
test_replace (Fixture *f, gconstpointer data)
{
  mf_bitmap *pages = mf_bitmap_new (PAGES);

  mf_puller_set_mode (f->puller, MF_PUT_REPLACE);
  add_lane (f, G_MAXUINT);
  queue_all (f);
  wait_idle (f);
  assert_same (f);

  /* Other bytes, zeroes where there was data and data where there were zeroes, and only those are pulled. */
  for (uint64_t page = 0; page < PAGES; page += 7) {
    mf_bitmap_set (pages, page);
    for (uint64_t at = page * PAGE; at < MIN ((page + 1) * PAGE, SIZE); at++)
      f->remote.bytes[at] = byte_of (page + 1);
  }
  mf_puller_queue_set (f->puller, pages, MF_PULL_CALLER);
  wait_idle (f);
  assert_same (f);
  mf_bitmap_free (pages);
}

/* In REPLACE a page is not in two requests at once, however often it is queued: the older answer could come last. */
static void
test_replace_one_at_a_time (Fixture *f, gconstpointer data)
{
  mf_puller_set_mode (f->puller, MF_PUT_REPLACE);
  remote_set_hold (&f->remote, TRUE);
  add_lane (f, G_MAXUINT);
  add_lane (f, G_MAXUINT);
  mf_puller_queue (f->puller, (mf_run){ 0, 4 }, MF_PULL_LINEAR);
  remote_wait_submitted (&f->remote, 1);
  mf_puller_queue (f->puller, (mf_run){ 0, 2 }, MF_PULL_CALLER);
  mf_puller_queue (f->puller, (mf_run){ 64, 1 }, MF_PULL_LINEAR);
  remote_wait_submitted (&f->remote, 2);
  g_assert_cmpuint (f->remote.submitted, ==, 2);
  remote_set_hold (&f->remote, FALSE);
  wait_idle (f);
  /* But it was pulled again afterwards. */
  g_assert_cmpuint (f->remote.submitted, ==, 3);
}

/* Lanes are reported after they are gone. */
static void
wait_failed (Fixture *f, guint n)
{
  gint64 deadline = DEADLINE;

  while ((guint) g_atomic_int_get (&f->failed) < n) {
    g_assert_cmpint (g_get_monotonic_time (), <, deadline);
    g_thread_yield ();
  }
  g_assert_cmpint (g_atomic_int_get (&f->failed), ==, n);
}

/* The lane breaks: its pages are pulled by the other one, and the owner is told. */
static void
test_lane_breaks (Fixture *f, gconstpointer data)
{
  add_lane (f, 3);
  add_lane (f, G_MAXUINT);
  queue_all (f);
  wait_idle (f);
  assert_same (f);
  wait_failed (f, 2 - mf_puller_n_lanes (f->puller));
}

static void
test_all_lanes_break (Fixture *f, gconstpointer data)
{
  for (guint mode = MF_PUT_KEEP; mode <= MF_PUT_REPLACE; mode++) {
    tear_down (f, NULL);
    f->failed = 0;
    set_up (f, NULL);
    mf_puller_set_mode (f->puller, mode);
    add_lane (f, 1);
    add_lane (f, 1);
    queue_all (f);
    assert_wait_fails (f, DEADLINE, NULL, MF_ERROR_CONNECTION);
    g_assert_cmpuint (mf_puller_n_lanes (f->puller), ==, 0);
    wait_failed (f, 2);

    /* A new connection goes on where they stopped. */
    add_lane (f, G_MAXUINT);
    wait_idle (f);
    assert_same (f);
  }
}

/* The remote can't read one page: the owner is told, everything else stays as it is, and the next try goes on. */
static void
test_read_error (Fixture *f, gconstpointer data)
{
  remote_set_fail_page (&f->remote, 300);
  add_lane (f, G_MAXUINT);
  queue_all (f);
  assert_wait_fails (f, DEADLINE, NULL, MF_ERROR_IO);
  assert_wait_fails (f, DEADLINE, NULL, MF_ERROR_IO);
  g_assert_cmpuint (mf_puller_n_lanes (f->puller), ==, 1);
  remote_set_fail_page (&f->remote, UINT64_MAX);
  wait_idle (f);
  assert_same (f);
}

static void
test_cancel_and_deadline (Fixture *f, gconstpointer data)
{
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  mf_puller_stats stats;

  remote_set_hold (&f->remote, TRUE);
  add_lane (f, G_MAXUINT);
  queue_all (f);
  remote_wait_submitted (&f->remote, 1);
  assert_wait_fails (f, g_get_monotonic_time () + 1000, NULL, MF_ERROR_TIMED_OUT);
  g_cancellable_cancel (cancellable);
  assert_wait_fails (f, -1, cancellable, MF_ERROR_CANCELLED);

  /* What is queued is dropped; what is under way comes in. */
  mf_puller_clear (f->puller);
  remote_set_hold (&f->remote, FALSE);
  wait_idle (f);
  mf_puller_get_stats (f->puller, &stats);
  g_assert_cmpuint (stats.pages, >, 0);
  g_assert_cmpuint (stats.pages, <, PAGES);
  g_assert_cmpuint (mf_page_map_count (mf_region_map (f->region), MF_PAGE_PRESENT), ==, stats.pages);
}

/* Freed in the middle of everything: nothing stays claimed (tear_down looks). */
static void
test_free_in_flight (Fixture *f, gconstpointer data)
{
  remote_set_hold (&f->remote, TRUE);
  add_lane (f, G_MAXUINT);
  add_lane (f, G_MAXUINT);
  queue_all (f);
  remote_wait_submitted (&f->remote, 4);
  g_assert_cmpuint (mf_page_map_count (mf_region_map (f->region), MF_PAGE_WANTED), >, 0);
}

/* The other side never answers a flush: freeing the puller does not wait for it, and is no failure of the lane. */
static void
test_free_in_flush (Fixture *f, gconstpointer data)
{
  g_autoptr (GError) error = NULL;
  gint64 deadline = DEADLINE;

  f->remote.hold_flush = TRUE;
  add_lane (f, G_MAXUINT);
  queue_all (f);
  g_assert_false (mf_puller_wait_idle (f->puller, g_get_monotonic_time () + G_USEC_PER_SEC / 5, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_TIMED_OUT);
  g_mutex_lock (&f->remote.lock);
  while (f->remote.flushes == 0)
    g_assert_true (g_cond_wait_until (&f->remote.changed, &f->remote.lock, deadline));
  g_mutex_unlock (&f->remote.lock);
  g_clear_pointer (&f->puller, mf_puller_free);
  g_assert_cmpint (g_atomic_int_get (&f->failed), ==, 0);
}

/* What somebody waits for comes first, and with it its neighbours. */
static void
test_fault_first (Fixture *f, gconstpointer data)
{
  mf_puller_stats stats;

  remote_set_hold (&f->remote, TRUE);
  add_lane (f, G_MAXUINT);
  queue_all (f);
  remote_wait_submitted (&f->remote, 2);
  mf_puller_fault (f->puller, (mf_run){ 600, 1 });
  mf_puller_get_stats (f->puller, &stats);
  g_assert_cmpuint (stats.queued_pages, <, PAGES);

  /* The next request that goes out is for it: let one answer in, and look. */
  remote_set_hold (&f->remote, FALSE);
  for (gint64 deadline = DEADLINE;;) {
    if ((mf_page_map_state (mf_region_map (f->region), 600) & MF_PAGE_PRESENT) != 0)
      break;
    g_assert_cmpint (g_get_monotonic_time (), <, deadline);
    g_thread_yield ();
  }
  wait_idle (f);
  assert_same (f);
}

/* A page that another way brought is not asked for; one that another way has claimed is left to it. */
static void
test_others_pull (Fixture *f, gconstpointer data)
{
  const uint64_t hole = 1;

  g_assert_true (mf_page_map_apply (mf_region_map (f->region), 5, MF_PAGE_CLAIM));
  add_lane (f, G_MAXUINT);
  queue_all (f);
  mf_puller_remove (f->puller, (mf_run){ 700, 1 });
  wait_idle (f);
  g_assert_cmpint (mf_page_map_state (mf_region_map (f->region), 5), ==, MF_PAGE_WANTED);
  g_assert_true (mf_region_put (f->region, (mf_run){ 5, 1 }, NULL, &hole, MF_PUT_KEEP, NULL));
  mf_puller_queue (f->puller, (mf_run){ 700, 1 }, MF_PULL_CALLER);
  wait_idle (f);
  g_assert_cmpuint (mf_page_map_count (mf_region_map (f->region), MF_PAGE_PRESENT), ==, PAGES);
}

/* A page that is invalidated while it is on its way is pulled once more. */
static void
test_invalidated_under_way (Fixture *f, gconstpointer data)
{
  mf_bitmap *stale = mf_bitmap_new (PAGES);

  remote_set_hold (&f->remote, TRUE);
  add_lane (f, G_MAXUINT);
  mf_puller_queue (f->puller, (mf_run){ 0, 4 }, MF_PULL_LINEAR);
  remote_wait_submitted (&f->remote, 1);
  mf_bitmap_set (stale, 1);
  g_assert_true (mf_region_invalidate (f->region, stale, NULL));
  mf_puller_queue (f->puller, (mf_run){ 1, 1 }, MF_PULL_LINEAR);
  remote_set_hold (&f->remote, FALSE);
  wait_idle (f);
  g_assert_cmpuint (f->remote.submitted, ==, 2);
  queue_all (f);
  wait_idle (f);
  assert_same (f);
  mf_bitmap_free (stale);
}

/* A reader that waits for a page gets it through the puller. */
static void
test_fetch (Fixture *f, gconstpointer data)
{
  uint8_t bytes[3 * PAGE];
  g_autoptr (GError) error = NULL;

  add_lane (f, G_MAXUINT);
  mf_region_set_fetcher (f->region, mf_puller_fetch, f->puller);
  g_assert_true (mf_region_read (f->region, 99 * PAGE, bytes, sizeof bytes, NULL, &error));
  g_assert_no_error (error);
  g_assert_cmpmem (bytes, sizeof bytes, f->remote.bytes + 99 * PAGE, sizeof bytes);
  mf_region_set_fetcher (f->region, NULL, NULL);
  wait_idle (f);
}

/* A limit is kept: what goes out in the first moments is the burst, and the rest waits for its time. */
static void
test_bandwidth (Fixture *f, gconstpointer data)
{
  mf_puller_stats stats;
  gint64 begun;

  mf_puller_set_bandwidth (f->puller, 20 * 1000 * 1000);
  f->remote.shuffle = FALSE;
  begun = g_get_monotonic_time ();
  add_lane (f, G_MAXUINT);
  queue_all (f);
  wait_idle (f);
  assert_same (f);
  mf_puller_get_stats (f->puller, &stats);
  /* At most the rate for the time it took, a burst, and one request. */
  g_assert_cmpuint (stats.bytes, <=, (uint64_t) (g_get_monotonic_time () - begun) * 20 + 200000 + f->remote.max_length);
}

static void
test_small_remote (Fixture *f, gconstpointer data)
{
  g_autoptr (GError) error = NULL;

  f->remote.size = SIZE - 1;
  g_assert_false (mf_puller_add_lane (f->puller, memory_lane_new (&f->remote, 1, G_MAXUINT), &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_INVALID);
  g_assert_cmpuint (mf_puller_n_lanes (f->puller), ==, 0);
}

/* In flight there is never more than the window. */
static void
test_window_is_kept (Fixture *f, gconstpointer data)
{
  mf_puller_stats stats;

  remote_set_hold (&f->remote, TRUE);
  add_lane (f, G_MAXUINT);
  add_lane (f, G_MAXUINT);
  queue_all (f);
  remote_wait_submitted (&f->remote, 4);
  mf_puller_get_stats (f->puller, &stats);
  g_assert_cmpuint (f->remote.most_in_flight_bytes, <=, stats.window_bytes);
  remote_set_hold (&f->remote, FALSE);
  wait_idle (f);
  assert_same (f);
}

/* --- A store that fills up --- */

static void
test_full (gconstpointer folder)
{
  g_autofree char *path = g_build_filename (folder, "store", NULL);
  g_autofree char *filler_path = g_build_filename (folder, "filler", NULL);
  g_autofree uint8_t *bytes = g_malloc0 (4 << 20);
  g_autoptr (MfStore) store = mf_store_create (path, SIZE, NULL);
  g_autoptr (MfStore) filler = mf_store_create (filler_path, 3 << 20, NULL);
  Fixture f = { 0 };

  g_assert_true (mf_store_write (filler, 0, bytes, 3 << 20, NULL));
  set_up (&f, NULL);
  g_clear_object (&f.region);
  g_clear_pointer (&f.puller, mf_puller_free);
  f.region = mf_region_new ("full", store, NULL);
  g_assert_true (mf_region_reset (f.region, NULL));
  f.puller = mf_puller_new (f.region, NULL, NULL);
  add_lane (&f, G_MAXUINT);
  add_lane (&f, G_MAXUINT);
  queue_all (&f);
  assert_wait_fails (&f, DEADLINE, NULL, MF_ERROR_NO_SPACE);

  /* With room it goes on. */
  g_unlink (filler_path);
  g_clear_pointer (&filler, mf_store_unref);
  wait_idle (&f);
  assert_same (&f);
  tear_down (&f, NULL);
}

static void
skip_full (void)
{
  g_test_skip ("a file system of one's own needs root or user namespaces");
}

int
main (int argc, char **argv)
{
  g_autofree char *own = g_dir_make_tmp ("mf-test-puller-XXXXXX", NULL);
  gboolean mounted = mount_own_tmpfs (own, "size=4m");
  int result;

  g_test_init (&argc, &argv, NULL);
#define ADD(name, test) g_test_add ("/puller/" name, Fixture, NULL, set_up, test, tear_down)
  ADD ("pull", test_pull);
  ADD ("replace", test_replace);
  ADD ("replace-one-at-a-time", test_replace_one_at_a_time);
  ADD ("lane-breaks", test_lane_breaks);
  ADD ("all-lanes-break", test_all_lanes_break);
  ADD ("read-error", test_read_error);
  ADD ("cancel-and-deadline", test_cancel_and_deadline);
  ADD ("free-in-flight", test_free_in_flight);
  ADD ("free-in-flush", test_free_in_flush);
  ADD ("fault-first", test_fault_first);
  ADD ("others-pull", test_others_pull);
  ADD ("invalidated-under-way", test_invalidated_under_way);
  ADD ("fetch", test_fetch);
  ADD ("bandwidth", test_bandwidth);
  ADD ("small-remote", test_small_remote);
  ADD ("window-is-kept", test_window_is_kept);
  if (mounted)
    g_test_add_data_func ("/puller/full", own, test_full);
  else
    g_test_add_func ("/puller/full", skip_full);
  result = g_test_run ();
  umount2 (own, MNT_DETACH);
  g_rmdir (own);
  return result;
}
