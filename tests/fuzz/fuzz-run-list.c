/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The first two bytes say how many pages there are, the rest is the list. */
#include "mf-fuzz.h"

#include "core/mf-run-list.h"

#include <stdlib.h>
#include <string.h>

static void
check_again (const mf_bitmap *set)
{
  size_t length = 0;
  uint8_t *data = mf_run_list_encode (set, &length);
  mf_bitmap *again = mf_bitmap_new (mf_bitmap_size (set));

  MF_FUZZ_CHECK (data != NULL && again != NULL);
  MF_FUZZ_CHECK (length <= 1 + (mf_bitmap_size (set) + 7) / 8);
  MF_FUZZ_CHECK (mf_run_list_decode (data, length, again));
  for (uint64_t page = 0; page < mf_bitmap_size (set); page += 64)
    MF_FUZZ_CHECK (mf_bitmap_get_word (set, page) == mf_bitmap_get_word (again, page));
  mf_bitmap_free (again);
  free (data);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t length)
{
  if (length < 2)
    return 0;
  mf_bitmap *set = mf_bitmap_new ((uint64_t) data[0] << 8 | data[1]);
  MF_FUZZ_CHECK (set != NULL);
  if (mf_run_list_decode (data + 2, length - 2, set))
    check_again (set);
  mf_bitmap_free (set);
  return 0;
}

static void
seed (const char *name, const mf_bitmap *set)
{
  size_t length = 0;
  uint8_t *list = mf_run_list_encode (set, &length);
  uint8_t *bytes = malloc (length + 2);

  bytes[0] = (uint8_t) (mf_bitmap_size (set) >> 8);
  bytes[1] = (uint8_t) mf_bitmap_size (set);
  memcpy (bytes + 2, list, length);
  mf_fuzz_seed (name, bytes, length + 2);
  free (bytes);
  free (list);
}

void
mf_fuzz_make_seeds (void)
{
  mf_bitmap *set = mf_bitmap_new (300);

  seed ("empty", set);
  mf_bitmap_set_run (set, (mf_run){ 100, 150 });
  seed ("runs", set);
  for (uint64_t page = 0; page < 300; page += 3)
    mf_bitmap_clear (set, page);
  seed ("bitmap", set);
  mf_bitmap_free (set);
}
