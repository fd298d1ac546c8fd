/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "track/mf-mapping.h"

/* Far above what any architecture gives a program; keeps every sum below from overflowing. */
#define ADDRESS_LIMIT (UINT64_C (1) << 62)

static gboolean
check (const mf_mapping *mapping, uint64_t region_end, uint32_t page_bytes, GError **error)
{
  const uint64_t mask = page_bytes - 1;

  if (mapping->length == 0 || mapping->length > region_end || (mapping->address & mask) != 0 ||
      (mapping->offset & mask) != 0 || mapping->address > ADDRESS_LIMIT) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
                 "a mapping of %" G_GUINT64_FORMAT " bytes at %#" G_GINT64_MODIFIER "x of offset %" G_GUINT64_FORMAT
                 " can't be one of the region",
                 mapping->length, mapping->address, mapping->offset);
    return FALSE;
  }
  if (mapping->offset > region_end || ((mapping->length + mask) & ~mask) > region_end - mapping->offset) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
                 "the mapping of %" G_GUINT64_FORMAT " bytes from offset %" G_GUINT64_FORMAT
                 " on passes the region's end, %" G_GUINT64_FORMAT,
                 mapping->length, mapping->offset, region_end);
    return FALSE;
  }
  return TRUE;
}

mf_mapping_set *
mf_mapping_set_new (const mf_mapping *mappings, guint n_mappings, uint64_t size_bytes, uint32_t page_bytes,
                    GError **error)
{
  const uint64_t mask = page_bytes - 1;
  g_autofree mf_mapping_set *set = NULL;

  if (n_mappings == 0 || n_mappings > MF_MAPPINGS_MAX || size_bytes > ADDRESS_LIMIT) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%u mappings: there must be 1 to %u", n_mappings, MF_MAPPINGS_MAX);
    return NULL;
  }
  set = g_malloc0 (sizeof *set + n_mappings * sizeof (mf_mapping));
  set->size_bytes = size_bytes;
  set->page_bytes = page_bytes;
  set->count = n_mappings;
  for (guint i = 0; i < n_mappings; i++) {
    if (!check (&mappings[i], (size_bytes + mask) & ~mask, page_bytes, error))
      return NULL;
    set->items[i] = mappings[i];
    set->items[i].length = (mappings[i].length + mask) & ~mask;
  }
  return g_steal_pointer (&set);
}

bool
mf_mapping_set_page_at (const mf_mapping_set *set, uint64_t address, uint64_t *page)
{
  for (guint i = 0; i < set->count; i++) {
    const mf_mapping *mapping = &set->items[i];

    if (address >= mapping->address && address - mapping->address < mapping->length) {
      *page = (mapping->offset + (address - mapping->address)) / set->page_bytes;
      return true;
    }
  }
  return false;
}

bool
mf_mapping_shows (const mf_mapping_set *set, const mf_mapping *mapping, mf_run run, mf_run *part, uint64_t *address)
{
  const mf_run shown = { mapping->offset / set->page_bytes, mapping->length / set->page_bytes };

  *part = mf_run_intersect (run, shown);
  *address = mapping->address + (part->first - shown.first) * set->page_bytes;
  return part->count > 0;
}

bool
mf_mapping_set_first (const mf_mapping_set *set, mf_run run, mf_run *part, uint64_t *address)
{
  mf_run gap = run;

  for (guint i = 0; i < set->count; i++) {
    if (!mf_mapping_shows (set, &set->items[i], run, part, address))
      continue;
    if (part->first == run.first)
      return true;
    gap.count = MIN (gap.count, part->first - run.first);
  }
  *part = gap;
  return false;
}
