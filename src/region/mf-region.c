/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-region-private.h"

#include <errno.h>
#include <string.h>

G_DEFINE_FINAL_TYPE (MfRegion, mf_region, G_TYPE_OBJECT)

#define NAME_MAX_BYTES 64

static void
mf_region_finalize (GObject *object)
{
  MfRegion *region = MF_REGION (object);

  mf_region_io_clear (region);
  mf_gate_clear (&region->attachment);
  for (guint i = 0; i < MF_REGION_STRIPES; i++)
    g_mutex_clear (&region->stripes[i]);
  g_clear_pointer (&region->log, mf_dirty_log_free);
  g_clear_pointer (&region->map, mf_page_map_free);
  g_clear_pointer (&region->store, mf_store_unref);
  g_free (region->name);
  G_OBJECT_CLASS (mf_region_parent_class)->finalize (object);
}

static void
mf_region_class_init (MfRegionClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = mf_region_finalize;
}

static void
mf_region_init (MfRegion *region)
{
  mf_gate_init (&region->attachment);
  for (guint i = 0; i < MF_REGION_STRIPES; i++)
    g_mutex_init (&region->stripes[i]);
  mf_region_io_init (region);
}

gboolean
mf_region_name_is_valid (const char *name)
{
  size_t length;

  g_return_val_if_fail (name != NULL, FALSE);

  length = strlen (name);
  if (length == 0 || length > NAME_MAX_BYTES || name[0] == '.')
    return FALSE;
  for (size_t i = 0; i < length; i++) {
    if (!g_ascii_isalnum (name[i]) && strchr ("._-", name[i]) == NULL)
      return FALSE;
  }
  return TRUE;
}

MfRegion *
mf_region_new (const char *name, MfStore *store, GError **error)
{
  g_autoptr (MfRegion) region = NULL;

  g_return_val_if_fail (name != NULL && store != NULL, NULL);

  if (!mf_region_name_is_valid (name)) {
    g_set_error (
        error, MF_ERROR, MF_ERROR_INVALID,
        "\"%s\" can't be a region's name: it takes 1 to %d letters, digits, dots, dashes and underscores, not a dot "
        "first",
        name, NAME_MAX_BYTES);
    return NULL;
  }
  region = g_object_new (MF_TYPE_REGION, NULL);
  region->name = g_strdup (name);
  region->store = mf_store_ref (store);
  region->size_bytes = mf_store_size (store);
  region->page_bytes = mf_store_page_bytes (store);
  region->map = mf_page_map_new (region->size_bytes, region->page_bytes);
  if (region->map != NULL) {
    region->n_pages = mf_page_map_pages (region->map);
    region->log = mf_dirty_log_new (region->n_pages);
  }
  if (region->log == NULL) {
    mf_error_from_errno (error, errno, "making the page map of region %s", name);
    return NULL;
  }
  mf_region_set_all_present (region);
  return g_steal_pointer (&region);
}

const char *
mf_region_get_name (MfRegion *region)
{
  g_return_val_if_fail (MF_IS_REGION (region), NULL);
  return region->name;
}

uint64_t
mf_region_get_size (MfRegion *region)
{
  g_return_val_if_fail (MF_IS_REGION (region), 0);
  return region->size_bytes;
}

uint32_t
mf_region_page_bytes (MfRegion *region)
{
  return region->page_bytes;
}

uint64_t
mf_region_n_pages (MfRegion *region)
{
  return region->n_pages;
}

MfStore *
mf_region_store (MfRegion *region)
{
  return region->store;
}

mf_page_map *
mf_region_map (MfRegion *region)
{
  return region->map;
}

mf_dirty_log *
mf_region_dirty_log (MfRegion *region)
{
  return region->log;
}

void
mf_region_bytes_of (MfRegion *region, mf_run run, uint64_t *offset, uint64_t *length)
{
  *offset = run.first * region->page_bytes;
  *length = MIN (run.count * region->page_bytes, region->size_bytes - *offset);
}

gboolean
mf_region_attach (MfRegion *region, const mf_attachment_ops *ops, gpointer attachment, GError **error)
{
  const mf_guest none = { NULL, NULL };

  g_return_val_if_fail (ops != NULL && ops->put != NULL, FALSE);

  if (mf_gate_set (&region->attachment, &none, (mf_guest){ ops, attachment }, NULL))
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "region %s is attached to a program already", region->name);
  return FALSE;
}

void
mf_region_detach (MfRegion *region, gpointer attachment)
{
  guint ticket;
  mf_guest guest = mf_gate_enter (&region->attachment, &ticket);

  mf_gate_leave (&region->attachment, ticket);
  if (guest.ops != NULL && guest.data == attachment)
    mf_gate_set (&region->attachment, &guest, (mf_guest){ NULL, NULL }, NULL);
}

mf_run
mf_region_stripe_part (mf_run run, uint64_t page)
{
  uint64_t end = (page / MF_REGION_STRIPE_PAGES + 1) * MF_REGION_STRIPE_PAGES;

  return (mf_run){ page, MIN (end, run.first + run.count) - page };
}

static GMutex *
stripe_of (MfRegion *region, uint64_t page)
{
  return &region->stripes[page / MF_REGION_STRIPE_PAGES % MF_REGION_STRIPES];
}

void
mf_region_stripe_lock (MfRegion *region, uint64_t page)
{
  g_mutex_lock (stripe_of (region, page));
}

void
mf_region_stripe_unlock (MfRegion *region, uint64_t page)
{
  g_mutex_unlock (stripe_of (region, page));
}

void
mf_region_set_journal (MfRegion *region, const mf_region_journal_ops *ops, gpointer data)
{
  region->journal = ops;
  region->journal_data = data;
}

void
mf_region_note_writing (MfRegion *region, mf_run run)
{
  if (region->journal != NULL)
    region->journal->writing (region->journal_data, run);
}

void
mf_region_note_settled (MfRegion *region, mf_run run)
{
  if (region->journal != NULL)
    region->journal->settled (region->journal_data, run);
}

void
mf_region_visit_stripes (MfRegion *region, mf_run run, void (*visit) (mf_run part, gpointer data), gpointer data)
{
  for (uint64_t page = run.first; page < run.first + run.count;) {
    mf_run part = mf_region_stripe_part (run, page);

    mf_region_stripe_lock (region, page);
    visit (part, data);
    mf_region_stripe_unlock (region, page);
    page += part.count;
  }
}

gboolean
mf_region_is_present (MfRegion *region, mf_run run)
{
  mf_run present;

  return run.count == 0 ||
         (mf_page_map_next_run (region->map, run, MF_PAGE_PRESENT, &present) && present.count == run.count);
}

/* Whatever the pages of `run` were, they are MISSING, or a pull of them that is still under way is late. */
static gboolean
forget_run (MfRegion *region, mf_run run, GError **error)
{
  uint64_t offset, length;
  gboolean ok;

  mf_region_bytes_of (region, run, &offset, &length);
  mf_region_stripe_lock (region, run.first);
  /* What was written here and never sent is given up along with the rest. */
  mf_page_map_apply_run (region->map, run, MF_PAGE_READ_TO_SEND, NULL);
  /* The state first: a program that touches the hole finds it MISSING, and not PRESENT and zero. */
  mf_page_map_apply_run (region->map, run, MF_PAGE_INVALIDATE, NULL);
  ok = mf_store_punch (region->store, offset, length, error);
  mf_region_stripe_unlock (region, run.first);
  return ok;
}

gboolean
mf_region_peek_begin (MfRegion *region, guint *stamp)
{
  *stamp = (guint) g_atomic_int_get (&region->invalidations);
  return g_atomic_int_get (&region->invalidating) == 0;
}

gboolean
mf_region_peek_end (MfRegion *region, guint stamp)
{
  return (guint) g_atomic_int_get (&region->invalidations) == stamp;
}

static void
invalidation_begins (MfRegion *region)
{
  g_atomic_int_inc (&region->invalidating);
  g_atomic_int_inc (&region->invalidations);
}

static void
invalidation_ends (MfRegion *region)
{
  g_atomic_int_add (&region->invalidating, -1);
}

static gboolean
forget_pages (MfRegion *region, const mf_bitmap *pages, GError **error)
{
  mf_run rest = { 0, region->n_pages };
  mf_run run;

  while (rest.count > 0 && mf_bitmap_next_run (pages, rest, true, &run)) {
    for (uint64_t page = run.first; page < run.first + run.count;) {
      mf_run part = mf_region_stripe_part (run, page);

      if (!forget_run (region, part, error)) {
        g_prefix_error (error, "forgetting pages of region %s: ", region->name);
        return FALSE;
      }
      page += part.count;
    }
    rest = (mf_run){ run.first + run.count, region->n_pages - run.first - run.count };
  }
  return TRUE;
}

gboolean
mf_region_invalidate (MfRegion *region, const mf_bitmap *pages, GError **error)
{
  gboolean ok;

  g_return_val_if_fail (mf_bitmap_size (pages) == region->n_pages, FALSE);

  invalidation_begins (region);
  ok = forget_pages (region, pages, error);
  invalidation_ends (region);
  return ok;
}

gboolean
mf_region_reset (MfRegion *region, GError **error)
{
  const mf_run all = { 0, region->n_pages };
  gboolean ok;

  invalidation_begins (region);
  for (guint i = 0; i < MF_REGION_STRIPES; i++)
    g_mutex_lock (&region->stripes[i]);
  mf_page_map_apply_run (region->map, all, MF_PAGE_READ_TO_SEND, NULL);
  mf_page_map_apply_run (region->map, all, MF_PAGE_INVALIDATE, NULL);
  ok = mf_store_punch (region->store, 0, region->size_bytes, error);
  for (guint i = 0; i < MF_REGION_STRIPES; i++)
    g_mutex_unlock (&region->stripes[i]);
  invalidation_ends (region);
  if (!ok)
    g_prefix_error (error, "emptying region %s: ", region->name);
  return ok;
}

void
mf_region_set_all_present (MfRegion *region)
{
  const mf_run all = { 0, region->n_pages };

  mf_page_map_apply_run (region->map, all, MF_PAGE_CLAIM, NULL);
  mf_page_map_apply_run (region->map, all, MF_PAGE_ARRIVE, NULL);
  mf_region_wake_waiters (region);
}
