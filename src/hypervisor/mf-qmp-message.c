/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hypervisor/mf-qmp-message.h"
#include "hypervisor/mf-qmp.h"

#include <string.h>

#define SHOWN_BYTES 40
/* Deeper than anything QEMU says; the parser recurses. */
#define MAX_DEPTH 256

struct _mf_qmp_splitter {
  size_t max_message_bytes;
  GByteArray *input;
  size_t start; /* of the message that is under way */
  size_t seen;  /* up to here it has been looked at */
  guint depth;  /* of braces and brackets */
  gboolean in_string, after_backslash;
};

mf_qmp_splitter *
mf_qmp_splitter_new (size_t max_message_bytes)
{
  mf_qmp_splitter *splitter = g_new0 (mf_qmp_splitter, 1);

  splitter->max_message_bytes = max_message_bytes;
  splitter->input = g_byte_array_new ();
  return splitter;
}

void
mf_qmp_splitter_free (mf_qmp_splitter *splitter)
{
  if (splitter == NULL)
    return;
  g_byte_array_unref (splitter->input);
  g_free (splitter);
}

void
mf_qmp_splitter_add (mf_qmp_splitter *splitter, const char *bytes, size_t n_bytes)
{
  if (splitter->start > 0) {
    g_byte_array_remove_range (splitter->input, 0, splitter->start);
    splitter->seen -= splitter->start;
    splitter->start = 0;
  }
  g_byte_array_append (splitter->input, (const guint8 *) bytes, n_bytes);
}

/* One more byte of a message; TRUE when it was the last. */
static gboolean
step (mf_qmp_splitter *splitter, char c)
{
  if (splitter->after_backslash) {
    splitter->after_backslash = FALSE;
  } else if (splitter->in_string) {
    splitter->after_backslash = c == '\\';
    splitter->in_string = c != '"';
  } else if (c == '"') {
    splitter->in_string = TRUE;
  } else if (c == '{' || c == '[') {
    splitter->depth++;
  } else if (c == '}' || c == ']') {
    return --splitter->depth == 0;
  }
  return FALSE;
}

static JsonNode *
not_qmp (const char *bytes, size_t n_bytes, GError **error)
{
  g_autofree char *shown = g_strndup (bytes, MIN (n_bytes, SHOWN_BYTES));
  g_autofree char *safe = g_strescape (shown, NULL);
  gboolean is_monitor = g_strstr_len (bytes, n_bytes, "monitor - type") != NULL;

  g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "%s (it says \"%s\")",
               is_monitor ? "that is QEMU's monitor for people: start QEMU with -qmp" : "that is not QMP", safe);
  return NULL;
}

static JsonNode *
parse (const char *bytes, size_t n_bytes, GError **error)
{
  g_autoptr (JsonParser) parser = json_parser_new_immutable ();
  g_autoptr (GError) failure = NULL;

  if (json_parser_load_from_data (parser, bytes, n_bytes, &failure) &&
      mf_json_node_object (json_parser_get_root (parser)) != NULL)
    return json_parser_steal_root (parser);
  return not_qmp (bytes, n_bytes, error);
}

JsonNode *
mf_qmp_splitter_next (mf_qmp_splitter *splitter, GError **error)
{
  const char *input = (const char *) splitter->input->data;
  size_t n_bytes = splitter->input->len;

  while (splitter->depth == 0 && splitter->start < n_bytes && g_ascii_isspace (input[splitter->start]))
    splitter->seen = ++splitter->start;
  if (splitter->depth == 0 && splitter->start < n_bytes && input[splitter->start] != '{')
    return not_qmp (input + splitter->start, n_bytes - splitter->start, error);
  while (splitter->seen < n_bytes) {
    if (step (splitter, input[splitter->seen++])) {
      size_t start = splitter->start;

      splitter->start = splitter->seen;
      return parse (input + start, splitter->seen - start, error);
    }
    if (splitter->depth > MAX_DEPTH)
      return not_qmp (input + splitter->start, n_bytes - splitter->start, error);
  }
  if (n_bytes - splitter->start > splitter->max_message_bytes)
    g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "a message of more than %" G_GSIZE_FORMAT " bytes",
                 splitter->max_message_bytes);
  return NULL;
}

/* --- members --- */

JsonNode *
mf_qmp_string_argument (const char *name, const char *value)
{
  JsonNode *node = json_node_new (JSON_NODE_OBJECT);
  JsonObject *object = json_object_new ();

  json_object_set_string_member (object, name, value);
  json_node_take_object (node, object);
  return node;
}

static JsonNode *
member_of_type (JsonObject *object, const char *name, GType type)
{
  JsonNode *node = object != NULL ? json_object_get_member (object, name) : NULL;

  return node != NULL && JSON_NODE_HOLDS_VALUE (node) && json_node_get_value_type (node) == type ? node : NULL;
}

const char *
mf_json_string (JsonObject *object, const char *name)
{
  JsonNode *node = member_of_type (object, name, G_TYPE_STRING);

  return node != NULL ? json_node_get_string (node) : NULL;
}

gint64
mf_json_int (JsonObject *object, const char *name)
{
  JsonNode *node = member_of_type (object, name, G_TYPE_INT64);

  return node != NULL ? json_node_get_int (node) : 0;
}

gboolean
mf_json_bool (JsonObject *object, const char *name)
{
  JsonNode *node = member_of_type (object, name, G_TYPE_BOOLEAN);

  return node != NULL && json_node_get_boolean (node);
}

JsonObject *
mf_json_node_object (JsonNode *node)
{
  return node != NULL && JSON_NODE_HOLDS_OBJECT (node) ? json_node_get_object (node) : NULL;
}

JsonArray *
mf_json_node_array (JsonNode *node)
{
  return node != NULL && JSON_NODE_HOLDS_ARRAY (node) ? json_node_get_array (node) : NULL;
}

JsonObject *
mf_json_object (JsonObject *object, const char *name)
{
  return object != NULL ? mf_json_node_object (json_object_get_member (object, name)) : NULL;
}

JsonArray *
mf_json_array (JsonObject *object, const char *name)
{
  return object != NULL ? mf_json_node_array (json_object_get_member (object, name)) : NULL;
}

JsonObject *
mf_json_element (JsonArray *array, guint i)
{
  return array != NULL && i < json_array_get_length (array) ? mf_json_node_object (json_array_get_element (array, i))
                                                            : NULL;
}
