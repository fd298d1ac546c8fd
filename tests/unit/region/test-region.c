/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "own-tmpfs.h"
#include "region-fixture.h"

#include <glib/gstdio.h>

static void
test_names (void)
{
  const char *good[] = { "a", "ram.0", "A-b_c.9", "-",
                         "0123456789012345678901234567890123456789012345678901234567890123" };
  const char *bad[] = {
    "",    ".",   ".a", "a/b", "a b", "\xc3\xa4", "01234567890123456789012345678901234567890123456789012345678901234",
    "a\n", "../a"
  };
  g_autoptr (MfStore) store = mf_store_memfd ("names", 1, NULL);

  for (guint i = 0; i < G_N_ELEMENTS (good); i++)
    g_assert_true (mf_region_name_is_valid (good[i]));
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++) {
    g_autoptr (GError) error = NULL;

    g_assert_false (mf_region_name_is_valid (bad[i]));
    g_assert_null (mf_region_new (bad[i], store, &error));
    g_assert_error (error, MF_ERROR, MF_ERROR_INVALID);
  }
}

static void
test_new (Fixture *f, gconstpointer data)
{
  uint64_t offset, length;

  g_assert_cmpstr (mf_region_get_name (f->region), ==, "ram.0");
  g_assert_cmpuint (mf_region_get_size (f->region), ==, SIZE);
  g_assert_cmpuint (mf_region_page_bytes (f->region), ==, PAGE);
  g_assert_true (mf_region_store (f->region) == f->store);
  g_assert_cmpuint (mf_page_map_count (mf_region_map (f->region), MF_PAGE_PRESENT), ==, PAGES);
  mf_region_bytes_of (f->region, (mf_run){ 129, 2 }, &offset, &length);
  g_assert_cmpuint (offset, ==, 129 * PAGE);
  g_assert_cmpuint (length, ==, PAGE + 123);
}

static void
test_read_write (Fixture *f, gconstpointer data)
{
  g_autoptr (mf_dirty_session) session = NULL;
  g_autofree uint8_t *model = g_malloc0 (SIZE);
  g_autofree uint8_t *got = g_malloc (SIZE);
  g_autoptr (GRand) rand = g_rand_new_with_seed (7);

  session = mf_dirty_session_open (mf_region_dirty_log (f->region), NULL, NULL, NULL);
  for (guint i = 0; i < 300; i++) {
    uint64_t offset = g_rand_int_range (rand, 0, SIZE);
    size_t length = g_rand_int_range (rand, 0, (int) MIN (SIZE - offset, 100 * PAGE) + 1);
    char byte = (char) g_rand_int_range (rand, 1, 256);

    memset (model + offset, byte, length);
    write_bytes (f, offset, length, byte);
    if (length > 0)
      g_assert_true (state_of (f, offset / PAGE) & MF_PAGE_DIRTY);
  }
  g_assert_true (mf_region_read (f->region, 0, got, SIZE, NULL, NULL));
  g_assert_cmpmem (got, SIZE, model, SIZE);
  g_assert_true (mf_region_read (f->region, 5000, got, SIZE - 6000, NULL, NULL));
  g_assert_cmpmem (got, SIZE - 6000, model + 5000, SIZE - 6000);
}

static void
keep_none (mf_bitmap *dirty, gpointer user_data)
{
}

static void
test_write_is_noted (Fixture *f, gconstpointer data)
{
  g_autoptr (mf_dirty_session) session = NULL;
  const mf_bitmap *bits;

  session = mf_dirty_session_open (mf_region_dirty_log (f->region), keep_none, NULL, NULL);
  bits = mf_dirty_session_bits (session);
  write_bytes (f, 63 * PAGE + 100, 2 * PAGE, 'w');
  g_assert_cmpuint (mf_dirty_session_count (session), ==, 3);
  g_assert_cmpuint (mf_bitmap_count_run (bits, (mf_run){ 63, 3 }), ==, 3);
  write_bytes (f, SIZE - 1, 1, 'w');
  g_assert_true (mf_bitmap_test (bits, PAGES - 1));
  write_bytes (f, 7, 0, 'w');
  g_assert_cmpuint (mf_dirty_session_count (session), ==, 4);
}

static void
test_bounds (Fixture *f, gconstpointer data)
{
  const struct {
    uint64_t offset, length;
  } past[] = { { SIZE, 1 }, { 0, SIZE + 1 }, { UINT64_MAX, 1 }, { UINT64_MAX - 3, 8 }, { 1, SIZE }, { SIZE + 1, 0 } };
  uint8_t byte = 0;

  for (guint i = 0; i < G_N_ELEMENTS (past); i++) {
    g_autoptr (GError) read = NULL, written = NULL;

    g_assert_false (mf_region_read (f->region, past[i].offset, &byte, past[i].length, NULL, &read));
    g_assert_error (read, MF_ERROR, MF_ERROR_INVALID);
    g_assert_false (mf_region_write (f->region, past[i].offset, &byte, past[i].length, NULL, &written));
    g_assert_error (written, MF_ERROR, MF_ERROR_INVALID);
  }
  g_assert_true (mf_region_read (f->region, SIZE, &byte, 0, NULL, NULL));
  g_assert_cmpuint (mf_page_map_count (mf_region_map (f->region), MF_PAGE_DIRTY), ==, 0);
}

/* A write that lands while the page is on its way must survive the pull (invariant 2). */
static void
test_late_pull_never_overwrites_write (Fixture *f, gconstpointer data)
{
  g_assert_cmpuint (claim (f, 62, 4), ==, 4); /* the request is out, over two stripes */
  write_bytes (f, 63 * PAGE, 2 * PAGE, 'W');  /* two of its pages are written         */
  put (f, 62, 4, 'a', 0, MF_PUT_KEEP);        /* the remote's bytes come in            */

  assert_page (f, 62, 'a');
  assert_page (f, 63, 'W');
  assert_page (f, 64, 'W');
  assert_page (f, 65, 'd');
  g_assert_cmpint (state_of (f, 63), ==, MF_PAGE_PRESENT | MF_PAGE_DIRTY); /* and the write will be sent */
  g_assert_cmpint (state_of (f, 65), ==, MF_PAGE_PRESENT);
}

/* The same when what comes in is a hole. */
static void
test_late_hole_never_overwrites_write (Fixture *f, gconstpointer data)
{
  claim (f, 0, 3);
  write_bytes (f, PAGE, PAGE, 'W');
  put (f, 0, 3, 'a', 7, MF_PUT_KEEP);
  assert_page (f, 0, 0);
  assert_page (f, 1, 'W');
  assert_page (f, 2, 0);
  assert_hole (f, 0);
  assert_hole (f, 2);
}

/* Pages are invalidated while a pull is under way: what comes in may be older than that, and is not taken. */
static void
test_late_pull_after_invalidate (Fixture *f, gconstpointer data)
{
  g_autoptr (GError) error = NULL;
  mf_bitmap *stale = mf_bitmap_new (PAGES);

  claim (f, 10, 2);
  mf_bitmap_set (stale, 10);
  g_assert_true (mf_region_invalidate (f->region, stale, &error));
  g_assert_cmpuint (claim (f, 10, 1), ==, 0);
  put (f, 10, 2, 'o', 0, MF_PUT_KEEP);
  g_assert_cmpint (state_of (f, 10), ==, MF_PAGE_MISSING);
  assert_hole (f, 10);
  assert_page (f, 11, 'p');
  g_assert_cmpuint (claim (f, 10, 1), ==, 1);
  put (f, 10, 1, 'n', 0, MF_PUT_KEEP);
  assert_page (f, 10, 'n');
  mf_bitmap_free (stale);
}

static void
test_keep (Fixture *f, gconstpointer data)
{
  claim (f, 0, PAGES);
  put (f, 0, 64, 'a', UINT64_C (0xf0), MF_PUT_KEEP);
  put (f, 64, 67, 'A', UINT64_C (1) << 63, MF_PUT_KEEP);
  assert_page (f, 0, 'a');
  assert_page (f, 3, 'd');
  for (guint page = 4; page < 8; page++) {
    assert_page (f, page, 0);
    assert_hole (f, page);
  }
  assert_page (f, 8, 'a' + 8);
  assert_page (f, 126, 'A' + 62);
  assert_page (f, 127, 0);
  assert_page (f, PAGES - 1, 'A' + 66);
  g_assert_cmpuint (mf_page_map_count (mf_region_map (f->region), MF_PAGE_PRESENT), ==, PAGES);

  /* All there: nothing more is taken. */
  put (f, 0, 4, 'z', 1, MF_PUT_KEEP);
  assert_page (f, 0, 'a');
  assert_page (f, 3, 'd');
}

/* A missing page whose store is not a hole, and a pull that says it is one. */
static void
test_keep_hole_over_leftover (Fixture *f, gconstpointer data)
{
  claim (f, 5, 2);
  g_assert_true (mf_store_write (f->store, 5 * PAGE + 9, "leftover", 8, NULL));
  put (f, 5, 2, 'a', 3, MF_PUT_KEEP);
  assert_page (f, 5, 0);
  assert_hole (f, 5);
}

static void
test_replace (Fixture *f, gconstpointer data)
{
  put (f, 60, 10, 'a', 0, MF_PUT_REPLACE);
  for (guint page = 60; page < 70; page++)
    assert_page (f, page, (char) ('a' + page - 60));
  g_assert_cmpuint (mf_page_map_count (mf_region_map (f->region), MF_PAGE_PRESENT), ==, 10);
  g_assert_cmpuint (mf_page_map_count (mf_region_map (f->region), MF_PAGE_DIRTY), ==, 0);

  /* Newer bytes, a hole where there was data, and data where there was nothing. */
  put (f, 58, 4, 'k', 4, MF_PUT_REPLACE);
  assert_page (f, 58, 'k');
  assert_page (f, 59, 'l');
  assert_page (f, 60, 0);
  assert_hole (f, 60);
  assert_page (f, 61, 'n');
  assert_page (f, 62, 'c');

  put (f, PAGES - 1, 1, 't', 0, MF_PUT_REPLACE);
  assert_page (f, PAGES - 1, 't');
  put (f, PAGES - 1, 1, 't', 1, MF_PUT_REPLACE);
  assert_page (f, PAGES - 1, 0);
  assert_hole (f, PAGES - 1);

  /* All holes, no bytes; also over what the map does not know of. */
  g_assert_true (mf_store_write (f->store, 3 * PAGE, "leftover", 8, NULL));
  g_assert_true (
      mf_region_put (f->region, (mf_run){ 0, 60 }, NULL, (const uint64_t[]){ UINT64_MAX }, MF_PUT_REPLACE, NULL));
  assert_page (f, 3, 0);
  assert_page (f, 58, 0);
  assert_hole (f, 0);
}

static void
test_invalidate (Fixture *f, gconstpointer data)
{
  g_autoptr (GError) error = NULL;
  mf_bitmap *stale = mf_bitmap_new (PAGES);

  write_bytes (f, 0, SIZE, 'x');
  mf_bitmap_set_run (stale, (mf_run){ 62, 5 });
  mf_bitmap_set (stale, 0);
  mf_bitmap_set (stale, PAGES - 1);
  g_assert_true (mf_region_invalidate (f->region, stale, &error));
  g_assert_no_error (error);
  for (guint page = 0; page < PAGES; page++) {
    if (mf_bitmap_test (stale, page)) {
      g_assert_cmpint (state_of (f, page), ==, MF_PAGE_MISSING);
      assert_hole (f, page);
    } else {
      assert_page (f, page, 'x');
    }
  }
  g_assert_true (mf_region_reset (f->region, &error));
  g_assert_cmpuint (mf_page_map_count (mf_region_map (f->region), MF_PAGE_MISSING), ==, PAGES);
  g_assert_cmpuint (mf_store_allocated (f->store), ==, 0);
  mf_region_set_all_present (f->region);
  assert_page (f, 1, 0);
  mf_bitmap_free (stale);
}

/* --- A store that is full --- */

static void
test_full (gconstpointer folder)
{
  g_autofree char *path = g_build_filename (folder, "store", NULL);
  g_autofree char *filler_path = g_build_filename (folder, "filler", NULL);
  g_autofree uint8_t *bytes = g_malloc (2 * 1024 * 1024);
  g_autoptr (MfStore) filler = mf_store_create (filler_path, 1024 * 1024 - 8 * PAGE, NULL);
  g_autoptr (GError) error = NULL;
  Fixture f = { mf_store_create (path, SIZE, NULL) };

  f.region = mf_region_new ("full", f.store, NULL);
  g_assert_true (mf_region_reset (f.region, NULL));
  memset (bytes, 'f', 2 * 1024 * 1024);
  g_assert_true (mf_store_write (filler, 0, bytes, mf_store_size (filler), &error));
  g_assert_no_error (error);

  /* Eight pages at most find room. */
  for (guint mode = MF_PUT_KEEP; mode <= MF_PUT_REPLACE; mode++) {
    if (mode == MF_PUT_KEEP)
      claim (&f, 0, 32);
    g_assert_false (put_with_error (&f, 0, 32, 'a', 0, mode, &error));
    g_assert_error (error, MF_ERROR, MF_ERROR_NO_SPACE);
    g_clear_error (&error);
    mf_page_map_apply_run (mf_region_map (f.region), (mf_run){ 0, 32 }, MF_PAGE_FAIL, NULL);
    g_assert_cmpint (state_of (&f, 0), ==, MF_PAGE_MISSING);
    /* Nothing of it stays. */
    g_assert_cmpuint (mf_store_allocated (f.store), ==, 0);
  }
  g_assert_false (mf_region_write (f.region, 0, bytes, 32 * PAGE, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_NO_SPACE);
  g_assert_cmpint (state_of (&f, 0), ==, MF_PAGE_MISSING);
  g_assert_cmpuint (mf_store_allocated (f.store), ==, 0);

  g_unlink (filler_path);
  g_clear_pointer (&filler, mf_store_unref);
  claim (&f, 0, 32);
  put (&f, 0, 32, 'a', 0, MF_PUT_KEEP);
  assert_page (&f, 31, 'a' + 31);
  tear_down (&f, NULL);
}

static void
skip_full (void)
{
  g_test_skip ("a file system of one's own needs root or user namespaces");
}

int
main (int argc, char **argv)
{
  g_autofree char *own = g_dir_make_tmp ("mf-test-region-XXXXXX", NULL);
  gboolean mounted = mount_own_tmpfs (own, "size=1m");
  int result;

  g_test_init (&argc, &argv, NULL);
#define ADD(name, up, test) g_test_add ("/region/" name, Fixture, NULL, up, test, tear_down)
  g_test_add_func ("/region/names", test_names);
  ADD ("new", set_up, test_new);
  ADD ("read-write", set_up, test_read_write);
  ADD ("write-is-noted", set_up, test_write_is_noted);
  ADD ("bounds", set_up, test_bounds);
  ADD ("late-pull-never-overwrites-write", set_up_missing, test_late_pull_never_overwrites_write);
  ADD ("late-hole-never-overwrites-write", set_up_missing, test_late_hole_never_overwrites_write);
  ADD ("late-pull-after-invalidate", set_up_missing, test_late_pull_after_invalidate);
  ADD ("keep", set_up_missing, test_keep);
  ADD ("keep-hole-over-leftover", set_up_missing, test_keep_hole_over_leftover);
  ADD ("replace", set_up_missing, test_replace);
  ADD ("invalidate", set_up, test_invalidate);
  if (mounted)
    g_test_add_data_func ("/region/full", own, test_full);
  else
    g_test_add_func ("/region/full", skip_full);
  result = g_test_run ();
  umount2 (own, MNT_DETACH);
  g_rmdir (own);
  return result;
}
