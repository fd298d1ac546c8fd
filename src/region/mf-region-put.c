/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-region-private.h"

#include <string.h>

/*
 * What a pull brought goes down, in pieces that lie in one stripe and are either all bytes or all hole.
 *
 *                  no attachment                    with an attachment
 *   KEEP bytes     stripe; pwrite where WANTED      its put() where WANTED; the kernel keeps what is there
 *   KEEP hole      stripe; punch where WANTED       its present()
 *   REPLACE bytes  stripe; pwrite                   its put() where not PRESENT, stripe and pwrite elsewhere
 *   REPLACE hole   stripe; punch                    the same, its present()
 *
 * then, in every case, the map says PRESENT. A punch is made only where the store has data: it goes by the store, not by the map, so
 * that nothing that a failed put left behind is taken for the page. In KEEP the pages of the run have been claimed by the caller, so ARRIVE is for them, and
 * on a page that was written meanwhile it ends the late pull.
 */

typedef struct {
  MfRegion *region;
  mf_run run; /* of the whole put */
  const uint8_t *bytes;
  const uint64_t *holes;
  const mf_attachment_ops *ops; /* NULL: no attachment */
  gpointer attachment;
} Put;

static gboolean
is_hole (const Put *put, uint64_t page)
{
  uint64_t n = page - put->run.first;

  return put->holes != NULL && (put->holes[n / 64] >> (n % 64) & 1) != 0;
}

/* The pages from the first of `run` on that are hole, or not, as that one is. */
static mf_run
alike (const Put *put, mf_run run, gboolean *hole)
{
  uint64_t count = 1;

  *hole = is_hole (put, run.first);
  while (count < run.count && is_hole (put, run.first + count) == *hole)
    count++;
  return (mf_run){ run.first, count };
}

static mf_run
rest_after (mf_run run, mf_run done)
{
  uint64_t end = done.first + done.count;

  return (mf_run){ end, run.first + run.count - end };
}

static const uint8_t *
bytes_of (const Put *put, mf_run run)
{
  return put->bytes + (run.first - put->run.first) * put->region->page_bytes;
}

static gboolean
write_run (const Put *put, mf_run run, gboolean fresh, GError **error)
{
  uint64_t offset, length;

  mf_region_bytes_of (put->region, run, &offset, &length);
  return (fresh ? mf_store_write_fresh : mf_store_write) (put->region->store, offset, bytes_of (put, run), length,
                                                          error);
}

static gboolean
punch_run (const Put *put, mf_run run, GError **error)
{
  uint64_t offset, length;

  mf_region_bytes_of (put->region, run, &offset, &length);
  if (mf_store_data_from (put->region->store, offset) >= offset + length)
    return TRUE;
  return mf_store_punch (put->region->store, offset, length, error);
}

/* The attachment takes whole pages: of a region's short last page, the rest is zeroes. `kept` is empty. */
static gboolean
put_attached (const Put *put, mf_run run, mf_bitmap *kept, GError **error)
{
  MfRegion *region = put->region;
  uint64_t offset, length;
  mf_run tail = { run.first + run.count - 1, 1 };
  g_autofree uint8_t *padded = NULL;

  mf_region_bytes_of (region, run, &offset, &length);
  if (length == run.count * region->page_bytes)
    return put->ops->put (put->attachment, run, bytes_of (put, run), kept, error);

  padded = g_malloc0 (region->page_bytes);
  memcpy (padded, bytes_of (put, tail), length % region->page_bytes);
  if (!put->ops->put (put->attachment, tail, padded, kept, error))
    return FALSE;
  if (kept != NULL && mf_bitmap_clear (kept, 0))
    mf_bitmap_set (kept, run.count - 1);
  return run.count == 1 ||
         put->ops->put (put->attachment, (mf_run){ run.first, run.count - 1 }, bytes_of (put, run), kept, error);
}

void
mf_region_discard_missing (MfRegion *region, mf_run run)
{
  for (uint64_t page = run.first; page < run.first + run.count; page++) {
    uint64_t offset, length;

    mf_region_bytes_of (region, (mf_run){ page, 1 }, &offset, &length);
    /* Best effort: the store fails already, and the caller reports that. */
    if ((mf_page_map_state (region->map, page) & MF_PAGE_PRESENT) == 0)
      mf_store_punch (region->store, offset, length, NULL);
  }
}

/* Puts down what is still WANTED in `part`. */
static gboolean
keep_wanted (const Put *put, mf_run part, GError **error)
{
  MfRegion *region = put->region;
  mf_run rest = part, wanted;

  while (rest.count > 0 && mf_page_map_next_run (region->map, rest, MF_PAGE_WANTED, &wanted)) {
    gboolean hole;
    mf_run run = alike (put, wanted, &hole);
    gboolean ok = TRUE;

    if (put->ops == NULL)
      ok = hole ? punch_run (put, run, error) : write_run (put, run, TRUE, error);
    else if (!hole)
      ok = put_attached (put, run, NULL, error);
    if (!ok)
      return FALSE;
    rest = rest_after (part, run);
  }
  return TRUE;
}

static void
tell_of_holes (const Put *put, mf_run part)
{
  if (put->ops == NULL || put->ops->present == NULL)
    return;
  while (part.count > 0) {
    gboolean hole;
    mf_run run = alike (put, part, &hole);

    if (hole)
      put->ops->present (put->attachment, run);
    part = rest_after (part, run);
  }
}

static gboolean
keep_part (const Put *put, mf_run part, GError **error)
{
  MfRegion *region = put->region;
  gboolean ok;

  if (put->ops == NULL)
    mf_region_stripe_lock (region, part.first);
  ok = keep_wanted (put, part, error);
  if (ok)
    mf_page_map_apply_run (region->map, part, MF_PAGE_ARRIVE, NULL);
  else if (put->ops == NULL)
    mf_region_discard_missing (region, part);
  if (put->ops == NULL)
    mf_region_note_settled (region, part);
  if (put->ops == NULL)
    mf_region_stripe_unlock (region, part.first);

  if (ok)
    tell_of_holes (put, part);
  return ok;
}

static gboolean
write_run_locked (const Put *put, mf_run run, GError **error)
{
  gboolean ok;

  mf_region_stripe_lock (put->region, run.first);
  ok = write_run (put, run, FALSE, error);
  mf_region_stripe_unlock (put->region, run.first);
  return ok;
}

/* Puts `run`, none of it PRESENT, through the attachment; what the store has nevertheless is written over. */
static gboolean
replace_missing_attached (const Put *put, mf_run run, GError **error)
{
  static GPrivate per_thread = G_PRIVATE_INIT ((GDestroyNotify) mf_bitmap_free);
  mf_bitmap *kept = g_private_get (&per_thread);
  mf_run rest = { 0, run.count };
  mf_run there;

  if (kept == NULL) {
    kept = mf_bitmap_new (MF_REGION_STRIPE_PAGES);
    g_private_set (&per_thread, kept);
  }
  mf_bitmap_clear_run (kept, (mf_run){ 0, MF_REGION_STRIPE_PAGES });
  if (!put_attached (put, run, kept, error))
    return FALSE;
  while (rest.count > 0 && mf_bitmap_next_run (kept, rest, true, &there)) {
    if (!write_run_locked (put, (mf_run){ run.first + there.first, there.count }, error))
      return FALSE;
    rest = rest_after ((mf_run){ 0, run.count }, there);
  }
  return TRUE;
}

static gboolean
replace_bytes_attached (const Put *put, mf_run run, GError **error)
{
  MfRegion *region = put->region;
  mf_run rest = run;

  while (rest.count > 0) {
    mf_run present = { rest.first + rest.count, 0 };
    mf_run missing;

    mf_page_map_next_run (region->map, rest, MF_PAGE_PRESENT, &present);
    missing = (mf_run){ rest.first, present.first - rest.first };
    if (missing.count > 0 && !replace_missing_attached (put, missing, error))
      return FALSE;
    if (present.count > 0 && !write_run_locked (put, present, error))
      return FALSE;
    rest = rest_after (run, present);
  }
  return TRUE;
}

/* By the first page: a run that is partly there is written all the same. */
static gboolean
replace_bytes (const Put *put, mf_run run, GError **error)
{
  gboolean present = (mf_page_map_state (put->region->map, run.first) & MF_PAGE_PRESENT) != 0;

  return write_run (put, run, !present, error);
}

static gboolean
replace_part (const Put *put, mf_run part, GError **error)
{
  MfRegion *region = put->region;
  gboolean hole, ok = TRUE;

  for (mf_run rest = part; ok && rest.count > 0;) {
    mf_run run = alike (put, rest, &hole);
    gboolean attached = !hole && put->ops != NULL;

    /* The program stands still, so the stripe is for readers and writers through the region. */
    if (!attached)
      mf_region_stripe_lock (region, part.first);
    if (hole)
      ok = punch_run (put, run, error);
    else
      ok = attached ? replace_bytes_attached (put, run, error) : replace_bytes (put, run, error);
    if (ok) {
      mf_page_map_apply_run (region->map, run, MF_PAGE_CLAIM, NULL);
      mf_page_map_apply_run (region->map, run, MF_PAGE_ARRIVE, NULL);
    } else if (!attached) {
      mf_region_discard_missing (region, run);
    }
    if (!attached)
      mf_region_stripe_unlock (region, part.first);
    rest = rest_after (rest, run);
  }
  if (ok)
    tell_of_holes (put, part);
  return ok;
}

gboolean
mf_region_put (MfRegion *region, mf_run run, const void *bytes, const uint64_t *holes, MfPutMode mode, GError **error)
{
  Put put = { region, run, bytes, holes };
  gboolean ok = TRUE;
  mf_guest guest;
  guint ticket;

  g_return_val_if_fail (run.first <= region->n_pages && run.count <= region->n_pages - run.first, FALSE);

  guest = mf_gate_enter (&region->attachment, &ticket);
  put.ops = guest.ops;
  put.attachment = guest.data;
  for (uint64_t page = run.first; ok && page < run.first + run.count;) {
    mf_run part = mf_region_stripe_part (run, page);

    ok = mode == MF_PUT_KEEP ? keep_part (&put, part, error) : replace_part (&put, part, error);
    page += part.count;
  }
  mf_gate_leave (&region->attachment, ticket);

  mf_region_wake_waiters (region);
  if (!ok)
    g_prefix_error (error, "putting down pages of region %s: ", region->name);
  return ok;
}
