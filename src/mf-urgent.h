/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Threads for which somebody stands still.
 *
 * Bulk data keeps processors busy, and the scheduler lets a busy thread run for some milliseconds before the next one: with two bulk connections
 * on two processors the 99th percentile of a fault was 4 ms. With the threads that serve faults preferred as here it was 0.2 to 0.3 ms.
 */

/* The calling thread does little and has to do it soon: a nice value of -10 where the process may have that, and a short slice of processor time (Linux
 * 6.12), which lets it run earlier when it wakes, and needs no right. What the system can't do, or doesn't allow, is left out. */
void mf_urgent_thread (void);
