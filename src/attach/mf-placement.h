/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Placement: puts pages down where a program sees them, by UFFDIO_COPY: atomically, never over what is there, and waking who waits.
 *
 * What no mapping shows (the program unmapped it, or is gone) goes into the store itself, where nothing is yet. Nobody else may
 * write there then, which the outside lock makes sure of: a mapping that is new is made known under it.
 *
 * Threads: any, several at once.
 */
#include "region/mf-region.h"
#include "track/mf-mapping.h"

G_BEGIN_DECLS

typedef struct _mf_placement mf_placement;

/* `uffd` stays the caller's. Takes `set` over. Nothing is registered yet. */
mf_placement *mf_placement_new (MfRegion *region, int uffd, mf_mapping_set *set, GError **error);
void mf_placement_free (mf_placement *placement);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_placement, mf_placement_free)

/* The mappings now; stays as it is, and valid, until the placement is freed. */
const mf_mapping_set *mf_placement_mappings (mf_placement *placement);
/* Replaces the mappings by `set`, which is taken over, also on an error; those that are new are registered before anything is put down by them. */
gboolean mf_placement_set_mappings (mf_placement *placement, mf_mapping_set *set, GError **error);

/* Registers every mapping for MISSING faults (again is fine), and those of a later set. */
gboolean mf_placement_register (mf_placement *placement, GError **error);
/* Instead: writes through every mapping wait, until it is unregistered. */
gboolean mf_placement_protect (mf_placement *placement, GError **error);
void mf_placement_unregister (mf_placement *placement);

/* Whole pages, as mf_attachment_ops.put. */
gboolean mf_placement_put (mf_placement *placement, mf_run run, const void *bytes, mf_bitmap *kept, GError **error);
/* Lets everybody who waits for a page of `run` look again. */
void mf_placement_wake (mf_placement *placement, mf_run run);

typedef enum {
  MF_PLACED,
  MF_PLACED_BEFORE,  /* the page was there; who waited was woken */
  MF_PLACED_NOWHERE, /* nothing shows the page (any more); who waited was woken */
  MF_PLACED_NO_ROOM, /* ENOMEM or ENOSPC: who waits goes on waiting */
} mf_placed;

/* One page for a fault; `bytes` NULL: zeroes. */
mf_placed mf_placement_answer (mf_placement *placement, uint64_t page, const void *bytes);

G_END_DECLS
