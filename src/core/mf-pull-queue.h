/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The pull queue: which pages are still to be pulled, and which come first.
 *
 * Every page is in at most one class. take() gives the lowest class first, and within a class runs in address order
 * from where it last was (wrapping round), except WAITED, where the runs come in the order in which they were put or
 * raised: so raise the page of a fault by itself, then its neighbourhood. When more than a thousand of them wait,
 * the later ones come in address order, too.
 *
 *   WAITED   somebody stands still until the page is here, or soon will (the neighbourhood of a fault)
 *   CALLER   the caller's ranges
 *   HINT(0..MF_PULL_HINTS-1)  what the source says of a page: recently written first in post-copy, least written first
 *            in pre-copy; the caller maps the source's heat to these levels
 *   the last hint level is also where pages without a hint are: plain linear order
 *
 * put, raise and remove cost what the 64-page words of their run cost, take a few words, whatever the number of
 * pages. Memory: one bit a page for each class, none of it there before it is used.
 *
 * Not thread safe: the owner's lock protects it. No function blocks; only new allocates. Runs lie within the pages
 * (asserted).
 */
#include "mf-run.h"

#define MF_PULL_HINTS 8

typedef enum {
  MF_PULL_WAITED = 0,
  MF_PULL_CALLER = 1,
  MF_PULL_HINT_0 = 2, /* MF_PULL_HINT_0 + n, n < MF_PULL_HINTS */
  MF_PULL_LINEAR = MF_PULL_HINT_0 + MF_PULL_HINTS - 1,
  MF_PULL_CLASSES,
} mf_pull_class;

typedef struct mf_pull_queue mf_pull_queue;

/* NULL: errno is ENOMEM or EOVERFLOW. */
mf_pull_queue *mf_pull_queue_new (uint64_t n_pages);
/* NULL is allowed. */
void mf_pull_queue_free (mf_pull_queue *queue);

/* Puts the pages of `run` into `class`, whatever class they were in before, or in none. */
void mf_pull_queue_put (mf_pull_queue *queue, mf_run run, mf_pull_class class);
/* Moves those pages of `run` that are queued to `class` if that is an earlier one; the others stay out. Returns how
 * many pages of `run` are queued now, in `class` or an earlier one: 0 when all are on their way, or here. */
uint64_t mf_pull_queue_raise (mf_pull_queue *queue, mf_run run, mf_pull_class class);
/* Takes the pages of `run` out. Returns how many were queued. */
uint64_t mf_pull_queue_remove (mf_pull_queue *queue, mf_run run);
void mf_pull_queue_clear (mf_pull_queue *queue);

/* Takes the next run out: up to `max_pages`, never across a multiple of `max_pages` (a power of two). False: the
 * queue is empty. `class` (may be NULL) is set to the run's class. */
bool mf_pull_queue_take (mf_pull_queue *queue, uint64_t max_pages, mf_run *out, mf_pull_class *class);

uint64_t mf_pull_queue_count (const mf_pull_queue *queue);
uint64_t mf_pull_queue_count_class (const mf_pull_queue *queue, mf_pull_class class);
