/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the scheduler is told of our threads: for whose work somebody stands still, and who only carries bytes.
 *
 * Bulk data keeps processors busy, and the scheduler lets a busy thread run for some milliseconds before the next one: with two bulk connections on two
 * processors the 99th percentile of a fault was 4 ms. With the threads that serve faults preferred as here it was 0.2 to 0.3 ms; with the bulk threads told
 * as well, 0.12: the program that was waited for is woken into a processor that a bulk thread has, too.
 *
 * They are about the calling thread. What the system can't do (slices: before Linux 6.12), or doesn't allow, is left out, and where somebody has chosen
 * another policy for the service, that stays.
 */
#include <stdbool.h>
#include <stdint.h>

/* It does little and has to do it soon: a nice value of -10 where the process may have that, and a short slice of processor time, which lets it
 * run earlier when it wakes, and needs no right. */
void mf_schedule_urgent (void);
/* It has much to do, and nobody waits for it: a slice longer than the usual one, so that whoever wakes may run at once. Its share of the
 * processor is the same. */
void mf_schedule_bulk (void);

/* The monotonic clock. */
uint64_t mf_schedule_now_nsec (void);
/* Bulk data was carried just now. Cheap. Any thread. */
void mf_schedule_carried (void);
/* Whether bulk data was carried in the milliseconds before `now_nsec`. Then processors don't fall asleep, and whoever waits had better sleep than look: a thread
 * is woken in 5 us, and one that looks and yields may let a bulk thread run until the next tick. Any thread. */
bool mf_schedule_is_carrying (uint64_t now_nsec);
