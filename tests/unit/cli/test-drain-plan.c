/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-drain-plan.h"
#include <stdint.h>

#define MIB (UINT64_C (1) << 20)
#define GIB (UINT64_C (1) << 30)

static void
test_cost (void)
{
  const mf_drain_guest idle = { .size_bytes = GIB }, busy = { .size_bytes = GIB, .dirty_rate = 512 * MIB },
                       wild = { .size_bytes = GIB, .dirty_rate = 4 * GIB }, huge = { .size_bytes = G_MAXUINT64 },
                       none = { 0 };

  g_assert_cmpuint (mf_drain_cost_usec (&idle, GIB), ==, G_USEC_PER_SEC);
  g_assert_cmpuint (mf_drain_cost_usec (&busy, GIB), ==, 2 * G_USEC_PER_SEC);
  g_assert_cmpuint (mf_drain_cost_usec (&wild, GIB), ==, mf_drain_cost_usec (&idle, GIB / 10));
  g_assert_cmpuint (mf_drain_cost_usec (&huge, 1), ==, G_MAXINT64);
  g_assert_cmpuint (mf_drain_cost_usec (&huge, 0), ==, G_MAXINT64);
  g_assert_cmpuint (mf_drain_cost_usec (&none, GIB), ==, 0);
}

static mf_drain_guest *
guest_new (const char *name, guint64 size_bytes, guint64 dirty_rate)
{
  mf_drain_guest *guest = g_new0 (mf_drain_guest, 1);

  guest->name = g_strdup (name);
  guest->size_bytes = size_bytes;
  guest->dirty_rate = dirty_rate;
  return guest;
}

static void
test_sort (void)
{
  static const char *const expected[] = { "small", "a", "b", "writes", "large", "wild" };
  g_autoptr (GPtrArray) guests = g_ptr_array_new_with_free_func ((GDestroyNotify) mf_drain_guest_free);

  g_ptr_array_add (guests, guest_new ("wild", 2 * GIB, 10 * GIB));
  g_ptr_array_add (guests, guest_new ("large", 8 * GIB, 0));
  g_ptr_array_add (guests, guest_new ("b", GIB, 0));
  g_ptr_array_add (guests, guest_new ("writes", GIB, 800 * MIB));
  g_ptr_array_add (guests, guest_new ("a", GIB, 0));
  g_ptr_array_add (guests, guest_new ("small", 64 * MIB, 0));
  mf_drain_sort (guests, GIB);
  for (guint i = 0; i < guests->len; i++)
    g_assert_cmpstr (((mf_drain_guest *) guests->pdata[i])->name, ==, expected[i]);
}

static void
test_choose (void)
{
  mf_drain_guest guest = { 0 };
  guint64 bytes[] = { 5, 3, 3, 9 };

  g_assert_cmpint (mf_drain_choose (&guest, bytes, 4), ==, 1);
  guest.tried = 1 << 1;
  g_assert_cmpint (mf_drain_choose (&guest, bytes, 4), ==, 2);
  guest.tried = 1 << 1 | 1 << 2 | 1 << 0;
  g_assert_cmpint (mf_drain_choose (&guest, bytes, 4), ==, 3);
  guest.tried = 15;
  g_assert_cmpint (mf_drain_choose (&guest, bytes, 4), ==, -1);
  g_assert_cmpint (mf_drain_choose (&guest, bytes, 0), ==, -1);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/drain-plan/cost", test_cost);
  g_test_add_func ("/drain-plan/sort", test_sort);
  g_test_add_func ("/drain-plan/choose", test_choose);
  return g_test_run ();
}
