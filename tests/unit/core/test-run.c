/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "core/mf-run.h"

#include <glib.h>

#define TWO_63 (UINT64_C (1) << 63)

static void
assert_run (mf_run run, uint64_t first, uint64_t count)
{
  g_assert_cmpuint (run.count, ==, count);
  if (count > 0)
    g_assert_cmpuint (run.first, ==, first);
}

static void
test_intersect (void)
{
  assert_run (mf_run_intersect ((mf_run){ 0, 10 }, (mf_run){ 5, 10 }), 5, 5);
  assert_run (mf_run_intersect ((mf_run){ 5, 10 }, (mf_run){ 0, 10 }), 5, 5);
  assert_run (mf_run_intersect ((mf_run){ 0, 10 }, (mf_run){ 3, 2 }), 3, 2);
  assert_run (mf_run_intersect ((mf_run){ 0, 5 }, (mf_run){ 5, 5 }), 0, 0);
  assert_run (mf_run_intersect ((mf_run){ 9, 5 }, (mf_run){ 0, 5 }), 0, 0);
  assert_run (mf_run_intersect ((mf_run){ 3, 0 }, (mf_run){ 0, 5 }), 0, 0);
  assert_run (mf_run_intersect ((mf_run){ 0, 5 }, (mf_run){ 3, 0 }), 0, 0);
}

static void
test_intersect_at_the_end_of_numbers (void)
{
  /* These end at 2^64, which a 64-bit end would see as 0. */
  mf_run upper = { TWO_63, TWO_63 };
  mf_run all_but_first = { 1, UINT64_MAX };

  assert_run (mf_run_intersect (upper, all_but_first), TWO_63, TWO_63);
  assert_run (mf_run_intersect (upper, (mf_run){ 0, TWO_63 }), 0, 0);
  assert_run (mf_run_intersect (upper, (mf_run){ 0, TWO_63 + 1 }), TWO_63, 1);
  assert_run (mf_run_intersect ((mf_run){ UINT64_MAX, 1 }, upper), UINT64_MAX, 1);
  assert_run (mf_run_intersect ((mf_run){ UINT64_MAX, UINT64_MAX }, (mf_run){ 0, 5 }), 0, 0);
}

static void
test_from_bytes (void)
{
  mf_run run;

  g_assert_true (mf_run_from_bytes (0, 1, 4096, 10, &run));
  assert_run (run, 0, 1);
  g_assert_true (mf_run_from_bytes (4095, 2, 4096, 10, &run));
  assert_run (run, 0, 2);
  g_assert_true (mf_run_from_bytes (4096, 4096, 4096, 10, &run));
  assert_run (run, 1, 1);
  g_assert_true (mf_run_from_bytes (0, 40960, 4096, 10, &run));
  assert_run (run, 0, 10);
  g_assert_true (mf_run_from_bytes (1, 40959, 4096, 10, &run));
  assert_run (run, 0, 10);
  /* A region whose last page holds a single byte. */
  g_assert_true (mf_run_from_bytes (9 * 4096, 1, 4096, 10, &run));
  assert_run (run, 9, 1);
}

static void
test_from_bytes_empty (void)
{
  mf_run run = { 7, 7 };

  g_assert_true (mf_run_from_bytes (0, 0, 4096, 0, &run));
  g_assert_cmpuint (run.count, ==, 0);
  g_assert_true (mf_run_from_bytes (40960, 0, 4096, 10, &run));
  g_assert_cmpuint (run.count, ==, 0);
  g_assert_cmpuint (run.first, ==, 10);
  g_assert_false (mf_run_from_bytes (40961, 0, 4096, 10, &run));
}

static void
test_from_bytes_refuses (void)
{
  mf_run run = { 7, 7 };

  g_assert_false (mf_run_from_bytes (0, 1, 4096, 0, &run));
  g_assert_false (mf_run_from_bytes (0, 40961, 4096, 10, &run));
  g_assert_false (mf_run_from_bytes (40960, 1, 4096, 10, &run));
  g_assert_false (mf_run_from_bytes (UINT64_MAX, 1, 4096, 10, &run));
  g_assert_false (mf_run_from_bytes (1, UINT64_MAX, 4096, UINT64_MAX, &run));
  g_assert_false (mf_run_from_bytes (TWO_63, TWO_63, 4096, UINT64_MAX, &run));
  assert_run (run, 7, 7);
}

static void
test_from_bytes_large (void)
{
  mf_run run;

  g_assert_true (mf_run_from_bytes (TWO_63, TWO_63 - 1, 4096, UINT64_C (1) << 52, &run));
  assert_run (run, UINT64_C (1) << 51, UINT64_C (1) << 51);
  g_assert_true (mf_run_from_bytes (0, UINT64_MAX, 1, UINT64_MAX, &run));
  assert_run (run, 0, UINT64_MAX);
  g_assert_true (mf_run_from_bytes (UINT64_MAX - 1, 1, UINT32_C (1) << 31, UINT64_C (1) << 33, &run));
  assert_run (run, (UINT64_C (1) << 33) - 1, 1);
  /* A region whose size in bytes is no 64-bit number. */
  g_assert_true (mf_run_from_bytes (5 * 4096, 4096, 4096, UINT64_MAX, &run));
  assert_run (run, 5, 1);
}

static void
test_align (void)
{
  assert_run (mf_run_align ((mf_run){ 5, 1 }, 16, 100), 0, 16);
  assert_run (mf_run_align ((mf_run){ 15, 2 }, 16, 100), 0, 32);
  assert_run (mf_run_align ((mf_run){ 16, 16 }, 16, 100), 16, 16);
  assert_run (mf_run_align ((mf_run){ 5, 3 }, 1, 100), 5, 3);
  /* The tail isn't a whole granule. */
  assert_run (mf_run_align ((mf_run){ 98, 1 }, 16, 100), 96, 4);
  assert_run (mf_run_align ((mf_run){ 90, 50 }, 16, 100), 80, 20);
  assert_run (mf_run_align ((mf_run){ 0, 1 }, 16, 1), 0, 1);
  assert_run (mf_run_align ((mf_run){ 5, 0 }, 16, 100), 0, 0);
  assert_run (mf_run_align ((mf_run){ 100, 1 }, 16, 100), 0, 0);
  assert_run (mf_run_align ((mf_run){ 0, 1 }, 16, 0), 0, 0);
}

static void
test_align_at_the_end_of_numbers (void)
{
  assert_run (mf_run_align ((mf_run){ UINT64_MAX - 1, 1 }, 16, UINT64_MAX), UINT64_MAX - 15, 15);
  assert_run (mf_run_align ((mf_run){ 1, UINT64_MAX }, TWO_63, UINT64_MAX), 0, UINT64_MAX);
  assert_run (mf_run_align ((mf_run){ TWO_63, 1 }, TWO_63, UINT64_MAX), TWO_63, TWO_63 - 1);
  assert_run (mf_run_align ((mf_run){ 5, UINT64_MAX }, 16, 100), 0, 100);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/run/intersect", test_intersect);
  g_test_add_func ("/run/intersect/end-of-numbers", test_intersect_at_the_end_of_numbers);
  g_test_add_func ("/run/from-bytes", test_from_bytes);
  g_test_add_func ("/run/from-bytes/empty", test_from_bytes_empty);
  g_test_add_func ("/run/from-bytes/refuses", test_from_bytes_refuses);
  g_test_add_func ("/run/from-bytes/large", test_from_bytes_large);
  g_test_add_func ("/run/align", test_align);
  g_test_add_func ("/run/align/end-of-numbers", test_align_at_the_end_of_numbers);
  return g_test_run ();
}
