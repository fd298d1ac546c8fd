/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A set of pages for each class (mf-bit-tree.h). A page is in at most one of the sets: who enters one leaves the
 * others.
 *
 * All classes but WAITED keep a cursor, the page after the last one taken. WAITED has a ring of the runs that
 * entered it, in the order of their coming. The ring says in which order, the set says what: pages that left WAITED
 * otherwise stay in the ring and are passed over. When the ring is full the order is given up (`spilled`): what the
 * ring still holds comes first, then everything in address order from a cursor on, which lets nobody wait longer
 * than one time round. Ring and order start anew when nothing is waited for.
 */
#include "core/mf-pull-queue.h"
#include "core/mf-bit-tree.h"

#include <assert.h>
#include <stdlib.h>

#define WAITERS_MAX 1024u /* a power of two; 16 KiB. More faults than that wait only where the order matters no more. */

struct mf_pull_queue {
  uint64_t n_pages;
  mf_bit_tree *pages[MF_PULL_CLASSES];
  uint64_t cursor[MF_PULL_CLASSES];
  mf_run waiters[WAITERS_MAX];
  unsigned first_waiter, n_waiters;
  bool spilled;
};

mf_pull_queue *
mf_pull_queue_new (uint64_t n_pages)
{
  mf_pull_queue *queue = calloc (1, sizeof *queue);

  if (queue == NULL)
    return NULL;
  queue->n_pages = n_pages;
  for (unsigned c = 0; c < MF_PULL_CLASSES; c++) {
    queue->pages[c] = mf_bit_tree_new (n_pages);
    if (queue->pages[c] == NULL) {
      mf_pull_queue_free (queue);
      return NULL;
    }
  }
  return queue;
}

void
mf_pull_queue_free (mf_pull_queue *queue)
{
  if (queue == NULL)
    return;
  for (unsigned c = 0; c < MF_PULL_CLASSES; c++)
    mf_bit_tree_free (queue->pages[c]);
  free (queue);
}

static void
forget_waiters (mf_pull_queue *queue)
{
  queue->first_waiter = 0;
  queue->n_waiters = 0;
  queue->spilled = false;
}

static void
note_waiter (mf_pull_queue *queue, mf_run run)
{
  if (queue->n_waiters == WAITERS_MAX)
    queue->spilled = true;
  if (queue->spilled)
    return;
  queue->waiters[(queue->first_waiter + queue->n_waiters) % WAITERS_MAX] = run;
  queue->n_waiters++;
}

static uint64_t
remove_from (mf_pull_queue *queue, unsigned class, mf_run run)
{
  if (mf_bit_tree_count (queue->pages[class]) == 0)
    return 0;
  uint64_t removed = mf_bit_tree_remove (queue->pages[class], run);
  if (class == MF_PULL_WAITED && mf_bit_tree_count (queue->pages[class]) == 0)
    forget_waiters (queue);
  return removed;
}

void
mf_pull_queue_put (mf_pull_queue *queue, mf_run run, mf_pull_class class)
{
  assert (class < MF_PULL_CLASSES);
  for (unsigned c = 0; c < MF_PULL_CLASSES; c++)
    if (c != class)
      remove_from (queue, c, run);
  if (mf_bit_tree_add (queue->pages[class], run) > 0 && class == MF_PULL_WAITED)
    note_waiter (queue, run);
}

uint64_t
mf_pull_queue_raise (mf_pull_queue *queue, mf_run run, mf_pull_class class)
{
  uint64_t raised = 0, queued = 0;

  assert (class < MF_PULL_CLASSES);
  assert (run.first <= queue->n_pages && run.count <= queue->n_pages - run.first);
  for (mf_run left = run; left.count > 0;) {
    mf_run_word part = mf_run_first_word (left);
    uint64_t moving = 0;
    for (unsigned c = (unsigned) class + 1; c < MF_PULL_CLASSES; c++) {
      if (mf_bit_tree_count (queue->pages[c]) == 0)
        continue;
      uint64_t here = mf_bit_tree_word (queue->pages[c], left.first) & part.mask;
      mf_bit_tree_remove_word (queue->pages[c], left.first, here);
      moving |= here;
    }
    raised += mf_bit_tree_add_word (queue->pages[class], left.first, moving);
    for (unsigned c = 0; c <= (unsigned) class; c++)
      queued += (uint64_t) __builtin_popcountll (mf_bit_tree_word (queue->pages[c], left.first) & part.mask);
    left.first += part.count;
    left.count -= part.count;
  }
  if (raised > 0 && class == MF_PULL_WAITED)
    note_waiter (queue, run);
  return queued;
}

uint64_t
mf_pull_queue_remove (mf_pull_queue *queue, mf_run run)
{
  uint64_t removed = 0;

  assert (run.first <= queue->n_pages && run.count <= queue->n_pages - run.first);
  for (unsigned c = 0; c < MF_PULL_CLASSES; c++)
    removed += remove_from (queue, c, run);
  return removed;
}

void
mf_pull_queue_clear (mf_pull_queue *queue)
{
  for (unsigned c = 0; c < MF_PULL_CLASSES; c++)
    mf_bit_tree_clear (queue->pages[c]);
  forget_waiters (queue);
}

/* What the one who has waited longest waits for: its first pages that are still queued. */
static bool
next_waiter (mf_pull_queue *queue, mf_run *out)
{
  while (queue->n_waiters > 0) {
    mf_run waiter = queue->waiters[queue->first_waiter];
    uint64_t page;
    if (mf_bit_tree_next (queue->pages[MF_PULL_WAITED], waiter.first, &page) && page - waiter.first < waiter.count) {
      *out = (mf_run){ page, waiter.count - (page - waiter.first) };
      return true;
    }
    queue->first_waiter = (queue->first_waiter + 1) % WAITERS_MAX;
    queue->n_waiters--;
  }
  return false;
}

/* The next page of a class that is not empty, from its cursor on and round. */
static mf_run
next_in_order (const mf_pull_queue *queue, unsigned class)
{
  uint64_t page = 0;

  if (!mf_bit_tree_next (queue->pages[class], queue->cursor[class], &page))
    mf_bit_tree_next (queue->pages[class], 0, &page);
  return (mf_run){ page, queue->n_pages - page };
}

bool
mf_pull_queue_take (mf_pull_queue *queue, uint64_t max_pages, mf_run *out, mf_pull_class *class)
{
  unsigned c = 0;
  mf_run run;

  assert (max_pages > 0 && (max_pages & (max_pages - 1)) == 0);
  while (c < MF_PULL_CLASSES && mf_bit_tree_count (queue->pages[c]) == 0)
    c++;
  if (c == MF_PULL_CLASSES)
    return false;
  if (c != MF_PULL_WAITED || !next_waiter (queue, &run))
    run = next_in_order (queue, c);

  uint64_t room = max_pages - (run.first & (max_pages - 1));
  run.count = mf_bit_tree_length (queue->pages[c], run.first, room < run.count ? room : run.count);
  queue->cursor[c] = run.first + run.count;
  remove_from (queue, c, run);
  *out = run;
  if (class != NULL)
    *class = (mf_pull_class) c;
  return true;
}

uint64_t
mf_pull_queue_count (const mf_pull_queue *queue)
{
  uint64_t count = 0;

  for (unsigned c = 0; c < MF_PULL_CLASSES; c++)
    count += mf_bit_tree_count (queue->pages[c]);
  return count;
}

uint64_t
mf_pull_queue_count_class (const mf_pull_queue *queue, mf_pull_class class)
{
  assert (class < MF_PULL_CLASSES);
  return mf_bit_tree_count (queue->pages[class]);
}
