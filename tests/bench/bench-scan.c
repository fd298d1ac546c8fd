/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What it costs to notice writes: PAGEMAP_SCAN with asynchronous write protection over a mapped file, and what the writer pays.
 * Every scan's count is compared with what was written.
 */
#include "bench-samples.h"
#include "bench-userfault.h"

#include <err.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE_BYTES    4096u
#define RUNS_AT_ONCE  8192u
#define REPEATS       5
#define USEC_PER_NSEC 1e-3
#define MSEC_PER_NSEC 1e-6

/* Linux 6.7; not in Debian 12's headers. */
struct scan_region {
  uint64_t start, end, categories;
};

struct scan_request {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define SCAN_IOCTL           _IOWR ('f', 16, struct scan_request)
#define SCAN_WRITTEN         (1u << 1)
#define SCAN_PROTECT_AGAIN   (1u << 0)
#define SCAN_CHECK_PROTECTED (1u << 1)

typedef struct {
  uint8_t *mapping;
  uint64_t pages;
  int pagemap;
  struct scan_region *regions;
} scan_bench;

/* One whole scan, protecting again what was written. Returns its nanoseconds and how many pages it reported. */
static uint64_t
scan (const scan_bench *bench, uint64_t *written)
{
  struct scan_request request = {
    .size = sizeof request,
    .flags = SCAN_PROTECT_AGAIN | SCAN_CHECK_PROTECTED,
    .start = (uintptr_t) bench->mapping,
    .end = (uintptr_t) bench->mapping + bench->pages * PAGE_BYTES,
    .vec = (uintptr_t) bench->regions,
    .vec_len = RUNS_AT_ONCE,
    .category_mask = SCAN_WRITTEN,
    .return_mask = SCAN_WRITTEN,
  };
  uint64_t begin = bench_now_nsec ();

  *written = 0;
  while (request.start < request.end) {
    int count = ioctl (bench->pagemap, SCAN_IOCTL, &request);
    if (count < 0)
      err (1, "PAGEMAP_SCAN");
    for (int i = 0; i < count; i++)
      *written += (bench->regions[i].end - bench->regions[i].start) / PAGE_BYTES;
    request.start = request.walk_end;
  }
  return bench_now_nsec () - begin;
}

/* Writes to every `step`th page; nanoseconds. */
static uint64_t
write_pages (const scan_bench *bench, uint64_t step)
{
  static uint8_t value;
  uint64_t begin = bench_now_nsec ();

  value++;
  for (uint64_t page = 0; page < bench->pages; page += step)
    *(volatile uint8_t *) (bench->mapping + page * PAGE_BYTES) = value;
  return bench_now_nsec () - begin;
}

static scan_bench
set_up (const char *path)
{
  scan_bench bench;
  struct stat status;

  int file = open (path, O_RDWR | O_CLOEXEC);
  if (file < 0 || fstat (file, &status) < 0)
    err (1, "%s", path);
  bench.pages = (uint64_t) status.st_size / PAGE_BYTES;
  bench.mapping = mmap (NULL, bench.pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (bench.mapping == MAP_FAILED)
    err (1, "mapping %s", path);
  bench.pagemap = open ("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (bench.pagemap < 0)
    err (1, "/proc/self/pagemap");
  bench.regions = calloc (RUNS_AT_ONCE, sizeof *bench.regions);
  if (bench.regions == NULL)
    err (1, "room for regions");
  return bench;
}

static void
start_tracking (const scan_bench *bench)
{
  int fd = bench_userfault_open (UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
                                     UFFD_FEATURE_PAGEFAULT_FLAG_WP,
                                 false);

  bench_userfault_register (fd, bench->mapping, bench->pages * PAGE_BYTES, UFFDIO_REGISTER_MODE_WP);
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
  uint64_t times[REPEATS], written, wanted = step == 0 ? 0 : (bench->pages + step - 1) / step;

  for (int i = 0; i < REPEATS; i++) {
    if (step > 0)
      write_pages (bench, step);
    times[i] = scan (bench, &written);
    if (written != wanted)
      errx (1, "a scan reported %ju pages after %ju were written", (uintmax_t) written, (uintmax_t) wanted);
  }
  return (double) median (times) * MSEC_PER_NSEC * (double) (1u << 30) / ((double) bench->pages * PAGE_BYTES);
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
  return (double) median (times) * USEC_PER_NSEC / (double) bench->pages;
}

int
main (int argc, char **argv)
{
  uint64_t written;

  if (argc != 2)
    errx (2, "usage: bench-scan FILE\n"
             "Overwrites FILE. Prints one JSON object: scans in ms per GiB, writes in us a page.");
  scan_bench bench = set_up (argv[1]);
  write_pages (&bench, 1);
  double untracked = write_time (&bench, false);
  start_tracking (&bench);
  scan (&bench, &written);
  double clean = scan_after (&bench, 0), sparse = scan_after (&bench, 100), alternate = scan_after (&bench, 2),
         all = scan_after (&bench, 1), first = write_time (&bench, true), later = write_time (&bench, false);
  printf ("{\"clean_ms_per_gib\": %.4f, \"sparse_ms_per_gib\": %.4f, \"alternate_ms_per_gib\": %.4f, "
          "\"all_ms_per_gib\": %.4f, "
          "\"untracked_write_us\": %.4f, \"first_write_us\": %.4f, \"later_write_us\": %.4f}\n",
          clean, sparse, alternate, all, untracked, first, later);
  free (bench.regions);
  return 0;
}
