/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "core/mf-page-map.h"

#include <errno.h>
#include <glib.h>

G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_bitmap, mf_bitmap_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_page_map, mf_page_map_free)

#define PAGE     4096
#define N_STATES 16
#define N_EVENTS (MF_PAGE_INVALIDATE + 1)

static bool
is_possible (unsigned state)
{
  bool present = state & MF_PAGE_PRESENT, wanted = state & MF_PAGE_WANTED;
  bool dirty = state & MF_PAGE_DIRTY, late = state & MF_PAGE_LATE;
  return (present || !dirty) && !(wanted && (present || late));
}

/* Brings a page of a fresh map into `state`. */
static void
bring_to (mf_page_map *map, uint64_t page, unsigned state)
{
  g_assert_true (is_possible (state));
  if (state & (MF_PAGE_WANTED | MF_PAGE_LATE))
    g_assert_true (mf_page_map_apply (map, page, MF_PAGE_CLAIM));
  if (state == (MF_PAGE_MISSING | MF_PAGE_LATE))
    g_assert_true (mf_page_map_apply (map, page, MF_PAGE_INVALIDATE));
  if (state & MF_PAGE_PRESENT)
    g_assert_true (mf_page_map_apply (map, page, MF_PAGE_WRITE));
  if ((state & MF_PAGE_PRESENT) && !(state & MF_PAGE_DIRTY))
    g_assert_true (mf_page_map_apply (map, page, MF_PAGE_READ_TO_SEND));
  g_assert_cmpuint (mf_page_map_state (map, page), ==, state);
}

/* The table against what it is there for, flag by flag. */
static void
test_table (void)
{
  for (unsigned state = 0; state < N_STATES; state++) {
    for (unsigned event = 0; event < N_EVENTS; event++) {
      mf_page_state next = (mf_page_state) 99;
      bool legal = mf_page_next ((mf_page_state) state, (mf_page_event) event, &next);

      if (!legal) {
        g_assert_cmpuint (next, ==, 99);
        continue;
      }
      g_assert_true (is_possible (state));
      g_assert_true (is_possible (next));
      g_assert_cmpuint (next, !=, state);
      /* No write is lost: only the reader for sending makes a page clean. */
      if ((state & MF_PAGE_DIRTY) && !(next & MF_PAGE_DIRTY))
        g_assert_cmpuint (event, ==, MF_PAGE_READ_TO_SEND);
      /* Whoever was pulling is remembered until it ends. */
      if ((state & (MF_PAGE_WANTED | MF_PAGE_LATE)) && !(next & (MF_PAGE_WANTED | MF_PAGE_LATE)))
        g_assert_true (event == MF_PAGE_ARRIVE || event == MF_PAGE_FAIL);
      /* Bytes of a pull count only where they were still wanted. */
      if (!(state & MF_PAGE_PRESENT) && (next & MF_PAGE_PRESENT))
        g_assert_true (event == MF_PAGE_WRITE || (event == MF_PAGE_ARRIVE && (state & MF_PAGE_WANTED)));
      if (next & MF_PAGE_WANTED)
        g_assert_true (event == MF_PAGE_CLAIM && state == MF_PAGE_MISSING);
      if ((state & MF_PAGE_PRESENT) && !(next & MF_PAGE_PRESENT))
        g_assert_cmpuint (event, ==, MF_PAGE_INVALIDATE);
    }
  }
}

static void
assert_next (unsigned state, mf_page_event event, unsigned expected)
{
  mf_page_state next = (mf_page_state) 99;
  g_assert_true (mf_page_next ((mf_page_state) state, event, &next));
  g_assert_cmpuint (next, ==, expected);
}

static void
test_table_rows (void)
{
  const unsigned M = MF_PAGE_MISSING, P = MF_PAGE_PRESENT, W = MF_PAGE_WANTED, D = P | MF_PAGE_DIRTY, L = MF_PAGE_LATE;
  mf_page_state next;

  assert_next (M, MF_PAGE_CLAIM, W);
  assert_next (W, MF_PAGE_ARRIVE, P);
  assert_next (W, MF_PAGE_FAIL, M);
  assert_next (M, MF_PAGE_WRITE, D);
  assert_next (P, MF_PAGE_WRITE, D);
  assert_next (W, MF_PAGE_WRITE, D | L);
  assert_next (M | L, MF_PAGE_WRITE, D | L);
  assert_next (D, MF_PAGE_READ_TO_SEND, P);
  assert_next (P, MF_PAGE_SEND_FAILED, D);
  assert_next (P, MF_PAGE_INVALIDATE, M);
  assert_next (W, MF_PAGE_INVALIDATE, M | L);
  assert_next (P | L, MF_PAGE_INVALIDATE, M | L);
  assert_next (M | L, MF_PAGE_ARRIVE, M);
  assert_next (D | L, MF_PAGE_ARRIVE, D);
  assert_next (P | L, MF_PAGE_FAIL, P);

  g_assert_false (mf_page_next (M | L, MF_PAGE_CLAIM, &next));
  g_assert_false (mf_page_next (P, MF_PAGE_CLAIM, &next));
  g_assert_false (mf_page_next (M, MF_PAGE_ARRIVE, &next));
  g_assert_false (mf_page_next (P, MF_PAGE_ARRIVE, &next));
  g_assert_false (mf_page_next (D, MF_PAGE_INVALIDATE, &next));
  g_assert_false (mf_page_next (M, MF_PAGE_SEND_FAILED, &next));
  g_assert_false (mf_page_next (D, MF_PAGE_WRITE, &next));
  g_assert_false (mf_page_next (M, (mf_page_event) N_EVENTS, &next));
  g_assert_false (mf_page_next ((mf_page_state) MF_PAGE_DIRTY, MF_PAGE_WRITE, &next));
}

static void
test_sizes (void)
{
  const struct {
    uint64_t size, pages;
    uint32_t page_bytes;
  } cases[] = {
    { 0, 0, PAGE },
    { 1, 1, PAGE },
    { PAGE, 1, PAGE },
    { PAGE + 1, 2, PAGE },
    { 1000 * PAGE + 7, 1001, PAGE },
    { 100, 100, 1 },
    { UINT64_C (1) << 50, UINT64_C (1) << 19, UINT32_C (1) << 31 },
    { (UINT64_C (1) << 50) + 1, (UINT64_C (1) << 19) + 1, UINT32_C (1) << 31 },
  };
  const struct {
    uint64_t size;
    uint32_t page_bytes;
    int error;
  } refused[] = {
    { PAGE, 0, EINVAL },
    { PAGE, 3, EINVAL },
    { PAGE, 4097, EINVAL },
    { UINT64_C (1) << 63, PAGE, EOVERFLOW },
    { UINT64_MAX, PAGE, EOVERFLOW },
    { UINT64_MAX, 1, EOVERFLOW },
  };

  for (gsize i = 0; i < G_N_ELEMENTS (cases); i++) {
    g_autoptr (mf_page_map) map = mf_page_map_new (cases[i].size, cases[i].page_bytes);
    g_assert_nonnull (map);
    g_assert_cmpuint (mf_page_map_pages (map), ==, cases[i].pages);
  }
  for (gsize i = 0; i < G_N_ELEMENTS (refused); i++) {
    errno = 0;
    g_assert_null (mf_page_map_new (refused[i].size, refused[i].page_bytes));
    g_assert_cmpint (errno, ==, refused[i].error);
  }
  mf_page_map_free (NULL);
}

static void
test_empty (void)
{
  g_autoptr (mf_page_map) map = mf_page_map_new (0, PAGE);
  mf_run run = { 7, 7 };

  g_assert_cmpuint (mf_page_map_apply_run (map, (mf_run){ 0, 0 }, MF_PAGE_CLAIM, NULL), ==, 0);
  g_assert_cmpuint (mf_page_map_count (map, MF_PAGE_MISSING), ==, 0);
  g_assert_false (mf_page_map_next_run (map, (mf_run){ 0, 0 }, MF_PAGE_MISSING, &run));
  g_assert_cmpuint (run.first, ==, 7);
  mf_page_map_reset (map, MF_PAGE_PRESENT);
  g_assert_cmpuint (mf_page_map_count (map, MF_PAGE_PRESENT), ==, 0);
}

/* Every state and event, on a page by itself and on one among others that must stay as they are. */
static void
test_one_page (void)
{
  for (unsigned state = 0; state < N_STATES; state++) {
    for (unsigned event = 0; is_possible (state) && event < N_EVENTS; event++) {
      for (uint64_t page = 0; page < 33; page += 16) {
        g_autoptr (mf_page_map) map = mf_page_map_new (33 * PAGE, PAGE);
        mf_page_state next = (mf_page_state) state;
        bool legal = mf_page_next ((mf_page_state) state, (mf_page_event) event, &next);
        bool silent = (state & MF_PAGE_LATE) && !(next & MF_PAGE_LATE);

        mf_page_map_apply_run (map, (mf_run){ 0, 33 }, MF_PAGE_CLAIM, NULL);
        mf_page_map_apply (map, page, MF_PAGE_FAIL);
        bring_to (map, page, state);
        g_assert_cmpint (mf_page_map_apply (map, page, (mf_page_event) event), ==, legal && !silent);
        for (uint64_t other = 0; other < 33; other++)
          g_assert_cmpuint (mf_page_map_state (map, other), ==, other == page ? next : MF_PAGE_WANTED);
      }
    }
  }
}

/* Each run over a mix of all states, in sizes round a word's edge, against the table. */
static void
test_runs_against_the_table (void)
{
  const unsigned states[] = { 0, 1, 2, 5, 8, 9, 13 };
  const uint64_t n = 35;

  for (unsigned event = 0; event < N_EVENTS; event++) {
    for (uint64_t first = 0; first <= n; first++) {
      for (uint64_t count = 0; first + count <= n; count++) {
        g_autoptr (mf_page_map) map = mf_page_map_new (n * PAGE, PAGE);
        g_autoptr (mf_bitmap) changed = mf_bitmap_new (count);
        unsigned expected[35];
        uint64_t n_expected = 0;
        bool reported[35] = { false };

        for (uint64_t i = 0; i < n; i++) {
          mf_page_state next;
          expected[i] = states[i % G_N_ELEMENTS (states)];
          bring_to (map, i, expected[i]);
          if (i < first || i - first >= count || !mf_page_next ((mf_page_state) expected[i], event, &next))
            continue;
          reported[i] = !((expected[i] & MF_PAGE_LATE) && !(next & MF_PAGE_LATE));
          n_expected += reported[i];
          expected[i] = next;
        }
        g_assert_cmpuint (mf_page_map_apply_run (map, (mf_run){ first, count }, event, changed), ==, n_expected);
        for (uint64_t i = 0; i < n; i++) {
          g_assert_cmpuint (mf_page_map_state (map, i), ==, expected[i]);
          if (i >= first && i - first < count)
            g_assert_cmpint (mf_bitmap_test (changed, i - first), ==, reported[i]);
        }
        g_assert_cmpuint (mf_bitmap_count (changed), ==, n_expected);
      }
    }
  }
}

static void
assert_run (const mf_page_map *map, mf_run within, unsigned flags, uint64_t first, uint64_t count)
{
  mf_run run = { 0 };
  g_assert_true (mf_page_map_next_run (map, within, (mf_page_state) flags, &run));
  g_assert_cmpuint (run.first, ==, first);
  g_assert_cmpuint (run.count, ==, count);
}

static void
test_count_and_next_run (void)
{
  g_autoptr (mf_page_map) map = mf_page_map_new (100 * PAGE - 1, PAGE);
  mf_run all = { 0, 100 }, run;

  assert_run (map, all, MF_PAGE_MISSING, 0, 100);
  g_assert_false (mf_page_map_next_run (map, all, MF_PAGE_PRESENT, &run));
  mf_page_map_apply_run (map, (mf_run){ 10, 40 }, MF_PAGE_CLAIM, NULL);
  mf_page_map_apply_run (map, (mf_run){ 10, 25 }, MF_PAGE_ARRIVE, NULL);
  mf_page_map_apply_run (map, (mf_run){ 15, 10 }, MF_PAGE_WRITE, NULL);
  mf_page_map_apply_run (map, (mf_run){ 48, 2 }, MF_PAGE_INVALIDATE, NULL);
  mf_page_map_apply_run (map, (mf_run){ 99, 1 }, MF_PAGE_WRITE, NULL);

  g_assert_cmpuint (mf_page_map_count (map, MF_PAGE_PRESENT), ==, 26);
  g_assert_cmpuint (mf_page_map_count (map, MF_PAGE_WANTED), ==, 13);
  g_assert_cmpuint (mf_page_map_count (map, MF_PAGE_DIRTY), ==, 11);
  g_assert_cmpuint (mf_page_map_count (map, MF_PAGE_PRESENT | MF_PAGE_DIRTY), ==, 11);
  g_assert_cmpuint (mf_page_map_count (map, MF_PAGE_LATE), ==, 2);
  g_assert_cmpuint (mf_page_map_count (map, MF_PAGE_MISSING), ==, 100 - 26 - 13);

  assert_run (map, all, MF_PAGE_PRESENT, 10, 25);
  assert_run (map, all, MF_PAGE_PRESENT | MF_PAGE_DIRTY, 15, 10);
  assert_run (map, all, MF_PAGE_WANTED, 35, 13);
  assert_run (map, all, MF_PAGE_MISSING, 0, 10);
  assert_run (map, (mf_run){ 10, 90 }, MF_PAGE_MISSING, 48, 51); /* two of them LATE */
  assert_run (map, (mf_run){ 12, 5 }, MF_PAGE_PRESENT, 12, 5);
  assert_run (map, (mf_run){ 40, 60 }, MF_PAGE_DIRTY, 99, 1);
  g_assert_false (mf_page_map_next_run (map, (mf_run){ 40, 59 }, MF_PAGE_DIRTY, &run));
  g_assert_false (mf_page_map_next_run (map, (mf_run){ 100, 0 }, MF_PAGE_MISSING, &run));

  mf_page_map_reset (map, MF_PAGE_PRESENT);
  g_assert_cmpuint (mf_page_map_count (map, MF_PAGE_PRESENT), ==, 100);
  assert_run (map, all, MF_PAGE_PRESENT, 0, 100);
  mf_page_map_reset (map, MF_PAGE_MISSING);
  assert_run (map, all, MF_PAGE_MISSING, 0, 100);
}

/* A write that lands while the page is on its way must survive the pull (invariant 2). */
static void
test_late_pull_after_write (void)
{
  g_autoptr (mf_page_map) map = mf_page_map_new (PAGE, PAGE);

  g_assert_true (mf_page_map_apply (map, 0, MF_PAGE_CLAIM));
  g_assert_true (mf_page_map_apply (map, 0, MF_PAGE_WRITE));
  g_assert_false (mf_page_map_state (map, 0) & MF_PAGE_WANTED);
  g_assert_false (mf_page_map_apply (map, 0, MF_PAGE_ARRIVE));
  g_assert_cmpuint (mf_page_map_state (map, 0), ==, MF_PAGE_PRESENT | MF_PAGE_DIRTY);
}

/* The bytes of a pull from before an invalidation are never taken for those of the pull after it. */
static void
test_late_pull_after_invalidation (void)
{
  g_autoptr (mf_page_map) map = mf_page_map_new (PAGE, PAGE);

  g_assert_true (mf_page_map_apply (map, 0, MF_PAGE_CLAIM));
  g_assert_true (mf_page_map_apply (map, 0, MF_PAGE_INVALIDATE));
  g_assert_false (mf_page_map_apply (map, 0, MF_PAGE_CLAIM)); /* not before the old bytes are gone */
  g_assert_false (mf_page_map_apply (map, 0, MF_PAGE_ARRIVE));
  g_assert_cmpuint (mf_page_map_state (map, 0), ==, MF_PAGE_MISSING);
  g_assert_true (mf_page_map_apply (map, 0, MF_PAGE_CLAIM));
  g_assert_true (mf_page_map_apply (map, 0, MF_PAGE_ARRIVE));
}

/* ---- Races ---- */

#define RACERS     4
#define RACE_PAGES 1003

typedef struct {
  mf_page_map *map;
  uint64_t seed, claimed, arrived;
} claimer;

static uint64_t
next_random (uint64_t *state)
{
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

static gpointer
claim_runs (gpointer data)
{
  claimer *c = data;
  mf_run left = { 0, RACE_PAGES }, run;

  while (mf_page_map_next_run (c->map, left, MF_PAGE_MISSING, &run)) {
    uint64_t most = 1 + next_random (&c->seed) % 40;
    run.count = MIN (run.count, most);
    g_autoptr (mf_bitmap) mine = mf_bitmap_new (run.count);
    c->claimed += mf_page_map_apply_run (c->map, run, MF_PAGE_CLAIM, mine);
    for (mf_run at = { 0, run.count }, part; mf_bitmap_next_run (mine, at, true, &part);) {
      mf_run pages = { run.first + part.first, part.count };
      c->arrived += mf_page_map_apply_run (c->map, pages, MF_PAGE_ARRIVE, NULL);
      at.first = part.first + part.count;
      at.count = run.count - at.first;
    }
  }
  return NULL;
}

/* Each page is claimed by one. */
static void
test_race_claims (void)
{
  for (int round = 0; round < 100; round++) {
    g_autoptr (mf_page_map) map = mf_page_map_new (RACE_PAGES, 1);
    GThread *threads[RACERS];
    claimer claimers[RACERS];
    uint64_t claimed = 0, arrived = 0;

    for (guint i = 0; i < RACERS; i++) {
      claimers[i] = (claimer){ .map = map, .seed = 0x9e3779b97f4a7c15u * (i + 1) };
      threads[i] = g_thread_new ("claimer", claim_runs, &claimers[i]);
    }
    for (guint i = 0; i < RACERS; i++) {
      g_thread_join (threads[i]);
      claimed += claimers[i].claimed;
      arrived += claimers[i].arrived;
    }
    g_assert_cmpuint (claimed, ==, RACE_PAGES);
    g_assert_cmpuint (arrived, ==, RACE_PAGES);
    g_assert_cmpuint (mf_page_map_count (map, MF_PAGE_PRESENT), ==, RACE_PAGES);
  }
}

/* ---- A world: all rules at once ---- */

/* A region of a few pages with one number in each, here and at the peer. Even pages are written here and sent, odd
 * ones are written by the peer and invalidated here; all are pulled. A lock a page does what a store's range lock
 * does. */
#define WORLD_PAGES 6

typedef struct {
  mf_page_map *map;
  GMutex lock[WORLD_PAGES];
  _Atomic uint64_t here[WORLD_PAGES];
  _Atomic uint64_t peer[WORLD_PAGES];
  int writers; /* atomic: how many are still at it */
} world;

/* A pull or a send under way: what was read at one end and is not yet at the other. */
typedef struct {
  uint64_t page, number;
} transfer;

/* One who acts in the world, a step at a time. Pulls end in any order, sends one after the other. */
typedef struct {
  world *w;
  guint part; /* which of `steps` */
  uint64_t seed, turn;
  transfer flying[4];
  guint n_flying;
  uint64_t latest[WORLD_PAGES];
} player;

static void
end_pull (world *w, transfer t, bool fails)
{
  g_mutex_lock (&w->lock[t.page]);
  if (!fails && (mf_page_map_state (w->map, t.page) & MF_PAGE_WANTED))
    w->here[t.page] = t.number;
  mf_page_map_apply (w->map, t.page, fails ? MF_PAGE_FAIL : MF_PAGE_ARRIVE);
  g_mutex_unlock (&w->lock[t.page]);
}

static void
step_puller (player *p)
{
  uint64_t dice = next_random (&p->seed), page = (dice >> 8) % WORLD_PAGES;

  if ((dice & 1) == 0 && p->n_flying < G_N_ELEMENTS (p->flying)) {
    if (mf_page_map_apply (p->w->map, page, MF_PAGE_CLAIM))
      p->flying[p->n_flying++] = (transfer){ page, p->w->peer[page] };
  } else if (p->n_flying > 0) {
    guint ending = (guint) (dice >> 8) % p->n_flying;
    end_pull (p->w, p->flying[ending], (dice >> 32) % 4 == 0);
    p->flying[ending] = p->flying[--p->n_flying];
  }
}

static void
end_send (world *w, transfer t, bool fails)
{
  if (fails)
    mf_page_map_apply (w->map, t.page, MF_PAGE_SEND_FAILED);
  else
    w->peer[t.page] = t.number;
}

static void
step_sender (player *p)
{
  uint64_t dice = next_random (&p->seed), page = dice % (WORLD_PAGES / 2) * 2;

  if (p->n_flying > 0)
    end_send (p->w, p->flying[--p->n_flying], (dice >> 32) % 4 == 0);
  else if (mf_page_map_apply (p->w->map, page, MF_PAGE_READ_TO_SEND))
    p->flying[p->n_flying++] = (transfer){ page, p->w->here[page] };
}

static void
step_writer (player *p)
{
  uint64_t page = next_random (&p->seed) % (WORLD_PAGES / 2) * 2;

  g_mutex_lock (&p->w->lock[page]);
  if (p->latest[page] != 0)
    g_assert_cmpuint (p->w->here[page], ==, p->latest[page]); /* invariant 2 */
  p->w->here[page] = p->latest[page] = ++p->turn * 10;
  mf_page_map_apply (p->w->map, page, MF_PAGE_WRITE);
  g_mutex_unlock (&p->w->lock[page]);
}

static void
step_peer (player *p)
{
  uint64_t page = next_random (&p->seed) % (WORLD_PAGES / 2) * 2 + 1;

  p->w->peer[page] = ++p->turn * 10 + 1;
  g_mutex_lock (&p->w->lock[page]);
  mf_page_map_apply (p->w->map, page, MF_PAGE_INVALIDATE);
  if (!(mf_page_map_state (p->w->map, page) & MF_PAGE_PRESENT))
    p->w->here[page] = 0;
  g_mutex_unlock (&p->w->lock[page]);
}

static void (*const steps[]) (player *p) = { step_puller, step_puller, step_sender, step_writer, step_peer };
#define PLAYERS      G_N_ELEMENTS (steps)
#define FIRST_WRITER 3 /* from here on they write; the others go on while they do */

static void
world_begin (world *w, player players[PLAYERS], uint64_t seed)
{
  *w = (world){ .map = mf_page_map_new (WORLD_PAGES, 1), .writers = PLAYERS - FIRST_WRITER };
  for (guint i = 0; i < WORLD_PAGES; i++) {
    g_mutex_init (&w->lock[i]);
    w->peer[i] = i + 1;
  }
  for (guint i = 0; i < PLAYERS; i++)
    players[i] = (player){ .w = w, .part = i, .seed = 0x9e3779b97f4a7c15u * (seed * PLAYERS + i + 1) };
}

/* Ends what is in flight, pulls and sends the rest: both sides have the latest number of each page (invariants 1 and
 * 3). */
static void
world_end (world *w, player players[PLAYERS])
{
  for (guint i = 0; i < FIRST_WRITER; i++)
    while (players[i].n_flying > 0) {
      transfer t = players[i].flying[--players[i].n_flying];
      if (steps[i] == step_puller)
        end_pull (w, t, false);
      else
        end_send (w, t, false);
    }
  g_assert_cmpuint (mf_page_map_count (w->map, MF_PAGE_WANTED), ==, 0);
  g_assert_cmpuint (mf_page_map_count (w->map, MF_PAGE_LATE), ==, 0);

  for (uint64_t page = 0; page < WORLD_PAGES; page++) {
    if (mf_page_map_apply (w->map, page, MF_PAGE_READ_TO_SEND))
      end_send (w, (transfer){ page, w->here[page] }, false);
    if (mf_page_map_apply (w->map, page, MF_PAGE_CLAIM))
      end_pull (w, (transfer){ page, w->peer[page] }, false);
    g_assert_cmpuint (mf_page_map_state (w->map, page), ==, MF_PAGE_PRESENT);
    g_assert_cmpuint (w->here[page], ==, w->peer[page]);
    g_mutex_clear (&w->lock[page]);
  }
  mf_page_map_free (w->map);
}

/* Random orders of steps, many and short: it is at the beginning that pages are missing, and at the end that is
 * compared. */
static void
test_world_in_any_order (void)
{
  uint64_t seed = 88172645463325252u;

  for (uint64_t round = 0; round < 20000; round++) {
    player players[PLAYERS];
    world w;
    world_begin (&w, players, round);
    for (int i = 0; i < 60; i++) {
      guint next = (guint) (next_random (&seed) % PLAYERS);
      steps[next](&players[next]);
    }
    world_end (&w, players);
  }
}

static gpointer
play (gpointer data)
{
  player *p = data;
  bool writes = p->part >= FIRST_WRITER;

  for (int i = 0; writes ? i < 3000 : g_atomic_int_get (&p->w->writers) > 0; i++) {
    steps[p->part](p);
    if (i % 4 == 0)
      g_thread_yield ();
  }
  if (writes)
    g_atomic_int_add (&p->w->writers, -1);
  return NULL;
}

/* The same with a thread each. */
static void
test_race_world (void)
{
  for (uint64_t round = 0; round < 10; round++) {
    GThread *threads[PLAYERS];
    player players[PLAYERS];
    world w;
    world_begin (&w, players, round);
    for (guint i = 0; i < PLAYERS; i++) {
      threads[i] = g_thread_new ("player", play, &players[i]);
    }
    for (guint i = 0; i < PLAYERS; i++)
      g_thread_join (threads[i]);
    world_end (&w, players);
  }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/page-map/table", test_table);
  g_test_add_func ("/page-map/table/rows", test_table_rows);
  g_test_add_func ("/page-map/sizes", test_sizes);
  g_test_add_func ("/page-map/empty", test_empty);
  g_test_add_func ("/page-map/one-page", test_one_page);
  g_test_add_func ("/page-map/runs-against-the-table", test_runs_against_the_table);
  g_test_add_func ("/page-map/count-and-next-run", test_count_and_next_run);
  g_test_add_func ("/page-map/late-pull/after-write", test_late_pull_after_write);
  g_test_add_func ("/page-map/late-pull/after-invalidation", test_late_pull_after_invalidation);
  g_test_add_func ("/page-map/race/claims", test_race_claims);
  g_test_add_func ("/page-map/world/in-any-order", test_world_in_any_order);
  g_test_add_func ("/page-map/world/race", test_race_world);
  return g_test_run ();
}
