/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "core/mf-bitmap.h"

#include <errno.h>
#include <glib.h>

G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_bitmap, mf_bitmap_free)

static void
assert_next (const mf_bitmap *bitmap, mf_run within, bool value, uint64_t first, uint64_t count)
{
  mf_run run = { 0 };
  g_assert_true (mf_bitmap_next_run (bitmap, within, value, &run));
  g_assert_cmpuint (run.first, ==, first);
  g_assert_cmpuint (run.count, ==, count);
}

static void
test_empty (void)
{
  g_autoptr (mf_bitmap) bitmap = mf_bitmap_new (0);
  g_autoptr (mf_bitmap) other = mf_bitmap_new (0);
  mf_run none = { 0, 0 }, run = { 7, 7 };

  g_assert_nonnull (bitmap);
  g_assert_cmpuint (mf_bitmap_size (bitmap), ==, 0);
  g_assert_cmpuint (mf_bitmap_count (bitmap), ==, 0);
  g_assert_cmpuint (mf_bitmap_set_run (bitmap, none), ==, 0);
  g_assert_cmpuint (mf_bitmap_clear_run (bitmap, none), ==, 0);
  g_assert_false (mf_bitmap_next_run (bitmap, none, true, &run));
  g_assert_false (mf_bitmap_next_run (bitmap, none, false, &run));
  g_assert_cmpuint (run.first, ==, 7);
  mf_bitmap_or (bitmap, other);
  mf_bitmap_move (bitmap, other);
  mf_bitmap_free (NULL);
}

static void
test_too_large (void)
{
  const uint64_t sizes[] = { MF_BITMAP_MAX_BITS + 1, UINT64_C (1) << 63, UINT64_MAX };

  for (gsize i = 0; i < G_N_ELEMENTS (sizes); i++) {
    errno = 0;
    g_assert_null (mf_bitmap_new (sizes[i]));
    g_assert_cmpint (errno, ==, EOVERFLOW);
  }
}

static void
test_one_bit (void)
{
  g_autoptr (mf_bitmap) bitmap = mf_bitmap_new (1);

  g_assert_false (mf_bitmap_test (bitmap, 0));
  g_assert_false (mf_bitmap_set (bitmap, 0));
  g_assert_true (mf_bitmap_test (bitmap, 0));
  g_assert_true (mf_bitmap_set (bitmap, 0));
  g_assert_cmpuint (mf_bitmap_count (bitmap), ==, 1);
  assert_next (bitmap, (mf_run){ 0, 1 }, true, 0, 1);
  g_assert_true (mf_bitmap_clear (bitmap, 0));
  g_assert_false (mf_bitmap_clear (bitmap, 0));
  g_assert_cmpuint (mf_bitmap_count (bitmap), ==, 0);
  assert_next (bitmap, (mf_run){ 0, 1 }, false, 0, 1);
}

/* Every run in sizes round a word's edge, against a plain array of bools. */
static void
test_runs_against_an_array (void)
{
  for (uint64_t size = 1; size <= 130; size += (size > 60 && size < 70) ? 1 : 23) {
    for (uint64_t first = 0; first <= size; first++) {
      for (uint64_t count = 0; first + count <= size; count++) {
        g_autoptr (mf_bitmap) bitmap = mf_bitmap_new (size);
        uint64_t last = size - 1;

        mf_bitmap_set (bitmap, last);
        uint64_t had = count > 0 && first + count == size;
        g_assert_cmpuint (mf_bitmap_set_run (bitmap, (mf_run){ first, count }), ==, count - had);
        for (uint64_t i = 0; i < size; i++)
          g_assert_cmpint (mf_bitmap_test (bitmap, i), ==, (i >= first && i - first < count) || i == last);
        g_assert_cmpuint (mf_bitmap_count (bitmap), ==, count + 1 - had);
        g_assert_cmpuint (mf_bitmap_count_run (bitmap, (mf_run){ first, count }), ==, count);
        g_assert_cmpuint (mf_bitmap_clear_run (bitmap, (mf_run){ first, count }), ==, count);
        g_assert_cmpuint (mf_bitmap_count (bitmap), ==, 1 - had);
      }
    }
  }
}

static void
test_next_run (void)
{
  g_autoptr (mf_bitmap) bitmap = mf_bitmap_new (1000);
  mf_run all = { 0, 1000 }, run;

  g_assert_false (mf_bitmap_next_run (bitmap, all, true, &run));
  assert_next (bitmap, all, false, 0, 1000);

  mf_bitmap_set_run (bitmap, (mf_run){ 60, 140 });
  mf_bitmap_set (bitmap, 999);
  assert_next (bitmap, all, true, 60, 140);
  assert_next (bitmap, all, false, 0, 60);
  assert_next (bitmap, (mf_run){ 60, 940 }, false, 200, 799);
  assert_next (bitmap, (mf_run){ 100, 20 }, true, 100, 20);
  assert_next (bitmap, (mf_run){ 64, 64 }, true, 64, 64);
  assert_next (bitmap, (mf_run){ 200, 800 }, true, 999, 1);
  g_assert_false (mf_bitmap_next_run (bitmap, (mf_run){ 200, 799 }, true, &run));
  g_assert_false (mf_bitmap_next_run (bitmap, (mf_run){ 60, 140 }, false, &run));
  g_assert_false (mf_bitmap_next_run (bitmap, (mf_run){ 1000, 0 }, true, &run));

  mf_bitmap_set_run (bitmap, all);
  assert_next (bitmap, all, true, 0, 1000);
  g_assert_false (mf_bitmap_next_run (bitmap, all, false, &run));
}

static void
test_words (void)
{
  g_autoptr (mf_bitmap) bitmap = mf_bitmap_new (130);
  uint64_t pattern = UINT64_C (0x8000000000000001);

  mf_bitmap_set_word (bitmap, 0, pattern);
  g_assert_cmphex (mf_bitmap_get_word (bitmap, 0), ==, pattern);
  g_assert_cmphex (mf_bitmap_get_word (bitmap, 63), ==, 1);
  mf_bitmap_clear_run (bitmap, (mf_run){ 0, 130 });

  mf_bitmap_set_word (bitmap, 66, pattern);
  g_assert_cmphex (mf_bitmap_get_word (bitmap, 66), ==, pattern);
  g_assert_true (mf_bitmap_test (bitmap, 66));
  g_assert_true (mf_bitmap_test (bitmap, 129));
  g_assert_cmpuint (mf_bitmap_count (bitmap), ==, 2);
  g_assert_cmphex (mf_bitmap_get_word (bitmap, 129), ==, 1);
  mf_bitmap_set_word (bitmap, 129, 1);
  mf_bitmap_set_word (bitmap, 129, 0);
  g_assert_cmpuint (mf_bitmap_count (bitmap), ==, 2);
}

static void
test_or_and_move (void)
{
  g_autoptr (mf_bitmap) a = mf_bitmap_new (200);
  g_autoptr (mf_bitmap) b = mf_bitmap_new (200);

  mf_bitmap_set_run (a, (mf_run){ 0, 100 });
  mf_bitmap_set_run (b, (mf_run){ 50, 150 });
  mf_bitmap_or (a, b);
  g_assert_cmpuint (mf_bitmap_count (a), ==, 200);
  g_assert_cmpuint (mf_bitmap_count (b), ==, 150);

  mf_bitmap_clear_run (a, (mf_run){ 0, 120 });
  mf_bitmap_move (a, b);
  g_assert_cmpuint (mf_bitmap_count (a), ==, 150);
  g_assert_cmpuint (mf_bitmap_count_run (a, (mf_run){ 50, 150 }), ==, 150);
  g_assert_cmpuint (mf_bitmap_count (b), ==, 0);
}

#define RACERS    4
#define RACE_BITS 8191

typedef struct {
  mf_bitmap *bitmap, *moved;
  uint64_t seed;
  uint64_t set, cleared;
  int *running;
} racer;

static uint64_t
next_random (uint64_t *state)
{
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

static gpointer
race_runs (gpointer data)
{
  racer *r = data;

  for (int i = 0; i < 20000; i++) {
    uint64_t first = next_random (&r->seed) % RACE_BITS;
    mf_run run = { first, next_random (&r->seed) % MIN (200, RACE_BITS - first + 1) };
    switch (next_random (&r->seed) % 4) {
    case 0:
      r->set += mf_bitmap_set_run (r->bitmap, run);
      break;
    case 1:
      r->cleared += mf_bitmap_clear_run (r->bitmap, run);
      break;
    case 2:
      r->set += !mf_bitmap_set (r->bitmap, first);
      break;
    default:
      r->cleared += mf_bitmap_clear (r->bitmap, first);
      break;
    }
  }
  return NULL;
}

static void
run_racers (racer *racers, guint n, GThreadFunc function)
{
  GThread *threads[RACERS];

  g_assert_cmpuint (n, <=, RACERS);
  for (guint i = 0; i < n; i++)
    threads[i] = g_thread_new ("racer", function, &racers[i]);
  for (guint i = 0; i < n; i++)
    g_thread_join (threads[i]);
}

/* Each change is counted by exactly one of those who raced for it. */
static void
test_race_counts (void)
{
  g_autoptr (mf_bitmap) bitmap = mf_bitmap_new (RACE_BITS);
  racer racers[RACERS];
  uint64_t set = 0, cleared = 0;

  for (guint i = 0; i < RACERS; i++)
    racers[i] = (racer){ .bitmap = bitmap, .seed = 0x9e3779b97f4a7c15u * (i + 1) };
  run_racers (racers, RACERS, race_runs);
  for (guint i = 0; i < RACERS; i++) {
    set += racers[i].set;
    cleared += racers[i].cleared;
  }
  g_assert_cmpuint (set, >, 0);
  g_assert_cmpuint (set - cleared, ==, mf_bitmap_count (bitmap));
}

static gpointer
claim_all (gpointer data)
{
  racer *r = data;

  for (uint64_t first = 0; first < RACE_BITS; first += 7)
    r->set += mf_bitmap_set_run (r->bitmap, (mf_run){ first, MIN (7, RACE_BITS - first) });
  return NULL;
}

static void
test_race_claims (void)
{
  for (int round = 0; round < 50; round++) {
    g_autoptr (mf_bitmap) bitmap = mf_bitmap_new (RACE_BITS);
    racer racers[RACERS];
    uint64_t claimed = 0;

    for (guint i = 0; i < RACERS; i++)
      racers[i] = (racer){ .bitmap = bitmap };
    run_racers (racers, RACERS, claim_all);
    for (guint i = 0; i < RACERS; i++)
      claimed += racers[i].set;
    g_assert_cmpuint (claimed, ==, RACE_BITS);
  }
}

/* A setter writes a number that is not atomic before it sets the bit; who clears the bit reads it. The bit alone
 * keeps them apart, which ThreadSanitizer checks. */
typedef struct {
  mf_bitmap *bitmap;
  uint64_t cell;
} hand_over;

static gpointer
receive_numbers (gpointer data)
{
  hand_over *h = data;

  for (uint64_t expected = 1; expected <= 5000; expected++) {
    while (!mf_bitmap_clear (h->bitmap, 70))
      g_thread_yield ();
    g_assert_cmpuint (h->cell, ==, expected);
    mf_bitmap_set (h->bitmap, 3);
  }
  return NULL;
}

static void
test_hand_over (void)
{
  g_autoptr (mf_bitmap) bitmap = mf_bitmap_new (100);
  hand_over h = { .bitmap = bitmap };
  GThread *thread = g_thread_new ("receiver", receive_numbers, &h);

  for (uint64_t number = 1; number <= 5000; number++) {
    h.cell = number;
    mf_bitmap_set (bitmap, 70);
    while (!mf_bitmap_clear (bitmap, 3))
      g_thread_yield ();
  }
  g_thread_join (thread);
}

static gpointer
set_each_once (gpointer data)
{
  racer *r = data;

  for (uint64_t bit = r->seed; bit < RACE_BITS; bit += RACERS - 1)
    r->set += !mf_bitmap_set (r->bitmap, bit);
  g_atomic_int_add (r->running, -1);
  return NULL;
}

static gpointer
move_all (gpointer data)
{
  racer *r = data;
  bool last;

  do {
    last = g_atomic_int_get (r->running) == 0;
    mf_bitmap_move (r->moved, r->bitmap);
  } while (!last);
  return NULL;
}

/* What is set while a move goes on is moved or stays. */
static void
test_race_move (void)
{
  for (int round = 0; round < 50; round++) {
    g_autoptr (mf_bitmap) source = mf_bitmap_new (RACE_BITS);
    g_autoptr (mf_bitmap) moved = mf_bitmap_new (RACE_BITS);
    int running = RACERS - 1;
    racer racers[RACERS];
    GThread *threads[RACERS];

    for (guint i = 0; i < RACERS; i++) {
      racers[i] = (racer){ .bitmap = source, .moved = moved, .seed = i, .running = &running };
      threads[i] = g_thread_new ("racer", i < RACERS - 1 ? set_each_once : move_all, &racers[i]);
    }
    for (guint i = 0; i < RACERS; i++)
      g_thread_join (threads[i]);
    g_assert_cmpuint (mf_bitmap_count (moved), ==, RACE_BITS);
    g_assert_cmpuint (mf_bitmap_count (source), ==, 0);
  }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/bitmap/empty", test_empty);
  g_test_add_func ("/bitmap/too-large", test_too_large);
  g_test_add_func ("/bitmap/one-bit", test_one_bit);
  g_test_add_func ("/bitmap/runs-against-an-array", test_runs_against_an_array);
  g_test_add_func ("/bitmap/next-run", test_next_run);
  g_test_add_func ("/bitmap/words", test_words);
  g_test_add_func ("/bitmap/or-and-move", test_or_and_move);
  g_test_add_func ("/bitmap/race/counts", test_race_counts);
  g_test_add_func ("/bitmap/race/claims", test_race_claims);
  g_test_add_func ("/bitmap/race/hand-over", test_hand_over);
  g_test_add_func ("/bitmap/race/move", test_race_move);
  return g_test_run ();
}
