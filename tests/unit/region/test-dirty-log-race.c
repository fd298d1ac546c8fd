/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "region/mf-dirty-log.h"

#include <stdatomic.h>

/*
 * Invariant 3 under threads: a page is sent again if it was written after it was last read for sending.
 *
 * The memory is a generation a page. Two writers raise generations: one is seen by a tracker, one notes what it wrote. A collector
 * collects, two readers (of halves of the pages) copy what is dirty, and lose some of it: what a reader read and did not
 * acknowledge before it goes away never arrives. Sessions of others come and go. When all have stopped, the session's dirty pages are copied
 * once more: then the copy must be the memory. Most writes go to a few hot pages. Each of the others is written once by each
 * writer, so that no later write covers up for one that was lost.
 */
#define PAGES   1000
#define HOT     100
#define READERS 2
#define PASSES  20000 /* of both readers, in which they found something to copy */

typedef struct {
  mf_tracker tracker;
  _Atomic uint32_t memory[PAGES];
  mf_bitmap *written; /* what the tracker will report */
  mf_dirty_log *log;
  mf_dirty_session *session;
  uint32_t copy[PAGES]; /* each reader its half */
  atomic_uint writing;
  atomic_uint passes;
} World;

static gboolean
tracker_start (mf_tracker *tracker, GError **error)
{
  return TRUE;
}

static gboolean
tracker_collect (mf_tracker *tracker, mf_bitmap *written, GError **error)
{
  mf_bitmap_move (written, ((World *) tracker)->written);
  return TRUE;
}

static void
tracker_nothing (mf_tracker *tracker)
{
}

static const mf_tracker_ops tracker_ops = { tracker_start, tracker_collect, tracker_nothing, tracker_nothing };

/* The next page to write, or PAGES at the end, which comes when all cold pages are written and the readers have had their passes. */
static guint
next_page (World *w, GRand *rand, guint *cold)
{
  guint passes = atomic_load (&w->passes);

  /* The cold pages are spread over the passes. */
  if (*cold < PAGES && *cold - HOT < passes * (PAGES - HOT) / PASSES)
    return (*cold)++;
  if (*cold == PAGES)
    return PAGES;
  g_thread_yield ();
  return (guint) g_rand_int_range (rand, 0, HOT);
}

static gpointer
run_tracked_writer (gpointer data)
{
  World *w = data;
  g_autoptr (GRand) rand = g_rand_new_with_seed (1);
  guint cold = HOT, page;

  while ((page = next_page (w, rand, &cold)) < PAGES) {
    /* As the kernel does it: a collect that comes after the store reports it. */
    atomic_fetch_add (&w->memory[page], 1);
    mf_bitmap_set (w->written, page);
  }
  atomic_fetch_sub (&w->writing, 1);
  return NULL;
}

static gpointer
run_noting_writer (gpointer data)
{
  World *w = data;
  g_autoptr (GRand) rand = g_rand_new_with_seed (2);
  guint cold = HOT, page;

  while ((page = next_page (w, rand, &cold)) < PAGES) {
    atomic_fetch_add (&w->memory[page], 1);
    mf_dirty_log_note (w->log, (mf_run){ page, 1 });
  }
  atomic_fetch_sub (&w->writing, 1);
  return NULL;
}

static gpointer
run_collector (gpointer data)
{
  World *w = data;

  while (atomic_load (&w->writing) > 0) {
    g_assert_true (mf_dirty_log_collect (w->log, NULL, NULL));
    g_thread_yield ();
  }
  return NULL;
}

static gpointer
run_passers_by (gpointer data)
{
  World *w = data;

  while (atomic_load (&w->writing) > 0) {
    g_autoptr (mf_dirty_session) session = mf_dirty_session_open (w->log, NULL, NULL, NULL);

    mf_dirty_session_repeat_union (session);
    g_thread_yield ();
  }
  return NULL;
}

typedef struct {
  World *world;
  mf_run half;
  uint32_t seed;
} ReaderArgs;

/* Copies the dirty pages of the half; FALSE: there are none. What has been read arrives with the acknowledgement, or, one time in four, never. */
static gboolean
copy_dirty (World *w, mf_run half, GRand *rand)
{
  mf_dirty_reader *reader = mf_dirty_reader_new (w->session);
  uint32_t arriving[PAGES];
  gboolean read[PAGES] = { FALSE };
  gboolean found = FALSE;
  mf_run rest = half, run;

  while (rest.count > 0 && mf_bitmap_next_run (mf_dirty_session_bits (w->session), rest, true, &run)) {
    found = TRUE;
    mf_dirty_reader_take (reader, run);
    for (uint64_t page = run.first; page < run.first + run.count; page++) {
      arriving[page] = atomic_load (&w->memory[page]);
      read[page] = TRUE;
      if (page % 16 == 0)
        g_thread_yield ();
    }
    rest = (mf_run){ run.first + run.count, half.first + half.count - run.first - run.count };
  }
  if (rand == NULL || g_rand_int_range (rand, 0, 4) != 0) {
    for (uint64_t page = half.first; page < half.first + half.count; page++) {
      if (read[page])
        w->copy[page] = arriving[page];
    }
    mf_dirty_reader_acknowledge (reader);
  }
  mf_dirty_reader_free (reader);
  return found;
}

static gpointer
run_reader (gpointer data)
{
  ReaderArgs *args = data;
  g_autoptr (GRand) rand = g_rand_new_with_seed (args->seed);

  while (atomic_load (&args->world->writing) > 0) {
    if (copy_dirty (args->world, args->half, rand))
      atomic_fetch_add (&args->world->passes, 1);
    g_thread_yield ();
  }
  return NULL;
}

static void
test_race (void)
{
  g_autofree World *w = g_new0 (World, 1);
  ReaderArgs args[READERS];
  GThread *threads[4 + READERS];

  w->tracker.ops = &tracker_ops;
  w->written = mf_bitmap_new (PAGES);
  w->log = mf_dirty_log_new (PAGES);
  g_assert_true (mf_dirty_log_set_tracker (w->log, &w->tracker, NULL));
  w->session = mf_dirty_session_open (w->log, NULL, NULL, NULL);
  atomic_store (&w->writing, 2);

  threads[0] = g_thread_new ("tracked", run_tracked_writer, w);
  threads[1] = g_thread_new ("noting", run_noting_writer, w);
  threads[2] = g_thread_new ("collector", run_collector, w);
  threads[3] = g_thread_new ("passers-by", run_passers_by, w);
  for (guint i = 0; i < READERS; i++) {
    args[i] = (ReaderArgs){ w, { i * (PAGES / READERS), PAGES / READERS }, i + 10 };
    threads[4 + i] = g_thread_new ("reader", run_reader, &args[i]);
  }
  for (guint i = 0; i < G_N_ELEMENTS (threads); i++)
    g_thread_join (threads[i]);

  for (guint page = HOT; page < PAGES; page++)
    g_assert_cmpuint (atomic_load (&w->memory[page]), ==, 2);
  g_assert_true (mf_dirty_log_collect (w->log, NULL, NULL));
  copy_dirty (w, (mf_run){ 0, PAGES }, NULL);
  g_assert_cmpuint (mf_dirty_session_count (w->session), ==, 0);
  for (guint page = 0; page < PAGES; page++)
    g_assert_cmpuint (w->copy[page], ==, atomic_load (&w->memory[page]));

  mf_dirty_session_unref (w->session);
  mf_dirty_log_free (w->log);
  mf_bitmap_free (w->written);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/dirty-log/race", test_race);
  return g_test_run ();
}
