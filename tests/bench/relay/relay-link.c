/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "relay-link.h"

#define NSEC_PER_SEC 1000000000u
/* A piece takes the link for so long, within bounds: short, and few enough wake-ups. */
#define PIECE_NSEC      200000u
#define PIECE_BYTES_MIN 1448u
#define PIECE_BYTES_MAX (256u << 10)

void
relay_link_init (relay_link *link, const relay_shape *shape, uint64_t seed)
{
  *link = (relay_link){ .shape = shape, .random = seed * 2 + 1 };
}

/* xorshift64* */
static double
next_random (relay_link *link)
{
  link->random ^= link->random >> 12;
  link->random ^= link->random << 25;
  link->random ^= link->random >> 27;
  return (double) ((link->random * 0x2545f4914f6cdd1du) >> 11) / (double) (1ull << 53);
}

static uint64_t
transfer_nsec (const relay_link *link, size_t length_bytes)
{
  if (link->shape->bytes_per_sec == 0)
    return 0;
  return (uint64_t) ((double) length_bytes * NSEC_PER_SEC / (double) link->shape->bytes_per_sec + 0.5);
}

size_t
relay_link_admits (const relay_link *link, uint64_t now_nsec)
{
  uint64_t rate = link->shape->bytes_per_sec;

  if (rate == 0)
    return PIECE_BYTES_MAX;
  if (relay_link_admits_at (link, now_nsec) > now_nsec)
    return 0;
  double piece = (double) rate * PIECE_NSEC / NSEC_PER_SEC;
  return piece < PIECE_BYTES_MIN ? PIECE_BYTES_MIN : piece > PIECE_BYTES_MAX ? PIECE_BYTES_MAX : (size_t) piece;
}

uint64_t
relay_link_admits_at (const relay_link *link, uint64_t now_nsec)
{
  return link->free_nsec > now_nsec + link->shape->queue_nsec ? link->free_nsec - link->shape->queue_nsec : now_nsec;
}

uint64_t
relay_link_carry (relay_link *link, uint64_t now_nsec, size_t length_bytes)
{
  const relay_shape *shape = link->shape;
  uint64_t begin = link->free_nsec > now_nsec ? link->free_nsec : now_nsec;
  uint64_t out = begin + transfer_nsec (link, length_bytes);

  link->free_nsec = out;
  out += shape->delay_nsec;
  if (shape->jitter_nsec > 0) {
    double jitter = (2 * next_random (link) - 1) * (double) shape->jitter_nsec;
    out = jitter < 0 && (uint64_t) -jitter > out - begin ? begin : out + (uint64_t) (int64_t) jitter;
  }
  if (shape->loss > 0) {
    for (size_t at = 0; at < length_bytes; at += RELAY_SEGMENT_BYTES) {
      if (next_random (link) >= shape->loss)
        continue;
      /* Several in one piece are found missing, and sent again, together. */
      out += shape->stall_nsec;
      link->stalls++;
      break;
    }
  }
  return out;
}
