/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The regions of this host: made, found again after a restart, found by name or by file, removed; and which program has each mapped.
 *
 * A region NAME is the file NAME in the folder of the stores. What else is known of it and must survive the service is in NAME.region, a
 * key file (migrations keep NAME.state beside it); so names with ".region" or ".state" in them can't be regions.
 *
 * Functions may be called from any thread. They block on the file system only.
 */
#include "attach/mf-userfault.h"
#include "region/mf-region.h"

G_BEGIN_DECLS

typedef struct _MfRegionSet MfRegionSet;

MfRegionSet *mf_region_set_new (const char *folder);
void mf_region_set_free (MfRegionSet *set);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (MfRegionSet, mf_region_set_free)

/* Makes regions of all files in the folder whose names are regions' names. What can't be one is left alone and logged. */
gboolean mf_region_set_scan (MfRegionSet *set, GError **error);

/* Makes a region with its room reserved. The file belongs to `owner` then. MF_ERROR_INVALID, _EXISTS, _NO_SPACE, ... */
gboolean mf_region_set_create (MfRegionSet *set, const char *name, guint64 size, uid_t owner, GError **error);
/* Removes the region and its files; its memory is freed in a thread of its own, which may take a while. */
gboolean mf_region_set_remove (MfRegionSet *set, const char *name, GError **error);

/* The names, sorted. (transfer full) */
char **mf_region_set_names (MfRegionSet *set);
/* MF_ERROR_NOT_FOUND. (transfer full) */
MfRegion *mf_region_set_find (MfRegionSet *set, const char *name, GError **error);
/* The region whose file `fd` is. (transfer full) */
MfRegion *mf_region_set_find_file (MfRegionSet *set, int fd, GError **error);

/* The program's attachment; takes a reference. NULL: it has none any more. */
void mf_region_set_attach (MfRegionSet *set, MfRegion *region, MfUserfault *userfault);
/* NULL: no program has the region mapped. (transfer full) */
MfUserfault *mf_region_set_attachment (MfRegionSet *set, const char *name);
/* 0: none. */
pid_t mf_region_set_pid (MfRegionSet *set, const char *name);

/* The socket at which the region's program is controlled; remembered over restarts. NULL: not known. */
gboolean mf_region_set_control (MfRegionSet *set, const char *name, const char *control, GError **error);
char *mf_region_set_dup_control (MfRegionSet *set, const char *name);

/* The domain of libvirt whose memory it is, remembered over restarts as well; NULL: it is no domain's. `released`: the domain has ended, and the
 * region is to be removed as soon as nobody needs it. */
gboolean mf_region_set_domain (MfRegionSet *set, const char *name, const char *domain, gboolean released,
                               GError **error);
/* (transfer full) `released` is left alone when there is no such region. */
char *mf_region_set_dup_domain (MfRegionSet *set, const char *name, gboolean *released);
/* Which process the domain was, in the caller's words: remembered with the domain, NULL to forget. */
gboolean mf_region_set_process (MfRegionSet *set, const char *name, const char *process, GError **error);
/* (transfer full) NULL: not known. */
char *mf_region_set_dup_process (MfRegionSet *set, const char *name);

G_END_DECLS
