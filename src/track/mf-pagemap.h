/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The pagemap tracker's engine: which pages of its mappings a program has written, by asynchronous write protection and PAGEMAP_SCAN (Linux
 * 6.7). The first write to a page after a scan costs the program about a microsecond, later ones nothing.
 *
 * Exact for writes through the mappings, read(2) into them and O_DIRECT reads that complete between two scans. Not seen: an O_DIRECT read in flight
 * across a scan (docs/design.md says what is done about that), writes by other processes or by pwrite() to the file, holes punched.
 *
 * Threads: any, one at a time.
 */
#include "core/mf-bitmap.h"
#include "track/mf-mapping.h"

G_BEGIN_DECLS

typedef struct _mf_pagemap mf_pagemap;

/* `uffd` (with MF_UFFD_TRACK_FEATURES) and `pagemap_fd` (the program's /proc/PID/pagemap) stay the caller's, and so does `set`. */
mf_pagemap *mf_pagemap_new (int uffd, int pagemap_fd, const mf_mapping_set *set);
/* Stops it first. */
void mf_pagemap_free (mf_pagemap *pagemap);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_pagemap, mf_pagemap_free)

/* As mf_tracker_ops. */
gboolean mf_pagemap_start (mf_pagemap *pagemap, GError **error);
/* MF_ERROR_PROGRAM: the program is gone, or has replaced its mapping: what it wrote last is not known. */
gboolean mf_pagemap_collect (mf_pagemap *pagemap, mf_bitmap *written, GError **error);
void mf_pagemap_stop (mf_pagemap *pagemap);

/* Whether this kernel can do it; MF_ERROR_NOT_SUPPORTED. */
gboolean mf_pagemap_check (GError **error);

G_END_DECLS
