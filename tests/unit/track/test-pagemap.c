/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "../attach/attach-fixture.h"

#include <string.h>

#define MIB UINT64_C (0x100000)

/* A program with all of its region here, and a tracker of what it writes. */
typedef struct {
  attach_fixture *f;
  mf_tracker *tracker;
  mf_bitmap *written;
  uint64_t n_pages;
} scene;

static bool
scene_open (scene *s, uint64_t size_bytes)
{
  g_autoptr (MfUserfault) userfault = NULL;

  *s = (scene){ .f = attach_fixture_new (NULL, size_bytes) };
  if (!s->f)
    return false;
  s->n_pages = mf_region_n_pages (s->f->region);
  s->written = mf_bitmap_new (s->n_pages);
  attach_fixture_start_service (s->f);
  attach_fixture_start_program (s->f, PROGRAM_PLAIN);
  attach_fixture_ask (s->f, "ok", "map 0 %" G_GUINT64_FORMAT, s->n_pages);
  userfault = attach_fixture_userfault (s->f);
  s->tracker = mf_userfault_new_tracker (userfault);
  return true;
}

static void
scene_close (scene *s)
{
  s->tracker->ops->free (s->tracker);
  mf_bitmap_free (s->written);
  attach_fixture_free (s->f);
}

static void
start (scene *s)
{
  g_autoptr (GError) error = NULL;

  s->tracker->ops->start (s->tracker, &error);
  g_assert_no_error (error);
}

/* How many pages were written since. */
static uint64_t
collect (scene *s)
{
  g_autoptr (GError) error = NULL;

  mf_bitmap_clear_run (s->written, (mf_run){ 0, s->n_pages });
  s->tracker->ops->collect (s->tracker, s->written, &error);
  g_assert_no_error (error);
  return mf_bitmap_count (s->written);
}

static void
assert_only (scene *s, uint64_t first, uint64_t count)
{
  g_assert_cmpuint (mf_bitmap_count (s->written), ==, count);
  g_assert_cmpuint (mf_bitmap_count_run (s->written, (mf_run){ first, count }), ==, count);
}

static void
test_exactly_what_was_written (void)
{
  scene s;

  if (!scene_open (&s, 4 * MIB))
    return;
  /* Written before, and holes. */
  attach_fixture_ask (s.f, "ok", "write 0 100 1");
  start (&s);
  g_assert_cmpuint (collect (&s), ==, 0);

  attach_fixture_ask (s.f, "ok", "write 7 3 2");
  collect (&s);
  assert_only (&s, 7, 3);
  g_assert_cmpuint (collect (&s), ==, 0);
  /* Reading is not writing, also of a hole. */
  attach_fixture_ask (s.f, "ok", "check 10 20 1");
  attach_fixture_ask (s.f, "ok", "check 500 20 0");
  g_assert_cmpuint (collect (&s), ==, 0);
  attach_fixture_ask (s.f, "ok", "write 510 20 3");
  collect (&s);
  assert_only (&s, 510, 20);
  attach_fixture_ask (s.f, "ok", "write %" G_GUINT64_FORMAT " 1 3", s.n_pages - 1);
  collect (&s);
  assert_only (&s, s.n_pages - 1, 1);

  s.tracker->ops->stop (s.tracker);
  attach_fixture_ask (s.f, "ok", "write 0 10 4");
  start (&s);
  g_assert_cmpuint (collect (&s), ==, 0);
  scene_close (&s);
}

/* Every second page: more ranges than come back at once. */
static void
test_many_ranges (void)
{
  scene s;

  if (!scene_open (&s, 32 * MIB))
    return;
  start (&s);
  for (uint64_t page = 0; page < s.n_pages; page += 2)
    attach_fixture_send (s.f, "write %" G_GUINT64_FORMAT " 1 9", page);
  for (uint64_t page = 0; page < s.n_pages; page += 2)
    attach_fixture_expect (s.f, "ok");
  g_assert_cmpuint (collect (&s), ==, s.n_pages / 2);
  for (uint64_t page = 0; page < s.n_pages; page++)
    g_assert_cmpint (mf_bitmap_test (s.written, page), ==, page % 2 == 0);
  g_assert_cmpuint (collect (&s), ==, 0);
  scene_close (&s);
}

/* Copies what is written to a replica, round by round, while the program writes. */
static void
test_rounds_make_an_equal_copy (void)
{
  g_autofree uint8_t *replica = NULL, *page = NULL;
  uint64_t copied = 0;
  scene s;

  if (!scene_open (&s, 32 * MIB))
    return;
  replica = g_malloc (s.n_pages * s.f->page_bytes);
  page = g_malloc (s.f->page_bytes);
  attach_fixture_ask (s.f, "ok", "write 0 %" G_GUINT64_FORMAT " 1", s.n_pages);
  start (&s);
  attach_fixture_ask (s.f, "ok", "churn 2 1");
  g_assert_true (mf_store_read (s.f->store, 0, replica, s.n_pages * s.f->page_bytes, NULL));
  for (guint round = 0; round < 60; round++) {
    mf_run rest = { 0, s.n_pages }, run;

    if (round == 59)
      attach_fixture_ask (s.f, "ok", "halt");
    copied += collect (&s);
    while (rest.count > 0 && mf_bitmap_next_run (s.written, rest, true, &run)) {
      g_assert_true (mf_store_read (s.f->store, run.first * s.f->page_bytes, replica + run.first * s.f->page_bytes,
                                    run.count * s.f->page_bytes, NULL));
      rest = (mf_run){ run.first + run.count, s.n_pages - run.first - run.count };
    }
  }
  g_assert_cmpuint (copied, >, 100);
  for (uint64_t i = 0; i < s.n_pages; i++) {
    g_assert_true (mf_store_read (s.f->store, i * s.f->page_bytes, page, s.f->page_bytes, NULL));
    if (memcmp (page, replica + i * s.f->page_bytes, s.f->page_bytes) != 0)
      g_error ("page %" G_GUINT64_FORMAT " was written, and not reported", i);
  }
  scene_close (&s);
}

static void
test_a_dead_program_is_an_error (void)
{
  g_autoptr (GError) error = NULL;
  scene s;

  if (!scene_open (&s, MIB))
    return;
  start (&s);
  attach_fixture_end_program (s.f);
  g_assert_false (s.tracker->ops->collect (s.tracker, s.written, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_PROGRAM);
  scene_close (&s);
}

/* What was written through a mapping that has gone is not known: so everything counts. */
static void
test_another_mapping_counts_as_written (void)
{
  scene s;

  if (!scene_open (&s, MIB))
    return;
  start (&s);
  attach_fixture_ask (s.f, "ok", "map 0 %" G_GUINT64_FORMAT, s.n_pages);
  g_assert_cmpuint (collect (&s), ==, s.n_pages);
  g_assert_cmpuint (collect (&s), ==, 0);
  attach_fixture_ask (s.f, "ok", "write 3 1 1");
  collect (&s);
  assert_only (&s, 3, 1);
  scene_close (&s);
}

static void
test_a_clean_scan_is_cheap (void)
{
  gint64 best = G_MAXINT64;
  scene s;

  if (!scene_open (&s, 256 * MIB))
    return;
  attach_fixture_ask (s.f, "ok", "write 0 %" G_GUINT64_FORMAT " 1", s.n_pages);
  start (&s);
  for (guint i = 0; i < 50; i++) {
    const gint64 before = g_get_monotonic_time ();

    g_assert_cmpuint (collect (&s), ==, 0);
    best = MIN (best, g_get_monotonic_time () - before);
  }
  g_test_message ("a clean scan takes %.2f ms per GiB at best", (double) best * 4 / 1000);
  /* The aim is 1 ms; sanitizers and a busy machine get some more. */
  g_assert_cmpint (best * 4, <, 10000);
  scene_close (&s);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/pagemap/exactly-what-was-written", test_exactly_what_was_written);
  g_test_add_func ("/pagemap/many-ranges", test_many_ranges);
  g_test_add_func ("/pagemap/rounds-make-an-equal-copy", test_rounds_make_an_equal_copy);
  g_test_add_func ("/pagemap/a-dead-program-is-an-error", test_a_dead_program_is_an_error);
  g_test_add_func ("/pagemap/another-mapping-counts-as-written", test_another_mapping_counts_as_written);
  g_test_add_func ("/pagemap/a-clean-scan-is-cheap", test_a_clean_scan_is_cheap);
  return g_test_run ();
}
