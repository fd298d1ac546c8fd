/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A tracker: how writes to a region are noticed. The interface; src/track has the implementations.
 */
#include "core/mf-bitmap.h"
#include "mf-error.h"

G_BEGIN_DECLS

typedef struct _mf_tracker mf_tracker;

typedef struct {
  /* Begins to watch. What was written before is not reported; what is written from the return on is. */
  gboolean (*start) (mf_tracker *tracker, GError **error);
  /* Sets in `written` the pages written since the last collect (or start), and watches them again from before the return: a page written
   * during the call is in this result or in the next. Never sets a page that was not written. One caller at a time. */
  gboolean (*collect) (mf_tracker *tracker, mf_bitmap *written, GError **error);
  /* Ends watching: writes cost nothing from here on. Harmless when not started. */
  void (*stop) (mf_tracker *tracker);
  void (*free) (mf_tracker *tracker);
} mf_tracker_ops;

struct _mf_tracker {
  const mf_tracker_ops *ops;
};

G_END_DECLS
