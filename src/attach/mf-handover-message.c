/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "attach/mf-handover-message.h"

#include <json-glib/json-glib.h>

static gboolean
wrong (GError **error, const char *what)
{
  g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "Hand-over: %s", what);
  return FALSE;
}

/* The JSON parser calls itself for every level: what is nested too deep never gets to it. */
static gboolean
is_shallow (const char *line, gsize length)
{
  guint depth = 0;
  gboolean in_string = FALSE;

  for (gsize i = 0; i < length; i++) {
    if (in_string && line[i] == '\\')
      i++;
    else if (line[i] == '"')
      in_string = !in_string;
    else if (!in_string && (line[i] == '{' || line[i] == '['))
      depth++;
    else if (!in_string && (line[i] == '}' || line[i] == ']') && depth > 0)
      depth--;
    if (depth > MF_HANDOVER_DEPTH_MAX)
      return FALSE;
  }
  return TRUE;
}

static gboolean
read_number (JsonObject *object, const char *name, uint64_t max, uint64_t *value)
{
  JsonNode *node = json_object_get_member (object, name);
  gint64 number;

  if (!node || !JSON_NODE_HOLDS_VALUE (node) || json_node_get_value_type (node) != G_TYPE_INT64)
    return FALSE;
  number = json_node_get_int (node);
  if (number < 0 || (uint64_t) number > max)
    return FALSE;
  *value = (uint64_t) number;
  return TRUE;
}

static gboolean
read_mappings (JsonObject *object, mf_handover_message *message, GError **error)
{
  JsonNode *node = json_object_get_member (object, "mappings");
  JsonArray *array;

  if (!node || !JSON_NODE_HOLDS_ARRAY (node))
    return wrong (error, "no \"mappings\"");
  array = json_node_get_array (node);
  if (json_array_get_length (array) > MF_MAPPINGS_MAX)
    return wrong (error, "too many mappings");
  for (guint i = 0; i < json_array_get_length (array); i++) {
    JsonNode *item = json_array_get_element (array, i);
    mf_mapping *mapping = &message->mappings[i];

    if (!JSON_NODE_HOLDS_OBJECT (item) ||
        !read_number (json_node_get_object (item), "address", G_MAXINT64, &mapping->address) ||
        !read_number (json_node_get_object (item), "length", G_MAXINT64, &mapping->length) ||
        !read_number (json_node_get_object (item), "offset", G_MAXINT64, &mapping->offset))
      return wrong (error, "a mapping must have an address, a length and an offset");
    message->n_mappings++;
  }
  return TRUE;
}

static gboolean
read_message (JsonNode *root, mf_handover_message *message, GError **error)
{
  JsonObject *object;
  JsonNode *type_node;
  const char *type;
  uint64_t number;

  if (root && JSON_NODE_HOLDS_ARRAY (root))
    return wrong (error, "a JSON array with one userfaultfd (as Firecracker sends it) is not taken by this version");
  if (!root || !JSON_NODE_HOLDS_OBJECT (root))
    return wrong (error, "a message is one JSON object");
  object = json_node_get_object (root);
  if (!read_number (object, "memferry", G_MAXINT32, &number))
    return wrong (error, "no \"memferry\", the version");
  if (number != MF_HANDOVER_VERSION) {
    g_set_error (error, MF_ERROR, MF_ERROR_VERSION,
                 "Hand-over: the program's library speaks version %" G_GUINT64_FORMAT ", the service version %d",
                 number, MF_HANDOVER_VERSION);
    return FALSE;
  }
  type_node = json_object_get_member (object, "type");
  if (!type_node || !JSON_NODE_HOLDS_VALUE (type_node) || json_node_get_value_type (type_node) != G_TYPE_STRING)
    return wrong (error, "no \"type\"");
  type = json_node_get_string (type_node);
  if (g_str_equal (type, "descriptors")) {
    message->type = MF_HANDOVER_DESCRIPTORS;
    return TRUE;
  }
  if (g_str_equal (type, "mappings")) {
    message->type = MF_HANDOVER_MAPPINGS;
    return read_mappings (object, message, error);
  }
  if (!g_str_equal (type, "offer"))
    return wrong (error, "a message of unknown type");
  message->type = MF_HANDOVER_OFFER;
  if (!read_number (object, "generation", G_MAXUINT32, &number))
    return wrong (error, "no \"generation\"");
  message->generation = (uint32_t) number;
  return read_mappings (object, message, error);
}

gboolean
mf_handover_message_parse (const char *line, gsize length, mf_handover_message *message, GError **error)
{
  g_autoptr (JsonParser) parser = json_parser_new_immutable ();
  g_autoptr (GError) reason = NULL;

  *message = (mf_handover_message){ 0 };
  if (length > MF_HANDOVER_LINE_MAX || !is_shallow (line, length) || !g_utf8_validate_len (line, length, NULL))
    return wrong (error, "a message that is too long, nested too deep or not UTF-8");
  if (!json_parser_load_from_data (parser, line, (gssize) length, &reason))
    return wrong (error, "a message that is not JSON");
  return read_message (json_parser_get_root (parser), message, error);
}

char *
mf_handover_answer (const char *type)
{
  return g_strdup_printf ("{\"memferry\":%d,\"type\":\"%s\"}\n", MF_HANDOVER_VERSION, type);
}

char *
mf_handover_refusal (const char *reason)
{
  g_autofree char *cut = g_utf8_make_valid (reason, -1);
  g_autoptr (JsonNode) node = json_node_new (JSON_NODE_VALUE);
  g_autofree char *quoted = NULL;

  json_node_set_string (node, cut);
  quoted = json_to_string (node, FALSE);
  return g_strdup_printf ("{\"memferry\":%d,\"type\":\"refused\",\"error\":%s}\n", MF_HANDOVER_VERSION, quoted);
}
