/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "core/mf-run-list.h"

#include <errno.h>
#include <stdlib.h>

#define FORM_RUNS   1
#define FORM_BITMAP 2

#define LEB128_BYTES_MAX 10 /* 64 bits, seven a byte */

/* Writes `value` where there is room for it; returns how many bytes it took, 0 when there is none. */
static size_t
put_leb128 (uint8_t *out, size_t room, uint64_t value)
{
  size_t n = 0;

  do {
    if (n == room)
      return 0;
    uint8_t more = value >= 0x80 ? 0x80 : 0;
    out[n++] = (uint8_t) ((value & 0x7f) | more);
    value >>= 7;
  } while (value != 0);
  return n;
}

/* Writes the runs of `set` while they fit in `room` bytes. Returns how many bytes they take, 0 when they don't fit.
 * One walk, so that bits that change meanwhile cannot make what is written longer than what was measured. */
static size_t
encode_runs (const mf_bitmap *set, uint8_t *out, size_t room)
{
  mf_run left = { 0, mf_bitmap_size (set) };
  uint64_t end = 0;
  size_t used = 1;
  mf_run run;

  out[0] = FORM_RUNS;
  while (mf_bitmap_next_run (set, left, true, &run)) {
    size_t gap = put_leb128 (out + used, room - used, run.first - end);
    size_t count = gap == 0 ? 0 : put_leb128 (out + used + gap, room - used - gap, run.count - 1);
    if (count == 0)
      return 0;
    used += gap + count;
    end = run.first + run.count;
    left = (mf_run){ end, mf_bitmap_size (set) - end };
  }
  return used;
}

static void
encode_bitmap (const mf_bitmap *set, uint8_t *out)
{
  uint64_t n_pages = mf_bitmap_size (set);

  *out++ = FORM_BITMAP;
  for (uint64_t first = 0; first < n_pages; first += 64) {
    uint64_t bits = mf_bitmap_get_word (set, first);
    for (uint64_t page = first; page < n_pages && page < first + 64; page += 8) {
      *out++ = (uint8_t) bits;
      bits >>= 8;
    }
  }
}

uint8_t *
mf_run_list_encode (const mf_bitmap *set, size_t *length)
{
  uint64_t n_pages = mf_bitmap_size (set);
  uint64_t longest = 1 + n_pages / 8 + (n_pages % 8 != 0);

  if (longest > SIZE_MAX) {
    errno = ENOMEM;
    return NULL;
  }
  uint8_t *out = malloc ((size_t) longest);
  if (out == NULL) {
    errno = ENOMEM;
    return NULL;
  }
  size_t used = encode_runs (set, out, (size_t) longest);
  if (used == 0) {
    encode_bitmap (set, out);
    used = (size_t) longest;
  }
  *length = used;
  uint8_t *shrunk = realloc (out, used);
  return shrunk != NULL ? shrunk : out;
}

typedef struct {
  const uint8_t *data;
  size_t left;
} reader;

static bool
get_leb128 (reader *r, uint64_t *out)
{
  uint64_t value = 0;

  for (unsigned n = 0; n < LEB128_BYTES_MAX && r->left > 0; n++) {
    uint64_t bits = *r->data & 0x7f;
    bool last = (*r->data & 0x80) == 0;
    r->data++;
    r->left--;
    if (n == LEB128_BYTES_MAX - 1 && bits > 1) /* only bit 63 is left */
      return false;
    value |= bits << (7 * n);
    if (last) {
      *out = value;
      return true;
    }
  }
  return false;
}

static bool
decode_runs (reader r, mf_bitmap *set)
{
  uint64_t n_pages = mf_bitmap_size (set);
  uint64_t end = 0, gap, more;

  while (r.left > 0) {
    if (!get_leb128 (&r, &gap) || !get_leb128 (&r, &more))
      return false;
    if (gap >= n_pages - end || more >= n_pages - end - gap)
      return false;
    mf_run run = { end + gap, more + 1 };
    mf_bitmap_set_run (set, run);
    end = run.first + run.count;
  }
  return true;
}

static bool
decode_bitmap (reader r, mf_bitmap *set)
{
  uint64_t n_pages = mf_bitmap_size (set);

  if (r.left != n_pages / 8 + (n_pages % 8 != 0))
    return false;
  if (n_pages % 8 != 0 && r.data[r.left - 1] >> (n_pages % 8) != 0)
    return false;
  for (uint64_t first = 0; first < n_pages; first += 64) {
    uint64_t bits = 0;
    for (unsigned byte = 0; byte < 8 && r.left > 0; byte++) {
      bits |= (uint64_t) *r.data++ << (8 * byte);
      r.left--;
    }
    mf_bitmap_set_word (set, first, bits);
  }
  return true;
}

bool
mf_run_list_decode (const uint8_t *data, size_t length, mf_bitmap *set)
{
  if (length == 0)
    return false;
  reader r = { data + 1, length - 1 };
  switch (data[0]) {
  case FORM_RUNS:
    return decode_runs (r, set);
  case FORM_BITMAP:
    return decode_bitmap (r, set);
  default:
    return false;
  }
}
