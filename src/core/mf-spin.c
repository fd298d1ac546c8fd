/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-spin.h"

/* One wait in TRY is done the other way; at the beginning every second one. */
#define TRY       256
#define BEGINNING 16

/* Longer waits are not of a series: they only say "long". */
#define LONG_NSEC 1000000u

/* The median follows by a sixteenth of itself. */
#define STEP_SHIFT 4

static bool
looking_is_better (const mf_spin *spin)
{
  return spin->typical_nsec[1] < spin->typical_nsec[0] - spin->typical_nsec[0] / 8;
}

bool
mf_spin_begin (mf_spin *spin, bool may_look)
{
  uint32_t n = spin->waits++;

  if (n < BEGINNING)
    spin->look = n % 2 != 0;
  else
    spin->look = looking_is_better (spin) != (n % TRY == 0);
  spin->look = spin->look && may_look;
  return spin->look;
}

void
mf_spin_end (mf_spin *spin, uint64_t nsec)
{
  uint32_t *typical = &spin->typical_nsec[spin->look];
  uint32_t sample = nsec < LONG_NSEC ? (uint32_t) nsec : LONG_NSEC;
  uint32_t step = (*typical >> STEP_SHIFT) + 1;

  if (*typical == 0)
    *typical = sample > 0 ? sample : 1;
  else if (sample > *typical)
    *typical += step;
  else if (sample<*typical && * typical> step)
    *typical -= step;
}
