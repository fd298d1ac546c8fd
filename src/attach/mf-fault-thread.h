/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The fault thread: reads a program's page faults from its userfaultfd, asks for the pages on a lane of its own and puts them down.
 *
 * A fault is in a slot from the event until the answer; there are a fixed number of them, with their buffers, so nothing is allocated on the
 * way. When they are used up no event is read: the kernel keeps it.
 */
#include "attach/mf-placement.h"
#include "attach/mf-userfault.h"

G_BEGIN_DECLS

typedef struct _mf_fault_thread mf_fault_thread;

typedef struct {
  /* A lane was lost; from the fault thread, no lock held. */
  void (*lost) (const GError *error, gpointer user_data);
  gpointer user_data;
} mf_fault_thread_callbacks;

/* `uffd` and `placement` stay the caller's. Nothing runs yet. */
mf_fault_thread *mf_fault_thread_new (MfRegion *region, int uffd, mf_placement *placement,
                                      const mf_fault_thread_callbacks *callbacks, GError **error);
/* Stops it first. */
void mf_fault_thread_free (mf_fault_thread *thread);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_fault_thread, mf_fault_thread_free)

void mf_fault_thread_start (mf_fault_thread *thread);
/* Joins it and closes its lane. Faults that were not answered are forgotten: the next one who does UFFDIO_WAKE sees them again. */
void mf_fault_thread_stop (mf_fault_thread *thread);

/* Returns when everything that the program could go on after before the call is marked in the page map. Not from the thread itself. */
void mf_fault_thread_settle (mf_fault_thread *thread);

/* Any thread, running or not. */
void mf_fault_thread_set_lane (mf_fault_thread *thread, mf_lane *lane);
void mf_fault_thread_set_puller (mf_fault_thread *thread, mf_puller *puller);
void mf_fault_thread_get_stats (mf_fault_thread *thread, mf_fault_stats *stats);

G_END_DECLS
