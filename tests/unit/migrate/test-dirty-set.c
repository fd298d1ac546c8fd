/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "migrate/mf-dirty-set.h"

#define PAGES 1000

typedef struct {
  mf_dirty_log *log;
  mf_bitmap *set;
  mf_bitmap *by_class[MF_HEAT_CLASSES];
  mf_bitmap *all;
} Fixture;

/* Reports what the test says was written. */
typedef struct {
  mf_tracker tracker;
  mf_bitmap *written;
} script;

static gboolean
script_start (mf_tracker *tracker, GError **error)
{
  return TRUE;
}

static gboolean
script_collect (mf_tracker *tracker, mf_bitmap *written, GError **error)
{
  mf_bitmap_or (written, ((script *) tracker)->written);
  return TRUE;
}

static void
script_nothing (mf_tracker *tracker)
{
}

static const mf_tracker_ops script_ops = { script_start, script_collect, script_nothing, script_nothing };

static void
set_up (Fixture *f, gconstpointer unused)
{
  f->log = mf_dirty_log_new (PAGES);
  f->set = mf_bitmap_new (PAGES);
  f->all = mf_bitmap_new (PAGES);
  for (guint i = 0; i < MF_HEAT_CLASSES; i++)
    f->by_class[i] = mf_bitmap_new (PAGES);
}

static void
tear_down (Fixture *f, gconstpointer unused)
{
  mf_dirty_log_free (f->log);
  mf_bitmap_free (f->set);
  mf_bitmap_free (f->all);
  for (guint i = 0; i < MF_HEAT_CLASSES; i++)
    mf_bitmap_free (f->by_class[i]);
}

/* There and back: the same pages, each in the class of its heat and in no other. */
static void
test_round_trip (Fixture *f, gconstpointer unused)
{
  script tracker = { { &script_ops }, mf_bitmap_new (PAGES) };
  g_autoptr (mf_dirty_session) session = NULL;
  g_autoptr (GVariant) packed = NULL;
  g_autoptr (GError) error = NULL;

  g_assert_true (mf_dirty_log_set_tracker (f->log, &tracker.tracker, &error));
  session = mf_dirty_session_open (f->log, NULL, NULL, &error);
  g_assert_no_error (error);
  /* Page n is written before the scans whose bit is set in n: every history of four scans. */
  for (guint scan = 0; scan < 4; scan++) {
    mf_bitmap_clear_run (tracker.written, (mf_run){ 0, PAGES });
    for (guint page = 0; page < 16; page++) {
      if (page >> scan & 1)
        mf_bitmap_set (tracker.written, page);
    }
    g_assert_true (mf_dirty_log_collect (f->log, NULL, &error));
  }
  for (guint page = 0; page < PAGES; page += 3)
    mf_bitmap_set (f->set, page);

  packed = g_variant_ref_sink (mf_dirty_set_pack (f->set, f->log, &error));
  g_assert_no_error (error);
  g_assert_true (mf_dirty_set_unpack (packed, f->by_class, f->all, &error));
  for (guint page = 0; page < PAGES; page++) {
    guint expected = mf_heat_class (page < 16 ? (guint8) page : 0);

    g_assert_cmpint (mf_bitmap_test (f->all, page), ==, page % 3 == 0);
    for (guint i = 0; i < MF_HEAT_CLASSES; i++)
      g_assert_cmpint (mf_bitmap_test (f->by_class[i], page), ==, page % 3 == 0 && i == expected);
  }
  g_clear_pointer (&session, mf_dirty_session_unref);
  g_assert_true (mf_dirty_log_set_tracker (f->log, NULL, &error));
  mf_bitmap_free (tracker.written);
}

static void
assert_refused (Fixture *f, const char *text)
{
  g_autoptr (GVariant) packed = g_variant_ref_sink (g_variant_new_parsed (text));
  g_autoptr (GError) error = NULL;

  g_assert_false (mf_dirty_set_unpack (packed, f->by_class, f->all, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_PROTOCOL);
}

static void
test_malformed (Fixture *f, gconstpointer unused)
{
  assert_refused (f, "[(byte 4, [byte 1])]");                   /* no such class */
  assert_refused (f, "[(byte 0, @ay [])]");                     /* no form */
  assert_refused (f, "[(byte 0, [byte 3])]");                   /* no such form */
  assert_refused (f, "[(byte 0, [byte 1, 0xe8, 0x07, 0x00])]"); /* page 1000 of 1000 */
  assert_refused (f, "[(byte 0, [byte 1, 0x00, 0xe8, 0x07])]"); /* 1001 pages */
  assert_refused (f, "[(byte 0, [byte 1, 0x00])]");             /* half a run */
  assert_refused (f, "[(byte 0, [byte 2, 0x00])]");             /* a short bitmap */
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add ("/dirty-set/round-trip", Fixture, NULL, set_up, test_round_trip, tear_down);
  g_test_add ("/dirty-set/malformed", Fixture, NULL, set_up, test_malformed, tear_down);
  return g_test_run ();
}
