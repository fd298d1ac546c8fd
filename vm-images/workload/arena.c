/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "arena.h"
#include "pace.h"
#include "pattern.h"
#include "report.h"
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

/* What the kernel and the workload itself need beside the arena. */
enum {
  SPARE_BYTES = 12 << 20
};

struct arena {
  const params *params;
  uint64_t *words;
  uint64_t pages, dirty_pages;
};

static uint64_t *
page_words (const arena *self, uint64_t page)
{
  return self->words + page * PAGE_WORDS;
}

/* The repeated word of a page that is to be compressible: never 0, or the page would count as never written. */
static uint64_t
plain_word (const arena *self, uint64_t page)
{
  return self->params->seed << 32 | (page + 1);
}

static void
fill_page (arena *self, uint64_t page)
{
  uint64_t *words = page_words (self, page);
  uint64_t value = self->params->incompressible ? pattern_start (self->params->seed, page) : plain_word (self, page);

  for (unsigned i = 0; i < PAGE_WORDS; i++) {
    words[i] = value;
    if (self->params->incompressible)
      value = pattern_next (value);
  }
  if (page >= self->dirty_pages)
    return;
  for (unsigned k = 0; k < POINTS; k++)
    words[k * POINT_STRIDE_WORDS] = pattern_point (0, page, k);
}

/* Checks every word of `page` that does not change, up to the first wrong one. */
static void
verify_page (const arena *self, uint64_t page)
{
  const uint64_t *words = page_words (self, page);
  bool random = self->params->incompressible, dirtied = page < self->dirty_pages;
  uint64_t value = random ? pattern_start (self->params->seed, page) : plain_word (self, page);

  for (unsigned i = 0; i < PAGE_WORDS; i++) {
    /* Volatile: the bytes in memory now, not what the compiler knows was stored there. */
    uint64_t found = *(const volatile uint64_t *) &words[i];

    if (found != value && !(dirtied && i % POINT_STRIDE_WORDS == 0)) {
      report_error ("fill", page, &words[i], value, found);
      return;
    }
    if (random)
      value = pattern_next (value);
  }
}

/* Checks the points of pass - 1 and writes those of `pass`. One error a page is counted; what it was is overwritten. */
static void
dirty_page (arena *self, uint64_t pass, uint64_t page)
{
  volatile uint64_t *words = page_words (self, page);
  bool reported = false;

  for (unsigned k = 0; k < POINTS; k++) {
    volatile uint64_t *word = words + k * POINT_STRIDE_WORDS;
    uint64_t expected = pattern_point (pass - 1, page, k), found = *word;

    if (found != expected && !reported) {
      report_error ("dirty", page, (const uint64_t *) word, expected, found);
      reported = true;
    }
    *word = pattern_point (pass, page, k);
  }
}

arena *
arena_new (const params *p)
{
  uint64_t bytes = p->fill_bytes > p->dirty_bytes ? p->fill_bytes : p->dirty_bytes;
  arena *self = calloc (1, sizeof *self);
  struct sysinfo info;

  if (self == NULL || sysinfo (&info) != 0)
    report_fatal ("no memory at all");
  self->params = p;
  self->pages = bytes / PAGE_BYTES;
  self->dirty_pages = p->dirty_bytes / PAGE_BYTES;
  if (self->pages == 0)
    return self;
  if (bytes + SPARE_BYTES > (uint64_t) info.freeram * info.mem_unit)
    report_fatal ("mf.fill and mf.dirty need %llu MiB, %llu MiB are free", (unsigned long long) bytes >> 20,
                  (unsigned long long) info.freeram * info.mem_unit >> 20);

  self->words = mmap (NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (self->words == MAP_FAILED)
    report_fatal ("mapping %llu MiB: no memory", (unsigned long long) bytes >> 20);
  for (uint64_t page = 0; page < self->pages; page++)
    fill_page (self, page);
  return self;
}

void *
arena_dirty_forever (void *data)
{
  arena *self = data;
  pacer pace = pace_start (self->params->dirty_rate);
  uint64_t slice = pace_slice_pages (&pace);

  for (uint64_t pass = 1;; pass++) {
    for (uint64_t first = 0; first < self->dirty_pages; first += slice) {
      uint64_t end = first + slice < self->dirty_pages ? first + slice : self->dirty_pages;

      for (uint64_t page = first; page < end; page++)
        dirty_page (self, pass, page);
      atomic_fetch_add (&report.pages_dirtied, end - first);
      pace_done (&pace, end - first);
    }
    atomic_fetch_add (&report.passes, 1);
  }
}

void *
arena_verify_forever (void *data)
{
  arena *self = data;
  pacer pace = pace_start (self->params->verify_rate);

  for (uint64_t page = 0;; page = (page + 1) % self->pages) {
    verify_page (self, page);
    atomic_fetch_add (&report.pages_verified, 1);
    pace_done (&pace, 1);
  }
}
