/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the guest is to do, from the mf.NAME=VALUE words of the kernel's command line. Sizes and rates take K, M or G
 * (powers of 1024). vm-images/README.md lists the names.
 */
#include <stdbool.h>
#include <stdint.h>

typedef struct {
  uint64_t fill_bytes;     /* mf.fill: kept filled and checked                                       */
  uint64_t dirty_bytes;    /* mf.dirty: of these, from the start, written again and again            */
  uint64_t dirty_rate;     /* mf.rate: bytes a second, whole pages counted; 0 is no limit            */
  uint64_t verify_rate;    /* mf.verify: bytes a second checked in the background; 0 is none         */
  uint64_t heartbeat_msec; /* mf.heartbeat                                                           */
  uint64_t seed;           /* mf.seed                                                                */
  bool incompressible;     /* mf.incompressible: random bytes; else one word repeated through a page */
  bool idle;               /* mf.idle: fill and beat, but dirty nothing                              */
  char disk[64];           /* mf.disk: device to read and check; empty is none                       */
  unsigned disk_readers;   /* mf.diskprocs: that many reads under way at once                        */
  uint64_t disk_rate;      /* mf.diskrate: bytes a second, all readers together; 0 is no limit       */
} params;

/* Fills `out` with the defaults, then with what /proc/cmdline says. Ends the program on a word it does not understand:
 * a test that misspells a parameter must not pass. */
void params_read (params *out);
