/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-gate.h"

void
mf_gate_init (mf_gate *gate)
{
  *gate = (mf_gate){ 0 };
  g_mutex_init (&gate->set_lock);
  g_mutex_init (&gate->lock);
  g_cond_init (&gate->left);
}

void
mf_gate_clear (mf_gate *gate)
{
  g_mutex_clear (&gate->set_lock);
  g_mutex_clear (&gate->lock);
  g_cond_clear (&gate->left);
}

mf_guest
mf_gate_enter (mf_gate *gate, guint *ticket)
{
  mf_guest guest;

  g_mutex_lock (&gate->lock);
  *ticket = gate->epoch;
  gate->inside[gate->epoch]++;
  guest = gate->guest;
  g_mutex_unlock (&gate->lock);
  return guest;
}

void
mf_gate_leave (mf_gate *gate, guint ticket)
{
  g_mutex_lock (&gate->lock);
  if (--gate->inside[ticket] == 0 && ticket != gate->epoch)
    g_cond_broadcast (&gate->left);
  g_mutex_unlock (&gate->lock);
}

gboolean
mf_gate_set (mf_gate *gate, const mf_guest *only, mf_guest guest, mf_guest *former)
{
  guint before;

  g_mutex_lock (&gate->set_lock);
  g_mutex_lock (&gate->lock);
  if (only != NULL && (gate->guest.ops != only->ops || gate->guest.data != only->data)) {
    g_mutex_unlock (&gate->lock);
    g_mutex_unlock (&gate->set_lock);
    return FALSE;
  }
  if (former != NULL)
    *former = gate->guest;
  gate->guest = guest;
  before = gate->epoch;
  gate->epoch = 1 - before;
  while (gate->inside[before] > 0)
    g_cond_wait (&gate->left, &gate->lock);
  g_mutex_unlock (&gate->lock);
  g_mutex_unlock (&gate->set_lock);
  return TRUE;
}
