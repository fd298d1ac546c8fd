/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What a fuzz target holds: one decoder of bytes from outside, called with any bytes there are, and what must be
 * true of the answer.
 *
 *   int LLVMFuzzerTestOneInput (const uint8_t *data, size_t length)   decodes, checks with MF_FUZZ_CHECK(), returns 0
 *   void mf_fuzz_make_seeds (void)                                    gives a few right messages with mf_fuzz_seed()
 *
 * Started with MEMFERRY_FUZZ_SEEDS=FOLDER in its environment, a target writes its seeds there and exits.
 */
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerInitialize (int *argc, char ***argv);
int LLVMFuzzerTestOneInput (const uint8_t *data, size_t length);
void mf_fuzz_make_seeds (void);

/* Keeps `length` bytes as a seed called `name`. From mf_fuzz_make_seeds() only. */
void mf_fuzz_seed (const char *name, const void *data, size_t length);

/* Stops the target when `condition` is false. Not assert(): it must hold in every build. */
#define MF_FUZZ_CHECK(condition)                                                                                       \
  do {                                                                                                                 \
    if (!(condition))                                                                                                  \
      mf_fuzz_fail (#condition, __FILE__, __LINE__);                                                                   \
  } while (0)
void mf_fuzz_fail (const char *condition, const char *file, int line) __attribute__ ((noreturn));
