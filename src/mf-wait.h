/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Blocking on a descriptor, with a deadline and a cancellable. For threads that may block; never in a main loop.
 */
#include "mf-error.h"
#include <gio/gio.h>
#include <poll.h>

G_BEGIN_DECLS

/* The monotonic time `timeout_usec` from now; a timeout below 0 is for ever, which is the deadline -1. */
gint64 mf_deadline_after (gint64 timeout_usec);

/* Waits until one of `events` (POLLIN, POLLOUT), an error or a hang-up is there on `fd`; `fd` -1: until the deadline. FALSE:
 * MF_ERROR_TIMED_OUT ("timed out"), MF_ERROR_CANCELLED ("cancelled"): callers say in a prefix what was waited for. What is there already
 * wins over a deadline that has passed, and cancelling over both. */
gboolean mf_wait_fd (int fd, short events, gint64 deadline_usec, GCancellable *cancellable, GError **error);

G_END_DECLS
