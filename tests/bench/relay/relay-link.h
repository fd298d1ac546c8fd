/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * One direction of a link that doesn't exist: when do bytes that enter it come out?
 *
 * All that goes this way shares the link's bandwidth; bytes follow each other through it, then travel for the delay. What would wait for
 * the link longer than its queue holds is not admitted: it stays with its sender, as it does where a network card paces TCP.
 * Loss is what a byte stream feels of it: what is lost, and all behind it in the same connection, comes later.
 *
 * No clock, no I/O: times are given, nanoseconds of whatever clock. One thread.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What is lost is lost in pieces of this size. */
#define RELAY_SEGMENT_BYTES 1448u

typedef struct {
  uint64_t delay_nsec;    /* one way */
  uint64_t jitter_nsec;   /* the delay is up to so much less or more, evenly */
  uint64_t bytes_per_sec; /* 0: unlimited */
  uint64_t queue_nsec;    /* so much may wait for the link, as the time that it takes */
  double loss;            /* part of the segments, 0 to 1 */
  uint64_t stall_nsec;    /* what one costs */
} relay_shape;

typedef struct {
  const relay_shape *shape;
  uint64_t free_nsec; /* when all that was admitted is through */
  uint64_t random;
  uint64_t stalls; /* so far */
} relay_link;

/* `shape` is kept by reference. The same seed gives the same jitter and losses. */
void relay_link_init (relay_link *link, const relay_shape *shape, uint64_t seed);

/* The most bytes to carry in one piece now; 0: the queue is full. Small enough for connections to take turns. */
size_t relay_link_admits (const relay_link *link, uint64_t now_nsec);

/* When the link admits something again; not after `now_nsec` when it does. */
uint64_t relay_link_admits_at (const relay_link *link, uint64_t now_nsec);

/* `length_bytes` enter the link. Returns when the last of them is at its other end. */
uint64_t relay_link_carry (relay_link *link, uint64_t now_nsec, size_t length_bytes);
