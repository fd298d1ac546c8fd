/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-table.h"

struct mf_cli_table {
  guint columns;
  gboolean *to_the_right;
  GPtrArray *rows; /* of GStrv; the titles first */
};

mf_cli_table *
mf_cli_table_new (const char *const *titles)
{
  mf_cli_table *table = g_new0 (mf_cli_table, 1);
  char **shown;

  table->columns = g_strv_length ((char **) titles);
  table->to_the_right = g_new0 (gboolean, table->columns);
  table->rows = g_ptr_array_new_with_free_func ((GDestroyNotify) g_strfreev);
  shown = g_new0 (char *, table->columns + 1);
  for (guint i = 0; i < table->columns; i++) {
    table->to_the_right[i] = titles[i][0] == '>';
    shown[i] = g_strdup (titles[i] + (table->to_the_right[i] ? 1 : 0));
  }
  g_ptr_array_add (table->rows, shown);
  return table;
}

void
mf_cli_table_free (mf_cli_table *table)
{
  g_ptr_array_unref (table->rows);
  g_free (table->to_the_right);
  g_free (table);
}

void
mf_cli_table_add (mf_cli_table *table, char **cells)
{
  g_return_if_fail (g_strv_length (cells) == table->columns);
  g_ptr_array_add (table->rows, cells);
}

static glong
width_of (const mf_cli_table *table, guint column)
{
  glong width = 0;

  for (guint i = 0; i < table->rows->len; i++) {
    char **row = table->rows->pdata[i];

    width = MAX (width, g_utf8_strlen (row[column], -1));
  }
  return width;
}

void
mf_cli_table_print (const mf_cli_table *table)
{
  g_autofree glong *widths = g_new (glong, table->columns);

  for (guint c = 0; c < table->columns; c++)
    widths[c] = width_of (table, c);
  for (guint i = 0; i < table->rows->len; i++) {
    g_autoptr (GString) line = g_string_new (NULL);
    char **row = table->rows->pdata[i];

    for (guint c = 0; c < table->columns; c++) {
      int padding = (int) (widths[c] - g_utf8_strlen (row[c], -1));

      if (table->to_the_right[c])
        g_string_append_printf (line, "%*s%s", padding, "", row[c]);
      else if (c + 1 < table->columns)
        g_string_append_printf (line, "%s%*s", row[c], padding, "");
      else
        g_string_append (line, row[c]);
      if (c + 1 < table->columns)
        g_string_append (line, "  ");
    }
    g_print ("%s\n", line->str);
  }
}
