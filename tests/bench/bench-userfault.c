/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench-userfault.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define PAGE_BYTES 4096u

int
bench_userfault_open (uint64_t features, bool nonblock)
{
  struct uffdio_api api = { .api = UFFD_API, .features = features };

  int device = open ("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device < 0)
    err (1, "/dev/userfaultfd");
  int fd = ioctl (device, USERFAULTFD_IOC_NEW, O_CLOEXEC | (nonblock ? O_NONBLOCK : 0));
  if (fd < 0)
    err (1, "USERFAULTFD_IOC_NEW");
  close (device);
  if (ioctl (fd, UFFDIO_API, &api) < 0)
    err (1, "UFFDIO_API");
  return fd;
}

void
bench_userfault_register (int fd, void *start, size_t length_bytes, uint64_t mode)
{
  struct uffdio_register registration = { .range = { (uintptr_t) start, length_bytes }, .mode = mode };

  if (ioctl (fd, UFFDIO_REGISTER, &registration) < 0)
    err (1, "UFFDIO_REGISTER");
}

void
bench_userfault_copy (int fd, void *to, const void *from, size_t length_bytes, bool wake)
{
  size_t done = 0;

  while (done < length_bytes) {
    struct uffdio_copy copy = {
      .dst = (uintptr_t) to + done,
      .src = (uintptr_t) from + done,
      .len = length_bytes - done,
      .mode = wake ? 0 : UFFDIO_COPY_MODE_DONTWAKE,
    };
    if (ioctl (fd, UFFDIO_COPY, &copy) == 0)
      return;
    if (copy.copy > 0) {
      done += (size_t) copy.copy;
      continue;
    }
    if (errno == EAGAIN)
      continue;
    if (errno != EEXIST)
      err (1, "UFFDIO_COPY");
    struct uffdio_range page = { copy.dst, PAGE_BYTES };
    if (ioctl (fd, UFFDIO_WAKE, &page) < 0)
      err (1, "UFFDIO_WAKE");
    done += PAGE_BYTES;
  }
}
