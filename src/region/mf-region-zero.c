/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-region-private.h"

/*
 * Zeroes written through the region. Whole pages become holes, under their stripe; the rest is written as bytes.
 */

/* What write() gets at once. */
static const uint8_t zeroes[64 << 10];

static gboolean
write_zeroes (MfRegion *region, uint64_t offset, uint64_t length, GCancellable *cancellable, GError **error)
{
  while (length > 0) {
    size_t part = (size_t) MIN (length, sizeof zeroes - offset % sizeof zeroes);

    if (!mf_region_write (region, offset, zeroes, part, cancellable, error))
      return FALSE;
    offset += part;
    length -= part;
  }
  return TRUE;
}

/* The program is told of pages that became PRESENT without a put. */
static void
tell_present (MfRegion *region, mf_run run)
{
  const mf_attachment_ops *ops;
  mf_guest guest;
  guint ticket;

  guest = mf_gate_enter (&region->attachment, &ticket);
  ops = guest.ops;
  if (ops != NULL && ops->present != NULL)
    ops->present (guest.data, run);
  mf_gate_leave (&region->attachment, ticket);
  mf_region_wake_waiters (region);
}

/* Makes a hole of pages that lie in one stripe. */
static gboolean
punch_pages (MfRegion *region, mf_run run, GError **error)
{
  gboolean were_present, ok;
  uint64_t offset, length;

  mf_region_bytes_of (region, run, &offset, &length);
  mf_region_stripe_lock (region, run.first);
  were_present = mf_region_is_present (region, run);
  if (were_present && mf_store_data_from (region->store, offset) >= offset + length) {
    mf_region_stripe_unlock (region, run.first);
    return TRUE;
  }
  mf_region_note_writing (region, run);
  ok = mf_store_punch (region->store, offset, length, error);
  if (ok)
    mf_page_map_apply_run (region->map, run, MF_PAGE_WRITE, NULL);
  mf_region_note_settled (region, run);
  mf_region_stripe_unlock (region, run.first);

  mf_dirty_log_note (region->log, run);
  if (ok && !were_present)
    tell_present (region, run);
  return ok;
}

/* Whole pages. */
static gboolean
zero_pages (MfRegion *region, mf_run run, GCancellable *cancellable, GError **error)
{
  for (uint64_t page = run.first; page < run.first + run.count;) {
    mf_run part = mf_region_stripe_part (run, page);
    g_autoptr (GError) why = NULL;
    uint64_t offset, length;

    if (!punch_pages (region, part, &why)) {
      if (!g_error_matches (why, MF_ERROR, MF_ERROR_NOT_SUPPORTED)) {
        g_propagate_error (error, g_steal_pointer (&why));
        return FALSE;
      }
      /* A file system without holes. */
      mf_region_bytes_of (region, part, &offset, &length);
      if (!write_zeroes (region, offset, length, cancellable, error))
        return FALSE;
    }
    page += part.count;
  }
  return TRUE;
}

gboolean
mf_region_zero (MfRegion *region, uint64_t offset, uint64_t length, gboolean punch, GCancellable *cancellable,
                GError **error)
{
  const uint64_t page_bytes = region->page_bytes, end = offset + length;
  uint64_t first, past, start, stop;

  if (length > region->size_bytes || offset > region->size_bytes - length) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
                 "%" G_GUINT64_FORMAT " zeroes at %" G_GUINT64_FORMAT
                 " pass the end of region %s at %" G_GUINT64_FORMAT,
                 length, offset, region->name, region->size_bytes);
    return FALSE;
  }
  first = (offset + page_bytes - 1) / page_bytes;
  past = end == region->size_bytes ? region->n_pages : end / page_bytes;
  if (!punch || first >= past)
    return write_zeroes (region, offset, length, cancellable, error);

  start = first * page_bytes;
  stop = MIN (past * page_bytes, end);
  return write_zeroes (region, offset, start - offset, cancellable, error) &&
         zero_pages (region, (mf_run){ first, past - first }, cancellable, error) &&
         write_zeroes (region, stop, end - stop, cancellable, error);
}
