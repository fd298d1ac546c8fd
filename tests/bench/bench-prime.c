/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Takes memory and gives it back. In a virtual machine whose host takes free pages away (free page reporting, a balloon), the
 * first touch of a page may cost the host's fault, several microseconds and more than what is to be measured. What has just
 * been freed is given out again first, and the host has not had the time to take it.
 */
#include <err.h>
#include <stdlib.h>
#include <sys/mman.h>

int
main (int argc, char **argv)
{
  char *end = NULL;
  size_t length_bytes = argc == 2 ? strtoul (argv[1], &end, 10) : 0;

  if (length_bytes == 0 || *end != '\0')
    errx (2, "usage: bench-prime BYTES");
  void *memory = mmap (NULL, length_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || madvise (memory, length_bytes, MADV_NOHUGEPAGE) < 0 ||
      madvise (memory, length_bytes, 23 /* MADV_POPULATE_WRITE */) < 0)
    err (1, "taking %zu bytes", length_bytes);
  munmap (memory, length_bytes);
  return 0;
}
