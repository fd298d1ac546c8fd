/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A program whose memory is a file: touches pages of it in random order and times the first touch of each. Whatever serves
 * the file (FUSE, a userfaultfd handler in another process) is what is measured. Pages that are there already are passed over.
 */
#include "bench-order.h"
#include "bench-pattern.h"
#include "bench-samples.h"

#include <err.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char usage[] =
    "usage: bench-touch [--touches N] [--pread] [--pause USEC] [--seed N] FILE\n"
    "       bench-touch --make BYTES FILE\n"
    "Times the first touch of N random pages of FILE, which --make has filled, and prints one JSON object, times in\n"
    "microseconds: through a mapping, or with pread; --pause sleeps between two touches. With --touches 0 it only "
    "maps\n"
    "FILE.\n";

typedef struct {
  const char *path;
  uint64_t make_bytes;
  size_t touches;
  uint64_t seed;
  unsigned pause_usec;
  bool pread;
} touch_plan;

typedef struct {
  int file;
  volatile const uint8_t *mapping;
  uint64_t pages;
} touch_file;

static touch_plan
parse (int argc, char **argv)
{
  static const struct option options[] = {
    { "touches", 1, NULL, 't' }, { "pread", 0, NULL, 'r' }, { "pause", 1, NULL, 'p' },
    { "seed", 1, NULL, 's' },    { "make", 1, NULL, 'm' },  { 0 },
  };
  touch_plan plan = { .touches = 10000, .seed = 1 };
  int option;

  while ((option = getopt_long (argc, argv, "", options, NULL)) != -1) {
    switch (option) {
    case 't':
      plan.touches = strtoul (optarg, NULL, 10);
      break;
    case 'r':
      plan.pread = true;
      break;
    case 'p':
      plan.pause_usec = (unsigned) strtoul (optarg, NULL, 10);
      break;
    case 's':
      plan.seed = strtoul (optarg, NULL, 10);
      break;
    case 'm':
      plan.make_bytes = strtoul (optarg, NULL, 10);
      break;
    default:
      fputs (usage, stderr);
      exit (2);
    }
  }
  if (argc - optind != 1 || plan.make_bytes % BENCH_PAGE_BYTES != 0) {
    fputs (usage, stderr);
    exit (2);
  }
  plan.path = argv[optind];
  return plan;
}

static int
make (const touch_plan *plan)
{
  uint8_t page[BENCH_PAGE_BYTES];
  FILE *file = fopen (plan->path, "wx");

  if (file == NULL)
    err (1, "%s", plan->path);
  for (uint64_t i = 0; i < plan->make_bytes / BENCH_PAGE_BYTES; i++) {
    bench_pattern_fill (page, i);
    if (fwrite (page, sizeof page, 1, file) != 1)
      err (1, "%s", plan->path);
  }
  if (fclose (file) != 0)
    err (1, "%s", plan->path);
  return 0;
}

static touch_file
open_file (const touch_plan *plan)
{
  touch_file file;
  struct stat status;

  file.file = open (plan->path, plan->pread ? O_RDONLY | O_CLOEXEC : O_RDWR | O_CLOEXEC);
  if (file.file < 0 || fstat (file.file, &status) < 0)
    err (1, "%s", plan->path);
  file.pages = (uint64_t) status.st_size / BENCH_PAGE_BYTES;
  int protection = plan->pread ? PROT_READ : PROT_READ | PROT_WRITE;
  void *mapping = mmap (NULL, (size_t) status.st_size, protection, MAP_SHARED, file.file, 0);
  if (mapping == MAP_FAILED)
    err (1, "mapping %s", plan->path);
  /* Read-ahead would bring pages that are to be touched later. */
  madvise (mapping, (size_t) status.st_size, MADV_RANDOM);
  posix_fadvise (file.file, 0, 0, POSIX_FADV_RANDOM);
  file.mapping = mapping;
  return file;
}

/* Touches one page. Returns the nanoseconds that took, 0 when the page was there already. */
static uint64_t
touch (const touch_plan *plan, const touch_file *file, uint64_t page)
{
  uint8_t bytes[BENCH_PAGE_BYTES];
  void *at = (void *) (file->mapping + page * BENCH_PAGE_BYTES);
  const void *seen = plan->pread ? bytes : at;
  unsigned char there;

  if (mincore (at, BENCH_PAGE_BYTES, &there) < 0)
    err (1, "mincore");
  uint64_t start = bench_now_nsec ();
  if (!plan->pread)
    (void) *(volatile const uint64_t *) at;
  else if (pread (file->file, bytes, sizeof bytes, (off_t) (page * BENCH_PAGE_BYTES)) != sizeof bytes)
    err (1, "reading page %ju", (uintmax_t) page);
  uint64_t taken = bench_now_nsec () - start;
  if (!bench_pattern_is (seen, page))
    errx (1, "page %ju holds something else", (uintmax_t) page);
  return there & 1 ? 0 : taken;
}

int
main (int argc, char **argv)
{
  touch_plan plan = parse (argc, argv);
  bench_samples samples;
  size_t there = 0;
  char more[64];

  if (plan.make_bytes > 0)
    return make (&plan);
  touch_file file = open_file (&plan);
  if (plan.touches == 0)
    return 0;
  uint64_t *order = bench_order_new (file.pages, plan.touches, plan.seed);
  bench_samples_init (&samples, plan.touches);
  for (size_t i = 0; i < plan.touches; i++) {
    uint64_t taken = touch (&plan, &file, order[i]);
    if (taken > 0)
      bench_samples_add (&samples, taken);
    else
      there++;
    if (plan.pause_usec > 0)
      usleep (plan.pause_usec);
  }
  snprintf (more, sizeof more, ", \"there\": %zu", there);
  bench_samples_print (&samples, more);
  bench_samples_clear (&samples);
  free (order);
  return 0;
}
