/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Sizes, rates and times as people write and read them. Sizes and rates take K, M, G, T, powers of 1024.
 */
#include "mf-error.h"

G_BEGIN_DECLS

/* "512", "64K", "2G" to bytes. 0, signs, other letters and what does not fit 63 bits are MF_ERROR_INVALID. */
gboolean mf_quantity_parse_size (const char *text, guint64 *bytes, GError **error);

/* The same for bytes a second; "100M/s" is accepted too. */
gboolean mf_quantity_parse_rate (const char *text, guint64 *bytes_per_second, GError **error);

/* Milliseconds, with decimals if need be ("20", "0.5"), to microseconds. More than 0, at most an hour. */
gboolean mf_quantity_parse_msec (const char *text, guint64 *usec, GError **error);

/* "1.0G", "412M", "4096" (three digits that matter). Free with g_free(). */
char *mf_quantity_format_size (guint64 bytes);
char *mf_quantity_format_rate (guint64 bytes_per_second);

/* "830 us", "14.2 ms", "12.3 s", "2 min 5 s". */
char *mf_quantity_format_usec (guint64 usec);

G_END_DECLS
