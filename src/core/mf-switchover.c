/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "core/mf-switchover.h"

#define USEC_PER_SEC UINT64_C (1000000)

/* a * b / c, at most UINT64_MAX; c is not 0. */
static uint64_t
scale (uint64_t a, uint64_t b, uint64_t c)
{
  unsigned __int128 value = (unsigned __int128) a * b / c;
  return value > UINT64_MAX ? UINT64_MAX : (uint64_t) value;
}

static uint64_t
add (uint64_t a, uint64_t b)
{
  return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static uint64_t
mean (uint64_t a, uint64_t b)
{
  return a / 2 + b / 2 + (a & b & 1);
}

/* Whether `part` is more than `percent` of `whole`. */
static bool
exceeds (uint64_t part, uint64_t whole, unsigned percent)
{
  return (unsigned __int128) part * 100 > (unsigned __int128) whole * percent;
}

void
mf_switchover_init (mf_switchover *model, mf_mode mode, uint64_t budget_usec, uint64_t fixed_usec,
                    uint64_t region_bytes)
{
  *model = (mf_switchover){
    .mode = mode,
    .budget_usec = budget_usec,
    .fixed_usec = fixed_usec,
    .region_bytes = region_bytes,
  };
}

static void
learn_rates (mf_switchover *model, const mf_round *round)
{
  if (round->round_usec == 0)
    return;

  uint64_t link_rate = scale (round->sent_bytes, USEC_PER_SEC, round->round_usec);
  if (link_rate > 0 && model->link_rate == 0)
    model->link_rate = link_rate;
  else if (link_rate > 0 && round->round_usec >= MF_SWITCHOVER_SAMPLE_MIN_USEC)
    model->link_rate = mean (model->link_rate, link_rate);

  uint64_t dirty_rate = scale (round->dirtied_bytes, USEC_PER_SEC, round->round_usec);
  if (model->rounds == 0 || dirty_rate > model->dirty_rate)
    model->dirty_rate = dirty_rate;
  else
    model->dirty_rate = mean (model->dirty_rate, dirty_rate);
}

void
mf_switchover_learn (mf_switchover *model, const mf_round *round)
{
  learn_rates (model, round);
  if (model->rounds == 0) {
    model->first_bytes = round->sent_bytes;
    model->shrank = true;
  } else {
    model->resent_bytes = add (model->resent_bytes, round->sent_bytes);
    model->shrank = !exceeds (round->dirty_bytes, model->dirty_bytes, MF_SWITCHOVER_SHRINK_PERCENT);
    bool stalled =
        model->dirty_bytes == 0 || exceeds (round->dirty_bytes, model->dirty_bytes, MF_SWITCHOVER_STALLED_PERCENT);
    model->stalled = stalled ? model->stalled + (model->stalled < UINT32_MAX) : 0;
  }
  model->dirty_bytes = round->dirty_bytes;
  if (model->rounds < UINT32_MAX)
    model->rounds++;
}

uint64_t
mf_switchover_downtime_usec (const mf_switchover *model, uint64_t dirty_bytes)
{
  if (dirty_bytes == 0)
    return model->fixed_usec;
  if (model->link_rate == 0)
    return UINT64_MAX;
  return add (scale (dirty_bytes, USEC_PER_SEC, model->link_rate), model->fixed_usec);
}

uint64_t
mf_switchover_dirty_after_round (const mf_switchover *model, uint64_t dirty_bytes)
{
  if (model->link_rate == 0)
    return model->region_bytes;
  uint64_t after = scale (dirty_bytes, model->dirty_rate, model->link_rate);
  return after < model->region_bytes ? after : model->region_bytes;
}

uint64_t
mf_switchover_streamed_bytes (const mf_switchover *model)
{
  uint64_t written = scale (model->dirty_rate, MF_SWITCHOVER_STREAM_LAG_USEC, USEC_PER_SEC);

  if (model->dirty_rate >= model->link_rate)
    return UINT64_MAX;
  return scale (written, model->link_rate, model->link_rate - model->dirty_rate);
}

uint64_t
mf_switchover_stream_usec (const mf_switchover *model, uint64_t dirty_bytes)
{
  if (model->dirty_rate >= model->link_rate)
    return UINT64_MAX;
  return scale (dirty_bytes, USEC_PER_SEC, model->link_rate - model->dirty_rate);
}

/* Whether AUTO may send so many bytes more than it has. */
static bool
may_resend (const mf_switchover *model, uint64_t bytes)
{
  uint64_t resent = add (model->resent_bytes, bytes);

  return resent <= MF_SWITCHOVER_RESENT_FREE_BYTES ||
         !exceeds (resent, model->first_bytes, MF_SWITCHOVER_RESENT_PERCENT);
}

static bool
stream_pays (const mf_switchover *model, uint64_t dirty_bytes)
{
  uint64_t steady_bytes = mf_switchover_streamed_bytes (model);
  uint64_t stream_usec = mf_switchover_stream_usec (model, dirty_bytes);

  /* Nothing dirty and yet over the budget: it is less than the fixed cost. */
  if (dirty_bytes == 0 || model->budget_usec <= model->fixed_usec)
    return false;
  /* The first round is long: a program that writes few pages again and again looks slow in it. */
  if (steady_bytes == UINT64_MAX ||
      stream_usec > (model->rounds > 1 ? MF_SWITCHOVER_STREAM_MAX_USEC : MF_SWITCHOVER_STREAM_FIRST_MAX_USEC))
    return false;
  /* PRECOPY has nothing better: a round leaves more than streaming does. */
  return model->mode == MF_MODE_PRECOPY || (mf_switchover_downtime_usec (model, steady_bytes) <= model->budget_usec &&
                                            may_resend (model, scale (model->link_rate, stream_usec, USEC_PER_SEC)));
}

/* Whether another round is worth its bytes to AUTO. */
static bool
round_pays (const mf_switchover *model, uint64_t dirty_bytes)
{
  uint64_t after = mf_switchover_dirty_after_round (model, dirty_bytes);

  /* Nothing dirty and yet over the budget: it is less than the fixed cost, which no round makes smaller. */
  if (dirty_bytes == 0)
    return false;
  if (!model->shrank || exceeds (after, dirty_bytes, MF_SWITCHOVER_SHRINK_PERCENT))
    return false;
  /* All that would have been sent after the first round in the end: `after` goes over the link in any case. */
  return may_resend (model, add (dirty_bytes, after));
}

mf_decision
mf_switchover_decide (const mf_switchover *model, uint64_t dirty_bytes)
{
  if (model->mode == MF_MODE_POSTCOPY)
    return MF_DECIDE_POSTCOPY;

  uint64_t downtime_usec = mf_switchover_downtime_usec (model, dirty_bytes);
  if (downtime_usec != UINT64_MAX && downtime_usec <= model->budget_usec)
    return MF_DECIDE_GO;
  if (model->rounds == 0)
    return MF_DECIDE_ROUND;

  if (stream_pays (model, dirty_bytes))
    return MF_DECIDE_STREAM;
  if (model->mode == MF_MODE_PRECOPY)
    return model->stalled >= MF_SWITCHOVER_STALLED_MAX || model->rounds >= MF_SWITCHOVER_ROUNDS_MAX ? MF_DECIDE_GIVE_UP
                                                                                                    : MF_DECIDE_ROUND;
  return model->rounds < MF_SWITCHOVER_ROUNDS_MAX && round_pays (model, dirty_bytes) ? MF_DECIDE_ROUND
                                                                                     : MF_DECIDE_POSTCOPY;
}
