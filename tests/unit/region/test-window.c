/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "region/mf-window.h"

#include <string.h>

/*
 * The window against modelled links, in the model's time: a sender keeps `window` bytes in flight in requests of
 * `transfer`; the link has a rate, a delay, and a queue that takes all.
 */
#define MAX_WINDOW (16u * 1024 * 1024)
#define MS         1000
#define RING       4096

typedef struct {
  gint64 submitted, done;
  uint32_t bytes;
} Flight;

typedef struct {
  mf_window window;
  guint lanes;
  double usec_per_byte;
  gint64 rtt_usec;
  gint64 jitter_usec; /* up to this much more, evenly */
  GRand *rand;

  gint64 now;
  double link_free; /* when what is queued has passed */
  Flight flights[RING];
  guint first, last;
  uint64_t in_flight;
  uint64_t carried;
  gint64 max_queue_usec; /* of what was submitted since it was last cleared */
} Link;

static void
link_init (Link *l, guint lanes, double bytes_per_second, gint64 rtt_usec)
{
  memset (l, 0, sizeof *l);
  mf_window_init (&l->window, MAX_WINDOW);
  mf_window_set_lanes (&l->window, lanes);
  l->lanes = lanes;
  l->usec_per_byte = 1e6 / bytes_per_second;
  l->rtt_usec = rtt_usec;
  l->now = 1000 * MS;
  l->rand = g_rand_new_with_seed (3);
}

static void
link_submit_all (Link *l)
{
  for (;;) {
    uint32_t bytes = l->window.transfer_bytes;
    gint64 jitter = l->jitter_usec > 0 ? g_rand_int_range (l->rand, 0, (int) l->jitter_usec) : 0;

    if (l->last - l->first >= l->window.lane_requests * l->lanes && l->in_flight + bytes > l->window.window_bytes) {
      mf_window_limited (&l->window);
      return;
    }
    /* The request takes half the round trip to come to the queue, and the reply the other half. */
    l->link_free = MAX (l->link_free, (double) (l->now + l->rtt_usec / 2));
    l->max_queue_usec = MAX (l->max_queue_usec, (gint64) l->link_free - l->now - l->rtt_usec / 2);
    l->link_free += bytes * l->usec_per_byte;
    l->flights[l->last++ % RING] = (Flight){ l->now, (gint64) l->link_free + l->rtt_usec / 2 + jitter, bytes };
    l->in_flight += bytes;
    g_assert_cmpuint (l->last - l->first, <, RING);
  }
}

/* Runs for `usec` of the model's time; returns the bytes carried in it. */
static uint64_t
link_run (Link *l, gint64 usec)
{
  gint64 end = l->now + usec;
  uint64_t before = l->carried;

  l->max_queue_usec = 0;
  while (l->now < end) {
    Flight flight;

    link_submit_all (l);
    flight = l->flights[l->first++ % RING];
    l->now = MAX (l->now, flight.done);
    l->in_flight -= flight.bytes;
    l->carried += flight.bytes;
    mf_window_completed (&l->window, flight.submitted, l->now, flight.bytes);
    g_assert_cmpuint (l->window.window_bytes, <=, MAX_WINDOW);
    g_assert_cmpuint (l->window.window_bytes, >=, l->lanes * l->window.lane_requests * MF_TRANSFER_MIN);
    g_assert_cmpuint (l->window.transfer_bytes, >=, MF_TRANSFER_MIN);
    g_assert_cmpuint (l->window.transfer_bytes, <=, MF_TRANSFER_MAX);
    g_assert_cmpuint (l->window.transfer_bytes & (l->window.transfer_bytes - 1), ==, 0);
  }
  return l->carried - before;
}

static double
share_of_link (Link *l, uint64_t bytes, gint64 usec)
{
  return (double) bytes * l->usec_per_byte / (double) usec;
}

#define GBIT 125e6

/* A short link: full, and never much more than a millisecond in its queue. */
static void
test_lan (void)
{
  for (guint lanes = 1; lanes <= 8; lanes *= 2) {
    Link l;

    link_init (&l, lanes, GBIT, 100);
    link_run (&l, 200 * MS);
    g_assert_cmpfloat (share_of_link (&l, link_run (&l, 1000 * MS), 1000 * MS), >, 0.97);
    /* With many lanes the floor of two requests each is what queues. */
    g_assert_cmpint (l.max_queue_usec, <=, MAX (1500, 200 + (gint64) (lanes * 2 * MF_TRANSFER_MIN * l.usec_per_byte)));
    g_test_message ("%u lanes: window %" G_GUINT64_FORMAT " transfer %u queue %" G_GINT64_FORMAT " us", lanes,
                    l.window.window_bytes, l.window.transfer_bytes, l.max_queue_usec);
    g_rand_free (l.rand);
  }
}

/* The probes that look for a smaller delay, every ten seconds, do not let the queue grow over time, nor cost much. */
static void
test_long_run (void)
{
  for (guint lanes = 1; lanes <= 8; lanes *= 2) {
    Link l;

    link_init (&l, lanes, GBIT, 100);
    g_assert_cmpfloat (share_of_link (&l, link_run (&l, 65000 * MS), 65000 * MS), >, 0.99);
    g_assert_cmpint (l.max_queue_usec, <=, 1500 + 2 * (gint64) (lanes * 2 * MF_TRANSFER_MIN * l.usec_per_byte));
    g_rand_free (l.rand);

    /* A slow and long one. */
    link_init (&l, lanes, GBIT / 10, 50 * MS);
    link_run (&l, 1000 * MS);
    g_assert_cmpfloat (share_of_link (&l, link_run (&l, 65000 * MS), 65000 * MS), >, 0.95);
    /* What may queue on it is a quarter of its delay, or two small requests a lane; twice that after a probe. */
    g_assert_cmpint (l.max_queue_usec, <=, 50 * MS + (gint64) (lanes * 2 * MF_TRANSFER_MIN * l.usec_per_byte));
    g_rand_free (l.rand);
  }
}

/* A long link is full within a second, and its queue stays shorter than half of its own delay. */
static void
test_wan (void)
{
  const gint64 rtts[] = { 5 * MS, 20 * MS, 50 * MS, 80 * MS };

  for (guint i = 0; i < G_N_ELEMENTS (rtts); i++) {
    Link l;

    link_init (&l, 2, GBIT, rtts[i]);
    link_run (&l, 1000 * MS);
    g_assert_cmpfloat (share_of_link (&l, link_run (&l, 1000 * MS), 1000 * MS), >, 0.90);
    link_run (&l, 2000 * MS);
    g_assert_cmpfloat (share_of_link (&l, link_run (&l, 1000 * MS), 1000 * MS), >, 0.95);
    g_assert_cmpint (l.max_queue_usec, <=, MAX (2 * MS, rtts[i] / 2));
    g_test_message ("rtt %" G_GINT64_FORMAT ": window %" G_GUINT64_FORMAT " queue %" G_GINT64_FORMAT " us", rtts[i],
                    l.window.window_bytes, l.max_queue_usec);
    g_rand_free (l.rand);
  }
}

/* A socket on this machine: some GB/s, some microseconds. The window must not be what limits, nor grow without use. */
static void
test_local (void)
{
  Link l;

  link_init (&l, 2, 4e9, 30);
  link_run (&l, 50 * MS);
  g_assert_cmpfloat (share_of_link (&l, link_run (&l, 200 * MS), 200 * MS), >, 0.99);
  g_assert_cmpuint (l.window.window_bytes, <=, 2 * 1024 * 1024);
  g_assert_cmpuint (l.window.transfer_bytes, ==, MF_TRANSFER_MAX);
  g_rand_free (l.rand);
}

/* Delays that vary by a fifth of the round trip are not taken for a queue. */
static void
test_jitter (void)
{
  Link l;

  link_init (&l, 2, GBIT, 40 * MS);
  l.jitter_usec = 8 * MS;
  link_run (&l, 2000 * MS);
  g_assert_cmpfloat (share_of_link (&l, link_run (&l, 2000 * MS), 2000 * MS), >, 0.85);
  g_rand_free (l.rand);
}

/* The link changes under way: slower, faster, longer, shorter. */
static void
test_changes (void)
{
  Link l;

  link_init (&l, 2, GBIT, 10 * MS);
  link_run (&l, 1000 * MS);

  l.usec_per_byte *= 10;
  link_run (&l, 2000 * MS);
  g_assert_cmpfloat (share_of_link (&l, link_run (&l, 1000 * MS), 1000 * MS), >, 0.95);
  g_assert_cmpint (l.max_queue_usec, <=, 15 * MS);

  l.usec_per_byte /= 50;
  link_run (&l, 2000 * MS);
  g_assert_cmpfloat (share_of_link (&l, link_run (&l, 1000 * MS), 1000 * MS), >, 0.90);

  /* A longer route looks like a queue, until the window has found out that it is not. */
  l.usec_per_byte = 1e6 / GBIT;
  l.rtt_usec = 60 * MS;
  link_run (&l, 8000 * MS);
  g_assert_cmpfloat (share_of_link (&l, link_run (&l, 1000 * MS), 1000 * MS), >, 0.90);

  /* A shorter one hides behind the queue, until that has been let go empty. */
  l.rtt_usec = 1 * MS;
  link_run (&l, 12000 * MS);
  g_assert_cmpfloat (share_of_link (&l, link_run (&l, 1000 * MS), 1000 * MS), >, 0.95);
  g_assert_cmpint (l.max_queue_usec, <=, 4 * MS);
  g_rand_free (l.rand);
}

/* Faults make requests small at once; without them they are large again after some milliseconds. */
static void
test_faults (void)
{
  Link l;

  link_init (&l, 2, 4e9, 30);
  link_run (&l, 50 * MS);
  g_assert_cmpuint (l.window.transfer_bytes, ==, MF_TRANSFER_MAX);
  mf_window_fault (&l.window, l.now);
  g_assert_cmpuint (l.window.transfer_bytes, ==, MF_TRANSFER_MIN);
  link_run (&l, 4 * MS);
  g_assert_cmpuint (l.window.transfer_bytes, ==, MF_TRANSFER_MIN);
  link_run (&l, 100 * MS);
  g_assert_cmpuint (l.window.transfer_bytes, ==, MF_TRANSFER_MAX);
  g_rand_free (l.rand);
}

/* Who has little to ask for does not open the window. */
static void
test_unused (void)
{
  mf_window w;
  uint64_t before;

  mf_window_init (&w, MAX_WINDOW);
  before = w.window_bytes;
  for (gint64 now = MS; now < 1000 * MS; now += MS)
    mf_window_completed (&w, now - 100, now, 4096);
  g_assert_cmpuint (w.window_bytes, <=, before);
}

/* Holes carry nothing and say how short the delay can be; a round of holes only decides nothing. */
static void
test_holes (void)
{
  mf_window w;

  mf_window_init (&w, MAX_WINDOW);
  for (gint64 now = MS; now < 100 * MS; now += 10) {
    mf_window_limited (&w);
    mf_window_completed (&w, now - 50, now, 0);
  }
  g_assert_cmpint (w.base_usec, ==, 50);
  g_assert_cmpuint (w.window_bytes, <=, 1024 * 1024);
}

/* A clock that stands still, or goes back, breaks nothing. */
static void
test_bad_clock (void)
{
  mf_window w;

  mf_window_init (&w, MAX_WINDOW);
  for (guint i = 0; i < 1000; i++) {
    mf_window_limited (&w);
    mf_window_completed (&w, 5000, i % 3 == 0 ? 4000 : 5000, MF_TRANSFER_MAX);
  }
  g_assert_cmpuint (w.window_bytes, <=, MAX_WINDOW);
  mf_window_idle (&w);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/window/lan", test_lan);
  g_test_add_func ("/window/long-run", test_long_run);
  g_test_add_func ("/window/wan", test_wan);
  g_test_add_func ("/window/local", test_local);
  g_test_add_func ("/window/jitter", test_jitter);
  g_test_add_func ("/window/changes", test_changes);
  g_test_add_func ("/window/faults", test_faults);
  g_test_add_func ("/window/unused", test_unused);
  g_test_add_func ("/window/holes", test_holes);
  g_test_add_func ("/window/bad-clock", test_bad_clock);
  return g_test_run ();
}
