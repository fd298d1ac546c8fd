/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory-lane.h"
#include "region/mf-puller.h"

#include <stdatomic.h>
#include <string.h>

/*
 * Writers, pullers, a fault handler and readers at once over one region; every byte has a value that can be judged at any time.
 *
 * The region is cells of half a page. A cell holds its generation and number in every word: generation 0 is the remote's, or zeroes
 * where the remote has a hole, a later one is from a write. Of a cell that is being written `started` is the new generation and
 * `finished` the old one, so a reader knows what it may find: all of one generation, and of one that is not older than
 * what was finished before it began to read. Lanes answer in any order, late, and break; new ones take their place.
 */
#define PAGE   4096u
#define CELL   2048u
#define SIZE   (300 * PAGE + 3000u)
#define PAGES  301u
#define CELLS  602u
#define ROUNDS 6

#define WRITERS 2
#define READERS 2
#define WRITES  600 /* of a writer, a round */
#define CHANGES 600 /* of the remote, a round */
#define LANES   3
#define LIVES   40 /* requests of a lane */

typedef struct {
  Remote remote;
  MfRegion *region;
  mf_puller *puller;
  atomic_uint started[CELLS], finished[CELLS];
  atomic_bool stop;
  atomic_uint lanes_made;
} World;

static gboolean
is_hole (guint cell)
{
  return cell / 2 % 10 == 3;
}

static uint32_t
word_of (guint cell, guint generation)
{
  return generation == 0 && is_hole (cell) ? 0 : generation << 12 | (cell + 1);
}

static guint
cell_bytes (guint cell)
{
  return MIN (CELL, SIZE - cell * CELL);
}

static void
fill_cell (uint32_t *words, guint cell, guint generation)
{
  for (guint i = 0; i < cell_bytes (cell) / 4; i++)
    words[i] = word_of (cell, generation);
}

/* The generation that all of the cell is of. */
static guint
judge_cell (const uint32_t *words, guint cell)
{
  guint generation = words[0] >> 12;

  for (guint i = 0; i < cell_bytes (cell) / 4; i++) {
    if (words[i] != word_of (cell, generation))
      g_error ("cell %u word %u is %08x, word 0 is %08x", cell, i, words[i], words[0]);
  }
  return generation;
}

static void
on_failed (mf_puller *puller, const GError *error, gpointer user_data)
{
  World *w = user_data;

  mf_puller_add_lane (puller, memory_lane_new (&w->remote, atomic_fetch_add (&w->lanes_made, 1), LIVES), NULL);
}

static void
world_begin (World *w, MfPutMode mode, guint32 seed)
{
  const mf_puller_callbacks callbacks = { on_failed, w };
  g_autoptr (MfStore) store = mf_store_memfd ("race", SIZE, NULL);
  g_autoptr (GError) error = NULL;

  memset (w, 0, sizeof *w);
  w->region = mf_region_new ("race", store, &error);
  g_assert_no_error (error);
  g_assert_true (mf_region_reset (w->region, NULL));
  remote_init (&w->remote, SIZE, PAGE);
  w->remote.shuffle = TRUE;
  for (guint cell = 0; cell < CELLS; cell++)
    fill_cell ((uint32_t *) (w->remote.bytes + cell * CELL), cell, 0);
  w->puller = mf_puller_new (w->region, &callbacks, &error);
  g_assert_no_error (error);
  mf_puller_set_mode (w->puller, mode);
  atomic_store (&w->lanes_made, seed * 1000);
}

static void
add_lanes (World *w)
{
  for (guint i = 0; i < LANES; i++)
    on_failed (w->puller, NULL, w);
}

static void
wait_idle (World *w)
{
  g_autoptr (GError) error = NULL;
  gint64 deadline = g_get_monotonic_time () + 60 * G_USEC_PER_SEC;

  /* For a moment all lanes can be broken and the new ones not there yet. */
  while (!mf_puller_wait_idle (w->puller, deadline, NULL, &error)) {
    g_assert_error (error, MF_ERROR, MF_ERROR_CONNECTION);
    g_clear_error (&error);
    g_assert_cmpint (g_get_monotonic_time (), <, deadline);
    g_thread_yield ();
  }
}

static void
world_end (World *w)
{
  mf_region_set_fetcher (w->region, NULL, NULL);
  mf_puller_free (w->puller);
  g_object_unref (w->region);
  remote_clear (&w->remote);
}

/* All of the region is there, and every cell of the generation that was finished last. */
static void
assert_final (World *w)
{
  g_autofree uint8_t *bytes = g_malloc (SIZE);
  g_autoptr (GError) error = NULL;

  g_assert_cmpuint (mf_page_map_count (mf_region_map (w->region), MF_PAGE_PRESENT), ==, PAGES);
  g_assert_cmpuint (mf_page_map_count (mf_region_map (w->region), MF_PAGE_LATE), ==, 0);
  g_assert_true (mf_region_read (w->region, 0, bytes, SIZE, NULL, &error));
  g_assert_no_error (error);
  for (guint cell = 0; cell < CELLS; cell++)
    g_assert_cmpuint (judge_cell ((uint32_t *) (bytes + cell * CELL), cell), ==, atomic_load (&w->finished[cell]));
}

typedef struct {
  World *world;
  guint number;
  guint32 seed;
} Actor;

/* Writes runs of its own cells (every other block of eight), so that it knows their generations. */
static gpointer
run_writer (gpointer data)
{
  Actor *a = data;
  World *w = a->world;
  g_autoptr (GRand) dice = g_rand_new_with_seed (a->seed);
  uint32_t words[8 * CELL / 4];

  for (guint n = 0; n < WRITES; n++) {
    guint block = (guint) g_rand_int_range (dice, 0, (CELLS + 15) / 16) * 2 + a->number;
    guint first = block * 8 + (guint) g_rand_int_range (dice, 0, 8);
    guint end = first + (guint) g_rand_int_range (dice, 1, 9);
    uint64_t length = 0;
    g_autoptr (GError) error = NULL;

    end = MIN (end, MIN ((block + 1) * 8, CELLS));
    if (first >= end)
      continue;
    for (guint cell = first; cell < end; cell++) {
      guint generation = atomic_load (&w->finished[cell]) + 1;

      atomic_store (&w->started[cell], generation);
      fill_cell (words + (cell - first) * (CELL / 4), cell, generation);
      length += cell_bytes (cell);
    }
    mf_region_write (w->region, first * CELL, words, length, NULL, &error);
    g_assert_no_error (error);
    for (guint cell = first; cell < end; cell++)
      atomic_store (&w->finished[cell], atomic_load (&w->started[cell]));
  }
  return NULL;
}

static gpointer
run_reader (gpointer data)
{
  Actor *a = data;
  World *w = a->world;
  g_autoptr (GRand) dice = g_rand_new_with_seed (a->seed);
  uint32_t words[8 * CELL / 4];

  while (!atomic_load (&w->stop)) {
    guint first = (guint) g_rand_int_range (dice, 0, CELLS);
    guint end = first + (guint) g_rand_int_range (dice, 1, 9);
    guint oldest[8];
    uint64_t length = 0;
    g_autoptr (GError) error = NULL;

    end = MIN (end, CELLS);
    for (guint cell = first; cell < end; cell++) {
      oldest[cell - first] = atomic_load (&w->finished[cell]);
      length += cell_bytes (cell);
    }
    mf_region_read (w->region, first * CELL, words, length, NULL, &error);
    g_assert_no_error (error);
    for (guint cell = first; cell < end; cell++) {
      guint generation = judge_cell (words + (cell - first) * (CELL / 4), cell);

      g_assert_cmpuint (generation, >=, oldest[cell - first]);
      g_assert_cmpuint (generation, <=, atomic_load (&w->started[cell]));
    }
  }
  return NULL;
}

/* Claims pages and brings them by itself, gives some up, and tells the puller of the others. */
static gpointer
run_faults (gpointer data)
{
  Actor *a = data;
  World *w = a->world;
  g_autoptr (GRand) dice = g_rand_new_with_seed (a->seed);
  mf_page_map *map = mf_region_map (w->region);
  uint8_t bytes[PAGE];

  while (!atomic_load (&w->stop)) {
    mf_run run = { (uint64_t) g_rand_int_range (dice, 0, PAGES), 1 };
    uint64_t offset, length;

    if (!mf_page_map_apply (map, run.first, MF_PAGE_CLAIM)) {
      mf_puller_fault (w->puller, run);
      g_thread_yield ();
      continue;
    }
    if (g_rand_int_range (dice, 0, 3) == 0) {
      mf_page_map_apply (map, run.first, MF_PAGE_FAIL);
      mf_puller_queue (w->puller, run, MF_PULL_WAITED);
      continue;
    }
    mf_region_bytes_of (w->region, run, &offset, &length);
    remote_read (&w->remote, offset, bytes, length);
    g_assert_true (mf_region_put (w->region, run, bytes, NULL, MF_PUT_KEEP, NULL));
    /* It can have been invalidated on its way. */
    if (mf_page_map_state (map, run.first) == MF_PAGE_MISSING)
      mf_puller_queue (w->puller, run, MF_PULL_WAITED);
  }
  return NULL;
}

/* Starts and joins the actors: `n_ending` end by themselves, then the others are told to. */
static void
act (World *w, const GThreadFunc *functions, guint n, guint n_ending, guint32 seed)
{
  Actor actors[8];
  GThread *threads[8];

  for (guint i = 0; i < n; i++) {
    actors[i] = (Actor){ w, i, seed * 100 + i };
    threads[i] = g_thread_new ("actor", functions[i], &actors[i]);
  }
  for (guint i = 0; i < n_ending; i++)
    g_thread_join (threads[i]);
  mf_puller_queue (w->puller, (mf_run){ 0, PAGES }, MF_PULL_LINEAR);
  wait_idle (w);
  atomic_store (&w->stop, TRUE);
  for (guint i = n_ending; i < n; i++)
    g_thread_join (threads[i]);
  /* What the last faults have given up. */
  wait_idle (w);
}

/* Post-copy: the program writes and reads while its memory comes in. */
static void
test_writes (void)
{
  const GThreadFunc actors[] = { run_writer, run_writer, run_reader, run_reader, run_faults };

  for (guint round = 0; round < ROUNDS; round++) {
    World w;

    world_begin (&w, MF_PUT_KEEP, round + 1);
    mf_region_set_fetcher (w.region, mf_puller_fetch, w.puller);
    add_lanes (&w);
    mf_puller_queue (w.puller, (mf_run){ 0, PAGES }, MF_PULL_LINEAR);
    act (&w, actors, G_N_ELEMENTS (actors), WRITERS, round + 1);
    assert_final (&w);
    world_end (&w);
  }
}

/* The other side writes a page and says so: the bytes of a pull that was under way are not taken, and never read. */
static gpointer
run_other_side (gpointer data)
{
  Actor *a = data;
  World *w = a->world;
  g_autoptr (GRand) dice = g_rand_new_with_seed (a->seed);
  mf_bitmap *stale = mf_bitmap_new (PAGES);
  uint32_t words[PAGE / 4];

  for (guint n = 0; n < CHANGES; n++) {
    guint page = (guint) g_rand_int_range (dice, 0, PAGES);
    guint cells = page == PAGES - 1 ? CELLS - 2 * page : 2;
    guint generation = atomic_load (&w->finished[2 * page]) + 1;
    uint64_t length = 0;

    for (guint i = 0; i < cells; i++) {
      atomic_store (&w->started[2 * page + i], generation);
      fill_cell (words + i * (CELL / 4), 2 * page + i, generation);
      length += cell_bytes (2 * page + i);
    }
    remote_write (&w->remote, (uint64_t) page * PAGE, words, length);
    mf_bitmap_set (stale, page);
    g_assert_true (mf_region_invalidate (w->region, stale, NULL));
    mf_bitmap_clear (stale, page);
    for (guint i = 0; i < cells; i++)
      atomic_store (&w->finished[2 * page + i], generation);
    mf_puller_queue (w->puller, (mf_run){ page, 1 }, MF_PULL_CALLER);
    if (n % 8 == 0)
      g_thread_yield ();
  }
  mf_bitmap_free (stale);
  return NULL;
}

static void
test_invalidations (void)
{
  const GThreadFunc actors[] = { run_other_side, run_reader, run_reader, run_faults };

  for (guint round = 0; round < ROUNDS; round++) {
    World w;

    world_begin (&w, MF_PUT_KEEP, round + 50);
    mf_region_set_fetcher (w.region, mf_puller_fetch, w.puller);
    add_lanes (&w);
    mf_puller_queue (w.puller, (mf_run){ 0, PAGES }, MF_PULL_LINEAR);
    act (&w, actors, G_N_ELEMENTS (actors), 1, round + 50);
    assert_final (&w);
    world_end (&w);
  }
}

/* Pre-copy: the program writes on the other side, its writes are logged there, and dirty pages are pulled again and again. */
typedef struct {
  World world;
  mf_dirty_log *log;
} Source;

static gpointer
run_guest (gpointer data)
{
  Source *s = data;
  World *w = &s->world;
  g_autoptr (GRand) dice = g_rand_new_with_seed (9);
  uint32_t words[CELL / 4];

  for (guint n = 0; n < 4 * CHANGES; n++) {
    guint cell = (guint) g_rand_int_range (dice, 0, CELLS);
    guint generation = atomic_load (&w->finished[cell]) + 1;

    atomic_store (&w->started[cell], generation);
    fill_cell (words, cell, generation);
    remote_write (&w->remote, (uint64_t) cell * CELL, words, cell_bytes (cell));
    mf_dirty_log_note (s->log, (mf_run){ cell / 2, 1 });
    atomic_store (&w->finished[cell], generation);
    if (n % 4 == 0)
      g_thread_yield ();
  }
  atomic_store (&w->stop, TRUE);
  return NULL;
}

static void
test_rounds (void)
{
  for (guint round = 0; round < ROUNDS; round++) {
    Source s;
    World *w = &s.world;
    GThread *guest;

    world_begin (w, MF_PUT_REPLACE, round + 90);
    s.log = mf_dirty_log_new (PAGES);
    w->remote.dirty = mf_dirty_session_open (s.log, NULL, NULL, NULL);
    add_lanes (w);
    guest = g_thread_new ("guest", run_guest, &s);
    /* Whatever is dirty, at any moment, without waiting for what is under way. */
    while (!atomic_load (&w->stop)) {
      mf_puller_queue_set (w->puller, mf_dirty_session_bits (w->remote.dirty), MF_PULL_LINEAR);
      g_thread_yield ();
    }
    g_thread_join (guest);
    wait_idle (w);
    while (mf_dirty_session_count (w->remote.dirty) > 0) {
      mf_puller_queue_set (w->puller, mf_dirty_session_bits (w->remote.dirty), MF_PULL_LINEAR);
      wait_idle (w);
    }
    assert_final (w);
    mf_dirty_session_unref (w->remote.dirty);
    world_end (w);
    mf_dirty_log_free (s.log);
  }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/puller-race/writes", test_writes);
  g_test_add_func ("/puller-race/invalidations", test_invalidations);
  g_test_add_func ("/puller-race/rounds", test_rounds);
  return g_test_run ();
}
