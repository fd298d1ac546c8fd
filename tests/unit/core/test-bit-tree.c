/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "core/mf-bit-tree.h"

#include <errno.h>
#include <glib.h>

G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_bit_tree, mf_bit_tree_free)

static void
assert_next (const mf_bit_tree *tree, uint64_t from, uint64_t expected)
{
  uint64_t page = UINT64_MAX;
  g_assert_true (mf_bit_tree_next (tree, from, &page));
  g_assert_cmpuint (page, ==, expected);
}

static void
test_empty (void)
{
  g_autoptr (mf_bit_tree) none = mf_bit_tree_new (0);
  g_autoptr (mf_bit_tree) tree = mf_bit_tree_new (1);
  uint64_t page;

  g_assert_false (mf_bit_tree_next (none, 0, &page));
  g_assert_cmpuint (mf_bit_tree_add (none, (mf_run){ 0, 0 }), ==, 0);
  g_assert_cmpuint (mf_bit_tree_length (none, 0, 10), ==, 0);
  g_assert_false (mf_bit_tree_next (tree, 0, &page));
  g_assert_false (mf_bit_tree_next (tree, UINT64_MAX, &page));
  mf_bit_tree_free (NULL);

  errno = 0;
  g_assert_null (mf_bit_tree_new (UINT64_C (1) << 63));
  g_assert_cmpint (errno, ==, EOVERFLOW);
  g_assert_null (mf_bit_tree_new (UINT64_MAX));
}

static void
test_one_page (void)
{
  g_autoptr (mf_bit_tree) tree = mf_bit_tree_new (1);
  uint64_t page;

  g_assert_cmpuint (mf_bit_tree_add (tree, (mf_run){ 0, 1 }), ==, 1);
  g_assert_cmpuint (mf_bit_tree_add (tree, (mf_run){ 0, 1 }), ==, 0);
  assert_next (tree, 0, 0);
  g_assert_false (mf_bit_tree_next (tree, 1, &page));
  g_assert_cmpuint (mf_bit_tree_length (tree, 0, UINT64_MAX), ==, 1);
  g_assert_cmpuint (mf_bit_tree_remove (tree, (mf_run){ 0, 1 }), ==, 1);
  g_assert_cmpuint (mf_bit_tree_remove (tree, (mf_run){ 0, 1 }), ==, 0);
  g_assert_false (mf_bit_tree_next (tree, 0, &page));
}

/* Few pages far apart, in sizes where levels begin and end. */
static void
test_levels (void)
{
  const uint64_t sizes[] = { 63, 64, 65, 4095, 4096, 4097, 262143, 262144, 262145, 20000003 };

  for (gsize i = 0; i < G_N_ELEMENTS (sizes); i++) {
    uint64_t n = sizes[i], page;
    g_autoptr (mf_bit_tree) tree = mf_bit_tree_new (n);

    mf_bit_tree_add (tree, (mf_run){ 0, 1 });
    mf_bit_tree_add (tree, (mf_run){ n / 2, 1 });
    mf_bit_tree_add (tree, (mf_run){ n - 1, 1 });
    g_assert_cmpuint (mf_bit_tree_count (tree), ==, 3);
    assert_next (tree, 0, 0);
    assert_next (tree, 1, n / 2);
    assert_next (tree, n / 2 + 1, n - 1);
    g_assert_false (mf_bit_tree_next (tree, n, &page));
    g_assert_false (mf_bit_tree_next (tree, n + 1000000, &page));
    mf_bit_tree_remove (tree, (mf_run){ n / 2, 1 });
    assert_next (tree, 1, n - 1);
    mf_bit_tree_remove (tree, (mf_run){ 0, n });
    g_assert_false (mf_bit_tree_next (tree, 0, &page));
    mf_bit_tree_add (tree, (mf_run){ 0, n });
    g_assert_cmpuint (mf_bit_tree_length (tree, 0, UINT64_MAX), ==, n);
    mf_bit_tree_clear (tree);
    g_assert_cmpuint (mf_bit_tree_count (tree), ==, 0);
    g_assert_false (mf_bit_tree_next (tree, 0, &page));
  }
}

#define SIZE 10000

static uint64_t
expected_length (const bool *pages, uint64_t first)
{
  uint64_t n = 0;
  while (first + n < SIZE && pages[first + n])
    n++;
  return n;
}

/* Random runs against a plain array. */
static void
test_against_an_array (void)
{
  g_autoptr (mf_bit_tree) tree = mf_bit_tree_new (SIZE);
  g_autofree bool *pages = g_new0 (bool, SIZE);

  for (int turn = 0; turn < 4000; turn++) {
    uint64_t first = (uint64_t) g_test_rand_int_range (0, SIZE);
    mf_run run = { first, (uint64_t) g_test_rand_int_range (0, (gint32) MIN (300, SIZE - first) + 1) };
    bool add = g_test_rand_bit ();
    uint64_t changed = 0, page = SIZE, expected = 0;

    for (uint64_t i = run.first; i < run.first + run.count; i++) {
      changed += pages[i] != add;
      pages[i] = add;
    }
    g_assert_cmpuint (add ? mf_bit_tree_add (tree, run) : mf_bit_tree_remove (tree, run), ==, changed);

    uint64_t from = (uint64_t) g_test_rand_int_range (0, SIZE);
    for (expected = from; expected < SIZE && !pages[expected];)
      expected++;
    g_assert_cmpint (mf_bit_tree_next (tree, from, &page), ==, expected < SIZE);
    g_assert_cmpuint (page, ==, expected);
    g_assert_cmpuint (mf_bit_tree_length (tree, from, UINT64_MAX), ==, expected_length (pages, from));
    g_assert_cmpuint (mf_bit_tree_length (tree, from, 7), ==, MIN (7, expected_length (pages, from)));
  }

  uint64_t count = 0;
  for (uint64_t i = 0; i < SIZE; i++)
    count += pages[i];
  g_assert_cmpuint (mf_bit_tree_count (tree), ==, count);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/bit-tree/empty", test_empty);
  g_test_add_func ("/bit-tree/one-page", test_one_page);
  g_test_add_func ("/bit-tree/levels", test_levels);
  g_test_add_func ("/bit-tree/against-an-array", test_against_an_array);
  return g_test_run ();
}
