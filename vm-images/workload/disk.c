/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk.h"
#include "pace.h"
#include "pattern.h"
#include "report.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
  READ_BYTES = 64 << 10,
  READ_BLOCKS = READ_BYTES / PAGE_BYTES
};

static const params *settings;
static int disk_fd;
static uint64_t disk_places; /* of READ_BYTES each */

void
disk_open (const params *p)
{
  off_t size;

  settings = p;
  disk_fd = open (p->disk, O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (disk_fd < 0)
    report_fatal ("%s: %s", p->disk, strerror (errno));
  size = lseek (disk_fd, 0, SEEK_END);
  disk_places = size < 0 ? 0 : (uint64_t) size / READ_BYTES;
  if (disk_places < 2)
    report_fatal ("%s: smaller than 128 KiB", p->disk);
}

static void
verify_block (const uint64_t *block, uint64_t number)
{
  if (block[0] != number)
    report_error ("disk-number", number, &block[0], number, block[0]);
  else if (block[1] != settings->seed)
    report_error ("disk-seed", number, &block[1], settings->seed, block[1]);
  else if (block[BLOCK_HASH_WORD] != pattern_block_hash (block))
    report_error ("disk-hash", number, &block[BLOCK_HASH_WORD], pattern_block_hash (block), block[BLOCK_HASH_WORD]);
  atomic_fetch_add (&report.blocks_read, 1);
}

void *
disk_read_forever (void *number)
{
  uint64_t random = pattern_start (settings->seed, (uintptr_t) number), place = 0;
  uint64_t rate = settings->disk_rate ? settings->disk_rate / settings->disk_readers + 1 : 0;
  pacer pace = pace_start (rate);
  uint64_t *buffer;

  buffer = mmap (NULL, READ_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (buffer == MAP_FAILED)
    report_fatal ("no memory for a disk reader");
  for (;;) {
    ssize_t got;

    random = pattern_next (random);
    place = (place + 1 + random % (disk_places - 1)) % disk_places;
    got = pread (disk_fd, buffer, READ_BYTES, (off_t) (place * READ_BYTES));
    if (got != READ_BYTES) {
      report_error ("disk-read", place * READ_BLOCKS, buffer, READ_BYTES, got < 0 ? (uint64_t) errno : (uint64_t) got);
      got = 0;
    }
    for (unsigned i = 0; i < (size_t) got / PAGE_BYTES; i++)
      verify_block (buffer + i * PAGE_WORDS, place * READ_BLOCKS + i);
    pace_done (&pace, READ_BLOCKS);
  }
}
