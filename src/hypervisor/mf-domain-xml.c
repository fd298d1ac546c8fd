/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hypervisor/mf-domain-xml.h"

#include <string.h>

#define STR(text) ((const char *) (text))

gboolean
mf_xml_is (xmlNode *node, const char *ns, const char *name)
{
  const char *found = node->ns ? STR (node->ns->href) : NULL;

  return node->type == XML_ELEMENT_NODE && g_strcmp0 (found, ns) == 0 &&
         (!name || strcmp (STR (node->name), name) == 0);
}

xmlNode *
mf_xml_child (xmlNode *parent, const char *ns, const char *name)
{
  for (xmlNode *node = parent ? parent->children : NULL; node; node = node->next)
    if (mf_xml_is (node, ns, name))
      return node;
  return NULL;
}

xmlNode *
mf_xml_next (xmlNode *node)
{
  const char *ns = node->ns ? STR (node->ns->href) : NULL;

  for (xmlNode *next = node->next; next; next = next->next)
    if (mf_xml_is (next, ns, STR (node->name)))
      return next;
  return NULL;
}

char *
mf_xml_get (xmlNode *node, const char *attribute)
{
  xmlChar *value = node ? xmlGetNoNsProp (node, BAD_CAST attribute) : NULL;
  char *copy = value ? g_strdup (STR (value)) : NULL;

  xmlFree (value);
  return copy;
}

gboolean
mf_xml_has_value (xmlNode *node, const char *attribute, const char *value)
{
  g_autofree char *found = mf_xml_get (node, attribute);

  return g_strcmp0 (found, value) == 0;
}

void
mf_xml_set (xmlNode *node, const char *attribute, const char *value)
{
  if (value)
    xmlSetProp (node, BAD_CAST attribute, BAD_CAST value);
  else
    xmlUnsetProp (node, BAD_CAST attribute);
}

char *
mf_xml_text (xmlNode *node)
{
  xmlChar *text = node ? xmlNodeGetContent (node) : NULL;
  char *copy = text ? g_strstrip (g_strdup (STR (text))) : NULL;

  xmlFree (text);
  return copy;
}

/* --- Lines --- */

static guint
depth_of (xmlNode *node)
{
  guint depth = 0;

  for (xmlNode *parent = node->parent; parent && parent->type == XML_ELEMENT_NODE; parent = parent->parent)
    depth++;
  return depth;
}

/* The end of a line and the space before what is on the next one. */
static xmlNode *
new_line (guint depth)
{
  g_autofree char *space = g_strnfill (2 * depth, ' ');
  g_autofree char *text = g_strconcat ("\n", space, NULL);

  return xmlNewText (BAD_CAST text);
}

static gboolean
is_space (xmlNode *node)
{
  return node && node->type == XML_TEXT_NODE && xmlIsBlankNode (node);
}

xmlNode *
mf_xml_append (xmlNode *parent, xmlNs *ns, const char *name)
{
  xmlNode *last = parent->last;
  xmlNode *node = xmlNewDocNode (parent->doc, ns, BAD_CAST name, NULL);
  const guint depth = depth_of (parent);

  /* Text nodes that come to stand side by side would be merged, and freed: each is put beside an element. */
  if (is_space (last)) {
    xmlAddPrevSibling (last, node);
    xmlAddPrevSibling (node, new_line (depth + 1));
    return node;
  }
  xmlAddChild (parent, node);
  xmlAddPrevSibling (node, new_line (depth + 1));
  xmlAddNextSibling (node, new_line (depth));
  return node;
}

xmlNode *
mf_xml_insert_after (xmlNode *sibling, const char *name)
{
  xmlNode *node = xmlNewDocNode (sibling->doc, NULL, BAD_CAST name, NULL);

  xmlAddNextSibling (sibling, node);
  xmlAddPrevSibling (node, new_line (depth_of (sibling)));
  return node;
}

void
mf_xml_remove (xmlNode *node)
{
  xmlNode *parent = node->parent, *before = node->prev;

  xmlUnlinkNode (node);
  xmlFreeNode (node);
  if (is_space (before)) {
    xmlUnlinkNode (before);
    xmlFreeNode (before);
  }
  /* <a>\n</a> becomes <a/>. */
  if (parent->children && parent->children == parent->last && is_space (parent->children)) {
    xmlNode *space = parent->children;

    xmlUnlinkNode (space);
    xmlFreeNode (space);
  }
}

gboolean
mf_xml_has_elements (xmlNode *node)
{
  return xmlFirstElementChild (node) != NULL;
}
