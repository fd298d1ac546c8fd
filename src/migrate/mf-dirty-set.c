/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "migrate/mf-dirty-set.h"

#include "core/mf-run-list.h"
#include <stdlib.h>

guint
mf_heat_class (guint8 heat)
{
  if (heat >= 12)
    return 0;
  if (heat >= 8)
    return 1;
  return heat > 0 ? 2 : 3;
}

static void
free_classes (mf_bitmap *by_class[MF_HEAT_CLASSES])
{
  for (guint i = 0; i < MF_HEAT_CLASSES; i++)
    g_clear_pointer (&by_class[i], mf_bitmap_free);
}

static gboolean
new_classes (mf_bitmap *by_class[MF_HEAT_CLASSES], uint64_t n_pages, GError **error)
{
  for (guint i = 0; i < MF_HEAT_CLASSES; i++) {
    by_class[i] = mf_bitmap_new (n_pages);
    if (by_class[i] == NULL) {
      free_classes (by_class);
      return mf_error_from_errno (error, ENOMEM, "sorting a dirty set");
    }
  }
  return TRUE;
}

GVariant *
mf_dirty_set_pack (const mf_bitmap *set, mf_dirty_log *log, GError **error)
{
  mf_bitmap *by_class[MF_HEAT_CLASSES] = { NULL };
  mf_run within = { 0, mf_bitmap_size (set) };
  GVariantBuilder builder;
  gboolean ok = TRUE;
  mf_run run;

  if (!new_classes (by_class, within.count, error))
    return NULL;
  while (within.count > 0 && mf_bitmap_next_run (set, within, true, &run)) {
    for (uint64_t page = run.first; page < run.first + run.count; page++)
      mf_bitmap_set (by_class[mf_heat_class (mf_dirty_log_heat (log, page))], page);
    within.count -= run.first + run.count - within.first;
    within.first = run.first + run.count;
  }

  g_variant_builder_init (&builder, G_VARIANT_TYPE ("a(yay)"));
  for (guint i = 0; i < MF_HEAT_CLASSES && ok; i++) {
    size_t length;
    uint8_t *bytes;

    if (mf_bitmap_count (by_class[i]) == 0)
      continue;
    bytes = mf_run_list_encode (by_class[i], &length);
    if (bytes == NULL)
      ok = mf_error_from_errno (error, ENOMEM, "encoding a dirty set");
    else
      g_variant_builder_add (&builder, "(y@ay)", (guchar) i,
                             g_variant_new_fixed_array (G_VARIANT_TYPE_BYTE, bytes, length, 1));
    free (bytes);
  }
  free_classes (by_class);
  if (!ok) {
    g_variant_builder_clear (&builder);
    return NULL;
  }
  return g_variant_builder_end (&builder);
}

gboolean
mf_dirty_set_unpack (GVariant *packed, mf_bitmap *const by_class[MF_HEAT_CLASSES], mf_bitmap *all, GError **error)
{
  GVariantIter iter;
  guchar heat_class;
  GVariant *list;

  g_variant_iter_init (&iter, packed);
  while (g_variant_iter_next (&iter, "(y@ay)", &heat_class, &list)) {
    g_autoptr (GVariant) owned = list;
    gsize length;
    const uint8_t *bytes = g_variant_get_fixed_array (owned, &length, 1);

    if (heat_class >= MF_HEAT_CLASSES || !mf_run_list_decode (bytes, length, by_class[heat_class])) {
      g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "the peer sent a dirty set that can't be read");
      return FALSE;
    }
    mf_bitmap_or (all, by_class[heat_class]);
  }
  return TRUE;
}
