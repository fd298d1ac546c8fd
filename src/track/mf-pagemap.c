/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "track/mf-pagemap.h"
#include "track/mf-uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Linux 6.7; Debian 12's headers are of 6.1. */
#ifndef PAGEMAP_SCAN
struct page_region {
  uint64_t start, end, categories;
};
struct pm_scan_arg {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#  define PAGEMAP_SCAN          _IOWR ('f', 16, struct pm_scan_arg)
#  define PAGE_IS_WRITTEN       (1 << 1)
#  define PM_SCAN_WP_MATCHING   (1 << 0)
#  define PM_SCAN_CHECK_WPASYNC (1 << 1)
#endif

/* So many ranges of written pages come back from one call. */
#define BATCH 1024

struct _mf_pagemap {
  int uffd;
  int pagemap_fd;
  const mf_mapping_set *set;
  gboolean is_started;
  struct page_region batch[BATCH];
};

mf_pagemap *
mf_pagemap_new (int uffd, int pagemap_fd, const mf_mapping_set *set)
{
  mf_pagemap *pagemap = g_new0 (mf_pagemap, 1);

  pagemap->uffd = uffd;
  pagemap->pagemap_fd = pagemap_fd;
  pagemap->set = set;
  return pagemap;
}

void
mf_pagemap_free (mf_pagemap *pagemap)
{
  mf_pagemap_stop (pagemap);
  g_free (pagemap);
}

static gboolean
program_ended (GError **error)
{
  g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM, "The program has ended: what it wrote last is not known");
  return FALSE;
}

/* A pagemap outlives its program, and then shows nothing; not every kernel says so (ESRCH). */
static gboolean
program_lives (mf_pagemap *pagemap)
{
  uint64_t entry;
  const off_t at = (off_t) (pagemap->set->items[0].address / (uint64_t) sysconf (_SC_PAGESIZE) * sizeof (entry));

  return pread (pagemap->pagemap_fd, &entry, sizeof (entry), at) == sizeof (entry);
}

static void
note_batch (const mf_pagemap *pagemap, const mf_mapping *mapping, int n, mf_bitmap *written)
{
  const uint64_t n_pages = mf_bitmap_size (written);

  for (int i = 0; i < n; i++) {
    const uint64_t from = mapping->offset + (pagemap->batch[i].start - mapping->address);
    const uint64_t to = mapping->offset + (pagemap->batch[i].end - mapping->address);
    const uint64_t first = from / pagemap->set->page_bytes;
    const uint64_t end = MIN ((to + pagemap->set->page_bytes - 1) / pagemap->set->page_bytes, n_pages);

    if (first < end)
      mf_bitmap_set_run (written, (mf_run){ first, end - first });
  }
}

/* Protects what was written in one mapping, and reports it to `written` (NULL: to nobody). */
static gboolean
scan (mf_pagemap *pagemap, const mf_mapping *mapping, mf_bitmap *written, GError **error)
{
  const uint64_t end = mapping->address + mapping->length;
  struct pm_scan_arg arg = {
    .size = sizeof (arg),
    /* Protect and report in one step for each page: a write is either in this result or faults after it. */
    .flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
    .start = mapping->address,
    .end = end,
    .vec = (uint64_t) (uintptr_t) pagemap->batch,
    .vec_len = BATCH,
    .category_mask = PAGE_IS_WRITTEN,
    .return_mask = PAGE_IS_WRITTEN,
  };

  while (arg.start < end) {
    const int n = ioctl (pagemap->pagemap_fd, PAGEMAP_SCAN, &arg);

    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0 && errno == ESRCH)
      return program_ended (error);
    if (n < 0 && errno == EPERM) {
      g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM,
                   "The program has replaced its mapping of the region: what it wrote last is not known");
      return FALSE;
    }
    if (n < 0)
      return mf_error_from_errno (error, errno, "Scanning the program's memory for written pages");
    if (written)
      note_batch (pagemap, mapping, n, written);
    arg.start = arg.walk_end;
  }
  return TRUE;
}

gboolean
mf_pagemap_collect (mf_pagemap *pagemap, mf_bitmap *written, GError **error)
{
  for (guint i = 0; i < pagemap->set->count; i++) {
    if (!scan (pagemap, &pagemap->set->items[i], written, error))
      return FALSE;
  }
  return program_lives (pagemap) || program_ended (error);
}

gboolean
mf_pagemap_start (mf_pagemap *pagemap, GError **error)
{
  mf_pagemap_stop (pagemap);
  pagemap->is_started = TRUE;
  for (guint i = 0; i < pagemap->set->count; i++) {
    const mf_mapping *mapping = &pagemap->set->items[i];
    const int code = mf_uffd_register (pagemap->uffd, mapping->address, mapping->length, UFFDIO_REGISTER_MODE_WP, NULL);

    if (code != 0) {
      mf_pagemap_stop (pagemap);
      return mf_error_from_errno (error, code, "Registering the program's mapping for write tracking");
    }
  }
  /* Everything counts as written in the first scan, holes too. */
  if (mf_pagemap_collect (pagemap, NULL, error))
    return TRUE;
  mf_pagemap_stop (pagemap);
  return FALSE;
}

void
mf_pagemap_stop (mf_pagemap *pagemap)
{
  if (!pagemap->is_started)
    return;
  pagemap->is_started = FALSE;
  /* An error means that the mapping or the program is gone. */
  for (guint i = 0; i < pagemap->set->count; i++)
    mf_uffd_unregister (pagemap->uffd, pagemap->set->items[i].address, pagemap->set->items[i].length);
}

gboolean
mf_pagemap_check (GError **error)
{
  struct pm_scan_arg arg = { .size = sizeof (arg), .category_mask = PAGE_IS_WRITTEN, .return_mask = PAGE_IS_WRITTEN };
  const int fd = open ("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  int code;

  if (fd < 0)
    return mf_error_from_errno (error, errno, "Opening /proc/self/pagemap");
  code = ioctl (fd, PAGEMAP_SCAN, &arg) < 0 ? errno : 0;
  close (fd);
  if (code == 0)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED,
               "The kernel has no PAGEMAP_SCAN (%s): writes can only be tracked on Linux 6.7 or later",
               g_strerror (code));
  return FALSE;
}
