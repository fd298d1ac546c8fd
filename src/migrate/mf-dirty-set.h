/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A dirty set on its way to the target, with the order in which it is worth pulling: a(yay), each element a heat class and the run list
 * (core/mf-run-list.h) of the pages in it. A page is in one class. Class 0 is the hottest: written before each of the two latest scans; then before the latest; before one of
 * the last four; not lately.
 */
#include "core/mf-bitmap.h"
#include "mf-error.h"
#include "region/mf-dirty-log.h"

G_BEGIN_DECLS

#define MF_HEAT_CLASSES 4

guint mf_heat_class (guint8 heat);

/* (transfer floating), or NULL with MF_ERROR_NO_SPACE. */
GVariant *mf_dirty_set_pack (const mf_bitmap *set, mf_dirty_log *log, GError **error);
/* Adds the pages to `by_class`, and to `all`. Everything from the wire is checked against the bitmaps' size. */
gboolean mf_dirty_set_unpack (GVariant *packed, mf_bitmap *const by_class[MF_HEAT_CLASSES], mf_bitmap *all,
                              GError **error);

G_END_DECLS
