/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Small steps in an XML tree as libvirt writes it: elements indented by two spaces each. What is added is indented as well and what is
 * removed takes its line along, so that a change can be shown to a person as lines.
 *
 * Elements and attributes are in no namespace unless a function takes one. Nodes belong to their document.
 */
#include <glib.h>
#include <libxml/tree.h>

G_BEGIN_DECLS

/* The first child element of that name; NULL: there is none, or `parent` is NULL. `ns`: a namespace's URI, or NULL for none. */
xmlNode *mf_xml_child (xmlNode *parent, const char *ns, const char *name);
/* The next sibling element like `node`. */
xmlNode *mf_xml_next (xmlNode *node);
/* TRUE also for no name: any element. */
gboolean mf_xml_is (xmlNode *node, const char *ns, const char *name);

/* The value of an attribute, or NULL; also when `node` is NULL. (transfer full) */
char *mf_xml_get (xmlNode *node, const char *attribute);
gboolean mf_xml_has_value (xmlNode *node, const char *attribute, const char *value);
/* `value` NULL: removes it. */
void mf_xml_set (xmlNode *node, const char *attribute, const char *value);
/* The text in it, without space at its ends; NULL when `node` is NULL. (transfer full) */
char *mf_xml_text (xmlNode *node);

/* Appends a new element. `ns`: as declared in the document, or NULL. */
xmlNode *mf_xml_append (xmlNode *parent, xmlNs *ns, const char *name);
/* Puts a new element without namespace on the line after `sibling`. */
xmlNode *mf_xml_insert_after (xmlNode *sibling, const char *name);
/* Removes the element, its line and what is in it. */
void mf_xml_remove (xmlNode *node);
gboolean mf_xml_has_elements (xmlNode *node);

G_END_DECLS
