/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A table on standard output: columns as wide as what is in them.
 */
#include <glib.h>

G_BEGIN_DECLS

typedef struct mf_cli_table mf_cli_table;

/* `titles`: the columns, NULL-terminated. A title that begins with '>' (which is not shown) is of numbers, aligned to the right. */
mf_cli_table *mf_cli_table_new (const char *const *titles);
void mf_cli_table_free (mf_cli_table *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_cli_table, mf_cli_table_free)

/* A row with as many cells as there are columns; takes the cells over, g_free() frees them. */
void mf_cli_table_add (mf_cli_table *table, char **cells);

/* Prints titles and rows; only the titles when there are no rows. */
void mf_cli_table_print (const mf_cli_table *table);

G_END_DECLS
