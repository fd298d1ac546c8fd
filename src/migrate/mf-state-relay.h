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
 * On the source it reads what the program writes to its end, whatever becomes of the stream (that error is kept), and never ends the program's side before it is freed, nor
 * by being freed once mf_state_relay_leave_program() was called: a QEMU whose stream breaks when it has been released lets its guest run again. One that also waits for the
 * last word of its return path gets that from mf_state_relay_end_return(), when the stream can't bring it any more.
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
  MF_STATE_RELAY_RETURN =
      1 << 2, /* without HOLD: the program reads its return path, and goes by what it says and how it ends */
} mf_state_relay_flags;

/* Takes both descriptors (connected stream sockets) over, in any case. */
mf_state_relay *mf_state_relay_new (int program_fd, int stream_fd, mf_state_relay_flags flags, GError **error);
/* Lets what is held go to the program, and everything after it. Any thread. */
void mf_state_relay_release (mf_state_relay *relay);
/* The program here has been released. From here on freeing the relay closes its socket, and doesn't shut it down: a copy of it that the
 * program has been given keeps its stream whole. */
void mf_state_relay_leave_program (mf_state_relay *relay);
/* With RETURN: the program on the other side is known to run, so what comes back is the word that it has loaded its state, and nothing after it; unless the
 * stream has brought that already. Any thread. */
void mf_state_relay_end_return (mf_state_relay *relay);
/* Bytes of the device state taken in so far. Any thread. */
guint64 mf_state_relay_get_bytes (mf_state_relay *relay);
/* Why it ended, if it did because something went wrong; NULL otherwise. (transfer full) Any thread. */
GError *mf_state_relay_get_error (mf_state_relay *relay);
/* Closes both sides at once (but see mf_state_relay_leave_program) and joins the thread. */
void mf_state_relay_free (mf_state_relay *relay);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_state_relay, mf_state_relay_free)

G_END_DECLS
