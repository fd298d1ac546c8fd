/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The switchover model: after each pre-copy round, another round, or go?
 *
 * The user declares a downtime budget and nothing else. With R the link's rate, D the rate at which the program
 * dirties pages and M what is dirty now, the downtime of going now is M / R + the fixed cost (stop, device state,
 * resume). A round of M bytes takes M / R, in which at most D * M / R become dirty again (and no more than the set
 * that the program writes at all). Pure arithmetic: no clock, no I/O; no number that is put in makes it overflow.
 *
 * AUTO goes when the predicted downtime fits the budget. Until then it takes another round while that pays: while
 * the dirty set is expected to shrink to MF_SWITCHOVER_SHRINK_PERCENT of itself, did so in the round before, and
 * everything sent after the first round stays within MF_SWITCHOVER_RESENT_PERCENT of that one. When it doesn't pay,
 * post-copy: it sends each page that is left just once, and costs the program faults instead of a standstill.
 * AUTO streams when that would fit and is near, PRECOPY when it is near: scans and copies then go on side by side without the barrier of a
 * round, so that what is dirty at any moment is what was written during one scan's lag L and while that is copied, and so on: D * L / (1 - D / R).
 * PRECOPY takes rounds until it fits, and gives up after MF_SWITCHOVER_STALLED_MAX rounds in a row without progress,
 * or MF_SWITCHOVER_ROUNDS_MAX. POSTCOPY switches over at once.
 *
 * The dirty rate is what became dirty in a round by the round's time. A program that writes the same pages again and
 * again dirties them once a round, so a long round shows a lower rate than the shorter ones after it: a rate that
 * has risen is believed at once, one that has fallen only by half.
 *
 * Not thread safe.
 */
#include <stdbool.h>
#include <stdint.h>

/* A round has to shrink the dirty set to this. Nearer to 100 each round costs nearly as many bytes as post-copy
 * sends in all, and the next one is no better. */
#define MF_SWITCHOVER_SHRINK_PERCENT 85
/* What rounds after the first, and what is left then, may add to the first one's bytes in AUTO: post-copy alone adds
 * what was dirtied during one round, so the whole stays near what post-copy sends, and the time too. */
#define MF_SWITCHOVER_RESENT_PERCENT 40
/* That much may be sent again in any case: for a small region bytes are no concern. */
#define MF_SWITCHOVER_RESENT_FREE_BYTES (UINT64_C (4) << 20)
/* PRECOPY: a round that leaves more than this of the dirty set made no progress. */
#define MF_SWITCHOVER_STALLED_PERCENT 95
/* One or two rounds may be a burst of writes. */
#define MF_SWITCHOVER_STALLED_MAX 3
#define MF_SWITCHOVER_ROUNDS_MAX  30
/* A round that was over sooner says more of delays than of the link's rate. */
#define MF_SWITCHOVER_SAMPLE_MIN_USEC (100 * 1000)

/* How long after a write the page is on its way when streaming: a scan every 2 ms, its answer, the queue (measured 2 to 5 ms). */
#define MF_SWITCHOVER_STREAM_LAG_USEC 4000
/* Streaming pays only where the dirty set shrinks to its steady size in this time. */
#define MF_SWITCHOVER_STREAM_MAX_USEC (500 * 1000)
/* The same after the first round, whose rates are the least certain. */
#define MF_SWITCHOVER_STREAM_FIRST_MAX_USEC (100 * 1000)

typedef enum {
  MF_MODE_AUTO,
  MF_MODE_PRECOPY,
  MF_MODE_POSTCOPY,
} mf_mode;

typedef enum {
  MF_DECIDE_ROUND,    /* another pre-copy round pays */
  MF_DECIDE_STREAM,   /* copy without rounds until the predicted downtime fits, then go */
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
  uint64_t first_bytes;  /* moved in the first round */
  uint64_t resent_bytes; /* moved in rounds after the first */
  uint64_t dirty_bytes;  /* dirty after the last round */
  bool shrank;           /* the last round shrank the dirty set as AUTO wants it (the first one always) */
} mf_switchover;

void mf_switchover_init (mf_switchover *model, mf_mode mode, uint64_t budget_usec, uint64_t fixed_usec,
                         uint64_t region_bytes);
/* Learns from a round that has ended. */
void mf_switchover_learn (mf_switchover *model, const mf_round *round);
/* The downtime of going now and copying `dirty_bytes` while the program stands, in microseconds; UINT64_MAX when
 * there is something to copy and no rate is known. */
uint64_t mf_switchover_downtime_usec (const mf_switchover *model, uint64_t dirty_bytes);
/* What stays dirty while streaming; UINT64_MAX when the program writes as fast as the link carries, or no rate is known. */
uint64_t mf_switchover_streamed_bytes (const mf_switchover *model);
/* How long it takes streaming to get there; UINT64_MAX: never. */
uint64_t mf_switchover_stream_usec (const mf_switchover *model, uint64_t dirty_bytes);
/* What will be dirty after a round that copies `dirty_bytes`; region_bytes when no rate is known. */
uint64_t mf_switchover_dirty_after_round (const mf_switchover *model, uint64_t dirty_bytes);
/* `dirty_bytes`: what is dirty now. Before the first round is learnt, that everything is. */
mf_decision mf_switchover_decide (const mf_switchover *model, uint64_t dirty_bytes);
