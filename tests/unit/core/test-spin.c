/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "core/mf-spin.h"

#include <glib.h>

/* Made-up worlds in which looking or sleeping is the better way; how often was it taken? */

typedef struct {
  uint64_t sleeping_nsec, looking_nsec;
  uint64_t noise_nsec; /* up to so much more, evenly */
  guint outliers;      /* one wait in so many takes 5 ms; 0 none */
} World;

/* Of `n` waits, how many were by looking. */
static guint
live (mf_spin *spin, const World *world, GRand *rand, guint n)
{
  guint looked = 0;

  for (guint i = 0; i < n; i++) {
    bool look = mf_spin_begin (spin, true);
    uint64_t nsec = look ? world->looking_nsec : world->sleeping_nsec;

    looked += look;
    if (world->noise_nsec)
      nsec += (uint64_t) g_rand_int_range (rand, 0, (gint32) world->noise_nsec);
    if (world->outliers && g_rand_int_range (rand, 0, (gint32) world->outliers) == 0)
      nsec = 5000000;
    mf_spin_end (spin, nsec);
  }
  return looked;
}

static void
test_better_way (void)
{
  static const struct {
    World world;
    gboolean look;
  } cases[] = {
    { { 58000, 7000, 0, 0 }, TRUE },
    { { 6000, 156000, 0, 0 }, FALSE },
    { { 58000, 7000, 20000, 20 }, TRUE },
    { { 6000, 156000, 20000, 20 }, FALSE },
    { { 7000, 7000, 0, 0 }, FALSE },
    { { 7000, 6900, 500, 0 }, FALSE }, /* not clearly better */
    { { 500000, 400000, 0, 0 }, TRUE },
    { { 3000000, 2000000, 0, 0 }, FALSE }, /* both just long */
    { { 1, 1, 0, 0 }, FALSE },
  };
  g_autoptr (GRand) rand = g_rand_new_with_seed (1);

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    mf_spin spin = { 0 };
    guint looked;

    live (&spin, &cases[i].world, rand, 100);
    looked = live (&spin, &cases[i].world, rand, 10000);
    if (cases[i].look)
      g_assert_cmpuint (looked, >, 9800);
    else
      g_assert_cmpuint (looked, <, 200);
    /* The other way is tried, or a change would never be noticed. */
    g_assert_cmpuint (looked, >, 10);
    g_assert_cmpuint (looked, <, 9990);
  }
}

/* The world changes, both ways. */
static void
test_change (void)
{
  static const World apart = { 58000, 7000, 5000, 50 }, together = { 6000, 156000, 5000, 50 };
  g_autoptr (GRand) rand = g_rand_new_with_seed (2);
  mf_spin spin = { 0 };

  live (&spin, &apart, rand, 1000);
  g_assert_cmpuint (live (&spin, &apart, rand, 1000), >, 900);
  live (&spin, &together, rand, 20000);
  g_assert_cmpuint (live (&spin, &together, rand, 1000), <, 100);
  live (&spin, &apart, rand, 20000);
  g_assert_cmpuint (live (&spin, &apart, rand, 1000), >, 900);
}

/* Waits that something else ended teach nothing. */
static void
test_no_end (void)
{
  mf_spin spin = { 0 };
  guint looked = 0;

  for (guint i = 0; i < 10000; i++)
    looked += mf_spin_begin (&spin, true);
  g_assert_cmpuint (looked, <, 200);
  mf_spin_end (&spin, 0);
  g_assert_cmpuint (spin.typical_nsec[0] + spin.typical_nsec[1], ==, 1);
}

/* He who may not look sleeps, and learns how long that takes. */
static void
test_may_not_look (void)
{
  mf_spin spin = { 0 };

  for (guint i = 0; i < 1000; i++) {
    g_assert_false (mf_spin_begin (&spin, false));
    mf_spin_end (&spin, 1000);
  }
  g_assert_cmpuint (spin.typical_nsec[0], >, 0);
  g_assert_cmpuint (spin.typical_nsec[1], ==, 0);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/spin/better-way", test_better_way);
  g_test_add_func ("/spin/change", test_change);
  g_test_add_func ("/spin/no-end", test_no_end);
  g_test_add_func ("/spin/may-not-look", test_may_not_look);
  return g_test_run ();
}
