/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Mappings: where in a program's address space a region is. A set of them is made once, checked, and never changed, so that any thread may
 * read it without a lock.
 *
 * Several mappings may show the same page of the region; what is done for a page is then done at each place.
 */
#include "core/mf-run.h"
#include "mf-error.h"

G_BEGIN_DECLS

/* More than a program's library hands over (docs/protocol.md). */
#define MF_MAPPINGS_MAX 64

/* One mapping of the region in the program. */
typedef struct {
  uint64_t address; /* in the program */
  uint64_t length;  /* bytes */
  uint64_t offset;  /* in the region, bytes */
} mf_mapping;

typedef struct {
  uint64_t size_bytes; /* of the region */
  uint32_t page_bytes;
  guint count;
  mf_mapping items[]; /* whole pages, also the last */
} mf_mapping_set;

/* Checks `mappings` against a region of `size_bytes` and copies them; lengths that aren't whole pages are rounded up. MF_ERROR_INVALID: an
 * address or offset that isn't a page's, nothing mapped or too much, past the region's end or the end of the address space. For
 * g_free(). */
mf_mapping_set *mf_mapping_set_new (const mf_mapping *mappings, guint n_mappings, uint64_t size_bytes,
                                    uint32_t page_bytes, GError **error);

/* The page of the region at `address`; false: none. */
bool mf_mapping_set_page_at (const mf_mapping_set *set, uint64_t address, uint64_t *page);
/* The part of `run` that `mapping` shows, and where; false: nothing of it. */
bool mf_mapping_shows (const mf_mapping_set *set, const mf_mapping *mapping, mf_run run, mf_run *part,
                       uint64_t *address);
/* The first mapping that shows run.first, the pages of `run` from there that it shows, and where. False: no mapping shows run.first; then `part` is
 * what comes before the next page that one shows, or all of `run`. */
bool mf_mapping_set_first (const mf_mapping_set *set, mf_run run, mf_run *part, uint64_t *address);

G_END_DECLS
