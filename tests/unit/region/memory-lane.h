/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A lane to a remote in this process, which answers as a network at its worst may: late and in any order.
 *
 * The remote's bytes are read when a request is answered, or when it is submitted and answered much later, by the dice. A remote can
 * hold its answers back, fail reads, and break lanes. All of its fields are under its lock; the functions take it.
 */
#include "backend/mf-lane.h"
#include "region/mf-dirty-log.h"

typedef struct {
  GMutex lock;
  GCond changed;
  uint64_t size;
  uint32_t page_bytes;
  uint8_t *bytes; /* `size`; whole zero pages are answered as holes */

  gboolean hold;           /* answer nothing */
  gboolean hold_flush;     /* nor a flush */
  gboolean shuffle;        /* answer in any order, and now and then a little later; else at once, in order */
  guint64 fail_page;       /* reads and writes of it fail with EIO; UINT64_MAX: none */
  mf_dirty_session *dirty; /* what is read is taken from it; may be NULL */

  guint submitted; /* requests, ever */
  guint flushes;
  guint64 written_bytes, zeroed_bytes;
  guint64 in_flight_bytes, most_in_flight_bytes;
  guint max_length; /* of a request */
} Remote;

void remote_init (Remote *remote, uint64_t size, uint32_t page_bytes);
void remote_clear (Remote *remote);
/* Copies `length` bytes in or out, whole, as one step. */
void remote_write (Remote *remote, uint64_t offset, const void *bytes, uint64_t length);
void remote_read (Remote *remote, uint64_t offset, void *bytes, uint64_t length);
void remote_set_hold (Remote *remote, gboolean hold);
void remote_set_fail_page (Remote *remote, uint64_t page);
/* Waits until at least `n` requests were submitted. */
void remote_wait_submitted (Remote *remote, guint n);

/* `seed`: of its dice. `lives`: requests after which the lane breaks; G_MAXUINT: never. */
mf_lane *memory_lane_new (Remote *remote, guint32 seed, guint lives);
