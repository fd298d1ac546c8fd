/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-quantity.h"
#include "core/mf-size.h"

#include <stdlib.h>
#include <string.h>

static const char units[] = "KMGT";

static gboolean
parse_bytes (const char *text, const char *after, guint64 *bytes)
{
  const char *rest;
  uint64_t value;

  if (!mf_size_parse (text, &value, &rest) || value == 0)
    return FALSE;
  if (*rest != '\0' && !(after != NULL && strcmp (rest, after) == 0))
    return FALSE;
  *bytes = value;
  return TRUE;
}

gboolean
mf_quantity_parse_size (const char *text, guint64 *bytes, GError **error)
{
  if (parse_bytes (text, NULL, bytes))
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
               "%s is not a size: give bytes, or a number with K, M, G or T (powers of 1024)", text);
  return FALSE;
}

gboolean
mf_quantity_parse_rate (const char *text, guint64 *bytes_per_second, GError **error)
{
  if (parse_bytes (text, "/s", bytes_per_second))
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
               "%s is not a rate: give bytes a second, or a number with K, M, G or T (powers of 1024)", text);
  return FALSE;
}

gboolean
mf_quantity_parse_msec (const char *text, guint64 *usec, GError **error)
{
  const double hour = 3600.0 * 1000;
  char *end = NULL;
  double value = 0;

  if (g_ascii_isdigit (text[0]))
    value = g_ascii_strtod (text, &end);
  /* Rounds to whole microseconds; what rounds to none is no time at all. */
  if (end == NULL || *end || !(value * 1000 >= 1) || value > hour) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s is not a time: give milliseconds, 0.001 to 3600000", text);
    return FALSE;
  }
  *usec = (guint64) (value * 1000 + 0.5);
  return TRUE;
}

static char *
format_bytes (guint64 bytes, const char *after)
{
  double value = (double) bytes;
  int unit = -1;

  while (value >= 1000 && units[unit + 1]) {
    value /= 1024;
    unit++;
  }
  if (unit < 0)
    return g_strdup_printf ("%" G_GUINT64_FORMAT "%s", bytes, after);
  return g_strdup_printf (value < 9.995   ? "%.2f%c%s"
                          : value < 99.95 ? "%.1f%c%s"
                                          : "%.0f%c%s",
                          value, units[unit], after);
}

char *
mf_quantity_format_size (guint64 bytes)
{
  static const guint shifts[] = { 40, 30, 20, 10 };

  /* Sizes that somebody chose are told as they were chosen. */
  for (guint i = 0; i < G_N_ELEMENTS (shifts); i++)
    if (bytes >> shifts[i] && bytes % (G_GUINT64_CONSTANT (1) << shifts[i]) == 0 && bytes >> shifts[i] < 1024)
      return g_strdup_printf ("%" G_GUINT64_FORMAT "%c", bytes >> shifts[i], units[3 - i]);
  return format_bytes (bytes, "");
}

char *
mf_quantity_format_rate (guint64 bytes_per_second)
{
  return format_bytes (bytes_per_second, "/s");
}

char *
mf_quantity_format_usec (guint64 usec)
{
  if (usec < 1000)
    return g_strdup_printf ("%" G_GUINT64_FORMAT " us", usec);
  if (usec < 1000 * 1000)
    return g_strdup_printf (usec < 100 * 1000 ? "%.1f ms" : "%.0f ms", (double) usec / 1000);
  if (usec < 120 * 1000 * 1000)
    return g_strdup_printf ("%.1f s", (double) usec / 1e6);
  return g_strdup_printf ("%" G_GUINT64_FORMAT " min %" G_GUINT64_FORMAT " s", usec / 60000000, usec / 1000000 % 60);
}
