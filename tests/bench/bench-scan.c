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

/* Of each `step` pages the first `run`. */
typedef struct {
  const char *name;
  uint64_t run, step;
} scan_pattern;

static const scan_pattern patterns[] = {
  { "clean", 0, 1 }, { "sparse", 1, 100 }, { "runs", 64, 128 }, { "alternate", 1, 2 }, { "all", 1, 1 },
};

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

/* Writes to the pages of the pattern; nanoseconds. */
static uint64_t
write_pages (const scan_bench *bench, const scan_pattern *pattern)
{
  static uint8_t value;
  uint64_t begin = bench_now_nsec ();

  value++;
  for (uint64_t first = 0; pattern->run > 0 && first < bench->target.pages; first += pattern->step)
    for (uint64_t page = first; page < first + pattern->run && page < bench->target.pages; page++)
      *(volatile uint8_t *) (bench->target.mapping + page * PAGE_BYTES) = value;
  return bench_now_nsec () - begin;
}

static uint64_t
pages_of (const scan_bench *bench, const scan_pattern *pattern)
{
  uint64_t whole = bench->target.pages / pattern->step, rest = bench->target.pages % pattern->step;

  return whole * pattern->run + (rest < pattern->run ? rest : pattern->run);
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

/* Median scan time in ns after the pages of the pattern were written. */
static double
scan_after (const scan_bench *bench, const scan_pattern *pattern)
{
  uint64_t times[REPEATS], written, wanted = pages_of (bench, pattern);

  for (int i = 0; i < REPEATS; i++) {
    write_pages (bench, pattern);
    times[i] = scan (bench, &written);
    if (written != wanted)
      errx (1, "a scan reported %ju pages after %ju were written", (uintmax_t) written, (uintmax_t) wanted);
  }
  return (double) median (times);
}

/* Median time of a write to a page of the pattern in us; `protect` scans before each pass. */
static double
write_time (const scan_bench *bench, const scan_pattern *pattern, bool protect)
{
  uint64_t times[REPEATS], written, pages = pages_of (bench, pattern);

  for (int i = 0; i < REPEATS; i++) {
    if (protect)
      scan (bench, &written);
    times[i] = write_pages (bench, pattern);
  }
  return pages == 0 ? 0 : (double) median (times) * USEC_PER_NSEC / (double) pages;
}

static const scan_pattern *
find_pattern (const char *name)
{
  for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
    if (strcmp (name, patterns[i].name) == 0)
      return &patterns[i];
  errx (2, "%s: a pattern is clean, sparse, runs, alternate or all", name);
}

int
main (int argc, char **argv)
{
  static const scan_pattern everything = { "all", 1, 1 };
  uint64_t written;

  if (argc != 4 || (strcmp (argv[1], "bare") != 0 && strcmp (argv[1], "memferry") != 0))
    errx (2, "usage: bench-scan bare|memferry PATTERN FILE\n"
             "Overwrites FILE. Prints one JSON object: scans in ms, writes in us a page.");
  const scan_pattern *pattern = find_pattern (argv[2]);
  scan_bench bench = set_up (*argv[1] == 'b' ? &bench_scanner_bare : &bench_scanner_memferry, argv[3]);
  write_pages (&bench, &everything);
  double untracked = write_time (&bench, pattern, false);
  bench.scanner->start (&bench.target);
  scan (&bench, &written);
  double taken = scan_after (&bench, pattern) * MSEC_PER_NSEC, first = write_time (&bench, pattern, true),
         later = write_time (&bench, pattern, false);
  double gib = (double) bench.target.pages * PAGE_BYTES / (1u << 30);
  printf ("{\"scan_ms\": %.5f, \"scan_ms_per_gib\": %.4f, \"untracked_us\": %.4f, \"first_us\": %.4f, \"later_us\": "
          "%.4f}\n",
          taken, taken / gib, untracked, first, later);
  return 0;
}
