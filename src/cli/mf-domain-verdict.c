/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-domain-verdict.h"

#include "cli/mf-cli-service.h"
#include "hypervisor/mf-domain.h"

static char *
first_of (char **lines)
{
  return *lines ? g_strdup (*lines) : NULL;
}

/* Whether the service has all of the memory, mapped by a program. NULL: it has. */
static char *
judge_memory (const mf_domain *domain, GDBusObjectManager *objects)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GArray) memory = mf_domain_list_memory (domain, &error);

  if (!memory)
    return g_strdup (error->message);
  for (guint i = 0; i < memory->len; i++) {
    const char *name = g_array_index (memory, mf_domain_memory, i).region;
    g_autoptr (MfDbusRegion1) region = mf_cli_find_region (objects, name, NULL);

    if (!region || !mf_dbus_region1_get_pid (region))
      return g_strdup ("memferryd does not have its memory: it was started without it, or without the hook of libvirt; "
                       "shut it down and start it");
  }
  return NULL;
}

/* What it runs with may be older than its definition. */
static char *
judge_live (const char *xml, GDBusObjectManager *objects)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (mf_domain) domain = mf_domain_parse (xml, &error);
  g_auto (GStrv) gaps = NULL, obstacles = NULL;

  if (!domain)
    return g_strdup (error->message);
  /* A device that has been plugged in since. */
  obstacles = mf_domain_find_obstacles (domain);
  if (*obstacles)
    return first_of (obstacles);
  gaps = mf_domain_find_gaps (domain);
  if (!mf_domain_is_enabled (domain) || *gaps)
    return g_strdup ("it was started before it was enabled: shut it down and start it");
  return objects ? judge_memory (domain, objects) : NULL;
}

static char *
judge_definition (const mf_domain *domain, const char *name)
{
  g_auto (GStrv) obstacles = mf_domain_find_obstacles (domain), gaps = NULL;

  if (*obstacles)
    return first_of (obstacles);
  if (!mf_domain_is_enabled (domain))
    return g_strdup_printf ("not enabled: memferry domain enable %s", name);
  gaps = mf_domain_find_gaps (domain);
  return *gaps ? g_strdup_printf ("%s: memferry domain enable %s again", *gaps, name) : NULL;
}

void
mf_domain_verdict_init (mf_domain_verdict *v, const mf_domain_entry *entry, GDBusObjectManager *objects)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (mf_domain) domain = mf_domain_parse (entry->definition ? entry->definition : entry->live, &error);

  *v = (mf_domain_verdict){ .name = entry->name, .runs = entry->live != NULL };
  if (!domain) {
    v->reason = g_strdup (error->message);
    return;
  }
  v->enabled = mf_domain_is_enabled (domain);
  v->reason = judge_definition (domain, entry->name);
  if (!v->reason && entry->live)
    v->reason = judge_live (entry->live, objects);
  v->ready = v->reason == NULL;
}

void
mf_domain_verdict_clear (mf_domain_verdict *verdict)
{
  g_clear_pointer (&verdict->reason, g_free);
}
