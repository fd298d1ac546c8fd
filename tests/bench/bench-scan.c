/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What it costs to notice writes to a mapped file: PAGEMAP_SCAN with asynchronous write protection, bare or as memferry uses it, and what the
 * writer pays. Every scan's count is compared with what was written.
 */
#include "bench-samples.h"
#include "bench-scanner.h"

#include <err.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE_BYTES    BENCH_SCAN_PAGE_BYTES
#define REPEATS       5
#define USEC_PER_NSEC 1e-3
#define MSEC_PER_NSEC 1e-6

typedef struct {
  const bench_scanner *scanner;
  bench_scan_target target;
} scan_bench;

/* One whole scan. Returns its nanoseconds and how many pages it reported. */
static uint64_t
scan (const scan_bench *bench, uint64_t *written)
{
  uint64_t begin = bench_now_nsec ();

  *written = bench->scanner->scan (&bench->target);
  uint64_t taken = bench_now_nsec () - begin;
  if (bench->scanner->consume != NULL)
    bench->scanner->consume (&bench->target);
  return taken;
}

/* Writes to every `step`th page; nanoseconds. */
static uint64_t
write_pages (const scan_bench *bench, uint64_t step)
{
  static uint8_t value;
  uint64_t begin = bench_now_nsec ();

  value++;
  for (uint64_t page = 0; page < bench->target.pages; page += step)
    *(volatile uint8_t *) (bench->target.mapping + page * PAGE_BYTES) = value;
  return bench_now_nsec () - begin;
}

static scan_bench
set_up (const bench_scanner *scanner, const char *path)
{
  scan_bench bench = { .scanner = scanner, .target.path = path };
  struct stat status;

  int file = open (path, O_RDWR | O_CLOEXEC);
  if (file < 0 || fstat (file, &status) < 0)
    err (1, "%s", path);
  bench.target.pages = (uint64_t) status.st_size / PAGE_BYTES;
  bench.target.mapping = mmap (NULL, (size_t) status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (bench.target.mapping == MAP_FAILED)
    err (1, "mapping %s", path);
  return bench;
}

static int
compare (const void *a, const void *b)
{
  const uint64_t *left = a, *right = b;

  return (*left > *right) - (*left < *right);
}

static uint64_t
median (uint64_t values[REPEATS])
{
  qsort (values, REPEATS, sizeof *values, compare);
  return values[REPEATS / 2];
}

/* Median scan time in ms per GiB after every `step`th page was written, none with 0. */
static double
scan_after (const scan_bench *bench, uint64_t step)
{
  uint64_t times[REPEATS], written, wanted = step == 0 ? 0 : (bench->target.pages + step - 1) / step;

  for (int i = 0; i < REPEATS; i++) {
    if (step > 0)
      write_pages (bench, step);
    times[i] = scan (bench, &written);
    if (written != wanted)
      errx (1, "a scan reported %ju pages after %ju were written", (uintmax_t) written, (uintmax_t) wanted);
  }
  return (double) median (times) * MSEC_PER_NSEC * (double) (1u << 30) / ((double) bench->target.pages * PAGE_BYTES);
}

/* Median time of a write to a page in us; `protect` scans before each pass. */
static double
write_time (const scan_bench *bench, bool protect)
{
  uint64_t times[REPEATS], written;

  for (int i = 0; i < REPEATS; i++) {
    if (protect)
      scan (bench, &written);
    times[i] = write_pages (bench, 1);
  }
  return (double) median (times) * USEC_PER_NSEC / (double) bench->target.pages;
}

int
main (int argc, char **argv)
{
  uint64_t written;

  if (argc != 3 || (strcmp (argv[1], "bare") != 0 && strcmp (argv[1], "memferry") != 0))
    errx (2, "usage: bench-scan bare|memferry FILE\n"
             "Overwrites FILE. Prints one JSON object: scans in ms per GiB, writes in us a page.");
  scan_bench bench = set_up (*argv[1] == 'b' ? &bench_scanner_bare : &bench_scanner_memferry, argv[2]);
  write_pages (&bench, 1);
  double untracked = write_time (&bench, false);
  bench.scanner->start (&bench.target);
  scan (&bench, &written);
  double clean = scan_after (&bench, 0), sparse = scan_after (&bench, 100), alternate = scan_after (&bench, 2),
         all = scan_after (&bench, 1), first = write_time (&bench, true), later = write_time (&bench, false);
  printf ("{\"clean_ms_per_gib\": %.4f, \"sparse_ms_per_gib\": %.4f, \"alternate_ms_per_gib\": %.4f, "
          "\"all_ms_per_gib\": %.4f, "
          "\"untracked_write_us\": %.4f, \"first_write_us\": %.4f, \"later_write_us\": %.4f}\n",
          clean, sparse, alternate, all, untracked, first, later);
  return 0;
}
