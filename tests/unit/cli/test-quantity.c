/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-quantity.h"

typedef gboolean (*parser) (const char *text, guint64 *value, GError **error);

static void
assert_parses (parser parse, const char *text, guint64 expected)
{
  g_autoptr (GError) error = NULL;
  guint64 value = 0;

  g_assert_true (parse (text, &value, &error));
  g_assert_no_error (error);
  g_assert_cmpuint (value, ==, expected);
}

static void
assert_refuses (parser parse, const char *text)
{
  g_autoptr (GError) error = NULL;
  guint64 value = 4711;

  g_assert_false (parse (text, &value, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_INVALID);
  /* The message quotes what it is about, and the value is left alone. */
  g_assert_true (g_str_has_prefix (error->message, text));
  g_assert_cmpuint (value, ==, 4711);
}

static void
test_sizes (void)
{
  assert_parses (mf_quantity_parse_size, "1", 1);
  assert_parses (mf_quantity_parse_size, "4096", 4096);
  assert_parses (mf_quantity_parse_size, "64K", 64 << 10);
  assert_parses (mf_quantity_parse_size, "64k", 64 << 10);
  assert_parses (mf_quantity_parse_size, "512M", 512u << 20);
  assert_parses (mf_quantity_parse_size, "2G", G_GUINT64_CONSTANT (2) << 30);
  assert_parses (mf_quantity_parse_size, "3T", G_GUINT64_CONSTANT (3) << 40);
}

static void
test_largest_sizes (void)
{
  assert_parses (mf_quantity_parse_size, "9223372036854775807", G_MAXINT64);
  assert_refuses (mf_quantity_parse_size, "9223372036854775808");
  assert_parses (mf_quantity_parse_size, "8388607T", G_GUINT64_CONSTANT (8388607) << 40);
  assert_refuses (mf_quantity_parse_size, "8388608T");
  assert_refuses (mf_quantity_parse_size, "18446744073709551615");
  assert_refuses (mf_quantity_parse_size, "18446744073709551617");
  assert_refuses (mf_quantity_parse_size, "99999999999999999999999K");
}

static void
test_what_is_no_size (void)
{
  const char *const wrong[] = { "",     "0", "0K",   "-1",  "+1",  " 1",  "1 ",  "1Q", "1KB",
                                "1.5G", "K", "0x10", "1K1", "1/s", "abc", "1 G", "١",  NULL };

  for (guint i = 0; wrong[i]; i++)
    assert_refuses (mf_quantity_parse_size, wrong[i]);
}

static void
test_rates (void)
{
  assert_parses (mf_quantity_parse_rate, "100M", 100u << 20);
  assert_parses (mf_quantity_parse_rate, "100M/s", 100u << 20);
  assert_parses (mf_quantity_parse_rate, "1000", 1000);
  assert_refuses (mf_quantity_parse_rate, "100M/");
  assert_refuses (mf_quantity_parse_rate, "100Mbit/s");
  assert_refuses (mf_quantity_parse_rate, "0");
}

static void
test_milliseconds (void)
{
  const char *const wrong[] = { "", "0", "-1", "20ms", "1e", "nan", "inf", "0.0001", "3600001", "1e300", " 1", NULL };

  assert_parses (mf_quantity_parse_msec, "20", 20000);
  assert_parses (mf_quantity_parse_msec, "0.5", 500);
  assert_parses (mf_quantity_parse_msec, "0.001", 1);
  assert_parses (mf_quantity_parse_msec, "3600000", G_GUINT64_CONSTANT (3600000000));
  for (guint i = 0; wrong[i]; i++)
    assert_refuses (mf_quantity_parse_msec, wrong[i]);
}

static void
assert_text (char *text, const char *expected)
{
  g_autofree char *owned = text;

  g_assert_cmpstr (owned, ==, expected);
}

static void
test_sizes_for_people (void)
{
  assert_text (mf_quantity_format_size (0), "0");
  assert_text (mf_quantity_format_size (1), "1");
  assert_text (mf_quantity_format_size (999), "999");
  assert_text (mf_quantity_format_size (1024), "1K");
  assert_text (mf_quantity_format_size (1 << 30), "1G");
  assert_text (mf_quantity_format_size (G_GUINT64_CONSTANT (1536) << 20), "1.50G");
  assert_text (mf_quantity_format_size (1000), "0.98K");
  assert_text (mf_quantity_format_size (12345678), "11.8M");
  assert_text (mf_quantity_format_size (G_GUINT64_CONSTANT (2000) << 40), "2000T");
  assert_text (mf_quantity_format_size (G_MAXUINT64), "16777216T");
}

static void
test_rates_for_people (void)
{
  assert_text (mf_quantity_format_rate (0), "0/s");
  assert_text (mf_quantity_format_rate (98 << 20), "98.0M/s");
  assert_text (mf_quantity_format_rate (999 << 20), "999M/s");
}

static void
test_times_for_people (void)
{
  assert_text (mf_quantity_format_usec (0), "0 us");
  assert_text (mf_quantity_format_usec (999), "999 us");
  assert_text (mf_quantity_format_usec (14200), "14.2 ms");
  assert_text (mf_quantity_format_usec (123456), "123 ms");
  assert_text (mf_quantity_format_usec (12345678), "12.3 s");
  assert_text (mf_quantity_format_usec (125 * 1000 * 1000), "2 min 5 s");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/quantity/sizes", test_sizes);
  g_test_add_func ("/quantity/largest-sizes", test_largest_sizes);
  g_test_add_func ("/quantity/what-is-no-size", test_what_is_no_size);
  g_test_add_func ("/quantity/rates", test_rates);
  g_test_add_func ("/quantity/milliseconds", test_milliseconds);
  g_test_add_func ("/quantity/sizes-for-people", test_sizes_for_people);
  g_test_add_func ("/quantity/rates-for-people", test_rates_for_people);
  g_test_add_func ("/quantity/times-for-people", test_times_for_people);
  return g_test_run ();
}
