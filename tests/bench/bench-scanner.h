/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What finds the written pages of a mapping of this process: the bare kernel, or memferry's tracker with its dirty log.
 */
#include <stdint.h>

#define BENCH_SCAN_PAGE_BYTES 4096u

typedef struct {
  uint8_t *mapping;
  uint64_t pages;
  const char *path; /* of the file that is mapped */
} bench_scan_target;

typedef struct {
  /* From here on writes are noticed. */
  void (*start) (const bench_scan_target *target);
  /* Returns how many pages were written since the last scan, and protects them again. */
  uint64_t (*scan) (const bench_scan_target *target);
  /* What belongs to using the result and not to finding it; NULL: nothing. */
  void (*consume) (const bench_scan_target *target);
} bench_scanner;

extern const bench_scanner bench_scanner_bare, bench_scanner_memferry;
