/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "core/mf-run-list.h"

#include <glib.h>
#include <stdlib.h>
#include <string.h>

G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_bitmap, mf_bitmap_free)

static void
assert_same (const mf_bitmap *a, const mf_bitmap *b)
{
  g_assert_cmpuint (mf_bitmap_size (a), ==, mf_bitmap_size (b));
  for (uint64_t first = 0; first < mf_bitmap_size (a); first += 64)
    g_assert_cmphex (mf_bitmap_get_word (a, first), ==, mf_bitmap_get_word (b, first));
}

/* Encodes, decodes, compares; returns the length. */
static size_t
round_trip (const mf_bitmap *set, uint8_t form)
{
  g_autoptr (mf_bitmap) back = mf_bitmap_new (mf_bitmap_size (set));
  size_t length = 0;
  uint8_t *data = mf_run_list_encode (set, &length);

  g_assert_nonnull (data);
  g_assert_cmpuint (data[0], ==, form);
  g_assert_true (mf_run_list_decode (data, length, back));
  assert_same (set, back);
  free (data);
  return length;
}

static void
assert_decodes (uint64_t n_pages, const uint8_t *data, size_t length, bool right)
{
  g_autoptr (mf_bitmap) set = mf_bitmap_new (n_pages);
  g_autofree uint8_t *copy = g_memdup2 (data, length); /* of its own size: AddressSanitizer sees a read past it */
  g_assert_cmpint (mf_run_list_decode (copy, length, set), ==, right);
}
#define ASSERT_DECODES(n_pages, right, ...)                                                                            \
  do {                                                                                                                 \
    const uint8_t bytes[] = { __VA_ARGS__ };                                                                           \
    assert_decodes (n_pages, bytes, sizeof bytes, right);                                                              \
  } while (0)

static void
test_sizes (void)
{
  const uint64_t sizes[] = { 0, 1, 7, 8, 9, 63, 64, 65, 127, 128, 1000, 4097 };

  for (gsize i = 0; i < G_N_ELEMENTS (sizes); i++) {
    uint64_t n = sizes[i];
    g_autoptr (mf_bitmap) set = mf_bitmap_new (n);

    g_assert_cmpuint (round_trip (set, 1), ==, 1); /* nothing is one byte */
    for (uint64_t page = 0; page < n; page += 2)
      mf_bitmap_set (set, page);
    /* Two bytes a run against an eighth of a byte a page. A single page takes a run, as long as it isn't longer. */
    if (n > 8)
      g_assert_cmpuint (round_trip (set, 2), ==, 1 + (n + 7) / 8);
    mf_bitmap_set_run (set, (mf_run){ 0, n });
    if (n > 8)
      g_assert_cmpuint (round_trip (set, 1), <=, 4);
  }
}

static void
test_shorter_form (void)
{
  g_autoptr (mf_bitmap) set = mf_bitmap_new (1 << 20);

  mf_bitmap_set (set, (1 << 20) - 1);
  g_assert_cmpuint (round_trip (set, 1), ==, 1 + 3 + 1);
  mf_bitmap_set_run (set, (mf_run){ 1000, 100000 });
  g_assert_cmpuint (round_trip (set, 1), ==, 1 + 2 + 3 + 3 + 1);
  for (uint64_t page = 0; page < 1 << 20; page += 3)
    mf_bitmap_set (set, page);
  g_assert_cmpuint (round_trip (set, 2), ==, 1 + (1 << 17));
}

static void
test_random (void)
{
  for (int turn = 0; turn < 300; turn++) {
    uint64_t n = (uint64_t) g_test_rand_int_range (1, 5000);
    g_autoptr (mf_bitmap) set = mf_bitmap_new (n), back = mf_bitmap_new (n);
    int runs = g_test_rand_int_range (0, 400);
    size_t length = 0;

    for (int i = 0; i < runs; i++) {
      uint64_t first = (uint64_t) g_test_rand_int_range (0, (gint32) n);
      uint64_t count = (uint64_t) g_test_rand_int_range (0, 9);
      mf_bitmap_set_run (set, (mf_run){ first, MIN (n - first, count) });
    }
    uint8_t *data = mf_run_list_encode (set, &length);
    g_assert_cmpuint (length, <=, 1 + (n + 7) / 8);
    g_assert_true (mf_run_list_decode (data, length, back));
    assert_same (set, back);
    free (data);
  }
}

static void
test_layout (void)
{
  g_autoptr (mf_bitmap) set = mf_bitmap_new (1000);
  const uint8_t expected[] = { 1, 3, 1, 0x80 + 0x23, 1, 0x80, 1 }; /* 3 to 4; 163 further, 129 pages */
  size_t length = 0;

  mf_bitmap_set_run (set, (mf_run){ 3, 2 });
  mf_bitmap_set_run (set, (mf_run){ 5 + 163, 129 });
  uint8_t *data = mf_run_list_encode (set, &length);
  g_assert_cmpmem (data, length, expected, sizeof expected);
  free (data);

  g_autoptr (mf_bitmap) bits = mf_bitmap_new (12);
  const uint8_t form2[] = { 2, 0x81, 0x08 };
  g_assert_true (mf_run_list_decode (form2, sizeof form2, bits));
  g_assert_cmphex (mf_bitmap_get_word (bits, 0), ==, 0x881);
}

static void
test_refuses_forms (void)
{
  g_autoptr (mf_bitmap) set = mf_bitmap_new (10);

  g_assert_false (mf_run_list_decode (NULL, 0, set));
  ASSERT_DECODES (10, false, 0);
  ASSERT_DECODES (10, false, 3, 1, 1);
  ASSERT_DECODES (10, true, 1);
  ASSERT_DECODES (0, true, 1);
  ASSERT_DECODES (0, true, 2);
}

static void
test_refuses_runs (void)
{
  ASSERT_DECODES (10, true, 1, 0, 9);
  ASSERT_DECODES (10, true, 1, 9, 0);
  ASSERT_DECODES (10, true, 1, 0, 4, 0, 4); /* two that touch */
  ASSERT_DECODES (10, false, 1, 0, 10);
  ASSERT_DECODES (10, false, 1, 10, 0);
  ASSERT_DECODES (10, false, 1, 9, 1);
  ASSERT_DECODES (0, false, 1, 0, 0);
  ASSERT_DECODES (10, false, 1, 0, 9, 0, 0);
  ASSERT_DECODES (10, false, 1, 0); /* no count */
  ASSERT_DECODES (10, false, 1, 0, 0x80);
  ASSERT_DECODES (10, false, 1, 0x80);
}

static void
test_refuses_numbers (void)
{
  /* 2^63, 2^64 - 1, a 65th bit, eleven bytes, and the longest spelling of 1. */
  ASSERT_DECODES (10, false, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1, 0);
  ASSERT_DECODES (10, false, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1);
  ASSERT_DECODES (10, false, 1, 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1);
  ASSERT_DECODES (10, false, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1);
  ASSERT_DECODES (10, false, 1, 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2, 0);
  ASSERT_DECODES (10, false, 1, 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 0);
  ASSERT_DECODES (10, true, 1, 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 0);
}

static void
test_refuses_bitmaps (void)
{
  ASSERT_DECODES (10, true, 2, 0xff, 0x03);
  ASSERT_DECODES (10, false, 2, 0xff, 0x04);
  ASSERT_DECODES (10, false, 2, 0xff, 0x80);
  ASSERT_DECODES (10, false, 2, 0xff);
  ASSERT_DECODES (10, false, 2, 0xff, 0x03, 0x00);
  ASSERT_DECODES (10, false, 2);
  ASSERT_DECODES (0, false, 2, 0);
  ASSERT_DECODES (8, true, 2, 0xff);
  ASSERT_DECODES (64, true, 2, 0xff, 0, 0, 0, 0, 0, 0, 0x80);
  ASSERT_DECODES (65, true, 2, 0xff, 0, 0, 0, 0, 0, 0, 0x80, 1);
  ASSERT_DECODES (65, false, 2, 0xff, 0, 0, 0, 0, 0, 0, 0x80, 2);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/run-list/sizes", test_sizes);
  g_test_add_func ("/run-list/shorter-form", test_shorter_form);
  g_test_add_func ("/run-list/random", test_random);
  g_test_add_func ("/run-list/layout", test_layout);
  g_test_add_func ("/run-list/refuses/forms", test_refuses_forms);
  g_test_add_func ("/run-list/refuses/runs", test_refuses_runs);
  g_test_add_func ("/run-list/refuses/numbers", test_refuses_numbers);
  g_test_add_func ("/run-list/refuses/bitmaps", test_refuses_bitmaps);
  return g_test_run ();
}
