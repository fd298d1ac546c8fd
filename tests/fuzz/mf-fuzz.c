/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-fuzz.h"

#include <stdio.h>
#include <stdlib.h>

static const char *seed_folder;

int
LLVMFuzzerInitialize (int *argc, char ***argv)
{
  seed_folder = getenv ("MEMFERRY_FUZZ_SEEDS");
  if (seed_folder != NULL) {
    mf_fuzz_make_seeds ();
    exit (0);
  }
  return 0;
}

void
mf_fuzz_seed (const char *name, const void *data, size_t length)
{
  char path[4096];

  snprintf (path, sizeof path, "%s/%s", seed_folder, name);
  FILE *file = fopen (path, "wb");
  if (file == NULL || fwrite (data, 1, length, file) != length || fclose (file) != 0) {
    perror (path);
    exit (1);
  }
}

void
mf_fuzz_fail (const char *condition, const char *file, int line)
{
  fprintf (stderr, "%s:%d: not true: %s\n", file, line, condition);
  abort ();
}
