/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A region of 130 pages and a bit over a memfd, and what its tests do with it.
 */
#include "region/mf-region.h"

#include <string.h>

#define PAGE     4096u
#define DEADLINE (30 * G_USEC_PER_SEC)

/* 130 pages and a bit: more than two stripes, and a tail. */
#define SIZE  (130 * PAGE + 123)
#define PAGES 131

typedef struct {
  MfStore *store;
  MfRegion *region;
} Fixture;

static inline void
set_up (Fixture *f, gconstpointer data)
{
  g_autoptr (GError) error = NULL;

  f->store = mf_store_memfd ("test-region", SIZE, &error);
  g_assert_no_error (error);
  f->region = mf_region_new ("ram.0", f->store, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (mf_region_n_pages (f->region), ==, PAGES);
}

/* The same, with nothing there yet. */
static inline void
set_up_missing (Fixture *f, gconstpointer data)
{
  set_up (f, data);
  g_assert_true (mf_region_reset (f->region, NULL));
}

static inline void
tear_down (Fixture *f, gconstpointer data)
{
  g_object_unref (f->region);
  mf_store_unref (f->store);
}

static inline mf_page_state
state_of (Fixture *f, uint64_t page)
{
  return mf_page_map_state (mf_region_map (f->region), page);
}

static inline uint64_t
claim (Fixture *f, uint64_t first, uint64_t count)
{
  return mf_page_map_apply_run (mf_region_map (f->region), (mf_run){ first, count }, MF_PAGE_CLAIM, NULL);
}

/* Puts pages down as a pull would: page n is filled with `byte` + n, or is a hole where bit n of `holes` is set. */
static inline gboolean
put_with_error (Fixture *f, uint64_t first, uint64_t count, char byte, uint64_t holes, MfPutMode mode, GError **error)
{
  g_autofree uint8_t *bytes = g_malloc (count * PAGE);
  uint64_t bits[4] = { holes };

  for (uint64_t i = 0; i < count; i++)
    memset (bytes + i * PAGE, byte + (int) i, PAGE);
  return mf_region_put (f->region, (mf_run){ first, count }, bytes, holes != 0 ? bits : NULL, mode, error);
}

static inline void
put (Fixture *f, uint64_t first, uint64_t count, char byte, uint64_t holes, MfPutMode mode)
{
  g_autoptr (GError) error = NULL;

  g_assert_true (put_with_error (f, first, count, byte, holes, mode, &error));
  g_assert_no_error (error);
}

static inline void
write_bytes (Fixture *f, uint64_t offset, size_t length, char byte)
{
  g_autofree uint8_t *bytes = g_malloc (MAX (length, 1));
  g_autoptr (GError) error = NULL;

  memset (bytes, byte, length);
  g_assert_true (mf_region_write (f->region, offset, bytes, length, NULL, &error));
  g_assert_no_error (error);
}

/* The page is PRESENT, and every byte of it is `byte`. */
static inline void
assert_page (Fixture *f, uint64_t page, char byte)
{
  uint8_t bytes[PAGE];
  size_t length = page == PAGES - 1 ? SIZE % PAGE : PAGE;
  g_autoptr (GError) error = NULL;

  g_assert_true (state_of (f, page) & MF_PAGE_PRESENT);
  g_assert_true (mf_region_read (f->region, page * PAGE, bytes, length, NULL, &error));
  g_assert_no_error (error);
  for (size_t i = 0; i < length; i++)
    g_assert_cmpint (bytes[i], ==, (uint8_t) byte);
}

static inline void
assert_hole (Fixture *f, uint64_t page)
{
  uint64_t data, end;

  if (mf_store_next_data (f->store, page * PAGE, &data, &end))
    g_assert_cmpuint (data, >, page * PAGE);
}
