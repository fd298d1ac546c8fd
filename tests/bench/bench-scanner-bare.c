/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench-scanner.h"
#include "bench-userfault.h"

#include <err.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#define RUNS_AT_ONCE 8192u

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

static int pagemap;
static struct scan_region regions[RUNS_AT_ONCE];

static void
start (const bench_scan_target *target)
{
  int fd = bench_userfault_open (UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
                                     UFFD_FEATURE_PAGEFAULT_FLAG_WP,
                                 false);

  bench_userfault_register (fd, target->mapping, target->pages * BENCH_SCAN_PAGE_BYTES, UFFDIO_REGISTER_MODE_WP);
  pagemap = open ("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pagemap < 0)
    err (1, "/proc/self/pagemap");
}

static uint64_t
scan (const bench_scan_target *target)
{
  struct scan_request request = {
    .size = sizeof request,
    .flags = SCAN_PROTECT_AGAIN | SCAN_CHECK_PROTECTED,
    .start = (uintptr_t) target->mapping,
    .end = (uintptr_t) target->mapping + target->pages * BENCH_SCAN_PAGE_BYTES,
    .vec = (uintptr_t) regions,
    .vec_len = RUNS_AT_ONCE,
    .category_mask = SCAN_WRITTEN,
    .return_mask = SCAN_WRITTEN,
  };
  uint64_t written = 0;

  while (request.start < request.end) {
    int count = ioctl (pagemap, SCAN_IOCTL, &request);
    if (count < 0)
      err (1, "PAGEMAP_SCAN");
    for (int i = 0; i < count; i++)
      written += (regions[i].end - regions[i].start) / BENCH_SCAN_PAGE_BYTES;
    request.start = request.walk_end;
  }
  return written;
}

const bench_scanner bench_scanner_bare = { start, scan, NULL };
