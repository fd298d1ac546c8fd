/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hypervisor/mf-domain-registry.h"

#include "hypervisor/mf-domain.h"
#include "hypervisor/mf-virt-error.h"
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <libxml/uri.h>
#include <string.h>

#define DEFAULT_URI "qemu:///system"

/* How long dirty rates are measured, how long that may take in all, and how often to look whether it is done. */
#define MEASURE_S          1
#define MEASURE_LIMIT_USEC (5 * G_USEC_PER_SEC)
#define MEASURE_LOOK_USEC  (100 * 1000)

struct _mf_domain_registry {
  virConnectPtr connection;
};

/* --- Connection --- */

mf_domain_registry *
mf_domain_registry_open (const char *uri, GError **error)
{
  g_autoptr (mf_domain_registry) registry = g_new0 (mf_domain_registry, 1);

  mf_virt_be_quiet ();
  registry->connection = virConnectOpenAuth (uri ? uri : DEFAULT_URI, virConnectAuthPtrDefault, 0);
  if (!registry->connection) {
    mf_error_from_virt (error, uri ? uri : DEFAULT_URI);
    return NULL;
  }
  if (g_strcmp0 (virConnectGetType (registry->connection), "QEMU") != 0) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED, "%s: its domains are not those of QEMU", uri);
    return NULL;
  }
  return g_steal_pointer (&registry);
}

void
mf_domain_registry_free (mf_domain_registry *registry)
{
  if (registry->connection)
    virConnectClose (registry->connection);
  g_free (registry);
}

gboolean
mf_domain_registry_is_local (const mf_domain_registry *registry)
{
  char *text = virConnectGetURI (registry->connection);
  xmlURI *uri = text ? xmlParseURI (text) : NULL;
  const gboolean local = uri && (!uri->server || !*uri->server);

  if (uri)
    xmlFreeURI (uri);
  free (text);
  return local;
}

/* --- Domains --- */

void
mf_domain_entry_free (mf_domain_entry *entry)
{
  g_free (entry->name);
  free (entry->definition);
  free (entry->live);
  g_free (entry);
}

/* NULL: libvirt's error says why. */
static mf_domain_entry *
read_domain (virDomainPtr domain, unsigned int flags)
{
  g_autoptr (mf_domain_entry) entry = g_new0 (mf_domain_entry, 1);
  const int active = virDomainIsActive (domain), persistent = virDomainIsPersistent (domain);

  entry->name = g_strdup (virDomainGetName (domain));
  if (active < 0 || persistent < 0)
    return NULL;
  if (persistent && !(entry->definition = virDomainGetXMLDesc (domain, flags | VIR_DOMAIN_XML_INACTIVE)))
    return NULL;
  if (active && !(entry->live = virDomainGetXMLDesc (domain, flags)))
    return NULL;
  return g_steal_pointer (&entry);
}

static int
by_name (gconstpointer a, gconstpointer b)
{
  return strcmp ((*(mf_domain_entry *const *) a)->name, (*(mf_domain_entry *const *) b)->name);
}

GPtrArray *
mf_domain_registry_list (mf_domain_registry *registry, GError **error)
{
  g_autoptr (GPtrArray) entries = g_ptr_array_new_with_free_func ((GDestroyNotify) mf_domain_entry_free);
  virDomainPtr *domains = NULL;
  const int count = virConnectListAllDomains (registry->connection, &domains, 0);

  if (count < 0) {
    mf_error_from_virt (error, "listing the domains");
    return NULL;
  }
  for (int i = 0; i < count; i++) {
    mf_domain_entry *entry = read_domain (domains[i], 0);

    if (entry)
      g_ptr_array_add (entries, entry);
    virDomainFree (domains[i]);
  }
  free (domains);
  g_ptr_array_sort (entries, by_name);
  return g_steal_pointer (&entries);
}

mf_domain_entry *
mf_domain_registry_find (mf_domain_registry *registry, const char *name, GError **error)
{
  virDomainPtr domain = g_uuid_string_is_valid (name) ? virDomainLookupByUUIDString (registry->connection, name) : NULL;
  mf_domain_entry *entry;

  if (!domain)
    domain = virDomainLookupByName (registry->connection, name);
  if (!domain) {
    mf_error_from_virt (error, name);
    return NULL;
  }
  entry = read_domain (domain, VIR_DOMAIN_XML_SECURE);
  if (!entry)
    mf_error_from_virt (error, name);
  virDomainFree (domain);
  return entry;
}

gboolean
mf_domain_registry_define (mf_domain_registry *registry, const char *xml, GError **error)
{
  virDomainPtr domain = virDomainDefineXMLFlags (registry->connection, xml, 0);

  if (!domain)
    return mf_error_from_virt (error, "libvirt does not take the new definition");
  virDomainFree (domain);
  return TRUE;
}

/* libvirt gives up after half a minute in which something else is done to the domain. */
static int
set_metadata (virDomainPtr domain, const char *element, unsigned int flags)
{
  int failed = -1;

  for (guint i = 0; failed && i < 10; i++) {
    failed =
        virDomainSetMetadata (domain, VIR_DOMAIN_METADATA_ELEMENT, element, "memferry", MF_DOMAIN_NAMESPACE, flags);
    if (failed && virGetLastErrorCode () != VIR_ERR_OPERATION_TIMEOUT)
      return failed;
  }
  return failed;
}

/* `flags`: which of the two `xml` is. */
static gboolean
set_peer (virDomainPtr domain, const char *xml, const char *peer, unsigned int flags, GError **error)
{
  g_autoptr (mf_domain) parsed = mf_domain_parse (xml, error);
  g_autofree char *element = NULL, *named = NULL;

  if (!parsed)
    return FALSE;
  named = mf_domain_dup_peer (parsed);
  if (!mf_domain_is_enabled (parsed) || g_strcmp0 (named, peer) == 0)
    return TRUE;
  element = mf_domain_dup_metadata (parsed, peer);
  return set_metadata (domain, element, flags) == 0 || mf_error_from_virt (error, mf_domain_get_name (parsed));
}

gboolean
mf_domain_registry_set_peer (mf_domain_registry *registry, const char *name, const char *peer, GError **error)
{
  virDomainPtr domain = virDomainLookupByName (registry->connection, name);
  g_autoptr (mf_domain_entry) entry = domain ? read_domain (domain, 0) : NULL;
  gboolean good = entry || mf_error_from_virt (error, name);

  if (good && entry->live)
    good = set_peer (domain, entry->live, peer, VIR_DOMAIN_AFFECT_LIVE, error);
  if (good && entry->definition)
    good = set_peer (domain, entry->definition, peer, VIR_DOMAIN_AFFECT_CONFIG, error);
  if (domain)
    virDomainFree (domain);
  return good;
}

/* --- Dirty rates --- */

/* FALSE: it is still being measured. */
static gboolean
read_rate (virDomainPtr domain, guint64 *rate)
{
  virDomainPtr domains[] = { domain, NULL };
  virDomainStatsRecordPtr *records = NULL;
  int status = VIR_DOMAIN_DIRTYRATE_UNSTARTED;
  long long mib = 0;

  if (virDomainListGetStats (domains, VIR_DOMAIN_STATS_DIRTYRATE, &records, 0) < 1)
    return TRUE;
  virTypedParamsGetInt (records[0]->params, records[0]->nparams, "dirtyrate.calc_status", &status);
  if (status == VIR_DOMAIN_DIRTYRATE_MEASURED)
    virTypedParamsGetLLong (records[0]->params, records[0]->nparams, "dirtyrate.megabytes_per_second", &mib);
  virDomainStatsRecordListFree (records);
  *rate = mib > 0 ? (guint64) mib << 20 : 0;
  return status != VIR_DOMAIN_DIRTYRATE_MEASURING;
}

void
mf_domain_registry_measure (mf_domain_registry *registry, const char *const *names, guint64 *rates)
{
  g_autoptr (GPtrArray) domains = g_ptr_array_new ();
  const gint64 limit = g_get_monotonic_time () + MEASURE_LIMIT_USEC;

  for (guint i = 0; names[i]; i++) {
    virDomainPtr domain = virDomainLookupByName (registry->connection, names[i]);

    rates[i] = 0;
    if (domain && virDomainStartDirtyRateCalc (domain, MEASURE_S, 0) < 0)
      g_clear_pointer (&domain, virDomainFree);
    g_ptr_array_add (domains, domain);
  }
  for (guint i = 0; i < domains->len; i++) {
    while (domains->pdata[i] && !read_rate (domains->pdata[i], &rates[i]) && g_get_monotonic_time () < limit)
      g_usleep (MEASURE_LOOK_USEC);
    g_clear_pointer ((virDomainPtr *) &domains->pdata[i], virDomainFree);
  }
  virResetLastError ();
}
