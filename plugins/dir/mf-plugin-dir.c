/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * dir:PATH, a folder with a file for each chunk.
 *
 * `memferry-dir` in the folder says how large all of it is and how large a chunk; it is made first, under another name, and renamed. A chunk's file is named
 * after its number, 16 hexadecimal digits. One that isn't there is all zeroes, and what it is too short for is, too. So nothing has to be made before it is
 * written, and a chunk that becomes zero is removed.
 *
 * `written` has a bit for each chunk that was changed after it was last flushed.
 */
#include "backend/memferry-backend.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ABOUT         "memferry-dir"
#define ABOUT_NEW     ABOUT ".new"
#define ABOUT_FORMAT  "memferry dir 1\nsize %" PRIu64 "\nchunk %" PRIu64 "\n"
#define CHUNK_DEFAULT (64u * 1024)
#define CHUNK_MIN     4096u
#define CHUNK_MAX     (32u * 1024 * 1024)
#define CHUNKS_MAX    (UINT64_C (1) << 32)

typedef struct {
  int fd; /* the folder */
  uint64_t size, chunk;
  uint64_t n_chunks;
  pthread_mutex_t lock; /* protects `written` */
  uint64_t *written;
} Dir;

enum {
  PATH,
  SIZE,
  CHUNK
};

static const memferry_option options[] = {
  { "path", MEMFERRY_OPTION_PATH, 1, "the folder" },
  { "size", MEMFERRY_OPTION_SIZE, 0, "how large a new one is" },
  { "chunk", MEMFERRY_OPTION_SIZE, 0, "how large a chunk of a new one is: a power of two, 4K to 32M; 64K" },
  { NULL, MEMFERRY_OPTION_TEXT, 0, NULL },
};

/* --- Opening and making --- */

#define FAIL(reason, error, ...) (snprintf ((reason)->text, sizeof (reason)->text, __VA_ARGS__), (error))

static int
check_numbers (uint64_t size, uint64_t chunk, memferry_reason *reason)
{
  if (chunk < CHUNK_MIN || chunk > CHUNK_MAX || (chunk & (chunk - 1)) != 0)
    return FAIL (reason, EINVAL, "chunks are a power of two from 4K to 32M");
  if (size == 0 || size > INT64_MAX || size / chunk >= CHUNKS_MAX)
    return FAIL (reason, EINVAL, "a size of %" PRIu64 " with chunks of %" PRIu64 " is not possible", size, chunk);
  return 0;
}

/* ENOENT: there is none. */
static int
read_about (Dir *dir, memferry_reason *reason)
{
  char text[128] = { 0 }, again[128];
  int fd = openat (dir->fd, ABOUT, O_RDONLY | O_CLOEXEC);
  ssize_t n;

  if (fd < 0)
    return errno;
  n = read (fd, text, sizeof text - 1);
  close (fd);
  if (n < 0)
    return errno;
  if (sscanf (text, ABOUT_FORMAT, &dir->size, &dir->chunk) != 2)
    return FAIL (reason, EINVAL, "its " ABOUT " is not one of memferry's");
  snprintf (again, sizeof again, ABOUT_FORMAT, dir->size, dir->chunk);
  if (strcmp (text, again) != 0)
    return FAIL (reason, EINVAL, "its " ABOUT " is not one of memferry's");
  return check_numbers (dir->size, dir->chunk, reason);
}

static int
write_about (Dir *dir)
{
  char text[128];
  int length = snprintf (text, sizeof text, ABOUT_FORMAT, dir->size, dir->chunk);
  int fd = openat (dir->fd, ABOUT_NEW, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  int error = 0;

  if (fd < 0)
    return errno;
  if (write (fd, text, (size_t) length) != length)
    error = EIO;
  else if (fsync (fd) < 0 || renameat (dir->fd, ABOUT_NEW, dir->fd, ABOUT) < 0 || fsync (dir->fd) < 0)
    error = errno;
  close (fd);
  return error;
}

/* Files of somebody else's: it is no folder of ours. */
static int
is_empty (const char *path)
{
  /* rmdir() knows best, and what it removes is made again. */
  return rmdir (path) == 0 && mkdir (path, 0700) == 0;
}

static int
open_folder (Dir *dir, const memferry_value *values, bool read_only, memferry_reason *reason)
{
  const char *path = values[PATH].text;
  bool made = values[SIZE].given && !read_only && (mkdir (path, 0700) == 0 || (errno == EEXIST && is_empty (path)));
  int error;

  dir->fd = open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir->fd < 0)
    return errno == ENOENT && !values[SIZE].given
               ? FAIL (reason, ENOENT, "there is no such folder; with size=SIZE one is made")
               : errno;
  if (made) {
    dir->size = values[SIZE].number;
    dir->chunk = values[CHUNK].given ? values[CHUNK].number : CHUNK_DEFAULT;
    error = check_numbers (dir->size, dir->chunk, reason);
    if (error == 0)
      error = write_about (dir);
    if (error != 0)
      rmdir (path);
    return error;
  }
  error = read_about (dir, reason);
  if (error == ENOENT)
    return FAIL (reason, ENOENT, "the folder has no " ABOUT "; with size=SIZE an empty one gets it");
  if (error == 0 && values[SIZE].given && values[SIZE].number != dir->size)
    return FAIL (reason, EINVAL, "it has %" PRIu64 " bytes, not %" PRIu64, dir->size, values[SIZE].number);
  if (error == 0 && values[CHUNK].given && values[CHUNK].number != dir->chunk)
    return FAIL (reason, EINVAL, "its chunks have %" PRIu64 " bytes, not %" PRIu64, dir->chunk, values[CHUNK].number);
  return error;
}

static void
dir_close (void *context)
{
  Dir *dir = context;

  if (dir->fd >= 0)
    close (dir->fd);
  pthread_mutex_destroy (&dir->lock);
  free (dir->written);
  free (dir);
}

static int
dir_open (const memferry_value *values, unsigned flags, void **context, memferry_limits *limits,
          memferry_reason *reason)
{
  Dir *dir = calloc (1, sizeof *dir);
  int error;

  if (dir == NULL)
    return ENOMEM;
  dir->fd = -1;
  pthread_mutex_init (&dir->lock, NULL);
  error = open_folder (dir, values, (flags & MEMFERRY_BACKEND_OPEN_READ_ONLY) != 0, reason);
  if (error == 0) {
    dir->n_chunks = (dir->size + dir->chunk - 1) / dir->chunk;
    dir->written = calloc (dir->n_chunks / 64 + 1, sizeof *dir->written);
    error = dir->written == NULL ? ENOMEM : 0;
  }
  if (error != 0) {
    dir_close (dir);
    return error;
  }
  limits->size_bytes = dir->size;
  *context = dir;
  return 0;
}

/* --- Chunks --- */

typedef struct {
  char name[17];
  uint64_t number;
  uint64_t at;     /* in the chunk */
  uint32_t length; /* of the part of a request that lies in it */
} Part;

static Part
part_at (const Dir *dir, uint64_t offset, uint32_t length)
{
  Part part = { .number = offset / dir->chunk, .at = offset % dir->chunk };

  part.length = length < dir->chunk - part.at ? length : (uint32_t) (dir->chunk - part.at);
  snprintf (part.name, sizeof part.name, "%016" PRIx64, part.number);
  return part;
}

static void
mark_written (Dir *dir, uint64_t number)
{
  pthread_mutex_lock (&dir->lock);
  dir->written[number / 64] |= UINT64_C (1) << number % 64;
  pthread_mutex_unlock (&dir->lock);
}

/* Fills what there is, and zeroes. `absent`: there was no file. */
static int
read_part (const Dir *dir, Part part, uint8_t *to, bool *absent)
{
  int fd = openat (dir->fd, part.name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  uint32_t got = 0;

  *absent = fd < 0 && errno == ENOENT;
  if (fd < 0 && !*absent)
    return errno;
  while (!*absent && got < part.length) {
    ssize_t n = pread (fd, to + got, part.length - got, (off_t) (part.at + got));

    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0) {
      int error = errno;

      close (fd);
      return error;
    }
    if (n == 0)
      break;
    got += (uint32_t) n;
  }
  if (fd >= 0)
    close (fd);
  memset (to + got, 0, part.length - got);
  return 0;
}

static int
write_part (Dir *dir, Part part, const uint8_t *from)
{
  int fd = openat (dir->fd, part.name, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  uint32_t done = 0;
  int error = 0;

  if (fd < 0)
    return errno;
  while (error == 0 && done < part.length) {
    ssize_t n = pwrite (fd, from + done, part.length - done, (off_t) (part.at + done));

    if (n >= 0)
      done += (uint32_t) n;
    else if (errno != EINTR)
      error = errno;
  }
  if (close (fd) < 0 && error == 0)
    error = errno;
  mark_written (dir, part.number);
  return error;
}

/* The part of a chunk that becomes zeroes. */
static int
zero_part (Dir *dir, Part part)
{
  uint64_t left = dir->size - part.number * dir->chunk;
  bool whole = part.at == 0 && part.length >= (left < dir->chunk ? left : dir->chunk);
  int error = 0;
  int fd;

  if (whole) {
    if (unlinkat (dir->fd, part.name, 0) < 0 && errno != ENOENT)
      return errno;
    mark_written (dir, part.number);
    return 0;
  }
  fd = openat (dir->fd, part.name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0)
    return errno == ENOENT ? 0 : errno;
  if (fallocate (fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t) part.at, part.length) < 0)
    error = errno;
  close (fd);
  if (error == EOPNOTSUPP) {
    uint8_t *zeroes = calloc (1, part.length);

    error = zeroes != NULL ? write_part (dir, part, zeroes) : ENOMEM;
    free (zeroes);
  }
  mark_written (dir, part.number);
  return error;
}

/* --- Calls --- */

static int
dir_read (void *context, void *buffer, uint32_t length, uint64_t offset, memferry_reason *reason)
{
  uint8_t *to = buffer;
  bool all_absent = true;

  while (length > 0) {
    Part part = part_at (context, offset, length);
    bool absent;
    int error = read_part (context, part, to, &absent);

    if (error != 0)
      return error;
    all_absent = all_absent && absent;
    to += part.length;
    offset += part.length;
    length -= part.length;
  }
  return all_absent ? MEMFERRY_BACKEND_ABSENT : 0;
}

static int
dir_write (void *context, const void *buffer, uint32_t length, uint64_t offset, memferry_reason *reason)
{
  const uint8_t *from = buffer;

  while (length > 0) {
    Part part = part_at (context, offset, length);
    int error = write_part (context, part, from);

    if (error != 0)
      return error;
    from += part.length;
    offset += part.length;
    length -= part.length;
  }
  return 0;
}

static int
dir_zero (void *context, uint32_t length, uint64_t offset, memferry_reason *reason)
{
  while (length > 0) {
    Part part = part_at (context, offset, length);
    int error = zero_part (context, part);

    if (error != 0)
      return error;
    offset += part.length;
    length -= part.length;
  }
  return 0;
}

static int
flush_chunk (Dir *dir, uint64_t number)
{
  Part part = part_at (dir, number * dir->chunk, 1);
  int fd = openat (dir->fd, part.name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  int error = 0;

  if (fd < 0)
    return errno == ENOENT ? 0 : errno;
  if (fdatasync (fd) < 0)
    error = errno;
  close (fd);
  return error;
}

static int
dir_flush (void *context, memferry_reason *reason)
{
  Dir *dir = context;
  int error = 0;

  for (uint64_t word = 0; error == 0 && word <= dir->n_chunks / 64; word++) {
    uint64_t bits;

    pthread_mutex_lock (&dir->lock);
    bits = dir->written[word];
    dir->written[word] = 0;
    pthread_mutex_unlock (&dir->lock);
    for (uint64_t rest = bits; error == 0 && rest != 0; rest &= rest - 1)
      error = flush_chunk (dir, word * 64 + (unsigned) __builtin_ctzll (rest));
    if (error != 0) {
      pthread_mutex_lock (&dir->lock);
      dir->written[word] |= bits;
      pthread_mutex_unlock (&dir->lock);
    }
  }
  if (error == 0 && fsync (dir->fd) < 0)
    error = errno;
  return error;
}

static const memferry_backend plugin = {
  .struct_size = sizeof plugin,
  .api = MEMFERRY_BACKEND_API,
  .name = "dir",
  .summary = "a folder with a file for each chunk",
  .options = options,
  .open = dir_open,
  .close = dir_close,
  .read = dir_read,
  .write = dir_write,
  .zero = dir_zero,
  .flush = dir_flush,
};

MEMFERRY_BACKEND (plugin)
