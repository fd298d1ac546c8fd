/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The map of a cache, step by step: what it says when the process is killed right there. */
#include "mount/mf-mount-cache.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#define PAGE  4096u
#define PAGES 70u
#define SIZE  (PAGES * PAGE - 100)

typedef struct {
  char *folder, *path, *map_path, *copy, *copy_map;
  mf_mount_cache *cache;
  MfRegion *region;
} Fixture;

static void
open_cache (Fixture *f, const char *path)
{
  g_autoptr (GError) error = NULL;

  f->cache = mf_mount_cache_open (path, "memory:x", SIZE, &error);
  g_assert_no_error (error);
  f->region = mf_region_new ("r", mf_mount_cache_store (f->cache), &error);
  g_assert_no_error (error);
  g_assert_true (mf_mount_cache_load (f->cache, f->region, &error));
  g_assert_no_error (error);
}

static void
close_cache (Fixture *f)
{
  g_clear_object (&f->region);
  g_clear_pointer (&f->cache, mf_mount_cache_free);
}

static void
set_up (Fixture *f, gconstpointer data)
{
  f->folder = g_dir_make_tmp ("memferry-cache-XXXXXX", NULL);
  f->path = g_build_filename (f->folder, "cache", NULL);
  f->map_path = g_build_filename (f->folder, "cache.map", NULL);
  f->copy = g_build_filename (f->folder, "copy", NULL);
  f->copy_map = g_build_filename (f->folder, "copy.map", NULL);
  open_cache (f, f->path);
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  close_cache (f);
  g_unlink (f->path);
  g_unlink (f->map_path);
  g_unlink (f->copy);
  g_unlink (f->copy_map);
  g_rmdir (f->folder);
  g_free (f->folder);
  g_free (f->path);
  g_free (f->map_path);
  g_free (f->copy);
  g_free (f->copy_map);
}

static void
copy_file (const char *from, const char *to)
{
  g_autofree char *bytes = NULL;
  gsize length;

  g_assert_true (g_file_get_contents (from, &bytes, &length, NULL));
  g_assert_true (g_file_set_contents (to, bytes, (gssize) length, NULL));
}

/* What the next process finds when this one is killed now. */
static Fixture
killed_now (Fixture *f)
{
  Fixture next = { 0 };

  copy_file (f->path, f->copy);
  copy_file (f->map_path, f->copy_map);
  open_cache (&next, f->copy);
  return next;
}

static void
assert_page (Fixture *f, uint64_t page, gboolean present, gboolean dirty, char byte)
{
  uint8_t bytes[PAGE];

  g_assert_cmpint ((mf_page_map_state (mf_region_map (f->region), page) & MF_PAGE_PRESENT) != 0, ==, present);
  g_assert_cmpint (mf_bitmap_test (mf_mount_cache_dirty (f->cache), page), ==, dirty);
  if (!present)
    return;
  g_assert_true (mf_region_read (f->region, page * PAGE, bytes, PAGE, NULL, NULL));
  for (guint i = 0; i < PAGE; i++)
    g_assert_cmpuint (bytes[i], ==, (uint8_t) byte);
}

static void
fill (Fixture *f, uint64_t page, char byte)
{
  uint8_t bytes[PAGE];

  memset (bytes, byte, PAGE);
  g_assert_true (mf_region_write (f->region, page * PAGE, bytes, PAGE, NULL, NULL));
}

static void
pull (Fixture *f, uint64_t page, char byte)
{
  uint8_t bytes[PAGE];

  memset (bytes, byte, PAGE);
  g_assert_true (mf_page_map_apply (mf_region_map (f->region), page, MF_PAGE_CLAIM));
  g_assert_true (mf_region_put (f->region, (mf_run){ page, 1 }, bytes, NULL, MF_PUT_KEEP, NULL));
}

static void
test_pulled_and_written (Fixture *f, gconstpointer data)
{
  Fixture next;

  pull (f, 3, 'p');
  fill (f, 64, 'w');
  g_assert_true (mf_region_zero (f->region, 5 * PAGE, PAGE, TRUE, NULL, NULL));
  next = killed_now (f);
  assert_page (&next, 3, TRUE, FALSE, 'p');
  assert_page (&next, 64, TRUE, TRUE, 'w');
  assert_page (&next, 5, TRUE, TRUE, 0);
  assert_page (&next, 4, FALSE, FALSE, 0);
  close_cache (&next);
}

static void
test_sent (Fixture *f, gconstpointer data)
{
  Fixture next;

  fill (f, 1, 'a');
  mf_mount_cache_taking (f->cache, (mf_run){ 1, 1 });
  next = killed_now (f);
  assert_page (&next, 1, TRUE, TRUE, 'a');
  close_cache (&next);
  mf_mount_cache_sent (f->cache, (mf_run){ 1, 1 });
  next = killed_now (f);
  assert_page (&next, 1, TRUE, FALSE, 'a');
  close_cache (&next);
}

/* Written again while it was being sent: what was flushed is the older one. */
static void
test_written_while_sent (Fixture *f, gconstpointer data)
{
  Fixture next;

  fill (f, 1, 'a');
  mf_mount_cache_taking (f->cache, (mf_run){ 0, 3 });
  fill (f, 1, 'b');
  mf_mount_cache_sent (f->cache, (mf_run){ 0, 3 });
  next = killed_now (f);
  assert_page (&next, 1, TRUE, TRUE, 'b');
  close_cache (&next);
}

/* Killed between the note and the end of a first write: the page is as it was, missing, and what is there of the bytes is no page. */
static void
test_killed_while_writing (Fixture *f, gconstpointer data)
{
  const uint64_t words = (PAGES + 63) / 64;
  g_autofree char *map = NULL;
  uint64_t offset, end;
  Fixture next = { 0 };
  gsize length;

  fill (f, 2, 'x');
  copy_file (f->path, f->copy);
  g_assert_true (g_file_get_contents (f->map_path, &map, &length, NULL));
  g_assert_cmpuint (length, ==, 4096 + 16 * words);
  g_assert_cmpint (map[4096], ==, 1 << 2);
  map[4096] = 0;
  g_assert_true (g_file_set_contents (f->copy_map, map, (gssize) length, NULL));
  open_cache (&next, f->copy);
  assert_page (&next, 2, FALSE, FALSE, 0);
  g_assert_false (mf_store_next_data (mf_mount_cache_store (next.cache), 0, &offset, &end));
  close_cache (&next);
}

#define ADD(name, test) g_test_add ("/mount-cache/" name, Fixture, NULL, set_up, test, tear_down)

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  ADD ("pulled-and-written", test_pulled_and_written);
  ADD ("sent", test_sent);
  ADD ("written-while-sent", test_written_while_sent);
  ADD ("killed-while-writing", test_killed_while_writing);
  return g_test_run ();
}
