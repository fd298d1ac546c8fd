/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "track/mf-uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define DEVICE "/dev/userfaultfd"

int
mf_uffd_open_device (GError **error)
{
  const int device = open (DEVICE, O_RDWR | O_CLOEXEC);

  if (device >= 0)
    return device;
  if (errno == ENOENT || errno == ENXIO || errno == ENODEV)
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED,
                 "There is no " DEVICE
                 ": page faults can only be served on Linux 6.1 or later with CONFIG_USERFAULTFD");
  else if (errno == EACCES || errno == EPERM)
    g_set_error (error, MF_ERROR, MF_ERROR_PERMISSION,
                 "May not open " DEVICE ": run the service as root, or give its user the device");
  else
    mf_error_from_errno (error, errno, "Opening " DEVICE);
  return -1;
}

int
mf_uffd_new (int device)
{
  return ioctl (device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
}

int
mf_uffd_features (int device, uint64_t *features)
{
  struct uffdio_api api = { .api = UFFD_API };
  const int uffd = mf_uffd_new (device);
  int error = 0;

  if (uffd < 0)
    return errno;
  if (ioctl (uffd, UFFDIO_API, &api) < 0)
    error = errno;
  close (uffd);
  *features = api.features;
  return error;
}

bool
mf_uffd_is_one (int fd)
{
  char link[64], target[64];
  ssize_t length;

  g_snprintf (link, sizeof (link), "/proc/self/fd/%d", fd);
  length = readlink (link, target, sizeof (target) - 1);
  if (length < 0)
    return false;
  target[length] = '\0';
  return g_str_equal (target, "anon_inode:[userfaultfd]");
}

int
mf_uffd_api (int uffd, uint64_t features)
{
  struct uffdio_api api = { .api = UFFD_API, .features = features };

  return ioctl (uffd, UFFDIO_API, &api) < 0 ? errno : 0;
}

int
mf_uffd_register (int uffd, uint64_t address, uint64_t length, uint64_t mode, uint64_t *ioctls)
{
  struct uffdio_register arg = { .range = { .start = address, .len = length }, .mode = mode };

  if (ioctl (uffd, UFFDIO_REGISTER, &arg) < 0)
    return errno;
  if (ioctls)
    *ioctls = arg.ioctls;
  return 0;
}

int
mf_uffd_unregister (int uffd, uint64_t address, uint64_t length)
{
  struct uffdio_range range = { .start = address, .len = length };

  return ioctl (uffd, UFFDIO_UNREGISTER, &range) < 0 ? errno : 0;
}

int
mf_uffd_protect (int uffd, uint64_t address, uint64_t length)
{
  struct uffdio_writeprotect protect = { .range = { .start = address, .len = length },
                                         .mode = UFFDIO_WRITEPROTECT_MODE_WP };

  while (ioctl (uffd, UFFDIO_WRITEPROTECT, &protect) < 0) {
    if (errno != EAGAIN)
      return errno;
  }
  return 0;
}

int
mf_uffd_wake (int uffd, uint64_t address, uint64_t length)
{
  struct uffdio_range range = { .start = address, .len = length };

  return ioctl (uffd, UFFDIO_WAKE, &range) < 0 ? errno : 0;
}

int
mf_uffd_copy (int uffd, uint64_t address, const void *bytes, uint64_t length, uint64_t *done)
{
  *done = 0;
  while (*done < length) {
    struct uffdio_copy copy = { .dst = address + *done,
                                .src = (uint64_t) (uintptr_t) bytes + *done,
                                .len = length - *done };

    if (ioctl (uffd, UFFDIO_COPY, &copy) < 0 && errno != EAGAIN)
      return errno;
    if (copy.copy > 0)
      *done += (uint64_t) copy.copy;
    else
      sched_yield (); /* the address space is being changed */
  }
  return 0;
}

int
mf_uffd_zero (int uffd, uint64_t address, uint64_t length, uint64_t *done)
{
  *done = 0;
  while (*done < length) {
    struct uffdio_zeropage zero = { .range = { .start = address + *done, .len = length - *done } };

    if (ioctl (uffd, UFFDIO_ZEROPAGE, &zero) < 0 && errno != EAGAIN)
      return errno;
    if (zero.zeropage > 0)
      *done += (uint64_t) zero.zeropage;
    else
      sched_yield ();
  }
  return 0;
}
