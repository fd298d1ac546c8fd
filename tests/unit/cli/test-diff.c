/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-diff.h"

static void
assert_diff (const char *before, const char *after, const char *expected)
{
  g_autofree char *found = mf_cli_diff (before, after);

  g_assert_cmpstr (found, ==, expected);
}

static void
test_equal (void)
{
  assert_diff ("", "", "");
  assert_diff ("a\nb\n", "a\nb\n", "");
}

static void
test_one_line (void)
{
  assert_diff ("1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nfive\n6\n7\n8\n9\n",
               "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n");
}

static void
test_ends (void)
{
  assert_diff ("", "a\n", "@@ -0,0 +1,1 @@\n+a\n");
  assert_diff ("a\n", "", "@@ -1,1 +0,0 @@\n-a\n");
  assert_diff ("b\n", "a\nb\nc\n", "@@ -1,1 +1,3 @@\n+a\n b\n+c\n");
}

static void
test_two_places (void)
{
  assert_diff ("x\n1\n2\n3\n4\n5\n6\n7\n8\n9\ny\n", "1\n2\n3\n4\n5\n6\n7\n8\n9\nz\n",
               "@@ -1,4 +1,3 @@\n-x\n 1\n 2\n 3\n@@ -8,4 +7,4 @@\n 7\n 8\n 9\n-y\n+z\n");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/diff/equal", test_equal);
  g_test_add_func ("/diff/one-line", test_one_line);
  g_test_add_func ("/diff/ends", test_ends);
  g_test_add_func ("/diff/two-places", test_two_places);
  return g_test_run ();
}
