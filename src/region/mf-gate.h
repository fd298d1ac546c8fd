/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A gate: somebody's functions that many threads call, and that can be taken away.
 *
 * Who calls enters, gets the guest as it is then, calls it with no lock held, and leaves. Who sets another guest (or none) waits
 * until all have left that entered before; those who enter later, and wait for nobody, get the new one.
 */
#include <glib.h>

typedef struct {
  gconstpointer ops; /* NULL: there is no guest */
  gpointer data;
} mf_guest;

typedef struct {
  GMutex set_lock; /* one set at a time; taken before `lock` */
  GMutex lock;     /* protects what follows */
  GCond left;
  mf_guest guest;
  guint epoch;     /* 0 or 1, changed by every set */
  guint inside[2]; /* who entered in which */
} mf_gate;

void mf_gate_init (mf_gate *gate);
void mf_gate_clear (mf_gate *gate);

/* Returns the guest, and in `ticket` what mf_gate_leave() wants. To be left also when there is no guest. */
mf_guest mf_gate_enter (mf_gate *gate, guint *ticket);
void mf_gate_leave (mf_gate *gate, guint ticket);

/* Puts `guest` in the place of the one there, when that is `only` (NULL: whoever it is), and waits for those inside.
 * `former` (may be NULL) is who was there. FALSE: it is another one. Never from inside. */
gboolean mf_gate_set (mf_gate *gate, const mf_guest *only, mf_guest guest, mf_guest *former);
