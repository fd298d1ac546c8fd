/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The pusher: what is written arrives, whatever the link does, and nothing else does. */
#include "memory-lane.h"
#include "region-fixture.h"
#include "region/mf-pusher.h"

typedef struct {
  Fixture base;
  Remote remote;
  mf_pusher *pusher;
  uint8_t *local; /* scratch, SIZE */
  gint lost;      /* atomic */
  gint ended;     /* atomic */
} Push;

static mf_lane *
new_lane (Push *f, guint lives)
{
  return memory_lane_new (&f->remote, 7, lives);
}

static void
on_lost (const GError *error, gpointer user_data)
{
  g_atomic_int_inc (&((Push *) user_data)->lost);
}

static void
push_start (Push *f, gint64 interval_usec, guint lives)
{
  const mf_pusher_callbacks callbacks = { .lost = on_lost, .user_data = f };
  g_autoptr (GError) error = NULL;

  f->pusher = mf_pusher_new (f->base.region, NULL, interval_usec, &callbacks, &error);
  g_assert_no_error (error);
  mf_pusher_set_lane (f->pusher, new_lane (f, lives));
}

static void
push_set_up (Push *f, gconstpointer data)
{
  set_up (&f->base, NULL);
  remote_init (&f->remote, SIZE, PAGE);
  f->local = g_malloc (SIZE);
}

static void
push_tear_down (Push *f, gconstpointer data)
{
  mf_pusher_free (f->pusher);
  remote_clear (&f->remote);
  g_free (f->local);
  tear_down (&f->base, NULL);
}

static void
sync_now (Push *f)
{
  g_autoptr (GError) error = NULL;

  g_assert_true (mf_pusher_sync (f->pusher, g_get_monotonic_time () + DEADLINE, NULL, &error));
  g_assert_no_error (error);
}

static void
assert_equal (Push *f)
{
  g_assert_true (mf_region_read (f->base.region, 0, f->local, SIZE, NULL, NULL));
  g_mutex_lock (&f->remote.lock);
  g_assert_cmpmem (f->local, SIZE, f->remote.bytes, SIZE);
  g_mutex_unlock (&f->remote.lock);
}

static void
test_only_what_was_written (Push *f, gconstpointer data)
{
  mf_pusher_stats stats;

  push_start (f, 0, G_MAXUINT);
  sync_now (f);
  g_assert_cmpuint (f->remote.written_bytes, ==, 0);
  write_bytes (&f->base, 3 * PAGE + 100, 10, 'a');
  write_bytes (&f->base, 70 * PAGE, 3 * PAGE, 'b');
  write_bytes (&f->base, SIZE - 5, 5, 'c');
  mf_pusher_get_stats (f->pusher, &stats);
  g_assert_cmpuint (stats.dirty_pages, ==, 5);
  sync_now (f);
  assert_equal (f);
  g_assert_cmpuint (f->remote.written_bytes, ==, 4 * PAGE + SIZE % PAGE);
  g_assert_cmpuint (f->remote.flushes, >=, 2);
  mf_pusher_get_stats (f->pusher, &stats);
  g_assert_cmpuint (stats.dirty_pages, ==, 0);
}

/* Holes go as zeroes, not as bytes. */
static void
test_zeroes (Push *f, gconstpointer data)
{
  push_start (f, 0, G_MAXUINT);
  write_bytes (&f->base, 0, SIZE, 'a');
  sync_now (f);
  g_assert_true (mf_region_zero (f->base.region, 8 * PAGE, 100 * PAGE + 17, TRUE, NULL, NULL));
  f->remote.written_bytes = 0;
  sync_now (f);
  assert_equal (f);
  g_assert_cmpuint (f->remote.zeroed_bytes, ==, 100 * PAGE);
  g_assert_cmpuint (f->remote.written_bytes, ==, PAGE);
}

/* What is written while it is being sent is sent again (invariants 3 and 4). */
static void
test_write_during_push (Push *f, gconstpointer data)
{
  push_start (f, 0, G_MAXUINT);
  remote_set_hold (&f->remote, TRUE);
  write_bytes (&f->base, 5 * PAGE, PAGE, 'a');
  mf_pusher_begin_sync (f->pusher);
  remote_wait_submitted (&f->remote, 1);
  write_bytes (&f->base, 5 * PAGE, PAGE, 'b');
  remote_set_hold (&f->remote, FALSE);
  sync_now (f);
  assert_equal (f);
  g_assert_cmpuint (f->remote.bytes[5 * PAGE], ==, 'b');
}

/* A page that is noted and not there has no bytes: the remote keeps its own. */
static void
test_missing_is_not_zero (Push *f, gconstpointer data)
{
  g_assert_true (mf_region_reset (f->base.region, NULL));
  memset (f->remote.bytes, 'r', SIZE);
  push_start (f, 0, G_MAXUINT);
  mf_dirty_log_note (mf_region_dirty_log (f->base.region), (mf_run){ 3, 2 });
  write_bytes (&f->base, 4 * PAGE, PAGE, 'w');
  sync_now (f);
  g_assert_cmpuint (f->remote.bytes[3 * PAGE], ==, 'r');
  g_assert_cmpuint (f->remote.bytes[4 * PAGE], ==, 'w');
  g_assert_cmpuint (f->remote.bytes[5 * PAGE], ==, 'r');
}

static void
test_refused (Push *f, gconstpointer data)
{
  g_autoptr (GError) error = NULL;
  mf_pusher_stats stats;

  push_start (f, 0, G_MAXUINT);
  remote_set_fail_page (&f->remote, 9);
  write_bytes (&f->base, 0, 20 * PAGE, 'a');
  g_assert_false (mf_pusher_sync (f->pusher, -1, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_IO);
  mf_pusher_get_stats (f->pusher, &stats);
  g_assert_cmpuint (stats.dirty_pages, ==, 20);
  remote_set_fail_page (&f->remote, UINT64_MAX);
  sync_now (f);
  assert_equal (f);
}

static void
test_deadline (Push *f, gconstpointer data)
{
  g_autoptr (GError) error = NULL, cancelled = NULL;
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();

  push_start (f, 0, G_MAXUINT);
  remote_set_hold (&f->remote, TRUE);
  write_bytes (&f->base, 0, PAGE, 'a');
  g_assert_false (mf_pusher_sync (f->pusher, g_get_monotonic_time () + 1000, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_TIMED_OUT);
  g_cancellable_cancel (cancellable);
  g_assert_false (mf_pusher_sync (f->pusher, -1, cancellable, &cancelled));
  g_assert_error (cancelled, MF_ERROR, MF_ERROR_CANCELLED);
}

/* The link is lost after a few requests, again and again. */
static void
test_lost (Push *f, gconstpointer data)
{
  gint64 deadline = g_get_monotonic_time () + DEADLINE;

  push_start (f, 0, 3);
  write_bytes (&f->base, 0, SIZE, 'a');
  mf_pusher_begin_sync (f->pusher);
  for (guint lives = 4; lives < 8; lives++) {
    /* What it was given to do may be less than what it lives for. */
    while (mf_pusher_has_lane (f->pusher)) {
      g_assert_cmpint (g_get_monotonic_time (), <, deadline);
      mf_pusher_begin_sync (f->pusher);
      g_thread_yield ();
    }
    mf_pusher_set_lane (f->pusher, new_lane (f, lives == 7 ? G_MAXUINT : lives));
    if (lives == 7)
      break;
    write_bytes (&f->base, lives * 10 * PAGE, 40 * PAGE, (char) ('a' + lives));
    for (guint i = 0; i < 8; i++)
      write_bytes (&f->base, (i * 16 + lives) * PAGE, 1, 'x');
    mf_pusher_begin_sync (f->pusher);
  }
  sync_now (f);
  assert_equal (f);
}

/* --- All at once --- */

#define WRITERS 3
#define WRITES  300

typedef struct {
  Push *f;
  guint32 seed;
} Writer;

static gpointer
write_at_random (gpointer data)
{
  Writer *writer = data;
  g_autoptr (GRand) dice = g_rand_new_with_seed (writer->seed);

  for (guint i = 0; i < WRITES; i++) {
    uint64_t offset = (uint64_t) g_rand_int_range (dice, 0, SIZE);
    uint32_t length = (uint32_t) g_rand_int_range (dice, 1, (gint32) MIN (SIZE - offset, 5 * PAGE) + 1);

    if (g_rand_int_range (dice, 0, 4) == 0)
      g_assert_true (mf_region_zero (writer->f->base.region, offset, length, TRUE, NULL, NULL));
    else
      write_bytes (&writer->f->base, offset, length, (char) g_rand_int (dice));
  }
  return NULL;
}

static gpointer
replace_lanes (gpointer data)
{
  Push *f = data;

  for (guint i = 0; !g_atomic_int_get (&f->ended); i++) {
    if (!mf_pusher_has_lane (f->pusher))
      mf_pusher_set_lane (f->pusher, memory_lane_new (&f->remote, i, 20 + 5 * i));
    g_thread_yield ();
  }
  return NULL;
}

static void
test_race (Push *f, gconstpointer data)
{
  Writer writers[WRITERS];
  GThread *threads[WRITERS], *replacer;

  f->remote.shuffle = TRUE;
  push_start (f, 500, 20);
  replacer = g_thread_new ("lanes", replace_lanes, f);
  for (guint i = 0; i < WRITERS; i++) {
    writers[i] = (Writer){ f, i + 1 };
    threads[i] = g_thread_new ("writer", write_at_random, &writers[i]);
  }
  for (guint i = 0; i < 20; i++)
    mf_pusher_begin_sync (f->pusher);
  for (guint i = 0; i < WRITERS; i++)
    g_thread_join (threads[i]);
  /* Each lane lives longer than the one before it, so that a round comes to its end. The first one lives for twenty requests: that is ten syncs at most. */
  do {
    write_bytes (&f->base, 0, 1, 'x');
    sync_now (f);
  } while (g_atomic_int_get (&f->lost) == 0);
  g_atomic_int_set (&f->ended, TRUE);
  g_thread_join (replacer);
  assert_equal (f);
  g_assert_cmpint (g_atomic_int_get (&f->lost), >, 0);
}

/* Syncs while writers write: each sync's promise is looked at in between, when nobody writes. */
static void
test_syncs_among_writers (Push *f, gconstpointer data)
{
  f->remote.shuffle = TRUE;
  push_start (f, 300, G_MAXUINT);
  for (guint round = 0; round < 5; round++) {
    Writer writers[WRITERS];
    GThread *threads[WRITERS];

    for (guint i = 0; i < WRITERS; i++) {
      writers[i] = (Writer){ f, round * WRITERS + i + 100 };
      threads[i] = g_thread_new ("writer", write_at_random, &writers[i]);
    }
    sync_now (f);
    for (guint i = 0; i < WRITERS; i++)
      g_thread_join (threads[i]);
    sync_now (f);
    assert_equal (f);
  }
}

#define ADD(name, test) g_test_add ("/pusher/" name, Push, NULL, push_set_up, test, push_tear_down)

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  ADD ("only-what-was-written", test_only_what_was_written);
  ADD ("zeroes", test_zeroes);
  ADD ("write-during-push", test_write_during_push);
  ADD ("missing-is-not-zero", test_missing_is_not_zero);
  ADD ("refused", test_refused);
  ADD ("deadline", test_deadline);
  ADD ("lost", test_lost);
  ADD ("race", test_race);
  ADD ("syncs-among-writers", test_syncs_among_writers);
  return g_test_run ();
}
