/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "core/mf-switchover.h"

#include <glib.h>

#define MB    UINT64_C (1000000)
#define GB    UINT64_C (1000000000)
#define MSEC  UINT64_C (1000)
#define GBIT  (118 * MB) /* what a link of 1 Gbit/s carries a second */
#define FIXED (10 * MSEC)

static void
learn (mf_switchover *model, uint64_t dirty, uint64_t sent, uint64_t usec, uint64_t dirtied)
{
  mf_switchover_learn (model, &(mf_round){ dirty, sent, usec, dirtied });
}

static void
test_downtime (void)
{
  mf_switchover model;

  mf_switchover_init (&model, MF_MODE_AUTO, 30 * MSEC, FIXED, GB);
  g_assert_cmpuint (mf_switchover_downtime_usec (&model, 1), ==, UINT64_MAX);
  g_assert_cmpuint (mf_switchover_downtime_usec (&model, 0), ==, FIXED);
  learn (&model, 2 * MB, 100 * MB, 1000 * MSEC, 2 * MB);
  g_assert_cmpuint (mf_switchover_downtime_usec (&model, 0), ==, FIXED);
  g_assert_cmpuint (mf_switchover_downtime_usec (&model, MB), ==, FIXED + 10 * MSEC);
  g_assert_cmpint (mf_switchover_decide (&model, 2 * MB), ==, MF_DECIDE_GO);
  g_assert_cmpint (mf_switchover_decide (&model, 2 * MB + 100), ==, MF_DECIDE_STREAM);
}

static void
test_first_round (void)
{
  mf_switchover model;

  mf_switchover_init (&model, MF_MODE_AUTO, 30 * MSEC, FIXED, GB);
  g_assert_cmpint (mf_switchover_decide (&model, GB), ==, MF_DECIDE_ROUND);
  mf_switchover_init (&model, MF_MODE_PRECOPY, 30 * MSEC, FIXED, GB);
  g_assert_cmpint (mf_switchover_decide (&model, GB), ==, MF_DECIDE_ROUND);
  mf_switchover_init (&model, MF_MODE_POSTCOPY, 30 * MSEC, FIXED, GB);
  g_assert_cmpint (mf_switchover_decide (&model, GB), ==, MF_DECIDE_POSTCOPY);
}

/* A region without a single page to send: no rate is ever known, and none is needed. */
static void
test_nothing_to_send (void)
{
  for (int mode = MF_MODE_AUTO; mode <= MF_MODE_PRECOPY; mode++) {
    mf_switchover model;
    mf_switchover_init (&model, (mf_mode) mode, 30 * MSEC, FIXED, GB);
    learn (&model, 0, 0, 0, 0);
    g_assert_cmpint (mf_switchover_decide (&model, 0), ==, MF_DECIDE_GO);
    learn (&model, 0, 0, 5 * MSEC, 0);
    g_assert_cmpint (mf_switchover_decide (&model, 0), ==, MF_DECIDE_GO);
  }
}

/* Nothing is dirty, but the fixed cost alone is over the budget: no round helps. */
static void
test_budget_below_fixed_cost (void)
{
  mf_switchover model;

  mf_switchover_init (&model, MF_MODE_AUTO, FIXED - 1, FIXED, GB);
  learn (&model, 0, GB, 10000 * MSEC, 0);
  g_assert_cmpint (mf_switchover_decide (&model, 0), ==, MF_DECIDE_POSTCOPY);

  mf_switchover_init (&model, MF_MODE_PRECOPY, FIXED - 1, FIXED, GB);
  learn (&model, 0, GB, 10000 * MSEC, 0);
  while (mf_switchover_decide (&model, 0) == MF_DECIDE_ROUND)
    learn (&model, 0, 0, 2 * MSEC, 0);
  g_assert_cmpint (mf_switchover_decide (&model, 0), ==, MF_DECIDE_GIVE_UP);
  g_assert_cmpuint (model.rounds, ==, 1 + MF_SWITCHOVER_STALLED_MAX);
}

static void
test_rates (void)
{
  mf_switchover model;

  mf_switchover_init (&model, MF_MODE_AUTO, 30 * MSEC, FIXED, 10 * GB);
  learn (&model, 100 * MB, GB, 10000 * MSEC, 100 * MB);
  g_assert_cmpuint (model.link_rate, ==, 100 * MB);
  g_assert_cmpuint (model.dirty_rate, ==, 10 * MB);
  /* A rise of the dirty rate counts in full, a fall by half; the link's rate is smoothed both ways. */
  learn (&model, 50 * MB, 100 * MB, 500 * MSEC, 40 * MB);
  g_assert_cmpuint (model.link_rate, ==, 150 * MB);
  g_assert_cmpuint (model.dirty_rate, ==, 80 * MB);
  learn (&model, 10 * MB, 50 * MB, 1000 * MSEC, 10 * MB);
  g_assert_cmpuint (model.link_rate, ==, 100 * MB);
  g_assert_cmpuint (model.dirty_rate, ==, 45 * MB);
  /* A round of few bytes is all delay. */
  learn (&model, 0, 4096, 10 * MSEC, 0);
  g_assert_cmpuint (model.link_rate, ==, 100 * MB);
  g_assert_cmpuint (model.resent_bytes, ==, 150 * MB + 4096);
  g_assert_cmpuint (model.first_bytes, ==, GB);
}

static void
test_auto_shrink (void)
{
  for (uint64_t percent = 80; percent <= 90; percent++) {
    mf_switchover model;
    mf_switchover_init (&model, MF_MODE_AUTO, 30 * MSEC, FIXED, 10 * GB);
    learn (&model, 20 * MB, GB, 10000 * MSEC, percent * 10 * MB);
    g_assert_cmpint (mf_switchover_decide (&model, 20 * MB), ==, percent <= 85 ? MF_DECIDE_ROUND : MF_DECIDE_POSTCOPY);
  }
}

/* Rates that promise more than the last round kept: what counts is what it did. */
static void
test_auto_believes_the_last_round (void)
{
  mf_switchover model;

  mf_switchover_init (&model, MF_MODE_AUTO, FIXED, FIXED, 10 * GB);
  learn (&model, 20 * MB, GB, 10000 * MSEC, 20 * MB);
  learn (&model, 10 * MB, 20 * MB, 200 * MSEC, 10 * MB);
  g_assert_cmpint (mf_switchover_decide (&model, 10 * MB), ==, MF_DECIDE_ROUND);
  learn (&model, 9 * MB, 10 * MB, 1000 * MSEC, 9 * MB);
  g_assert_cmpuint (mf_switchover_dirty_after_round (&model, 9 * MB), <, 9 * MB * 85 / 100);
  g_assert_cmpint (mf_switchover_decide (&model, 9 * MB), ==, MF_DECIDE_POSTCOPY);
}

static void
test_auto_bytes (void)
{
  mf_switchover model;

  /* A tenth of the link's rate is dirtied: a round shrinks well, and all that follows is 1.1 times what is dirty. */
  mf_switchover_init (&model, MF_MODE_AUTO, 30 * MSEC, FIXED, 10 * GB);
  learn (&model, 0, GB, 10000 * MSEC, 100 * MB);
  g_assert_cmpint (mf_switchover_decide (&model, 360 * MB), ==, MF_DECIDE_ROUND);
  g_assert_cmpint (mf_switchover_decide (&model, 370 * MB), ==, MF_DECIDE_POSTCOPY);
  model.resent_bytes = 300 * MB;
  g_assert_cmpint (mf_switchover_decide (&model, 90 * MB), ==, MF_DECIDE_ROUND);
  g_assert_cmpint (mf_switchover_decide (&model, 100 * MB), ==, MF_DECIDE_POSTCOPY);

  /* A region of 2 MB, half of it dirty again. */
  mf_switchover_init (&model, MF_MODE_AUTO, FIXED, FIXED, 2 * MB);
  learn (&model, MB, 2 * MB, 20 * MSEC, MB);
  g_assert_cmpint (mf_switchover_decide (&model, MB), ==, MF_DECIDE_ROUND);
}

static void
test_auto_ends (void)
{
  mf_switchover model;

  mf_switchover_init (&model, MF_MODE_AUTO, 0, FIXED, 10 * GB);
  learn (&model, 400 * MB, 10 * GB, 100000 * MSEC, 400 * MB);
  uint64_t dirty = 400 * MB;
  while (mf_switchover_decide (&model, dirty) == MF_DECIDE_ROUND) {
    learn (&model, dirty / 2, dirty, dirty / 100, dirty / 2);
    dirty /= 2;
    g_assert_cmpuint (model.rounds, <=, MF_SWITCHOVER_ROUNDS_MAX);
  }
  g_assert_cmpint (mf_switchover_decide (&model, dirty), ==, MF_DECIDE_POSTCOPY);
}

static void
test_precopy_gives_up_when_stalled (void)
{
  mf_switchover model;

  mf_switchover_init (&model, MF_MODE_PRECOPY, 30 * MSEC, FIXED, 10 * GB);
  learn (&model, 100 * MB, GB, 10000 * MSEC, 100 * MB);
  learn (&model, 95 * MB, 100 * MB, 1000 * MSEC, 95 * MB); /* just enough */
  g_assert_cmpuint (model.stalled, ==, 0);
  learn (&model, 95 * MB, 95 * MB, 950 * MSEC, 95 * MB);
  learn (&model, 120 * MB, 95 * MB, 950 * MSEC, 120 * MB);
  g_assert_cmpuint (model.stalled, ==, 2);
  g_assert_cmpint (mf_switchover_decide (&model, 120 * MB), ==, MF_DECIDE_ROUND);
  learn (&model, 60 * MB, 120 * MB, 1200 * MSEC, 60 * MB); /* the burst is over */
  g_assert_cmpuint (model.stalled, ==, 0);
  for (int i = 0; i < MF_SWITCHOVER_STALLED_MAX; i++) {
    g_assert_cmpint (mf_switchover_decide (&model, 60 * MB), ==, MF_DECIDE_ROUND);
    learn (&model, 60 * MB, 60 * MB, 600 * MSEC, 60 * MB);
  }
  g_assert_cmpint (mf_switchover_decide (&model, 60 * MB), ==, MF_DECIDE_GIVE_UP);
  /* Going is always allowed when it fits after all. */
  g_assert_cmpint (mf_switchover_decide (&model, 100000), ==, MF_DECIDE_GO);
}

static void
test_precopy_gives_up_after_rounds (void)
{
  mf_switchover model;
  uint64_t dirty = GB;

  mf_switchover_init (&model, MF_MODE_PRECOPY, FIXED, FIXED, 10 * GB);
  while (mf_switchover_decide (&model, dirty) == MF_DECIDE_ROUND) {
    learn (&model, dirty * 9 / 10, dirty, dirty / 100, dirty * 9 / 10);
    dirty = dirty * 9 / 10;
    g_assert_cmpuint (model.rounds, <=, MF_SWITCHOVER_ROUNDS_MAX);
  }
  g_assert_cmpuint (model.rounds, ==, MF_SWITCHOVER_ROUNDS_MAX);
  g_assert_cmpint (mf_switchover_decide (&model, dirty), ==, MF_DECIDE_GIVE_UP);
}

/* Every number at its edges, in every place: the sanitizers see an overflow, and answers stay ordered. */
static void
test_any_numbers (void)
{
  const uint64_t edges[] = { 0, 1, 4096, UINT32_MAX, UINT64_C (1) << 63, UINT64_MAX - 1, UINT64_MAX };
  const gsize n = G_N_ELEMENTS (edges);

  for (gsize i = 0; i < n * n * n * n * n; i++) {
    mf_round round = { edges[i % n], edges[i / n % n], edges[i / n / n % n], edges[i / n / n / n % n] };
    uint64_t other = edges[i / n / n / n / n];
    for (int mode = MF_MODE_AUTO; mode <= MF_MODE_POSTCOPY; mode++) {
      mf_switchover model;
      mf_switchover_init (&model, (mf_mode) mode, other, other, other);
      for (int turn = 0; turn < 3; turn++) {
        mf_switchover_learn (&model, &round);
        g_assert_cmpuint (mf_switchover_downtime_usec (&model, round.dirty_bytes), >=, model.fixed_usec);
        g_assert_cmpuint (mf_switchover_dirty_after_round (&model, round.dirty_bytes), <=, model.region_bytes);
        mf_decision decision = mf_switchover_decide (&model, round.dirty_bytes);
        if (mode == MF_MODE_POSTCOPY)
          g_assert_cmpint (decision, ==, MF_DECIDE_POSTCOPY);
        else
          g_assert_cmpint (decision, !=, mode == MF_MODE_AUTO ? MF_DECIDE_GIVE_UP : MF_DECIDE_POSTCOPY);
      }
      g_assert_cmpuint (model.rounds, ==, 3);
    }
  }
}

/* ---- A program and a link, simulated ---- */

typedef struct {
  const char *name;
  uint64_t touched, set, write_rate, link_rate, budget_usec; /* bytes, bytes a second */
} scene;

typedef struct {
  uint64_t bytes, usec;
  uint32_t rounds;
  mf_decision decision;
  uint64_t left;
} outcome;

/* A program that goes through `set` bytes at `write_rate`, over and over. */
static outcome
simulate (const scene *s, mf_mode mode)
{
  mf_switchover model;
  outcome o = { 0 };
  uint64_t dirty = s->touched;

  mf_switchover_init (&model, mode, s->budget_usec, FIXED, GB);
  while ((o.decision = mf_switchover_decide (&model, dirty)) == MF_DECIDE_ROUND) {
    uint64_t usec = 2 * MSEC + dirty * 1000000 / s->link_rate;
    uint64_t dirtied = MIN (s->set, s->write_rate * usec / 1000000);
    mf_switchover_learn (&model, &(mf_round){ dirtied, dirty, usec, dirtied });
    o.bytes += dirty;
    o.usec += usec;
    o.rounds++;
    dirty = dirtied;
  }
  if (o.decision == MF_DECIDE_STREAM) {
    uint64_t usec = dirty * 1000000 / (s->link_rate - s->write_rate);
    uint64_t steady =
        s->write_rate * MF_SWITCHOVER_STREAM_LAG_USEC / 1000000 * s->link_rate / (s->link_rate - s->write_rate);

    o.bytes += s->link_rate * usec / 1000000;
    o.usec += usec;
    dirty = MIN (steady, s->set);
    o.decision =
        mf_switchover_downtime_usec (&model, dirty) <= s->budget_usec + MSEC ? MF_DECIDE_GO : MF_DECIDE_GIVE_UP;
  }
  o.left = dirty;
  o.bytes += dirty;
  o.usec += dirty * 1000000 / s->link_rate;
  g_test_message ("%s: %u rounds, decision %d, %" G_GUINT64_FORMAT " MB left, %.2f x the bytes", s->name, o.rounds,
                  (int) o.decision, o.left / MB, (double) o.bytes / (double) s->touched);
  return o;
}

/* In AUTO the bytes, and so the time, stay near 1.4 times what post-copy alone would send, or are what the first
 * round and the pages dirtied during it cost in any case. */
static void
test_auto_cost (void)
{
  const scene scenes[] = {
    { "the busy guest", 500 * MB, 100 * MB, 82 * MB, GBIT, 30 * MSEC },
    { "idle", 500 * MB, 0, 0, GBIT, 30 * MSEC },
    { "a little", 500 * MB, 5 * MB, 10 * MB, GBIT, 30 * MSEC },
    { "small and hot", 500 * MB, 50 * MB, 300 * MB, GBIT, 30 * MSEC },
    { "writes as fast as the link", 500 * MB, 400 * MB, GBIT, GBIT, 30 * MSEC },
    { "writes everything", 500 * MB, 500 * MB, 500 * MB, GBIT, 30 * MSEC },
    { "fast link", 500 * MB, 100 * MB, 82 * MB, 2 * GB, 30 * MSEC },
    { "no budget at all", 500 * MB, 100 * MB, 20 * MB, GBIT, 0 },
  };

  for (gsize i = 0; i < G_N_ELEMENTS (scenes); i++) {
    const scene *s = &scenes[i];
    outcome o = simulate (s, MF_MODE_AUTO);
    uint64_t postcopy = s->touched;
    /* The dirty set of the first round has to go over the link however it is done. */
    uint64_t once_more = MIN (s->set, s->write_rate * s->touched / s->link_rate);
    g_assert_cmpuint (o.bytes, <=, MAX (postcopy * 14 / 10, postcopy + once_more) * 105 / 100);
    g_assert_cmpuint (o.rounds, >=, 1);
    if (o.decision == MF_DECIDE_GO)
      g_assert_cmpuint (o.left * 1000000 / s->link_rate + FIXED, <=, s->budget_usec + MSEC);
  }
  /* The guest that the project is measured by. */
  outcome busy = simulate (&scenes[0], MF_MODE_AUTO);
  g_assert_cmpuint (busy.bytes, <=, 500 * MB * 15 / 10);
  g_assert_cmpuint (busy.left, <, 100 * MB);
  g_assert_cmpint (simulate (&scenes[1], MF_MODE_AUTO).decision, ==, MF_DECIDE_GO);
  g_assert_cmpint (simulate (&scenes[2], MF_MODE_AUTO).decision, ==, MF_DECIDE_GO);
  g_assert_cmpint (simulate (&scenes[6], MF_MODE_AUTO).decision, ==, MF_DECIDE_GO);
  g_assert_cmpint (simulate (&scenes[4], MF_MODE_AUTO).decision, ==, MF_DECIDE_POSTCOPY);
  g_assert_cmpint (simulate (&scenes[5], MF_MODE_AUTO).decision, ==, MF_DECIDE_POSTCOPY);
}

static void
test_precopy_converges (void)
{
  const scene busy = { "pre-copy, busy guest", 500 * MB, 100 * MB, 82 * MB, GBIT, 60 * MSEC };
  const scene hot = { "pre-copy, hot", 500 * MB, 50 * MB, 300 * MB, GBIT, 60 * MSEC };

  g_assert_cmpint (simulate (&busy, MF_MODE_PRECOPY).decision, ==, MF_DECIDE_GO);
  outcome o = simulate (&hot, MF_MODE_PRECOPY);
  g_assert_cmpint (o.decision, ==, MF_DECIDE_GIVE_UP);
  g_assert_cmpuint (o.rounds, <=, 2 + MF_SWITCHOVER_STALLED_MAX);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/switchover/downtime", test_downtime);
  g_test_add_func ("/switchover/first-round", test_first_round);
  g_test_add_func ("/switchover/nothing-to-send", test_nothing_to_send);
  g_test_add_func ("/switchover/budget-below-fixed-cost", test_budget_below_fixed_cost);
  g_test_add_func ("/switchover/rates", test_rates);
  g_test_add_func ("/switchover/auto/shrink", test_auto_shrink);
  g_test_add_func ("/switchover/auto/believes-the-last-round", test_auto_believes_the_last_round);
  g_test_add_func ("/switchover/auto/bytes", test_auto_bytes);
  g_test_add_func ("/switchover/auto/ends", test_auto_ends);
  g_test_add_func ("/switchover/auto/cost", test_auto_cost);
  g_test_add_func ("/switchover/precopy/stalled", test_precopy_gives_up_when_stalled);
  g_test_add_func ("/switchover/precopy/rounds", test_precopy_gives_up_after_rounds);
  g_test_add_func ("/switchover/precopy/converges", test_precopy_converges);
  g_test_add_func ("/switchover/any-numbers", test_any_numbers);
  return g_test_run ();
}
