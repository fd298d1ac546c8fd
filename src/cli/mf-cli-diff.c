/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The longest common subsequence of the lines, by the table that the textbooks have: entry (i, j) is its length for the lines from i of one
 * text and from j of the other. Lines that are equal at both ends are left out of it first.
 */
#include "cli/mf-cli-diff.h"

#include <string.h>

#define CONTEXT 3

/* One line of the result: ' ' in both, '-' only before, '+' only after. */
typedef struct {
  char mark;
  const char *text;
} step;

typedef struct {
  char **lines;
  guint n;
} text;

static text
split (const char *whole)
{
  text t = { g_strsplit (whole, "\n", -1), 0 };

  t.n = g_strv_length (t.lines);
  /* What ends with a line's end has no empty line after it. */
  if (t.n && !*t.lines[t.n - 1])
    t.n--;
  return t;
}

static void
add (GArray *steps, char mark, const char *line)
{
  const step s = { mark, line };

  g_array_append_val (steps, s);
}

static void
walk (GArray *steps, char **a, guint n_a, char **b, guint n_b)
{
  const guint width = n_b + 1;
  g_autofree guint *common = g_new0 (guint, (gsize) (n_a + 1) * width);
  guint i, j;

  for (i = n_a; i-- > 0;)
    for (j = n_b; j-- > 0;)
      common[i * width + j] = strcmp (a[i], b[j]) == 0 ? common[(i + 1) * width + j + 1] + 1
                                                       : MAX (common[(i + 1) * width + j], common[i * width + j + 1]);
  for (i = j = 0; i < n_a || j < n_b;) {
    if (i < n_a && j < n_b && strcmp (a[i], b[j]) == 0) {
      add (steps, ' ', a[i++]);
      j++;
    } else if (i < n_a && (j == n_b || common[(i + 1) * width + j] >= common[i * width + j + 1])) {
      add (steps, '-', a[i++]);
    } else {
      add (steps, '+', b[j++]);
    }
  }
}

static GArray *
compare (const text *a, const text *b)
{
  GArray *steps = g_array_new (FALSE, FALSE, sizeof (step));
  guint head = 0, tail = 0;

  while (head < a->n && head < b->n && strcmp (a->lines[head], b->lines[head]) == 0)
    add (steps, ' ', a->lines[head++]);
  while (tail < a->n - head && tail < b->n - head && strcmp (a->lines[a->n - 1 - tail], b->lines[b->n - 1 - tail]) == 0)
    tail++;
  walk (steps, a->lines + head, a->n - head - tail, b->lines + head, b->n - head - tail);
  for (; tail; tail--)
    add (steps, ' ', a->lines[a->n - tail]);
  return steps;
}

/* Whether the step is a change or within CONTEXT lines of one. */
static gboolean
is_shown (const GArray *steps, guint at)
{
  const guint first = at > CONTEXT ? at - CONTEXT : 0, last = MIN (at + CONTEXT, steps->len - 1);

  for (guint i = first; i <= last; i++)
    if (g_array_index (steps, step, i).mark != ' ')
      return TRUE;
  return FALSE;
}

/* The steps from `first` that are shown without a gap; returns the one after them. */
static guint
print_hunk (GString *out, const GArray *steps, guint first, guint line_a, guint line_b)
{
  guint n_a = 0, n_b = 0, end;

  for (end = first; end < steps->len && is_shown (steps, end); end++) {
    n_a += g_array_index (steps, step, end).mark != '+';
    n_b += g_array_index (steps, step, end).mark != '-';
  }
  g_string_append_printf (out, "@@ -%u,%u +%u,%u @@\n", n_a ? line_a : line_a - 1, n_a, n_b ? line_b : line_b - 1, n_b);
  for (guint i = first; i < end; i++)
    g_string_append_printf (out, "%c%s\n", g_array_index (steps, step, i).mark, g_array_index (steps, step, i).text);
  return end;
}

char *
mf_cli_diff (const char *before, const char *after)
{
  text a = split (before), b = split (after);
  GString *out = g_string_new (NULL);
  g_autoptr (GArray) steps = compare (&a, &b);
  guint line_a = 1, line_b = 1;

  for (guint i = 0; i < steps->len;) {
    guint end = is_shown (steps, i) ? print_hunk (out, steps, i, line_a, line_b) : i + 1;

    for (; i < end; i++) {
      line_a += g_array_index (steps, step, i).mark != '+';
      line_b += g_array_index (steps, step, i).mark != '-';
    }
  }
  g_strfreev (a.lines);
  g_strfreev (b.lines);
  return g_string_free (out, FALSE);
}
