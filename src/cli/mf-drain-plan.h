/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * In which order guests leave a host, and where to: what is true of that without asking anybody.
 *
 * The quickest first: when time runs out, as many as can be are away, and those that write much have the link to themselves at the end.
 */
#include <glib.h>

G_BEGIN_DECLS

typedef struct {
  char *name;
  guint64 size_bytes;
  guint64 dirty_rate; /* bytes a second that it writes to; 0: idle, or not known */
  guint64 tried;      /* destinations that have failed, a bit each */
} mf_drain_guest;

void mf_drain_guest_free (mf_drain_guest *guest);

/* More can't be told apart. */
#define MF_DRAIN_MAX_DESTINATIONS 64

/* About how long it takes to move, with `rate` bytes a second: its memory once, and once more what it writes meanwhile, and what it writes during that, and
 * so on. One that writes nearly as fast, or faster, is taken to have a tenth of the rate left: post-copy ends it. Microseconds, at most G_MAXINT64. */
guint64 mf_drain_cost_usec (const mf_drain_guest *guest, guint64 rate);

/* Sorts: the quickest first, by name where two are alike. (element-type mf_drain_guest) */
void mf_drain_sort (GPtrArray *guests, guint64 rate);

/* The destination with the fewest bytes in `bytes` (what was sent there so far) that `guest` has not tried; -1: none is left. */
int mf_drain_choose (const mf_drain_guest *guest, const guint64 *bytes, guint n_destinations);

G_END_DECLS
