/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench-fault.h"
#include "bench-samples.h"
#include "bench-userfault.h"

#include <endian.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void
bench_fault_exchange (const bench_fault_stage *stage, uint64_t page,
                      uint8_t answer[BENCH_FAULT_HEADER_BYTES + BENCH_PAGE_BYTES])
{
  uint8_t request[BENCH_FAULT_REQUEST_BYTES] = { 0 };
  uint64_t page_be = htobe64 (page);

  memcpy (request + 16, &page_be, sizeof page_be);
  bench_link_write (stage->fault_link[0], request, sizeof request);
  if (!bench_link_read_or_end (stage->fault_link[0], answer, BENCH_FAULT_HEADER_BYTES + BENCH_PAGE_BYTES,
                               stage->plan->wait))
    errx (1, "the server closed");
}

/* Waits for the next fault: polling first, as long as the plan says. Returns its page. */
static uint64_t
next_fault (const bench_fault_stage *stage)
{
  bench_wait wait = stage->plan->wait;
  uint64_t begin = wait.poll_nsec > 0 ? bench_now_nsec () : 0;
  struct uffd_msg message;

  while (true) {
    ssize_t n = read (stage->userfault, &message, sizeof message);
    if (n == sizeof message && message.event == UFFD_EVENT_PAGEFAULT)
      return (message.arg.pagefault.address - (uintptr_t) stage->touched) / BENCH_PAGE_BYTES;
    if (n >= 0 || errno != EAGAIN)
      err (1, "reading a fault");
    if (bench_wait_poll_again (wait, begin))
      continue;
    struct pollfd asleep = { .fd = stage->userfault, .events = POLLIN };
    poll (&asleep, 1, -1);
  }
}

static void *
receive_bulk (void *data)
{
  const bench_fault_stage *stage = data;
  uint64_t size_bytes = stage->plan->pages * BENCH_PAGE_BYTES;
  uint8_t *buffer = aligned_alloc (BENCH_PAGE_BYTES, BENCH_FAULT_BULK_BYTES);

  if (buffer == NULL)
    err (1, "buffer");
  for (uint64_t offset = 0;; offset = (offset + BENCH_FAULT_BULK_BYTES) % size_bytes) {
    /* Emptied in pieces just ahead, so that the store takes no more than its size. */
    if (offset % (1u << 20) == 0 &&
        fallocate (stage->bulk_file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t) offset, 1u << 20) < 0)
      err (1, "emptying the bulk store");
    bench_link_read (stage->bulk_link[0], buffer, BENCH_FAULT_BULK_BYTES);
    bench_userfault_copy (stage->userfault, stage->bulk + offset, buffer, BENCH_FAULT_BULK_BYTES, true);
  }
  return NULL;
}

static void *
send_bulk (void *data)
{
  const bench_fault_stage *stage = data;
  uint64_t size_bytes = stage->plan->pages * BENCH_PAGE_BYTES;

  for (uint64_t offset = 0;; offset = (offset + BENCH_FAULT_BULK_BYTES) % size_bytes)
    bench_link_write (stage->bulk_link[1], stage->source + offset, BENCH_FAULT_BULK_BYTES);
  return NULL;
}

static void
start_bulk (const bench_fault_stage *stage, void *(*carry) (void *) )
{
  pthread_t thread;

  if (stage->plan->bulk && pthread_create (&thread, NULL, carry, (void *) stage) != 0)
    errx (1, "no thread");
}

void
bench_fault_handle (const bench_fault_stage *stage)
{
  static uint8_t answer[BENCH_FAULT_HEADER_BYTES + BENCH_PAGE_BYTES];

  start_bulk (stage, receive_bulk);
  while (true) {
    uint64_t page = next_fault (stage);
    const uint8_t *bytes = stage->source + page * BENCH_PAGE_BYTES;
    if (stage->plan->exchange) {
      bench_fault_exchange (stage, page, answer);
      bytes = answer + BENCH_FAULT_HEADER_BYTES;
    }
    bench_userfault_copy (stage->userfault, stage->touched + page * BENCH_PAGE_BYTES, bytes, BENCH_PAGE_BYTES, true);
  }
}

void
bench_fault_serve (const bench_fault_stage *stage)
{
  uint8_t request[BENCH_FAULT_REQUEST_BYTES], header[BENCH_FAULT_HEADER_BYTES] = { 0 };
  uint64_t page;

  start_bulk (stage, send_bulk);
  while (bench_link_read_or_end (stage->fault_link[1], request, sizeof request, stage->plan->wait)) {
    memcpy (&page, request + 16, sizeof page);
    page = be64toh (page);
    if (page >= stage->plan->pages)
      errx (1, "a request past the end");
    struct iovec parts[] = { { header, sizeof header }, { stage->source + page * BENCH_PAGE_BYTES, BENCH_PAGE_BYTES } };
    bench_link_write_parts (stage->fault_link[1], parts, 2);
  }
  exit (0);
}
