/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "region/mf-dirty-log.h"

#define PAGES 200

/* A tracker whose writes are what the test says was written. */
typedef struct {
  mf_tracker tracker;
  mf_bitmap *written;
  gboolean watching;
  guint starts, stops, frees;
  gboolean fail_start;
  gboolean fail_collect; /* after having reported */
} TestTracker;

static gboolean
tracker_start (mf_tracker *tracker, GError **error)
{
  TestTracker *t = (TestTracker *) tracker;

  g_assert_false (t->watching);
  if (t->fail_start) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED, "no tracking today");
    return FALSE;
  }
  t->watching = TRUE;
  t->starts++;
  return TRUE;
}

static gboolean
tracker_collect (mf_tracker *tracker, mf_bitmap *written, GError **error)
{
  TestTracker *t = (TestTracker *) tracker;

  g_assert_true (t->watching);
  g_assert_cmpuint (mf_bitmap_count (written), ==, 0);
  mf_bitmap_move (written, t->written);
  if (!t->fail_collect)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_IO, "in the middle of it");
  return FALSE;
}

static void
tracker_stop (mf_tracker *tracker)
{
  TestTracker *t = (TestTracker *) tracker;

  if (t->watching)
    t->stops++;
  t->watching = FALSE;
}

static void
tracker_free (mf_tracker *tracker)
{
  ((TestTracker *) tracker)->frees++;
}

static const mf_tracker_ops tracker_ops = { tracker_start, tracker_collect, tracker_stop, tracker_free };

typedef struct {
  mf_dirty_log *log;
  TestTracker tracker;
} Fixture;

static void
set_up (Fixture *f, gconstpointer data)
{
  f->log = mf_dirty_log_new (PAGES);
  f->tracker.tracker.ops = &tracker_ops;
  f->tracker.written = mf_bitmap_new (PAGES);
  g_assert_true (mf_dirty_log_set_tracker (f->log, &f->tracker.tracker, NULL));
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  mf_dirty_log_free (f->log);
  g_assert_cmpuint (f->tracker.frees, ==, 1);
  g_assert_false (f->tracker.watching);
  mf_bitmap_free (f->tracker.written);
}

static void
program_writes (Fixture *f, uint64_t first, uint64_t count)
{
  if (f->tracker.watching)
    mf_bitmap_set_run (f->tracker.written, (mf_run){ first, count });
}

static void
no_pages (mf_bitmap *dirty, gpointer user_data)
{
}

static mf_dirty_session *
open_clean (Fixture *f)
{
  g_autoptr (GError) error = NULL;
  mf_dirty_session *session = mf_dirty_session_open (f->log, no_pages, NULL, &error);

  g_assert_no_error (error);
  g_assert_cmpuint (mf_dirty_session_count (session), ==, 0);
  return session;
}

/* Exactly the pages [first, first + count) are dirty. */
static void
assert_dirty (mf_dirty_session *session, uint64_t first, uint64_t count)
{
  const mf_bitmap *bits = mf_dirty_session_bits (session);

  g_assert_cmpuint (mf_dirty_session_count (session), ==, count);
  if (count > 0)
    g_assert_cmpuint (mf_bitmap_count_run (bits, (mf_run){ first, count }), ==, count);
}

static uint64_t
collect (Fixture *f)
{
  g_autoptr (GError) error = NULL;
  uint64_t found = UINT64_MAX;

  g_assert_true (mf_dirty_log_collect (f->log, &found, &error));
  g_assert_no_error (error);
  return found;
}

static void
test_sessions (Fixture *f, gconstpointer data)
{
  g_autoptr (mf_dirty_session) all = NULL;
  g_autoptr (mf_dirty_session) clean = NULL;

  /* Without a session nothing is watched. */
  mf_dirty_log_note (f->log, (mf_run){ 3, 4 });
  g_assert_cmpuint (collect (f), ==, 0);
  g_assert_cmpuint (f->tracker.starts, ==, 0);

  all = mf_dirty_session_open (f->log, NULL, NULL, NULL);
  assert_dirty (all, 0, PAGES);
  g_assert_cmpuint (f->tracker.starts, ==, 1);
  clean = open_clean (f);
  g_assert_cmpuint (f->tracker.starts, ==, 1);

  mf_dirty_log_note (f->log, (mf_run){ PAGES - 1, 1 });
  assert_dirty (clean, PAGES - 1, 1);
  program_writes (f, PAGES - 3, 2);
  assert_dirty (clean, PAGES - 1, 1);
  g_assert_cmpuint (collect (f), ==, 2);
  assert_dirty (clean, PAGES - 3, 3);
  g_assert_cmpuint (collect (f), ==, 0);

  g_clear_pointer (&clean, mf_dirty_session_unref);
  g_assert_cmpuint (f->tracker.stops, ==, 0);
  g_clear_pointer (&all, mf_dirty_session_unref);
  g_assert_cmpuint (f->tracker.stops, ==, 1);
  clean = open_clean (f);
  g_assert_cmpuint (f->tracker.starts, ==, 2);
}

static void
write_and_look (mf_bitmap *dirty, gpointer user_data)
{
  Fixture *f = user_data;

  /* Watched already: page 7 is written while the initial pages are being looked up, and looked at before. */
  g_assert_true (f->tracker.watching);
  mf_dirty_log_note (f->log, (mf_run){ 9, 1 });
  program_writes (f, 7, 1);
  collect (f);
  mf_bitmap_set (dirty, 8);
}

static void
test_initial_loses_nothing (Fixture *f, gconstpointer data)
{
  g_autoptr (mf_dirty_session) session = mf_dirty_session_open (f->log, write_and_look, f, NULL);

  assert_dirty (session, 7, 3);
}

static void
test_readers (Fixture *f, gconstpointer data)
{
  g_autoptr (mf_dirty_session) one = mf_dirty_session_open (f->log, NULL, NULL, NULL);
  g_autoptr (mf_dirty_session) other = open_clean (f);
  mf_dirty_reader *a = mf_dirty_reader_new (one);
  mf_dirty_reader *b = mf_dirty_reader_new (one);

  mf_dirty_reader_take (a, (mf_run){ 0, 100 });
  mf_dirty_reader_take (b, (mf_run){ 100, 100 });
  assert_dirty (one, 0, 0);
  assert_dirty (other, 0, 0);

  /* Written again after it was read. */
  mf_dirty_log_note (f->log, (mf_run){ 5, 1 });
  assert_dirty (one, 5, 1);
  mf_dirty_reader_take (b, (mf_run){ 5, 1 });

  /* What a acknowledged stays clean; what b read is dirty again. */
  mf_dirty_reader_acknowledge (a);
  mf_dirty_reader_take (a, (mf_run){ 90, 10 });
  mf_dirty_reader_free (a);
  assert_dirty (one, 90, 10);
  mf_dirty_reader_free (b);
  g_assert_cmpuint (mf_dirty_session_count (one), ==, 111);
  g_assert_true (mf_bitmap_test (mf_dirty_session_bits (one), 5));
  g_assert_cmpuint (mf_bitmap_count_run (mf_dirty_session_bits (one), (mf_run){ 90, 110 }), ==, 110);
  assert_dirty (other, 5, 1);
  mf_dirty_reader_free (NULL);
}

/* A reader keeps its session, and a session the log. */
static void
test_lifetime (void)
{
  mf_dirty_log *log = mf_dirty_log_new (3);
  mf_dirty_session *session = mf_dirty_session_open (log, NULL, NULL, NULL);
  mf_dirty_reader *reader = mf_dirty_reader_new (session);

  mf_dirty_log_free (log);
  mf_dirty_session_unref (session);
  mf_dirty_reader_take (reader, (mf_run){ 0, 3 });
  mf_dirty_reader_free (reader);
}

static void
test_heat (Fixture *f, gconstpointer data)
{
  g_autoptr (mf_dirty_session) session = open_clean (f);

  g_assert_cmpuint (mf_dirty_log_heat (f->log, 1), ==, 0);
  program_writes (f, 1, 1);
  mf_dirty_log_note (f->log, (mf_run){ 2, 1 });
  collect (f);
  g_assert_cmpuint (mf_dirty_log_heat (f->log, 0), ==, 0);
  g_assert_cmpuint (mf_dirty_log_heat (f->log, 1), ==, 8);
  g_assert_cmpuint (mf_dirty_log_heat (f->log, 2), ==, 8);
  collect (f);
  g_assert_cmpuint (mf_dirty_log_heat (f->log, 1), ==, 4);
  program_writes (f, 1, 1);
  collect (f);
  g_assert_cmpuint (mf_dirty_log_heat (f->log, 1), ==, 10);
  g_assert_cmpuint (mf_dirty_log_heat (f->log, 2), ==, 2);
  for (guint i = 0; i < 9; i++) {
    program_writes (f, 3, 1);
    collect (f);
  }
  g_assert_cmpuint (mf_dirty_log_heat (f->log, 1), ==, 0);
  g_assert_cmpuint (mf_dirty_log_heat (f->log, 2), ==, 0);
  g_assert_cmpuint (mf_dirty_log_heat (f->log, 3), ==, 15);
}

static void
test_union (Fixture *f, gconstpointer data)
{
  g_autoptr (mf_dirty_session) session = mf_dirty_session_open (f->log, NULL, NULL, NULL);
  g_autoptr (mf_dirty_reader) reader = mf_dirty_reader_new (session);

  program_writes (f, 10, 5);
  collect (f);
  program_writes (f, 13, 5);
  collect (f);
  mf_dirty_log_note (f->log, (mf_run){ 50, 1 });
  mf_dirty_reader_take (reader, (mf_run){ 0, PAGES });
  mf_dirty_reader_acknowledge (reader);
  assert_dirty (session, 0, 0);

  g_assert_cmpuint (mf_dirty_session_repeat_union (session), ==, 8);
  assert_dirty (session, 10, 8);
  g_assert_cmpuint (mf_dirty_session_repeat_union (session), ==, 0);
  assert_dirty (session, 10, 8);
}

static void
test_live_scans (Fixture *f, gconstpointer data)
{
  g_autoptr (mf_dirty_session) session = open_clean (f);

  g_assert_true (mf_dirty_session_live_scans (session));
  mf_dirty_session_set_live_scans (session, FALSE);
  g_assert_false (mf_dirty_session_live_scans (session));
  mf_dirty_session_set_live_scans (session, TRUE);
  g_assert_true (mf_dirty_session_live_scans (session));
}

static void
test_tracker_errors (Fixture *f, gconstpointer data)
{
  g_autoptr (mf_dirty_session) session = NULL;
  g_autoptr (GError) error = NULL;
  uint64_t found;

  f->tracker.fail_start = TRUE;
  g_assert_null (mf_dirty_session_open (f->log, NULL, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED);
  g_clear_error (&error);
  f->tracker.fail_start = FALSE;
  session = open_clean (f);

  /* What was reported before the failure will not be reported again: it must be dirty now. */
  f->tracker.fail_collect = TRUE;
  program_writes (f, 20, 2);
  g_assert_false (mf_dirty_log_collect (f->log, &found, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_IO);
  g_assert_cmpuint (found, ==, 2);
  assert_dirty (session, 20, 2);
}

static void
test_set_tracker (Fixture *f, gconstpointer data)
{
  TestTracker second = { .tracker = { &tracker_ops } };
  mf_dirty_session *session = open_clean (f);
  g_autoptr (GError) error = NULL;

  g_assert_false (mf_dirty_log_set_tracker (f->log, &second.tracker, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_BUSY);
  g_assert_cmpuint (second.frees, ==, 0);
  g_assert_true (f->tracker.watching);
  mf_dirty_session_unref (session);

  g_assert_true (mf_dirty_log_set_tracker (f->log, &second.tracker, NULL));
  g_assert_cmpuint (f->tracker.frees, ==, 1);
  g_assert_true (mf_dirty_log_set_tracker (f->log, NULL, NULL));
  g_assert_cmpuint (second.frees, ==, 1);

  /* Without a tracker, what is noted is all there is. */
  session = open_clean (f);
  mf_dirty_log_note (f->log, (mf_run){ 1, 1 });
  g_assert_cmpuint (collect (f), ==, 0);
  assert_dirty (session, 1, 1);
  mf_dirty_session_unref (session);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define ADD(name, test) g_test_add ("/dirty-log/" name, Fixture, NULL, set_up, test, tear_down)
  ADD ("sessions", test_sessions);
  ADD ("initial-loses-nothing", test_initial_loses_nothing);
  ADD ("readers", test_readers);
  ADD ("heat", test_heat);
  ADD ("union", test_union);
  ADD ("live-scans", test_live_scans);
  ADD ("tracker-errors", test_tracker_errors);
  ADD ("set-tracker", test_set_tracker);
  g_test_add_func ("/dirty-log/lifetime", test_lifetime);
  return g_test_run ();
}
