/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memory:SIZE, memory of this process: all zeroes at first, gone at the end.
 *
 * It is a memfd, so that what was never written, and what was made zero, takes no room.
 */
#include "backend/memferry-backend.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static int
memory_open (const memferry_value *values, unsigned flags, void **context, memferry_limits *limits,
             memferry_reason *reason)
{
  int *fd = malloc (sizeof *fd);
  int error;

  if (fd == NULL)
    return ENOMEM;
  *fd = memfd_create ("memferry-memory", MFD_CLOEXEC);
  if (*fd < 0 || ftruncate (*fd, (off_t) values[0].number) < 0) {
    error = errno;
    if (*fd >= 0)
      close (*fd);
    free (fd);
    return error;
  }
  limits->size_bytes = values[0].number;
  *context = fd;
  return 0;
}

static void
memory_close (void *context)
{
  close (*(int *) context);
  free (context);
}

static int
memory_read (void *context, void *buffer, uint32_t length, uint64_t offset, memferry_reason *reason)
{
  const int fd = *(int *) context;
  uint8_t *to = buffer;
  off_t data = lseek (fd, (off_t) offset, SEEK_DATA);

  if ((data < 0 && errno == ENXIO) || data >= (off_t) (offset + length))
    return MEMFERRY_BACKEND_ABSENT;
  while (length > 0) {
    ssize_t n = pread (fd, to, length, (off_t) offset);

    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return n < 0 ? errno : EIO;
    to += n;
    offset += (uint64_t) n;
    length -= (uint32_t) n;
  }
  return 0;
}

static int
memory_write (void *context, const void *buffer, uint32_t length, uint64_t offset, memferry_reason *reason)
{
  const int fd = *(int *) context;
  const uint8_t *from = buffer;

  while (length > 0) {
    ssize_t n = pwrite (fd, from, length, (off_t) offset);

    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return errno;
    from += n;
    offset += (uint64_t) n;
    length -= (uint32_t) n;
  }
  return 0;
}

static int
memory_zero (void *context, uint32_t length, uint64_t offset, memferry_reason *reason)
{
  while (fallocate (*(int *) context, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t) offset, (off_t) length) < 0) {
    if (errno != EINTR)
      return errno;
  }
  return 0;
}

static const memferry_option options[] = {
  { "size", MEMFERRY_OPTION_SIZE, 1, "how much memory" },
  { NULL, MEMFERRY_OPTION_TEXT, 0, NULL },
};

static const memferry_backend plugin = {
  .struct_size = sizeof plugin,
  .api = MEMFERRY_BACKEND_API,
  .name = "memory",
  .summary = "memory of this process",
  .options = options,
  .open = memory_open,
  .close = memory_close,
  .read = memory_read,
  .write = memory_write,
  .zero = memory_zero,
};

MEMFERRY_BACKEND (plugin)
