/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bytes lie in a ring as large as the window. A piece is a record: where in the stream it ends, and when it comes out; once it is out, when it is
 * acknowledged. Records are in the order of the stream, in three runs: acknowledged (gone), out, on the way.
 */
#include "relay-flow.h"

#include <err.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Enough for one write. */
#define DUE_BYTES_MAX (1u << 20)

typedef struct {
  uint64_t end;  /* position in the stream */
  uint64_t nsec; /* comes out; then: is acknowledged */
} piece;

struct relay_flow {
  relay_link *link;
  size_t window_bytes;
  uint64_t return_nsec, open_nsec;
  uint8_t *ring;
  uint64_t base;                  /* the position in the stream that is at the ring's beginning */
  uint64_t pushed, popped, acked; /* positions in the stream */
  piece *pieces;                  /* a ring too; its size is a power of 2 */
  size_t room, first, way, last;  /* counted on, never wrapped: first <= way <= last; `way`: the first that isn't out */
  uint64_t last_nsec;             /* nothing comes out before what was put in before it */
  bool ending;
  uint64_t end_nsec;
};

relay_flow *
relay_flow_new (relay_link *link, size_t window_bytes, uint64_t return_nsec, uint64_t open_nsec)
{
  relay_flow *flow = calloc (1, sizeof *flow);

  if (flow == NULL)
    err (1, "flow");
  *flow = (relay_flow){
    .link = link, .window_bytes = window_bytes, .return_nsec = return_nsec, .open_nsec = open_nsec, .room = 64
  };
  /* Pages that are never used are never there. */
  void *ring = mmap (NULL, window_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  flow->pieces = calloc (flow->room, sizeof *flow->pieces);
  if (ring == MAP_FAILED || flow->pieces == NULL)
    err (1, "flow");
  flow->ring = ring;
  return flow;
}

void
relay_flow_free (relay_flow *flow)
{
  munmap (flow->ring, flow->window_bytes);
  free (flow->pieces);
  free (flow);
}

static piece *
piece_at (const relay_flow *flow, size_t index)
{
  return &flow->pieces[index & (flow->room - 1)];
}

static void
acknowledge (relay_flow *flow, uint64_t now_nsec)
{
  while (flow->first < flow->way && piece_at (flow, flow->first)->nsec <= now_nsec)
    flow->acked = piece_at (flow, flow->first++)->end;
}

size_t
relay_flow_offer (relay_flow *flow, uint64_t now_nsec, uint8_t **at)
{
  acknowledge (flow, now_nsec);
  if (flow->ending || now_nsec < flow->open_nsec)
    return 0;
  if (flow->pushed == flow->popped) {
    /* Nothing lies here: from the beginning, which is in the processor's cache. */
    flow->base = flow->pushed;
  }
  size_t offset = (size_t) ((flow->pushed - flow->base) % flow->window_bytes);
  size_t room = flow->window_bytes - (size_t) (flow->pushed - flow->acked);
  size_t whole = flow->window_bytes - offset, admitted = relay_link_admits (flow->link, now_nsec);
  *at = flow->ring + offset;
  room = room < whole ? room : whole;
  return room < admitted ? room : admitted;
}

static void
grow (relay_flow *flow)
{
  piece *pieces = calloc (flow->room * 2, sizeof *pieces);

  if (pieces == NULL)
    err (1, "flow");
  for (size_t i = flow->first; i < flow->last; i++)
    pieces[i & (flow->room * 2 - 1)] = *piece_at (flow, i);
  free (flow->pieces);
  flow->pieces = pieces;
  flow->room *= 2;
}

void
relay_flow_push (relay_flow *flow, uint64_t now_nsec, size_t length_bytes)
{
  uint64_t out = relay_link_carry (flow->link, now_nsec, length_bytes);

  if (flow->last - flow->first == flow->room)
    grow (flow);
  flow->last_nsec = out > flow->last_nsec ? out : flow->last_nsec;
  flow->pushed += length_bytes;
  *piece_at (flow, flow->last++) = (piece){ flow->pushed, flow->last_nsec };
}

void
relay_flow_push_end (relay_flow *flow, uint64_t now_nsec)
{
  uint64_t out = relay_link_carry (flow->link, now_nsec, 0);

  flow->ending = true;
  flow->end_nsec = out > flow->last_nsec ? out : flow->last_nsec;
}

size_t
relay_flow_due (const relay_flow *flow, uint64_t now_nsec, const uint8_t **at)
{
  uint64_t until = flow->popped;

  for (size_t i = flow->way;
       i < flow->last && until - flow->popped < DUE_BYTES_MAX && piece_at (flow, i)->nsec <= now_nsec; i++)
    until = piece_at (flow, i)->end;
  size_t offset = (size_t) ((flow->popped - flow->base) % flow->window_bytes);
  size_t whole = flow->window_bytes - offset, due = (size_t) (until - flow->popped);
  *at = flow->ring + offset;
  return due < whole ? due : whole;
}

uint64_t
relay_flow_due_nsec (const relay_flow *flow)
{
  return flow->way < flow->last ? piece_at (flow, flow->way)->nsec : RELAY_NEVER;
}

void
relay_flow_pop (relay_flow *flow, uint64_t now_nsec, size_t length_bytes)
{
  flow->popped += length_bytes;
  for (; flow->way < flow->last && piece_at (flow, flow->way)->end <= flow->popped; flow->way++)
    piece_at (flow, flow->way)->nsec = now_nsec + flow->return_nsec;
  acknowledge (flow, now_nsec);
}

bool
relay_flow_ended (const relay_flow *flow, uint64_t now_nsec)
{
  return flow->ending && flow->popped == flow->pushed && flow->end_nsec <= now_nsec;
}

static uint64_t
earlier (uint64_t one, uint64_t other)
{
  return other < one ? other : one;
}

uint64_t
relay_flow_next (const relay_flow *flow, uint64_t now_nsec, bool blocked, bool full)
{
  uint64_t next = blocked ? RELAY_NEVER : relay_flow_due_nsec (flow);

  if (flow->ending)
    return flow->popped == flow->pushed ? flow->end_nsec : next;
  if (flow->open_nsec > now_nsec)
    next = earlier (next, flow->open_nsec);
  if (!full)
    return next;
  if (flow->first < flow->way)
    next = earlier (next, piece_at (flow, flow->first)->nsec);
  uint64_t admits = relay_link_admits_at (flow->link, now_nsec);
  return admits > now_nsec ? earlier (next, admits) : next;
}
