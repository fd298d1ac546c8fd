/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hypervisor/mf-domain-private.h"

#include "region/mf-region.h"
#include <libxml/parser.h>
#include <string.h>

/* A definition has a few hundred lines. */
#define MAX_BYTES (8u << 20)

mf_domain *
mf_domain_parse (const char *xml, GError **error)
{
  const size_t length = strlen (xml);
  g_autoptr (mf_domain) domain = g_new0 (mf_domain, 1);
  xmlNode *name;

  if (length < MAX_BYTES)
    domain->document = xmlReadMemory (xml, (int) length, NULL, NULL,
                                      XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING | XML_PARSE_NOCDATA);
  domain->root = domain->document ? xmlDocGetRootElement (domain->document) : NULL;
  if (!domain->root || !mf_xml_is (domain->root, NULL, "domain")) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "this is not the XML of a domain");
    return NULL;
  }
  name = mf_xml_child (domain->root, NULL, "name");
  domain->name = mf_xml_text (name);
  if (!domain->name || !*domain->name) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "the domain has no name");
    return NULL;
  }
  return g_steal_pointer (&domain);
}

void
mf_domain_free (mf_domain *domain)
{
  if (domain->document)
    xmlFreeDoc (domain->document);
  g_free (domain->name);
  g_free (domain);
}

char *
mf_domain_to_xml (mf_domain *domain)
{
  xmlBuffer *buffer = xmlBufferCreate ();
  char *text;

  xmlNodeDump (buffer, domain->document, domain->root, 0, 0);
  text = g_strconcat ((const char *) xmlBufferContent (buffer), "\n", NULL);
  xmlBufferFree (buffer);
  return text;
}

const char *
mf_domain_get_name (const mf_domain *domain)
{
  return domain->name;
}

guint
mf_domain_get_id (const mf_domain *domain)
{
  g_autofree char *text = mf_xml_get (domain->root, "id");
  guint64 id = 0;

  if (!text || !g_ascii_string_to_unsigned (text, 10, 0, G_MAXINT, &id, NULL))
    return 0;
  return (guint) id;
}

xmlNode *
mf_domain_metadata (const mf_domain *domain)
{
  return mf_xml_child (mf_xml_child (domain->root, NULL, "metadata"), MF_DOMAIN_NAMESPACE, "domain");
}

gboolean
mf_domain_is_enabled (const mf_domain *domain)
{
  return mf_domain_metadata (domain) != NULL;
}

char *
mf_domain_dup_peer (const mf_domain *domain)
{
  return mf_xml_get (mf_domain_metadata (domain), "peer");
}

/* --- Memory --- */

xmlNode *
mf_domain_first_cell (const mf_domain *domain)
{
  return mf_xml_child (mf_xml_child (mf_xml_child (domain->root, NULL, "cpu"), NULL, "numa"), NULL, "cell");
}

char *
mf_domain_dup_stem (const mf_domain *domain)
{
  return mf_domain_stem (domain->name);
}

char *
mf_domain_dup_qmp_path (const mf_domain *domain)
{
  return mf_domain_qmp_path (domain->name);
}

char *
mf_domain_dup_state_path (const mf_domain *domain)
{
  return mf_domain_state_path (domain->name);
}

/* Units as libvirt reads them; it writes KiB itself. */
static guint64
bytes_of_unit (const char *unit)
{
  static const struct {
    const char *name;
    guint64 bytes;
  } units[] = {
    { "b", 1 },
    { "bytes", 1 },
    { "KB", 1000 },
    { "k", G_GUINT64_CONSTANT (1) << 10 },
    { "KiB", 1ull << 10 },
    { "MB", 1000000 },
    { "M", 1ull << 20 },
    { "MiB", 1ull << 20 },
    { "GB", 1000000000 },
    { "G", 1ull << 30 },
    { "GiB", 1ull << 30 },
    { "TB", 1000000000000ull },
    { "T", 1ull << 40 },
    { "TiB", 1ull << 40 },
  };

  if (!unit)
    return 1 << 10;
  for (guint i = 0; i < G_N_ELEMENTS (units); i++)
    if (strcmp (units[i].name, unit) == 0)
      return units[i].bytes;
  return 0;
}

static gboolean
read_size (const char *number, const char *unit, guint64 *bytes, GError **error)
{
  const guint64 scale = bytes_of_unit (unit);
  guint64 value = 0;

  if (number && scale && g_ascii_string_to_unsigned (number, 10, 1, G_MAXUINT64 / scale, &value, NULL)) {
    *bytes = value * scale;
    return TRUE;
  }
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "\"%s %s\" is not a size of memory", number ? number : "",
               unit ? unit : "");
  return FALSE;
}

static void
memory_clear (gpointer data)
{
  mf_domain_memory *memory = data;

  g_free (memory->file);
  g_free (memory->region);
}

/* Takes `file` and `region` over. */
static gboolean
add_memory (GArray *list, char *file, char *region, const char *number, const char *unit, GError **error)
{
  mf_domain_memory memory = { file, region, 0 };
  gboolean good = read_size (number, unit, &memory.size_bytes, error);

  if (good && !mf_region_name_is_valid (region)) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED,
                 "its name is too long: a region %s can't be made (64 characters)", region);
    good = FALSE;
  }
  g_array_append_val (list, memory);
  return good;
}

static gboolean
add_cells (GArray *list, xmlNode *cell, const char *stem, GError **error)
{
  for (guint n = 0; cell; cell = mf_xml_next (cell), n++) {
    g_autofree char *id = mf_xml_get (cell, "id");
    g_autofree char *size = mf_xml_get (cell, "memory");
    g_autofree char *unit = mf_xml_get (cell, "unit");
    g_autofree char *number = id ? g_strdup (id) : g_strdup_printf ("%u", n);

    if (!g_ascii_string_to_unsigned (number, 10, 0, 1023, NULL, NULL)) {
      g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "a NUMA cell has the id \"%s\"", number);
      return FALSE;
    }
    if (!add_memory (list, g_strconcat ("ram-node", number, NULL), g_strconcat (stem, ".node", number, NULL), size,
                     unit, error))
      return FALSE;
  }
  if (list->len <= MF_DOMAIN_MAX_FILES)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED, "it has %u NUMA cells: at most %d can be moved", list->len,
               MF_DOMAIN_MAX_FILES);
  return FALSE;
}

GArray *
mf_domain_list_memory (const mf_domain *domain, GError **error)
{
  g_autoptr (GArray) list = g_array_new (FALSE, FALSE, sizeof (mf_domain_memory));
  g_autofree char *stem = mf_domain_dup_stem (domain);
  xmlNode *cell = mf_domain_first_cell (domain);
  xmlNode *memory = mf_xml_child (domain->root, NULL, "memory");
  g_autofree char *size = mf_xml_text (memory);
  g_autofree char *unit = mf_xml_get (memory, "unit");

  g_array_set_clear_func (list, memory_clear);
  if (cell ? !add_cells (list, cell, stem, error)
           : !add_memory (list, g_strdup ("pc.ram"), g_strdup (stem), size, unit, error))
    return NULL;
  return g_steal_pointer (&list);
}
