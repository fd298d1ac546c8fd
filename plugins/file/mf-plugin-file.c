/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * file:PATH, a regular file or a block device of this host.
 */
#include "backend/memferry-backend.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
  int fd;
  int is_block_device;
} File;

static int
file_size (int fd, uint64_t *size, int *is_block_device, memferry_reason *reason)
{
  struct stat st;

  if (fstat (fd, &st) < 0)
    return errno;
  *is_block_device = S_ISBLK (st.st_mode);
  if (S_ISBLK (st.st_mode))
    return ioctl (fd, BLKGETSIZE64, size) < 0 ? errno : 0;
  if (!S_ISREG (st.st_mode)) {
    snprintf (reason->text, sizeof reason->text, "it is neither a regular file nor a block device");
    return EINVAL;
  }
  *size = (uint64_t) st.st_size;
  return 0;
}

static int
file_open (const memferry_value *values, unsigned flags, void **context, memferry_limits *limits,
           memferry_reason *reason)
{
  int read_only = (flags & MEMFERRY_BACKEND_OPEN_READ_ONLY) != 0;
  /* O_NONBLOCK: a FIFO must be refused, not waited for. */
  int fd = open (values[0].text, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
  File *file;
  int error;

  if (fd < 0)
    return errno;
  file = calloc (1, sizeof *file);
  error = file != NULL ? file_size (fd, &limits->size_bytes, &file->is_block_device, reason) : ENOMEM;
  if (error != 0) {
    free (file);
    close (fd);
    return error;
  }
  file->fd = fd;
  *context = file;
  return 0;
}

static void
file_close (void *context)
{
  File *file = context;

  close (file->fd);
  free (file);
}

static int
is_hole (File *file, uint64_t offset, uint32_t length)
{
  off_t data = lseek (file->fd, (off_t) offset, SEEK_DATA);
  struct stat st;

  /* No data from here on: but the file may be shorter than it was, and what is lost is no hole. */
  if (data < 0)
    return errno == ENXIO && fstat (file->fd, &st) == 0 && st.st_size >= (off_t) (offset + length);
  return data >= (off_t) (offset + length);
}

static int
file_read (void *context, void *buffer, uint32_t length, uint64_t offset, memferry_reason *reason)
{
  File *file = context;
  uint8_t *to = buffer;

  if (is_hole (file, offset, length))
    return MEMFERRY_BACKEND_ABSENT;
  while (length > 0) {
    ssize_t n = pread (file->fd, to, length, (off_t) offset);

    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return errno;
    if (n == 0) {
      snprintf (reason->text, sizeof reason->text, "somebody has cut the file short");
      return EIO;
    }
    to += n;
    offset += (uint64_t) n;
    length -= (uint32_t) n;
  }
  return 0;
}

static int
file_write (void *context, const void *buffer, uint32_t length, uint64_t offset, memferry_reason *reason)
{
  File *file = context;
  const uint8_t *from = buffer;

  while (length > 0) {
    ssize_t n = pwrite (file->fd, from, length, (off_t) offset);

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
file_zero (void *context, uint32_t length, uint64_t offset, memferry_reason *reason)
{
  static const uint8_t zeroes[64 * 1024];
  File *file = context;
  int mode =
      file->is_block_device ? FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE : FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

  if (fallocate (file->fd, mode, (off_t) offset, (off_t) length) == 0)
    return 0;
  if (errno != EOPNOTSUPP && errno != EINVAL && errno != ENOSYS && errno != EINTR)
    return errno;
  while (length > 0) {
    uint32_t part = length < sizeof zeroes ? length : (uint32_t) sizeof zeroes;
    int error = file_write (context, zeroes, part, offset, reason);

    if (error != 0)
      return error;
    offset += part;
    length -= part;
  }
  return 0;
}

static int
file_flush (void *context, memferry_reason *reason)
{
  return fdatasync (((File *) context)->fd) < 0 ? errno : 0;
}

static const memferry_option options[] = {
  { "path", MEMFERRY_OPTION_PATH, 1, "a regular file or a block device" },
  { NULL, MEMFERRY_OPTION_TEXT, 0, NULL },
};

static const memferry_backend plugin = {
  .struct_size = sizeof plugin,
  .api = MEMFERRY_BACKEND_API,
  .name = "file",
  .summary = "a file or a block device of this host",
  .options = options,
  .open = file_open,
  .close = file_close,
  .read = file_read,
  .write = file_write,
  .zero = file_zero,
  .flush = file_flush,
};

MEMFERRY_BACKEND (plugin)
