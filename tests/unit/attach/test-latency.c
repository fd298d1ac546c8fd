/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "attach/mf-latency.h"

static void
test_nothing_measured (void)
{
  mf_latency latency = { 0 };

  g_assert_cmpuint (mf_latency_quantile (&latency, 500), ==, 0);
}

static void
test_small_values_are_exact (void)
{
  mf_latency latency = { 0 };

  for (gint64 usec = 1; usec <= 20; usec++)
    mf_latency_add (&latency, usec);
  g_assert_cmpuint (mf_latency_quantile (&latency, 0), ==, 1);
  g_assert_cmpuint (mf_latency_quantile (&latency, 500), ==, 10);
  g_assert_cmpuint (mf_latency_quantile (&latency, 900), ==, 18);
  g_assert_cmpuint (mf_latency_quantile (&latency, 1000), ==, 20);
}

/* Every value, alone with a larger one, comes back as itself or at most 1/16 larger. */
static void
test_large_values_are_close (void)
{
  for (guint64 value = 1; value < G_MAXUINT32; value += value / 7 + 1) {
    mf_latency latency = { 0 };
    guint32 found;

    mf_latency_add (&latency, (gint64) value);
    mf_latency_add (&latency, G_MAXINT64);
    found = mf_latency_quantile (&latency, 500);
    g_assert_cmpuint (found, >=, value);
    g_assert_cmpuint (found, <=, value + value / 16);
  }
}

static void
test_the_largest_is_kept (void)
{
  mf_latency latency = { 0 };

  mf_latency_add (&latency, -5);
  mf_latency_add (&latency, 123457);
  g_assert_cmpuint (mf_latency_quantile (&latency, 1000), ==, 123457);
  g_assert_cmpuint (mf_latency_quantile (&latency, 500), ==, 0);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/latency/nothing-measured", test_nothing_measured);
  g_test_add_func ("/latency/small-values-are-exact", test_small_values_are_exact);
  g_test_add_func ("/latency/large-values-are-close", test_large_values_are_close);
  g_test_add_func ("/latency/the-largest-is-kept", test_the_largest_is_kept);
  return g_test_run ();
}
