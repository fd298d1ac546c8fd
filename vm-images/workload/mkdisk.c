/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mkdisk PATH SIZE [SEED]: runs on the host and writes the disk that the guest's workload reads and checks. SIZE takes K, M or
 * G and is a multiple of 64 KiB; SEED is that of mf.seed, 1 when left out.
 */
#include "pattern.h"
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void
make_block (uint64_t block[PAGE_WORDS], uint64_t seed, uint64_t number)
{
  /* Not the sequence of the memory page of the same number. */
  uint64_t value = pattern_start (~seed, number);

  block[0] = number;
  block[1] = seed;
  for (unsigned i = 2; i < BLOCK_HASH_WORD; i++) {
    block[i] = value;
    value = pattern_next (value);
  }
  block[BLOCK_HASH_WORD] = pattern_block_hash (block);
}

static bool
write_disk (FILE *file, uint64_t size_bytes, uint64_t seed)
{
  uint64_t block[PAGE_WORDS];

  for (uint64_t number = 0; number < size_bytes / PAGE_BYTES; number++) {
    make_block (block, seed, number);
    if (fwrite (block, sizeof block, 1, file) != 1)
      return false;
  }
  return true;
}

int
main (int argc, char **argv)
{
  uint64_t size = 0, seed = 1;
  char unit = '\0', rest = '\0';
  bool written;
  FILE *file;

  if (argc >= 3 && sscanf (argv[2], "%lu%c%c", &size, &unit, &rest) >= 1)
    size <<= unit == 'K' ? 10 : unit == 'M' ? 20 : unit == 'G' ? 30 : 0;
  if (argc == 4)
    seed = strtoull (argv[3], NULL, 10);
  if (argc < 3 || argc > 4 || size == 0 || size % (64 << 10) != 0 || rest != '\0') {
    fprintf (stderr, "usage: mkdisk PATH SIZE [SEED]: SIZE in bytes or with K, M or G, a multiple of 64K\n");
    return 1;
  }
  file = fopen (argv[1], "wb");
  written = file != NULL && write_disk (file, size, seed);
  if (file == NULL || (fclose (file) != 0) || !written) {
    fprintf (stderr, "mkdisk: %s: %s\n", argv[1], strerror (errno));
    return 1;
  }
  return 0;
}
