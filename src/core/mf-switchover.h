/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The switchover model: after each pre-copy round, another round, or go?
 *
 * The user declares a downtime budget and nothing else. With R the link's rate, D the rate at which the program
 * dirties pages and M what is dirty now, the downtime of going now is M / R + the fixed cost (stop, device state,
 * resume). A round of M bytes takes M / R, in which at most D * M / R become dirty again (and no more than the set
 * that the program writes at all). Pure arithmetic: no clock, no I/O.
 */
#include <stdbool.h>
#include <stdint.h>

typedef enum {
  MF_MODE_AUTO,
  MF_MODE_PRECOPY,
  MF_MODE_POSTCOPY,
} mf_mode;

typedef enum {
  MF_DECIDE_ROUND,    /* another pre-copy round pays */
  MF_DECIDE_GO,       /* the predicted downtime fits the budget: copy the rest while stopped */
  MF_DECIDE_POSTCOPY, /* another round would not pay: switch over now, the rest follows */
  MF_DECIDE_GIVE_UP,  /* only pre-copy is allowed and the budget can't be met */
} mf_decision;

typedef struct {
  uint64_t dirty_bytes;   /* dirty now */
  uint64_t sent_bytes;    /* what the round just ended moved */
  uint64_t round_usec;    /* how long it took */
  uint64_t dirtied_bytes; /* what became dirty (again) during it */
} mf_round;

typedef struct {
  mf_mode mode;
  uint64_t budget_usec;  /* --max-downtime */
  uint64_t fixed_usec;   /* what the switchover costs with nothing dirty */
  uint64_t region_bytes; /* all regions together */
  uint32_t rounds;       /* rounds ended so far */
  uint32_t stalled;      /* rounds in a row that did not shrink the dirty set */
  uint64_t link_rate;    /* bytes a second, smoothed; 0 before the first round */
  uint64_t dirty_rate;   /* bytes a second, smoothed */
  uint64_t resent_bytes; /* moved in rounds after the first */
} mf_switchover;

void mf_switchover_init (mf_switchover *model, mf_mode mode, uint64_t budget_usec, uint64_t fixed_usec,
                         uint64_t region_bytes);
/* Learns from a round that has ended. */
void mf_switchover_learn (mf_switchover *model, const mf_round *round);
/* The downtime of going now and copying `dirty_bytes` while the program stands, in microseconds; UINT64_MAX when no
 * rate is known. */
uint64_t mf_switchover_downtime_usec (const mf_switchover *model, uint64_t dirty_bytes);
mf_decision mf_switchover_decide (const mf_switchover *model, uint64_t dirty_bytes);
