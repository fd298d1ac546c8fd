/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "track/mf-mapping.h"

#define PAGE 4096u
#define MIB  (1024 * 1024)

static void
assert_refused (mf_mapping mapping, uint64_t size_bytes)
{
  g_autoptr (GError) error = NULL;

  g_assert_null (mf_mapping_set_new (&mapping, 1, size_bytes, PAGE, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_INVALID);
}

static void
test_what_cannot_be_is_refused (void)
{
  g_autoptr (GError) error = NULL;
  mf_mapping many[MF_MAPPINGS_MAX + 1];

  assert_refused ((mf_mapping){ 0x10000, 0, 0 }, MIB);
  assert_refused ((mf_mapping){ 0x10001, PAGE, 0 }, MIB);
  assert_refused ((mf_mapping){ 0x10000, PAGE, 1 }, MIB);
  assert_refused ((mf_mapping){ 0x10000, MIB + 1, 0 }, MIB);
  assert_refused ((mf_mapping){ 0x10000, MIB, PAGE }, MIB);
  assert_refused ((mf_mapping){ 0x10000, PAGE, MIB }, MIB);
  assert_refused ((mf_mapping){ 0x10000, G_MAXUINT64, 0 }, MIB);
  assert_refused ((mf_mapping){ 0x10000, G_MAXUINT64 - PAGE + 1, 0 }, MIB);
  assert_refused ((mf_mapping){ 0x10000, PAGE, G_MAXUINT64 - PAGE + 1 }, MIB);
  assert_refused ((mf_mapping){ G_MAXUINT64 - PAGE + 1, PAGE, 0 }, MIB);

  for (guint i = 0; i < G_N_ELEMENTS (many); i++)
    many[i] = (mf_mapping){ 0x10000, PAGE, 0 };
  g_assert_null (mf_mapping_set_new (many, 0, MIB, PAGE, NULL));
  g_assert_null (mf_mapping_set_new (many, G_N_ELEMENTS (many), MIB, PAGE, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_INVALID);
}

static void
test_a_short_last_page_counts_whole (void)
{
  const mf_mapping mapping = { 0x10000, 3 * PAGE + 1, 0 };
  g_autofree mf_mapping_set *set = mf_mapping_set_new (&mapping, 1, 3 * PAGE + 1, PAGE, NULL);

  g_assert_nonnull (set);
  g_assert_cmpuint (set->items[0].length, ==, 4 * PAGE);
}

static void
test_page_at_an_address (void)
{
  const mf_mapping mappings[] = { { 0x100000, 4 * PAGE, 2 * PAGE }, { 0x200000, 2 * PAGE, 0 } };
  g_autofree mf_mapping_set *set = mf_mapping_set_new (mappings, 2, MIB, PAGE, NULL);
  uint64_t page;

  g_assert_true (mf_mapping_set_page_at (set, 0x100000, &page));
  g_assert_cmpuint (page, ==, 2);
  g_assert_true (mf_mapping_set_page_at (set, 0x100000 + 4 * PAGE - 1, &page));
  g_assert_cmpuint (page, ==, 5);
  g_assert_true (mf_mapping_set_page_at (set, 0x201000, &page));
  g_assert_cmpuint (page, ==, 1);
  g_assert_false (mf_mapping_set_page_at (set, 0x100000 + 4 * PAGE, &page));
  g_assert_false (mf_mapping_set_page_at (set, 0xfffff, &page));
}

static void
assert_first (const mf_mapping_set *set, mf_run run, bool shown, uint64_t count, uint64_t at)
{
  uint64_t address = 0;
  mf_run part;

  g_assert_true (mf_mapping_set_first (set, run, &part, &address) == shown);
  g_assert_cmpuint (part.first, ==, run.first);
  g_assert_cmpuint (part.count, ==, count);
  if (shown)
    g_assert_cmphex (address, ==, at);
}

static void
test_a_run_is_cut_where_mappings_end (void)
{
  /* Pages 2 to 5 and 8 to 9 are shown. */
  const mf_mapping mappings[] = { { 0x100000, 4 * PAGE, 2 * PAGE }, { 0x200000, 2 * PAGE, 8 * PAGE } };
  g_autofree mf_mapping_set *set = mf_mapping_set_new (mappings, 2, MIB, PAGE, NULL);

  assert_first (set, (mf_run){ 0, 16 }, false, 2, 0);
  assert_first (set, (mf_run){ 2, 14 }, true, 4, 0x100000);
  assert_first (set, (mf_run){ 3, 1 }, true, 1, 0x101000);
  assert_first (set, (mf_run){ 6, 10 }, false, 2, 0);
  assert_first (set, (mf_run){ 8, 8 }, true, 2, 0x200000);
  assert_first (set, (mf_run){ 10, 6 }, false, 6, 0);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/mapping/what-cannot-be-is-refused", test_what_cannot_be_is_refused);
  g_test_add_func ("/mapping/a-short-last-page-counts-whole", test_a_short_last_page_counts_whole);
  g_test_add_func ("/mapping/page-at-an-address", test_page_at_an_address);
  g_test_add_func ("/mapping/a-run-is-cut-where-mappings-end", test_a_run_is_cut_where_mappings_end);
  return g_test_run ();
}
