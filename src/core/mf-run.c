/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "core/mf-run.h"

#include <assert.h>

static uint64_t
min_u64 (uint64_t a, uint64_t b)
{
  return a < b ? a : b;
}

mf_run
mf_run_intersect (mf_run a, mf_run b)
{
  uint64_t first = a.first > b.first ? a.first : b.first;
  mf_run shared = { first, 0 };

  /* Each run is asked how much of it is left from `first` on: its end, which need not fit in 64 bits, is never
   * computed. */
  if (first - a.first < a.count && first - b.first < b.count)
    shared.count = min_u64 (a.count - (first - a.first), b.count - (first - b.first));
  return shared;
}

bool
mf_run_from_bytes (uint64_t offset, uint64_t length, uint32_t page_bytes, uint64_t n_pages, mf_run *out)
{
  assert (page_bytes > 0);
  if (length > UINT64_MAX - offset)
    return false;

  uint64_t end = offset + length;
  uint64_t first = offset / page_bytes;
  uint64_t end_page = end / page_bytes + (end % page_bytes != 0);
  if (end_page > n_pages)
    return false;

  *out = (mf_run){ first, length == 0 ? 0 : end_page - first };
  return true;
}

mf_run
mf_run_align (mf_run run, uint64_t granule, uint64_t n_pages)
{
  assert (granule > 0 && (granule & (granule - 1)) == 0);

  mf_run wide = { min_u64 (run.first & ~(granule - 1), n_pages), 0 };
  if (run.count == 0 || run.first >= n_pages)
    return wide;

  uint64_t end = run.count > n_pages - run.first ? n_pages : run.first + run.count;
  uint64_t missing = -end & (granule - 1); /* up to the next multiple */
  end = missing > n_pages - end ? n_pages : end + missing;
  wide.count = end - wide.first;
  return wide;
}
