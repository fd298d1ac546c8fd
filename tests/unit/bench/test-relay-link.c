/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "relay-link.h"

#include <glib.h>

#define MSEC      1000000u
#define SEC       1000000000u
#define GIGABIT   125000000u
#define START     (5ull * SEC)
#define MIB       (1u << 20)
#define N_SAMPLES 20000u

/* Nothing but a delay: everything comes exactly that much later, however much it is. */
static void
test_delay (void)
{
  const relay_shape shape = { .delay_nsec = 25 * MSEC };
  relay_link link;

  relay_link_init (&link, &shape, 1);
  for (guint i = 0; i < 100; i++) {
    g_assert_cmpuint (relay_link_admits (&link, START + i), >, 0);
    g_assert_cmpuint (relay_link_carry (&link, START + i, i * 1000), ==, START + i + 25 * MSEC);
  }
}

/* Pieces wait for each other: 1 MiB at 1 Gbit/s takes 8.39 ms, whoever sends it. */
static void
test_rate (void)
{
  const relay_shape shape = { .delay_nsec = MSEC, .bytes_per_sec = GIGABIT, .queue_nsec = SEC };
  relay_link link;
  uint64_t out = 0;

  relay_link_init (&link, &shape, 1);
  for (guint i = 0; i < MIB / 4096; i++)
    out = relay_link_carry (&link, START, 4096);
  g_assert_cmpuint (out, >=, START + MSEC + 8388000);
  g_assert_cmpuint (out, <=, START + MSEC + 8389000);
  /* A link that was idle has saved up nothing. */
  out = relay_link_carry (&link, START + SEC, 125000);
  g_assert_cmpuint (out, ==, START + SEC + 2 * MSEC);
}

/* Who sends as much as is admitted gets the whole rate, and never more than the queue is waiting. */
static void
test_queue (void)
{
  const relay_shape shape = { .bytes_per_sec = GIGABIT, .queue_nsec = 5 * MSEC };
  relay_link link;
  uint64_t now = START, sent = 0;
  guint refused = 0;

  relay_link_init (&link, &shape, 1);
  while (now < START + SEC) {
    size_t admitted = relay_link_admits (&link, now);
    if (admitted == 0) {
      uint64_t next = relay_link_admits_at (&link, now);
      g_assert_cmpuint (next, >, now);
      now = next;
      refused++;
      continue;
    }
    uint64_t out = relay_link_carry (&link, now, admitted);
    sent += admitted;
    g_assert_cmpuint (out, <=, now + 6 * MSEC);
  }
  g_assert_cmpuint (refused, >, 100);
  g_assert_cmpuint (sent, >=, GIGABIT);
  g_assert_cmpuint (sent, <=, GIGABIT / 100 * 101);
}

/* Evenly around the delay, never out of bounds, and the same again with the same seed. */
static void
test_jitter (void)
{
  const relay_shape shape = { .delay_nsec = 10 * MSEC, .jitter_nsec = 2 * MSEC };
  relay_link link, again;
  uint64_t sum = 0, least = UINT64_MAX, most = 0;

  relay_link_init (&link, &shape, 7);
  relay_link_init (&again, &shape, 7);
  for (guint i = 0; i < N_SAMPLES; i++) {
    uint64_t out = relay_link_carry (&link, START, 100) - START;
    g_assert_cmpuint (out, ==, relay_link_carry (&again, START, 100) - START);
    sum += out;
    least = MIN (least, out);
    most = MAX (most, out);
  }
  g_assert_cmpuint (least, >=, 8 * MSEC);
  g_assert_cmpuint (least, <, 8 * MSEC + MSEC / 10);
  g_assert_cmpuint (most, <=, 12 * MSEC);
  g_assert_cmpuint (most, >, 12 * MSEC - MSEC / 10);
  g_assert_cmpuint (sum / N_SAMPLES, >, 10 * MSEC - MSEC / 10);
  g_assert_cmpuint (sum / N_SAMPLES, <, 10 * MSEC + MSEC / 10);
}

/* More jitter than delay: nothing comes before it was sent. */
static void
test_jitter_over_delay (void)
{
  const relay_shape shape = { .delay_nsec = MSEC, .jitter_nsec = 5 * MSEC };
  relay_link link;

  relay_link_init (&link, &shape, 3);
  for (guint i = 0; i < N_SAMPLES; i++)
    g_assert_cmpuint (relay_link_carry (&link, START, 100), >=, START);
}

/* One segment in a hundred is lost, each costs a stall, and all are counted. */
static void
test_loss (void)
{
  const relay_shape shape = { .delay_nsec = MSEC, .loss = 0.01, .stall_nsec = 200 * MSEC };
  relay_link link;
  guint stalled = 0;

  relay_link_init (&link, &shape, 5);
  for (guint i = 0; i < N_SAMPLES; i++) {
    uint64_t out = relay_link_carry (&link, START, RELAY_SEGMENT_BYTES) - START;
    g_assert_true (out == MSEC || out == 201 * MSEC);
    stalled += out != MSEC;
  }
  g_assert_cmpuint (stalled, ==, link.stalls);
  g_assert_cmpuint (stalled, >, N_SAMPLES / 100 * 7 / 10);
  g_assert_cmpuint (stalled, <, N_SAMPLES / 100 * 13 / 10);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/relay-link/delay", test_delay);
  g_test_add_func ("/relay-link/rate", test_rate);
  g_test_add_func ("/relay-link/queue", test_queue);
  g_test_add_func ("/relay-link/jitter", test_jitter);
  g_test_add_func ("/relay-link/jitter-over-delay", test_jitter_over_delay);
  g_test_add_func ("/relay-link/loss", test_loss);
  return g_test_run ();
}
