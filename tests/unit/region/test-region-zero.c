/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "region-fixture.h"

/* Zeroes written through the region: right to the byte, holes where they can be, dirty where bytes changed. */

/* Bytes that are nowhere zero, all over the region. */
static uint8_t *
fill (Fixture *f)
{
  uint8_t *bytes = g_malloc (SIZE);
  g_autoptr (GError) error = NULL;

  for (guint i = 0; i < SIZE; i++)
    bytes[i] = (uint8_t) (1 + i % 255);
  mf_region_write (f->region, 0, bytes, SIZE, NULL, &error);
  g_assert_no_error (error);
  return bytes;
}

static void
assert_bytes (Fixture *f, const uint8_t *expected)
{
  g_autofree uint8_t *got = g_malloc (SIZE);
  g_autoptr (GError) error = NULL;

  mf_region_read (f->region, 0, got, SIZE, NULL, &error);
  g_assert_no_error (error);
  g_assert_cmpmem (got, SIZE, expected, SIZE);
}

static void
test_ranges (Fixture *f, gconstpointer data)
{
  static const struct {
    uint64_t offset, length;
  } cases[] = { { 0, 0 },
                { 5, 10 },
                { PAGE - 1, 2 },
                { PAGE, PAGE },
                { 100, 5 * PAGE },
                { 60 * PAGE + 1, 10 * PAGE },
                { SIZE - 123, 123 },
                { SIZE - 10, 10 },
                { SIZE - PAGE, PAGE },
                { 0, SIZE } };

  for (int punch = 0; punch < 2; punch++) {
    for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
      g_autofree uint8_t *bytes = fill (f);
      g_autoptr (GError) error = NULL;

      mf_region_zero (f->region, cases[i].offset, cases[i].length, punch, NULL, &error);
      g_assert_no_error (error);
      memset (bytes + cases[i].offset, 0, cases[i].length);
      assert_bytes (f, bytes);
    }
  }
  g_assert_cmpuint (mf_store_allocated (f->store), ==, 0);
}

static void
test_allocates (Fixture *f, gconstpointer data)
{
  g_autoptr (GError) error = NULL;

  mf_region_zero (f->region, 0, SIZE, FALSE, NULL, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (mf_store_allocated (f->store), ==, PAGES * PAGE);
}

static void
test_past_the_end (Fixture *f, gconstpointer data)
{
  static const struct {
    uint64_t offset, length;
  } cases[] = { { SIZE, 1 }, { 0, SIZE + 1 }, { UINT64_MAX, 1 }, { 1, UINT64_MAX } };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    g_autoptr (GError) error = NULL;

    g_assert_false (mf_region_zero (f->region, cases[i].offset, cases[i].length, TRUE, NULL, &error));
    g_assert_error (error, MF_ERROR, MF_ERROR_INVALID);
  }
}

/* What is a hole already is not dirty; what had bytes is. */
static void
test_dirty (Fixture *f, gconstpointer data)
{
  mf_dirty_session *session = mf_dirty_session_open (mf_region_dirty_log (f->region), NULL, NULL, NULL);
  mf_dirty_reader *reader = mf_dirty_reader_new (session);

  g_assert_true (mf_region_write (f->region, 3 * PAGE, "x", 1, NULL, NULL));
  mf_dirty_reader_take (reader, (mf_run){ 0, PAGES });
  g_assert_true (mf_region_zero (f->region, 64 * PAGE, 60 * PAGE, TRUE, NULL, NULL));
  g_assert_cmpuint (mf_dirty_session_count (session), ==, 0);
  g_assert_true (mf_region_zero (f->region, 3 * PAGE, PAGE, TRUE, NULL, NULL));
  g_assert_true (mf_bitmap_test (mf_dirty_session_bits (session), 3));
  mf_dirty_reader_acknowledge (reader);
  mf_dirty_reader_free (reader);
  mf_dirty_session_unref (session);
}

/* Whole pages that are missing become PRESENT without being asked for. */
static void
test_missing (Fixture *f, gconstpointer data)
{
  uint8_t page[PAGE], zeroes[PAGE] = { 0 };
  g_autoptr (GError) error = NULL;

  g_assert_true (mf_region_zero (f->region, 10 * PAGE, 2 * PAGE, TRUE, NULL, NULL));
  g_assert_cmpuint (state_of (f, 10) & MF_PAGE_PRESENT, !=, 0);
  g_assert_cmpuint (state_of (f, 11) & MF_PAGE_PRESENT, !=, 0);
  g_assert_cmpuint (state_of (f, 12), ==, MF_PAGE_MISSING);
  g_assert_true (mf_region_read (f->region, 10 * PAGE, page, PAGE, NULL, NULL));
  g_assert_cmpmem (page, PAGE, zeroes, PAGE);
  /* The rest of a page that is missing has to come first, and nobody brings it. */
  g_assert_false (mf_region_zero (f->region, 20 * PAGE + 1, 10, TRUE, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_IO);
}

static void
test_data_from (Fixture *f, gconstpointer data)
{
  g_assert_cmpuint (mf_store_data_from (f->store, 0), ==, SIZE);
  g_assert_true (mf_store_write (f->store, 7 * PAGE + 9, "x", 1, NULL));
  g_assert_cmpuint (mf_store_data_from (f->store, 0), ==, 7 * PAGE);
  g_assert_cmpuint (mf_store_data_from (f->store, 7 * PAGE + 100), ==, 7 * PAGE + 100);
  g_assert_cmpuint (mf_store_data_from (f->store, 8 * PAGE), ==, SIZE);
  g_assert_cmpuint (mf_store_data_from (f->store, SIZE), ==, SIZE);
  g_assert_cmpuint (mf_store_data_from (f->store, UINT64_MAX), ==, SIZE);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add ("/region-zero/ranges", Fixture, NULL, set_up, test_ranges, tear_down);
  g_test_add ("/region-zero/allocates", Fixture, NULL, set_up, test_allocates, tear_down);
  g_test_add ("/region-zero/past-the-end", Fixture, NULL, set_up, test_past_the_end, tear_down);
  g_test_add ("/region-zero/dirty", Fixture, NULL, set_up, test_dirty, tear_down);
  g_test_add ("/region-zero/missing", Fixture, NULL, set_up_missing, test_missing, tear_down);
  g_test_add ("/region-zero/data-from", Fixture, NULL, set_up, test_data_from, tear_down);
  return g_test_run ();
}
