/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the guest has done and what it found wrong: counters that every thread adds to and the heartbeat prints.
 *
 * Any thread may call anything here. A line is written with one write(2), so lines of two threads never mix.
 */
#include <stdatomic.h>
#include <stdint.h>

typedef struct {
  _Atomic uint64_t passes;         /* dirty passes completed                                */
  _Atomic uint64_t pages_dirtied;  /* in total                                              */
  _Atomic uint64_t pages_verified; /* every word of them, by the background check           */
  _Atomic uint64_t blocks_read;    /* disk blocks read and checked                          */
  _Atomic uint64_t errors;         /* pages or blocks that were wrong; never goes down      */
} report_counters;

extern report_counters report;

/* Writes one line to the console, at most 200 bytes. */
void report_line (const char *format, ...) __attribute__ ((format (printf, 1, 2)));

/* Counts an error; the first few are printed with what was found, where in the guest's physical memory, and what ought to
 * be there. `number` is the page's or block's, `address` the wrong word's. */
void report_error (const char *where, uint64_t number, const uint64_t *address, uint64_t expected, uint64_t found);

/* Prints FATAL and ends the program, which is init: the kernel panics and QEMU (-no-reboot) exits. */
_Noreturn void report_fatal (const char *format, ...) __attribute__ ((format (printf, 1, 2)));
