/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The state relay: carries a program's device state between the program's socket and the stream to the other service, in both
 * directions (the other way is the return path), in a thread of its own.
 *
 * On the target it holds: nothing reaches the program before mf_state_relay_release(), while everything the source sends is taken in and kept, so that it is
 * here already when it is let go. A program that acknowledges the head of the state before the source's stops (QEMU's
 * switchover-ack) gets the head: bytes are forwarded until its return path has carried the acknowledgement, and held after it.
 *
 * On the source it reads what the program writes to its end, whatever becomes of the stream (that error is kept), and never ends the program's side before it is freed: a QEMU
 * whose stream breaks when it has been released lets its guest run again.
 */
#include "mf-error.h"

G_BEGIN_DECLS

/* What the relay keeps at most while it holds. */
#define MF_STATE_RELAY_MAX_BYTES (256u << 20)

typedef struct _mf_state_relay mf_state_relay;

typedef enum {
  MF_STATE_RELAY_FORWARD = 0, /* the source's */
  MF_STATE_RELAY_HOLD = 1 << 0,
  MF_STATE_RELAY_ACK = 1 << 1, /* with HOLD: the head is forwarded until the acknowledgement */
} mf_state_relay_flags;

/* Takes both descriptors (connected stream sockets) over, in any case. */
mf_state_relay *mf_state_relay_new (int program_fd, int stream_fd, mf_state_relay_flags flags, GError **error);
/* Lets what is held go to the program, and everything after it. Any thread. */
void mf_state_relay_release (mf_state_relay *relay);
/* Bytes of the device state taken in so far. Any thread. */
guint64 mf_state_relay_get_bytes (mf_state_relay *relay);
/* Why it ended, if it did because something went wrong; NULL otherwise. (transfer full) Any thread. */
GError *mf_state_relay_get_error (mf_state_relay *relay);
/* Closes both sides at once and joins the thread. */
void mf_state_relay_free (mf_state_relay *relay);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_state_relay, mf_state_relay_free)

G_END_DECLS
