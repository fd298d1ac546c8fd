/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-preload.h"

#include <inttypes.h>

bool
mf_preload_ranges_add (mf_preload_ranges *ranges, mf_preload_range range)
{
  if (ranges->count == MF_PRELOAD_RANGES)
    return false;
  ranges->items[ranges->count++] = range;
  return true;
}

bool
mf_preload_ranges_overlap (const mf_preload_ranges *ranges, uintptr_t address, size_t length)
{
  for (unsigned i = 0; i < ranges->count; i++) {
    const mf_preload_range *range = &ranges->items[i];

    if (address < range->address + range->length && range->address < address + length)
      return true;
  }
  return false;
}

/* Pieces that find no room are still the program's memory, and nobody will serve their faults: that is worth a line. */
static void
keep (mf_preload_ranges *ranges, mf_preload_range range)
{
  if (!mf_preload_ranges_add (ranges, range))
    mf_preload_say ("more than %d pieces of a region are mapped: %zu bytes at %#" PRIxPTR " are not looked after",
                    MF_PRELOAD_RANGES, range.length, range.address);
}

bool
mf_preload_ranges_cut (mf_preload_ranges *ranges, uintptr_t address, size_t length)
{
  const mf_preload_ranges before = *ranges;
  const uintptr_t end = address + length;
  bool found = false;

  ranges->count = 0;
  for (unsigned i = 0; i < before.count; i++) {
    const mf_preload_range range = before.items[i];
    const uintptr_t range_end = range.address + range.length;

    if (end <= range.address || range_end <= address) {
      keep (ranges, range);
      continue;
    }
    found = true;
    if (range.address < address)
      keep (ranges, (mf_preload_range){ range.address, address - range.address, range.offset });
    if (end < range_end)
      keep (ranges, (mf_preload_range){ end, range_end - end, range.offset + (end - range.address) });
  }
  return found;
}
