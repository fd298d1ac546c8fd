/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-region-private.h"

/*
 * Reading and writing through the region, and waiting for pages.
 *
 * A waiter counts itself in `waiters` before it looks at the page map, and who makes a page PRESENT reads that counter after it
 * changed the map, both by read-modify-write of the counter: one of the two comes first, so either the waiter sees the page or it is woken.
 */

typedef struct {
  mf_region_fetcher fetcher;
  gpointer user_data;
} FetcherCall;

void
mf_region_io_init (MfRegion *region)
{
  mf_gate_init (&region->fetcher);
  g_mutex_init (&region->wait_lock);
  region->wait_limit_usec = -1;
  g_cond_init (&region->arrived);
}

void
mf_region_io_clear (MfRegion *region)
{
  g_free (region->fetcher.guest.data);
  mf_gate_clear (&region->fetcher);
  g_mutex_clear (&region->wait_lock);
  g_cond_clear (&region->arrived);
}

void
mf_region_set_fetcher (MfRegion *region, mf_region_fetcher fetcher, gpointer user_data)
{
  FetcherCall *call = NULL;
  mf_guest former;

  if (fetcher != NULL) {
    call = g_new (FetcherCall, 1);
    *call = (FetcherCall){ fetcher, user_data };
  }
  mf_gate_set (&region->fetcher, NULL, (mf_guest){ call, call }, &former);
  g_free (former.data);

  /* Who waits asks the new one, or gives up. */
  g_mutex_lock (&region->wait_lock);
  region->has_fetcher = fetcher != NULL;
  region->fetcher_changes++;
  g_cond_broadcast (&region->arrived);
  g_mutex_unlock (&region->wait_lock);
}

void
mf_region_set_wait_limit (MfRegion *region, gint64 usec)
{
  g_mutex_lock (&region->wait_lock);
  region->wait_limit_usec = usec;
  g_mutex_unlock (&region->wait_lock);
}

static void
broadcast (MfRegion *region)
{
  g_mutex_lock (&region->wait_lock);
  g_cond_broadcast (&region->arrived);
  g_mutex_unlock (&region->wait_lock);
}

void
mf_region_wake_waiters (MfRegion *region)
{
  if (g_atomic_int_add (&region->waiters, 0) > 0)
    broadcast (region);
}

static void
on_cancelled (GCancellable *cancellable, gpointer user_data)
{
  broadcast (user_data);
}

/* Asks for what is not PRESENT in `run`. */
static void
ask_fetcher (MfRegion *region, mf_run run)
{
  guint ticket;
  FetcherCall *call = mf_gate_enter (&region->fetcher, &ticket).data;
  mf_run rest = run;

  while (call != NULL && rest.count > 0) {
    mf_run present = { rest.first + rest.count, 0 };

    mf_page_map_next_run (region->map, rest, MF_PAGE_PRESENT, &present);
    if (present.first > rest.first)
      call->fetcher ((mf_run){ rest.first, present.first - rest.first }, call->user_data);
    rest = (mf_run){ present.first + present.count, run.first + run.count - present.first - present.count };
  }
  mf_gate_leave (&region->fetcher, ticket);
}

/* Waits until all of `run` was PRESENT at one moment. */
static gboolean
wait_present (MfRegion *region, mf_run run, GCancellable *cancellable, GError **error)
{
  gboolean present, cancelled = FALSE, has_fetcher = TRUE, late = FALSE;
  gulong handler = 0;
  gint64 deadline;

  g_atomic_int_inc (&region->waiters);
  if (cancellable != NULL)
    handler = g_cancellable_connect (cancellable, G_CALLBACK (on_cancelled), region, NULL);

  g_mutex_lock (&region->wait_lock);
  guint asked = region->fetcher_changes - 1;
  deadline = region->wait_limit_usec < 0 ? -1 : g_get_monotonic_time () + region->wait_limit_usec;
  while (!(present = mf_region_is_present (region, run)) && !(cancelled = g_cancellable_is_cancelled (cancellable)) &&
         (has_fetcher = region->has_fetcher) && !late) {
    if (asked == region->fetcher_changes) {
      if (deadline < 0)
        g_cond_wait (&region->arrived, &region->wait_lock);
      else
        late = !g_cond_wait_until (&region->arrived, &region->wait_lock, deadline);
      continue;
    }
    asked = region->fetcher_changes;
    g_mutex_unlock (&region->wait_lock);
    ask_fetcher (region, run);
    g_mutex_lock (&region->wait_lock);
  }
  g_mutex_unlock (&region->wait_lock);

  g_cancellable_disconnect (cancellable, handler);
  g_atomic_int_add (&region->waiters, -1);
  if (present)
    return TRUE;
  if (cancelled)
    g_set_error (error, MF_ERROR, MF_ERROR_CANCELLED, "waiting for pages of region %s was cancelled", region->name);
  else if (late)
    g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT, "page %" G_GUINT64_FORMAT " of region %s did not come in time",
                 run.first, region->name);
  else if (!has_fetcher)
    g_set_error (error, MF_ERROR, MF_ERROR_IO,
                 "page %" G_GUINT64_FORMAT " of region %s is not here and nothing brings it", run.first, region->name);
  return FALSE;
}

static gboolean
check_range (MfRegion *region, uint64_t offset, size_t length, mf_run *run, GError **error)
{
  if (length <= region->size_bytes && offset <= region->size_bytes - length)
    return mf_run_from_bytes (offset, length, region->page_bytes, region->n_pages, run);
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
               "%" G_GSIZE_FORMAT " bytes at %" G_GUINT64_FORMAT " pass the end of region %s at %" G_GUINT64_FORMAT,
               length, offset, region->name, region->size_bytes);
  return FALSE;
}

/* What of the `length` bytes at `offset` lies in the stripe of the first. */
static size_t
bytes_in_stripe (MfRegion *region, uint64_t offset, size_t length)
{
  const uint64_t stripe_bytes = (uint64_t) MF_REGION_STRIPE_PAGES * region->page_bytes;

  return (size_t) MIN (length, stripe_bytes - offset % stripe_bytes);
}

gboolean
mf_region_read (MfRegion *region, uint64_t offset, void *buffer, size_t length, GCancellable *cancellable,
                GError **error)
{
  uint8_t *to = buffer;
  gboolean asked = FALSE;
  mf_run whole;

  if (!check_range (region, offset, length, &whole, error))
    return FALSE;
  while (length > 0) {
    size_t part_bytes = bytes_in_stripe (region, offset, length);
    gboolean present, ok = TRUE;
    mf_run run;

    mf_run_from_bytes (offset, part_bytes, region->page_bytes, region->n_pages, &run);
    mf_region_stripe_lock (region, run.first);
    present = mf_region_is_present (region, run);
    if (present)
      ok = mf_store_read (region->store, offset, to, part_bytes, error);
    mf_region_stripe_unlock (region, run.first);
    if (!ok)
      return FALSE;
    if (!present) {
      /* All that is not here is asked for at once, and the first part of it is waited for. */
      if (!asked && run.first + run.count < whole.first + whole.count)
        ask_fetcher (region, (mf_run){ run.first, whole.first + whole.count - run.first });
      asked = TRUE;
      if (!wait_present (region, run, cancellable, error))
        return FALSE;
      continue;
    }
    to += part_bytes;
    offset += part_bytes;
    length -= part_bytes;
  }
  return TRUE;
}

/* The pages of `run` that a write of [offset, offset + length) does not cover whole: at most two. The region's last page is whole when the
 * write goes up to the region's end. */
static guint
partial_pages (MfRegion *region, mf_run run, uint64_t offset, size_t length, mf_run partial[2])
{
  const uint64_t end = offset + length;
  const uint64_t last = run.first + run.count - 1;
  gboolean head = offset % region->page_bytes != 0;
  gboolean tail = end % region->page_bytes != 0 && end != region->size_bytes;
  guint n = 0;

  if (head || (tail && run.count == 1))
    partial[n++] = (mf_run){ run.first, 1 };
  if (tail && run.count > 1)
    partial[n++] = (mf_run){ last, 1 };
  return n;
}

typedef enum {
  PART_WRITTEN,
  PART_WAITS, /* for the page in `missing` */
  PART_FAILED,
} PartResult;

/* Writes what lies in one stripe. */
static PartResult
write_part (MfRegion *region, uint64_t offset, const uint8_t *from, size_t length, mf_run *missing, GError **error)
{
  gboolean were_present, ok;
  mf_run partial[2], run;
  mf_guest guest;
  guint n_partial, ticket;

  mf_run_from_bytes (offset, length, region->page_bytes, region->n_pages, &run);
  n_partial = partial_pages (region, run, offset, length, partial);

  mf_region_stripe_lock (region, run.first);
  for (guint i = 0; i < n_partial; i++) {
    if (!mf_region_is_present (region, partial[i])) {
      mf_region_stripe_unlock (region, run.first);
      *missing = partial[i];
      return PART_WAITS;
    }
  }
  were_present = mf_region_is_present (region, run);
  mf_region_note_writing (region, run);
  ok = mf_store_write (region->store, offset, from, length, error);
  if (ok)
    mf_page_map_apply_run (region->map, run, MF_PAGE_WRITE, NULL);
  else
    mf_region_discard_missing (region, run);
  mf_region_note_settled (region, run);
  mf_region_stripe_unlock (region, run.first);

  /* After the bytes: who clears the bit reads what was written. Also when the write failed: a part of it may be there. */
  mf_dirty_log_note (region->log, run);
  if (ok && !were_present) {
    guest = mf_gate_enter (&region->attachment, &ticket);
    if (guest.ops != NULL && ((const mf_attachment_ops *) guest.ops)->present != NULL)
      ((const mf_attachment_ops *) guest.ops)->present (guest.data, run);
    mf_gate_leave (&region->attachment, ticket);
    mf_region_wake_waiters (region);
  }
  return ok ? PART_WRITTEN : PART_FAILED;
}

gboolean
mf_region_write (MfRegion *region, uint64_t offset, const void *buffer, size_t length, GCancellable *cancellable,
                 GError **error)
{
  const uint8_t *from = buffer;
  mf_run whole, missing;

  if (!check_range (region, offset, length, &whole, error))
    return FALSE;
  while (length > 0) {
    size_t part_bytes = bytes_in_stripe (region, offset, length);

    switch (write_part (region, offset, from, part_bytes, &missing, error)) {
    case PART_FAILED:
      return FALSE;
    case PART_WAITS:
      if (!wait_present (region, missing, cancellable, error))
        return FALSE;
      break;
    case PART_WRITTEN:
      from += part_bytes;
      offset += part_bytes;
      length -= part_bytes;
      break;
    }
  }
  return TRUE;
}
