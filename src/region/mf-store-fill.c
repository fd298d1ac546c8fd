/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-store-fill.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#  define UFFD_USER_MODE_ONLY 1
#endif

struct _mf_store_filler {
  int uffd;
  uint8_t *map;
  size_t length;
};

static gboolean
register_map (mf_store_filler *filler)
{
  struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM };
  struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };

  /* Nobody ever faults there, so no right to see the kernel's faults is needed. */
  filler->uffd = (int) syscall (SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  if (filler->uffd < 0 || ioctl (filler->uffd, UFFDIO_API, &api) < 0)
    return FALSE;
  reg.range.start = (uintptr_t) filler->map;
  reg.range.len = filler->length;
  return ioctl (filler->uffd, UFFDIO_REGISTER, &reg) == 0 && (reg.ioctls & (UINT64_C (1) << _UFFDIO_COPY)) != 0;
}

mf_store_filler *
mf_store_filler_new (int fd, uint64_t size_bytes, uint32_t page_bytes)
{
  mf_store_filler *filler = g_new0 (mf_store_filler, 1);

  filler->uffd = -1;
  filler->length = (size_bytes + page_bytes - 1) / page_bytes * page_bytes;
  filler->map = mmap (NULL, filler->length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (filler->map != MAP_FAILED) {
    madvise (filler->map, filler->length, MADV_DONTDUMP);
    madvise (filler->map, filler->length, MADV_DONTFORK);
    if (register_map (filler))
      return filler;
  }
  mf_store_filler_free (filler);
  return NULL;
}

void
mf_store_filler_free (mf_store_filler *filler)
{
  if (filler == NULL)
    return;
  if (filler->uffd >= 0)
    close (filler->uffd);
  if (filler->map != MAP_FAILED)
    munmap (filler->map, filler->length);
  g_free (filler);
}

int64_t
mf_store_filler_copy (mf_store_filler *filler, uint64_t offset, const void *buffer, uint64_t length)
{
  uint64_t done = 0;
  int reason = 0;

  while (done < length && reason == 0) {
    struct uffdio_copy copy = {
      .dst = (uintptr_t) filler->map + offset + done,
      .src = (uintptr_t) buffer + done,
      .len = length - done,
      .mode = UFFDIO_COPY_MODE_DONTWAKE,
    };

    if (ioctl (filler->uffd, UFFDIO_COPY, &copy) == 0) {
      done = length;
    } else {
      /* It stopped on its way: `copy` says how far it came, if anywhere. */
      reason = errno == EAGAIN ? 0 : errno;
      if (copy.copy > 0)
        done += (uint64_t) copy.copy;
    }
  }
  /* The pages stay in the file, but need not count as this process's memory. */
  if (done > 0)
    madvise (filler->map + offset, done, MADV_DONTNEED);
  if (done == 0 && reason != 0 && reason != EEXIST) {
    errno = reason;
    return -1;
  }
  return (int64_t) done;
}
