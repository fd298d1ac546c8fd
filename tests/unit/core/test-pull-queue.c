/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "core/mf-pull-queue.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_pull_queue, mf_pull_queue_free)

static void
assert_take (mf_pull_queue *queue, uint64_t max_pages, uint64_t first, uint64_t count, mf_pull_class class)
{
  mf_pull_class of = MF_PULL_CLASSES;
  mf_run run = { 0 };
  g_assert_true (mf_pull_queue_take (queue, max_pages, &run, &of));
  g_assert_cmpuint (run.first, ==, first);
  g_assert_cmpuint (run.count, ==, count);
  g_assert_cmpint (of, ==, class);
}

static void
assert_empty (mf_pull_queue *queue)
{
  mf_run run = { 7, 7 };
  mf_pull_class class = MF_PULL_CALLER;

  g_assert_cmpuint (mf_pull_queue_count (queue), ==, 0);
  g_assert_false (mf_pull_queue_take (queue, 16, &run, &class));
  g_assert_cmpuint (run.first, ==, 7);
  g_assert_cmpint (class, ==, MF_PULL_CALLER);
}

static void
test_empty (void)
{
  g_autoptr (mf_pull_queue) none = mf_pull_queue_new (0);
  g_autoptr (mf_pull_queue) queue = mf_pull_queue_new (100);

  mf_pull_queue_put (none, (mf_run){ 0, 0 }, MF_PULL_LINEAR);
  assert_empty (none);
  assert_empty (queue);
  g_assert_cmpuint (mf_pull_queue_raise (queue, (mf_run){ 0, 100 }, MF_PULL_WAITED), ==, 0);
  g_assert_cmpuint (mf_pull_queue_remove (queue, (mf_run){ 0, 100 }), ==, 0);
  mf_pull_queue_clear (queue);
  assert_empty (queue);
  mf_pull_queue_free (NULL);

  errno = 0;
  g_assert_null (mf_pull_queue_new (UINT64_C (1) << 63));
  g_assert_cmpint (errno, ==, EOVERFLOW);
}

static void
test_one_page (void)
{
  g_autoptr (mf_pull_queue) queue = mf_pull_queue_new (1);
  mf_run run;

  mf_pull_queue_put (queue, (mf_run){ 0, 1 }, MF_PULL_LINEAR);
  g_assert_cmpuint (mf_pull_queue_count (queue), ==, 1);
  assert_take (queue, 1, 0, 1, MF_PULL_LINEAR);
  assert_empty (queue);
  mf_pull_queue_put (queue, (mf_run){ 0, 1 }, MF_PULL_WAITED);
  g_assert_true (mf_pull_queue_take (queue, UINT64_C (1) << 63, &run, NULL));
  assert_empty (queue);
}

/* Runs never cross a multiple of what is asked for, and the tail is a run like any other. */
static void
test_granules (void)
{
  g_autoptr (mf_pull_queue) queue = mf_pull_queue_new (100);

  mf_pull_queue_put (queue, (mf_run){ 5, 95 }, MF_PULL_LINEAR);
  assert_take (queue, 16, 5, 11, MF_PULL_LINEAR);
  assert_take (queue, 16, 16, 16, MF_PULL_LINEAR);
  assert_take (queue, 1, 32, 1, MF_PULL_LINEAR);
  assert_take (queue, 16, 33, 15, MF_PULL_LINEAR);
  assert_take (queue, 64, 48, 16, MF_PULL_LINEAR);
  assert_take (queue, 64, 64, 36, MF_PULL_LINEAR);
  assert_empty (queue);
}

static void
test_classes (void)
{
  g_autoptr (mf_pull_queue) queue = mf_pull_queue_new (1000);

  /* One page a class, the last class first. */
  for (int c = MF_PULL_CLASSES - 1; c >= 0; c--)
    mf_pull_queue_put (queue, (mf_run){ (uint64_t) (MF_PULL_CLASSES - c) * 10, 1 }, (mf_pull_class) c);
  g_assert_cmpuint (mf_pull_queue_count (queue), ==, MF_PULL_CLASSES);
  for (int c = 0; c < MF_PULL_CLASSES; c++) {
    g_assert_cmpuint (mf_pull_queue_count_class (queue, (mf_pull_class) c), ==, 1);
    assert_take (queue, 16, (uint64_t) (MF_PULL_CLASSES - c) * 10, 1, (mf_pull_class) c);
  }
  assert_empty (queue);
}

/* put() moves to a later class as well as to an earlier one; raise() only to an earlier, and only what is queued. */
static void
test_put_and_raise (void)
{
  g_autoptr (mf_pull_queue) queue = mf_pull_queue_new (1000);

  mf_pull_queue_put (queue, (mf_run){ 0, 200 }, MF_PULL_CALLER);
  mf_pull_queue_put (queue, (mf_run){ 100, 200 }, MF_PULL_LINEAR);
  g_assert_cmpuint (mf_pull_queue_count_class (queue, MF_PULL_CALLER), ==, 100);
  g_assert_cmpuint (mf_pull_queue_count_class (queue, MF_PULL_LINEAR), ==, 200);

  g_assert_cmpuint (mf_pull_queue_raise (queue, (mf_run){ 50, 100 }, MF_PULL_HINT_0), ==, 100);
  g_assert_cmpuint (mf_pull_queue_count_class (queue, MF_PULL_CALLER), ==, 100);
  g_assert_cmpuint (mf_pull_queue_count_class (queue, MF_PULL_HINT_0), ==, 50);
  g_assert_cmpuint (mf_pull_queue_count_class (queue, MF_PULL_LINEAR), ==, 150);

  g_assert_cmpuint (mf_pull_queue_raise (queue, (mf_run){ 290, 710 }, MF_PULL_WAITED), ==, 10);
  g_assert_cmpuint (mf_pull_queue_count_class (queue, MF_PULL_WAITED), ==, 10);
  g_assert_cmpuint (mf_pull_queue_count (queue), ==, 300);
  g_assert_cmpuint (mf_pull_queue_raise (queue, (mf_run){ 290, 10 }, MF_PULL_LINEAR), ==, 10);
  g_assert_cmpuint (mf_pull_queue_count_class (queue, MF_PULL_WAITED), ==, 10);

  assert_take (queue, 1024, 290, 10, MF_PULL_WAITED);
  assert_take (queue, 1024, 0, 100, MF_PULL_CALLER);
  assert_take (queue, 1024, 100, 50, MF_PULL_HINT_0);
  assert_take (queue, 1024, 150, 140, MF_PULL_LINEAR);
  assert_empty (queue);
}

static void
test_remove_and_clear (void)
{
  g_autoptr (mf_pull_queue) queue = mf_pull_queue_new (1000);

  mf_pull_queue_put (queue, (mf_run){ 0, 100 }, MF_PULL_LINEAR);
  mf_pull_queue_put (queue, (mf_run){ 50, 10 }, MF_PULL_WAITED);
  g_assert_cmpuint (mf_pull_queue_remove (queue, (mf_run){ 55, 10 }), ==, 10);
  g_assert_cmpuint (mf_pull_queue_remove (queue, (mf_run){ 55, 10 }), ==, 0);
  g_assert_cmpuint (mf_pull_queue_count (queue), ==, 90);
  assert_take (queue, 64, 50, 5, MF_PULL_WAITED);
  assert_take (queue, 64, 0, 50, MF_PULL_LINEAR);
  assert_take (queue, 64, 65, 35, MF_PULL_LINEAR);
  assert_empty (queue);

  mf_pull_queue_put (queue, (mf_run){ 0, 1000 }, MF_PULL_HINT_0 + 3);
  mf_pull_queue_put (queue, (mf_run){ 0, 10 }, MF_PULL_WAITED);
  mf_pull_queue_clear (queue);
  assert_empty (queue);
}

/* A class goes on from where it was, and round. */
static void
test_cursor (void)
{
  g_autoptr (mf_pull_queue) queue = mf_pull_queue_new (1000);

  mf_pull_queue_put (queue, (mf_run){ 500, 100 }, MF_PULL_LINEAR);
  assert_take (queue, 4, 500, 4, MF_PULL_LINEAR);
  mf_pull_queue_put (queue, (mf_run){ 0, 4 }, MF_PULL_LINEAR);
  mf_pull_queue_put (queue, (mf_run){ 700, 4 }, MF_PULL_LINEAR);
  /* What somebody waits for comes first and does not move the linear pull elsewhere. */
  mf_pull_queue_put (queue, (mf_run){ 900, 1 }, MF_PULL_WAITED);
  assert_take (queue, 4, 900, 1, MF_PULL_WAITED);
  assert_take (queue, 4, 504, 4, MF_PULL_LINEAR);
  mf_pull_queue_remove (queue, (mf_run){ 500, 100 });
  assert_take (queue, 4, 700, 4, MF_PULL_LINEAR);
  assert_take (queue, 4, 0, 4, MF_PULL_LINEAR);
  assert_empty (queue);
}

static void
test_first_come_first_served (void)
{
  g_autoptr (mf_pull_queue) queue = mf_pull_queue_new (1000);

  mf_pull_queue_put (queue, (mf_run){ 0, 1000 }, MF_PULL_LINEAR);
  /* A fault's page, its neighbourhood, then another fault. */
  mf_pull_queue_raise (queue, (mf_run){ 805, 1 }, MF_PULL_WAITED);
  mf_pull_queue_raise (queue, (mf_run){ 800, 16 }, MF_PULL_WAITED);
  mf_pull_queue_raise (queue, (mf_run){ 3, 1 }, MF_PULL_WAITED);
  mf_pull_queue_raise (queue, (mf_run){ 805, 1 }, MF_PULL_WAITED);
  assert_take (queue, 16, 805, 1, MF_PULL_WAITED);
  assert_take (queue, 16, 800, 5, MF_PULL_WAITED);
  assert_take (queue, 16, 806, 10, MF_PULL_WAITED);
  assert_take (queue, 16, 3, 1, MF_PULL_WAITED);
  assert_take (queue, 16, 0, 3, MF_PULL_LINEAR);
}

/* Pages that left WAITED on another way are passed over. */
static void
test_waiters_that_left (void)
{
  g_autoptr (mf_pull_queue) queue = mf_pull_queue_new (1000);

  mf_pull_queue_put (queue, (mf_run){ 600, 10 }, MF_PULL_WAITED);
  mf_pull_queue_put (queue, (mf_run){ 500, 10 }, MF_PULL_WAITED);
  mf_pull_queue_put (queue, (mf_run){ 400, 10 }, MF_PULL_WAITED);
  mf_pull_queue_remove (queue, (mf_run){ 600, 10 });
  mf_pull_queue_put (queue, (mf_run){ 500, 8 }, MF_PULL_LINEAR);
  assert_take (queue, 16, 508, 2, MF_PULL_WAITED);
  assert_take (queue, 16, 400, 10, MF_PULL_WAITED);
  assert_take (queue, 16, 500, 8, MF_PULL_LINEAR);
  assert_empty (queue);
}

/* More waiters than are remembered: all are served, and the order is right again afterwards. */
static void
test_many_waiters (void)
{
  const uint64_t n = 8192;
  g_autoptr (mf_pull_queue) queue = mf_pull_queue_new (n);
  g_autofree bool *taken = g_new0 (bool, n);

  for (int round = 0; round < 2; round++) {
    memset (taken, 0, n * sizeof *taken);
    for (uint64_t i = 0; i < n / 2; i++)
      mf_pull_queue_put (queue, (mf_run){ n - 2 - 2 * i, 1 }, MF_PULL_WAITED);
    g_assert_cmpuint (mf_pull_queue_count_class (queue, MF_PULL_WAITED), ==, n / 2);
    assert_take (queue, 1, n - 2, 1, MF_PULL_WAITED);
    assert_take (queue, 1, n - 4, 1, MF_PULL_WAITED);
    for (uint64_t i = 2; i < n / 2; i++) {
      mf_run run;
      g_assert_true (mf_pull_queue_take (queue, 16, &run, NULL));
      g_assert_cmpuint (run.count, ==, 1);
      g_assert_false (taken[run.first]);
      taken[run.first] = true;
    }
    assert_empty (queue);
  }
}

/* Faults that are answered on another way leave their places in the ring: it must not fill up with them. */
static void
test_ring_is_used_again (void)
{
  g_autoptr (mf_pull_queue) queue = mf_pull_queue_new (100000);

  for (uint64_t i = 0; i < 5000; i++) {
    mf_pull_queue_put (queue, (mf_run){ i, 1 }, MF_PULL_WAITED);
    mf_pull_queue_remove (queue, (mf_run){ i, 1 });
  }
  for (uint64_t i = 1000; i > 0; i--)
    mf_pull_queue_put (queue, (mf_run){ i * 10, 1 }, MF_PULL_WAITED);
  for (uint64_t i = 1000; i > 0; i--)
    assert_take (queue, 16, i * 10, 1, MF_PULL_WAITED);
  assert_empty (queue);
}

#define PAGES 2000

/* Random use against an array of classes. */
static void
test_against_an_array (void)
{
  g_autoptr (mf_pull_queue) queue = mf_pull_queue_new (PAGES);
  int classes[PAGES];

  for (int i = 0; i < PAGES; i++)
    classes[i] = MF_PULL_CLASSES;
  for (int turn = 0; turn < 20000; turn++) {
    uint64_t first = (uint64_t) g_test_rand_int_range (0, PAGES);
    mf_run run = { first, (uint64_t) g_test_rand_int_range (0, (gint32) MIN (150, PAGES - first) + 1) };
    mf_pull_class class = (mf_pull_class) g_test_rand_int_range (0, MF_PULL_CLASSES), of;
    uint64_t counted = 0, lowest = MF_PULL_CLASSES;

    switch (g_test_rand_int_range (0, 4)) {
    case 0:
      mf_pull_queue_put (queue, run, class);
      for (uint64_t i = run.first; i < run.first + run.count; i++)
        classes[i] = class;
      break;
    case 1:
      for (uint64_t i = run.first; i < run.first + run.count; i++) {
        counted += classes[i] < MF_PULL_CLASSES;
        if (classes[i] < MF_PULL_CLASSES && (int) class < classes[i])
          classes[i] = class;
      }
      g_assert_cmpuint (mf_pull_queue_raise (queue, run, class), ==, counted);
      break;
    case 2:
      for (uint64_t i = run.first; i < run.first + run.count; i++) {
        counted += classes[i] < MF_PULL_CLASSES;
        classes[i] = MF_PULL_CLASSES;
      }
      g_assert_cmpuint (mf_pull_queue_remove (queue, run), ==, counted);
      break;
    default:
      for (int i = 0; i < PAGES; i++)
        lowest = MIN (lowest, (uint64_t) classes[i]);
      g_assert_cmpint (mf_pull_queue_take (queue, 32, &run, &of), ==, lowest < MF_PULL_CLASSES);
      if (lowest == MF_PULL_CLASSES)
        break;
      g_assert_cmpuint ((uint64_t) of, ==, lowest);
      g_assert_cmpuint (run.count, >, 0);
      g_assert_cmpuint (run.first / 32, ==, (run.first + run.count - 1) / 32);
      for (uint64_t i = run.first; i < run.first + run.count; i++) {
        g_assert_cmpuint ((uint64_t) classes[i], ==, lowest);
        classes[i] = MF_PULL_CLASSES;
      }
      break;
    }
  }
  for (int c = 0; c < MF_PULL_CLASSES; c++) {
    uint64_t counted = 0;
    for (int i = 0; i < PAGES; i++)
      counted += classes[i] == c;
    g_assert_cmpuint (mf_pull_queue_count_class (queue, (mf_pull_class) c), ==, counted);
  }
}

/* Emptying 16 times the pages must not take much more than 16 times as long: a take that searches from the beginning
 * takes 256 times. */
static double
seconds_to_empty (uint64_t n_pages)
{
  g_autoptr (mf_pull_queue) queue = mf_pull_queue_new (n_pages);
  uint64_t taken = 0;
  gint64 begin;
  mf_run run;

  /* Every second page, so that each is a run; from the end, so that the cursor alone does not help. */
  for (uint64_t page = 0; page < n_pages; page += 2)
    mf_pull_queue_put (queue, (mf_run){ page, 1 }, MF_PULL_LINEAR);
  begin = g_get_monotonic_time ();
  while (mf_pull_queue_count (queue) > 0) {
    uint64_t last = n_pages - 2 - 2 * taken++;
    mf_pull_queue_raise (queue, (mf_run){ last, 1 }, MF_PULL_CALLER);
    g_assert_true (mf_pull_queue_take (queue, 16, &run, NULL));
    g_assert_cmpuint (run.first, ==, last);
  }
  return (double) (g_get_monotonic_time () - begin) / 1e6;
}

static void
test_cost (void)
{
  double small = seconds_to_empty (1 << 16), large = seconds_to_empty (1 << 20);

  g_test_message ("65536 pages %.6f s, 1048576 pages %.6f s", small, large);
  g_assert_cmpfloat (large, <, 16 * 8 * MAX (small, 0.0005));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/pull-queue/empty", test_empty);
  g_test_add_func ("/pull-queue/one-page", test_one_page);
  g_test_add_func ("/pull-queue/granules", test_granules);
  g_test_add_func ("/pull-queue/classes", test_classes);
  g_test_add_func ("/pull-queue/put-and-raise", test_put_and_raise);
  g_test_add_func ("/pull-queue/remove-and-clear", test_remove_and_clear);
  g_test_add_func ("/pull-queue/cursor", test_cursor);
  g_test_add_func ("/pull-queue/waiters/first-come-first-served", test_first_come_first_served);
  g_test_add_func ("/pull-queue/waiters/that-left", test_waiters_that_left);
  g_test_add_func ("/pull-queue/waiters/many", test_many_waiters);
  g_test_add_func ("/pull-queue/waiters/ring-is-used-again", test_ring_is_used_again);
  g_test_add_func ("/pull-queue/against-an-array", test_against_an_array);
  g_test_add_func ("/pull-queue/cost", test_cost);
  return g_test_run ();
}
