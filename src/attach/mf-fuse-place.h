/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Where a file is mounted: looking whether that is possible, before anybody tries.
 */
#include "mf-error.h"

G_BEGIN_DECLS

/* Makes `path` ready to be mounted over. `made`: it was made, and is to be removed afterwards. */
gboolean mf_fuse_place_prepare (const char *path, gboolean *made, GError **error);

G_END_DECLS
