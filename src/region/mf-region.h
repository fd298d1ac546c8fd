/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "core/mf-page-map.h"
#include "region/mf-dirty-log.h"
#include "region/mf-store.h"
#include <gio/gio.h>

G_BEGIN_DECLS

#define MF_TYPE_REGION (mf_region_get_type ())
MF_API
G_DECLARE_FINAL_TYPE (MfRegion, mf_region, MF, REGION, GObject)

/*
 * A region: a fixed-size array of bytes with a name; the store, the page map and the dirty log, with the rules that keep them in step
 * (invariants 1 and 2). Thread-safe unless a function says otherwise.
 */

/* Names are 1 to 64 of [A-Za-z0-9._-], not beginning with a dot. */
MF_API gboolean mf_region_name_is_valid (const char *name);

/* A new region over `store` (a reference is taken). Every page is PRESENT: the store's bytes are the right ones. */
MfRegion *mf_region_new (const char *name, MfStore *store, GError **error);

MF_API const char *mf_region_get_name (MfRegion *region);
MF_API uint64_t mf_region_get_size (MfRegion *region);
uint32_t mf_region_page_bytes (MfRegion *region);
uint64_t mf_region_n_pages (MfRegion *region);
MfStore *mf_region_store (MfRegion *region);
mf_page_map *mf_region_map (MfRegion *region);
mf_dirty_log *mf_region_dirty_log (MfRegion *region);
/* The bytes of `run`, cut at the region's end. */
void mf_region_bytes_of (MfRegion *region, mf_run run, uint64_t *offset, uint64_t *length);

/* --- The attachment's side ---
 * Who shows the region to a program. While one is attached, the bytes of a pull go down through it. Both functions are called from
 * any thread, several at once, with no lock of the region held; neither may call back into mf_region_detach(). */
typedef struct {
  /* Puts down whole pages: `bytes` are run.count pages (of a short last page, the rest is zeroes). Must be atomic towards the program
   * and must leave pages alone that are in the store already, setting their bits in `kept` (bit 0 = run.first; may be
   * NULL). Who waits for a page of `run` goes on, also for one that was kept. The page map is marked by the caller, afterwards. */
  gboolean (*put) (gpointer attachment, mf_run run, const void *bytes, mf_bitmap *kept, GError **error);
  /* The pages of `run` became PRESENT without a put(): as holes, which read as zeroes and need not be allocated before the program
   * touches them, or by a write through the region. Who waits for one of them now has to be let go on. Called after the page map
   * says PRESENT, so that a fault that comes later finds the answer there. May be NULL. */
  void (*present) (gpointer attachment, mf_run run);
} mf_attachment_ops;

/* Sets or (NULL) takes away the attachment; the caller keeps it alive until then, and no put is under way when this returns. MF_ERROR_BUSY when another one is attached. */
/* Not from inside one of its functions. */
gboolean mf_region_attach (MfRegion *region, const mf_attachment_ops *ops, gpointer attachment, GError **error);
void mf_region_detach (MfRegion *region, gpointer attachment);

/* --- The puller's side ---
 * Puts down what a pull brought. `bytes` are the whole of `run` (of the region's last page, what there is of it), NULL when all are
 * holes; page n is a hole (all zeroes) where bit n of `holes` is set, NULL when there are none. After an error some pages of `run` may have become PRESENT. */
typedef enum {
  /* The program may run, and the caller has claimed (MF_PAGE_CLAIM) all of `run`: a page goes down only where it is still WANTED and not
   * there by other means. A hole becomes PRESENT without being allocated. What is not put down after all (an error) has to be given
   * up with MF_PAGE_FAIL. */
  MF_PUT_KEEP,
  /* The program can't run yet (pre-copy): newer bytes replace older ones. A hole is punched. Nothing is claimed, so two pulls of
   * one page must not be under way at once: the older one could come last. */
  MF_PUT_REPLACE,
} MfPutMode;
gboolean mf_region_put (MfRegion *region, mf_run run, const void *bytes, const uint64_t *holes, MfPutMode mode,
                        GError **error);

/* Forgets `pages`: they are MISSING and their store is a hole. For what the other side has newer bytes of, before
 * the program may run here: no put of these pages may be under way. */
gboolean mf_region_invalidate (MfRegion *region, const mf_bitmap *pages, GError **error);
/* The same for all pages. */
gboolean mf_region_reset (MfRegion *region, GError **error);
/* The opposite: what is in the store is right (holes are zeroes). No pull may be under way. */
void mf_region_set_all_present (MfRegion *region);

/* --- A user's side: read and write through the engine (the NBD server, in-process users) ---
 * A read of pages that are not PRESENT asks the fetcher and waits; without a fetcher it fails with MF_ERROR_IO. A write makes its pages PRESENT
 * and DIRTY and noted in the dirty log; the part of a page that it does not cover is fetched first. Blocking; never from the main loop. */
gboolean mf_region_read (MfRegion *region, uint64_t offset, void *buffer, size_t length, GCancellable *cancellable,
                         GError **error);
gboolean mf_region_write (MfRegion *region, uint64_t offset, const void *buffer, size_t length,
                          GCancellable *cancellable, GError **error);

/* Makes [offset, offset + length) zeroes, a write like any other. `punch`: whole pages become holes of the store, where it can make holes; what is PRESENT and a
 * hole already is left as it is and is not dirty. Otherwise all of it is allocated. */
gboolean mf_region_zero (MfRegion *region, uint64_t offset, uint64_t length, gboolean punch, GCancellable *cancellable,
                         GError **error);

/* How long a read or a write waits for pages that are not PRESENT, at most: then MF_ERROR_TIMED_OUT. -1 (at first): without end. */
void mf_region_set_wait_limit (MfRegion *region, gint64 usec);

/* --- For who keeps a record of the pages ---
 * Both are called under the lock of the pages' stripe: short, and nothing of the region but the page map. Set before anybody uses the region, and kept until its end. Not
 * of use with an attachment, which puts pages down by itself. */
typedef struct {
  /* The bytes of `run` are about to be written through the region. */
  void (*writing) (gpointer data, mf_run run);
  /* Pages of `run` have become PRESENT, or were written; the page map says which are. */
  void (*settled) (gpointer data, mf_run run);
} mf_region_journal_ops;
void mf_region_set_journal (MfRegion *region, const mf_region_journal_ops *ops, gpointer data);
/* Does `visit` for the parts of `run` that lie in one stripe, each under its lock. */
void mf_region_visit_stripes (MfRegion *region, mf_run run, void (*visit) (mf_run part, gpointer data), gpointer data);

/* --- For who reads the store himself (the NBD server, through the mapping) ---
 * begin(), then the page map and then the bytes of PRESENT pages, then end(). What was read is right if end() says TRUE; otherwise pages were invalidated
 * meanwhile, and what was read may be zeroes in their place. FALSE from begin(): that is being done right now, use mf_region_read(). */
gboolean mf_region_peek_begin (MfRegion *region, guint *stamp);
gboolean mf_region_peek_end (MfRegion *region, guint stamp);

/* Called, with no lock held and from any thread, when somebody waits for the pages of `run`; must not block. Once a waiter: who takes it on
 * goes on trying until the pages are there. */
typedef void (*mf_region_fetcher) (mf_run run, gpointer user_data);
/* Who waits asks the new one, too; without one (NULL) he gets an error. The former one is not being called any more when this returns: not from
 * inside it. */
void mf_region_set_fetcher (MfRegion *region, mf_region_fetcher fetcher, gpointer user_data);

G_END_DECLS
