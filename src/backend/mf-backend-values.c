/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A plugin's options as the user writes them: VALUE,OPTION=VALUE,... by the plugin's own table.
 */
#include "core/mf-size.h"
#include "mf-backend.h"

#include <string.h>

static guint
count_options (const memferry_backend *plugin)
{
  guint n = 0;

  while (plugin->options != NULL && plugin->options[n].name != NULL)
    n++;
  return n;
}

void
mf_backend_values_free (const memferry_backend *plugin, memferry_value *values)
{
  if (values == NULL)
    return;
  for (guint i = 0; i < count_options (plugin); i++)
    g_free ((char *) values[i].text);
  g_free (values);
}

/* Cuts at single commas; two are one comma of the text. */
static GPtrArray *
split (const char *text)
{
  GPtrArray *words = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GString) word = g_string_new (NULL);

  for (const char *at = text; *at != '\0'; at++) {
    if (*at == ',' && at[1] != ',') {
      g_ptr_array_add (words, g_strdup (word->str));
      g_string_truncate (word, 0);
      continue;
    }
    at += *at == ',';
    g_string_append_c (word, *at);
  }
  if (word->len > 0 || words->len > 0)
    g_ptr_array_add (words, g_strdup (word->str));
  return words;
}

/* What an option wants, for messages. */
static const char *
wanted (memferry_option_type type)
{
  switch (type) {
  case MEMFERRY_OPTION_PATH:
    return "a path";
  case MEMFERRY_OPTION_SIZE:
    return "a size: bytes, or a number with K, M, G or T (powers of 1024)";
  case MEMFERRY_OPTION_NUMBER:
    return "a number";
  case MEMFERRY_OPTION_FLAG:
    return "yes or no";
  case MEMFERRY_OPTION_TEXT:
    break;
  }
  return "a text";
}

static gboolean
parse_number (const char *text, uint64_t *number)
{
  const char *rest;

  return mf_size_parse (text, number, &rest) && *rest == '\0';
}

/* FALSE: `text` is nothing of that kind. */
static gboolean
parse_value (memferry_option_type type, const char *text, memferry_value *value)
{
  switch (type) {
  case MEMFERRY_OPTION_TEXT:
    value->text = g_strdup (text);
    return TRUE;
  case MEMFERRY_OPTION_PATH:
    value->text = *text != '\0' ? g_canonicalize_filename (text, NULL) : NULL;
    return value->text != NULL;
  case MEMFERRY_OPTION_SIZE:
    return parse_number (text, &value->number) && value->number > 0;
  case MEMFERRY_OPTION_NUMBER:
    return parse_number (text, &value->number) && g_ascii_isdigit (text[strlen (text) - 1]);
  case MEMFERRY_OPTION_FLAG:
    value->number = strcmp (text, "no") != 0;
    return value->number == 0 || strcmp (text, "yes") == 0;
  }
  return FALSE;
}

/* The option that `word` names, and its value; the first of the table when it names none and is the first word. -1: no such option. */
static int
find_option (const memferry_backend *plugin, const char *word, guint number, const char **text)
{
  const char *equals = strchr (word, '=');
  size_t length = equals != NULL ? (size_t) (equals - word) : strlen (word);
  guint n = count_options (plugin);

  for (guint i = 0; i < n; i++) {
    const memferry_option *option = &plugin->options[i];

    if (strlen (option->name) != length || strncmp (option->name, word, length) != 0)
      continue;
    if (equals == NULL && option->type != MEMFERRY_OPTION_FLAG)
      continue;
    *text = equals != NULL ? equals + 1 : "yes";
    return (int) i;
  }
  *text = word;
  return number == 0 && n > 0 ? 0 : -1;
}

static gboolean
take_word (const memferry_backend *plugin, memferry_value *values, const char *word, guint number, GError **error)
{
  const char *text;
  int i = find_option (plugin, word, number, &text);

  if (i < 0) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s: there is no option %s", plugin->name, word);
    return FALSE;
  }
  if (values[i].given) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s: %s is given twice", plugin->name, plugin->options[i].name);
    return FALSE;
  }
  if (!parse_value (plugin->options[i].type, text, &values[i])) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s: %s can't be \"%s\": it is %s", plugin->name,
                 plugin->options[i].name, text, wanted (plugin->options[i].type));
    return FALSE;
  }
  values[i].given = 1;
  return TRUE;
}

memferry_value *
mf_backend_parse_values (const memferry_backend *plugin, const char *text, GError **error)
{
  g_autoptr (GPtrArray) words = split (text);
  guint n = count_options (plugin);
  memferry_value *values = g_new0 (memferry_value, n + 1);

  for (guint i = 0; i < words->len; i++) {
    if (!take_word (plugin, values, g_ptr_array_index (words, i), i, error)) {
      mf_backend_values_free (plugin, values);
      return NULL;
    }
  }
  for (guint i = 0; i < n; i++) {
    if (plugin->options[i].required && !values[i].given) {
      g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s: %s is missing: it is %s", plugin->name,
                   plugin->options[i].name, wanted (plugin->options[i].type));
      mf_backend_values_free (plugin, values);
      return NULL;
    }
  }
  return values;
}
