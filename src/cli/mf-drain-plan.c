/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-drain-plan.h"

#include <string.h>

/* Of the rate, for who writes as fast as it is or faster. */
#define LEAST_PART 10

void
mf_drain_guest_free (mf_drain_guest *guest)
{
  g_free (guest->name);
  g_free (guest);
}

guint64
mf_drain_cost_usec (const mf_drain_guest *guest, guint64 rate)
{
  double usec;
  guint64 left = rate > guest->dirty_rate ? rate - guest->dirty_rate : 0;

  left = MAX (left, MAX (rate / LEAST_PART, 1));
  /* In floating point, which does not overflow: it is only compared. */
  usec = (double) guest->size_bytes / (double) left * G_USEC_PER_SEC;
  return usec < (double) G_MAXINT64 ? (guint64) usec : G_MAXINT64;
}

typedef struct {
  guint64 rate;
} Order;

static int
compare (gconstpointer a, gconstpointer b, gpointer user_data)
{
  const mf_drain_guest *left = *(mf_drain_guest *const *) a, *right = *(mf_drain_guest *const *) b;
  const Order *order = user_data;
  guint64 left_cost = mf_drain_cost_usec (left, order->rate), right_cost = mf_drain_cost_usec (right, order->rate);

  if (left_cost != right_cost)
    return left_cost < right_cost ? -1 : 1;
  return strcmp (left->name, right->name);
}

void
mf_drain_sort (GPtrArray *guests, guint64 rate)
{
  Order order = { rate };

  g_ptr_array_sort_with_data (guests, compare, &order);
}

int
mf_drain_choose (const mf_drain_guest *guest, const guint64 *bytes, guint n_destinations)
{
  int best = -1;

  for (guint i = 0; i < n_destinations; i++) {
    if ((guest->tried >> i & 1) == 0 && (best < 0 || bytes[i] < bytes[best]))
      best = (int) i;
  }
  return best;
}
