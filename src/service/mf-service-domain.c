/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The regions of libvirt's domains: made when a domain starts, removed after it has ended.
 *
 * That a region is a domain's, and that the domain has ended, is remembered with the region. A region that a migration still reads from, or whose
 * program has not quite gone, is *released* and removed later, by whatever makes it free, in this service or the next.
 */
#include "service/mf-service-private.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

/* --- End --- */

static gboolean
is_gone (MfService *service, const char *region)
{
  const pid_t pid = mf_region_set_pid (mf_service_regions (service), region);

  return pid == 0 || (kill (pid, 0) != 0 && errno == ESRCH);
}

void
mf_service_settle_domain (MfService *service, const char *region)
{
  gboolean released = FALSE;
  g_autofree char *domain = mf_region_set_dup_domain (mf_service_regions (service), region, &released);
  g_autoptr (GError) error = NULL;

  if (!domain || !released || !mf_service_host (service) || !is_gone (service, region))
    return;
  if (mf_service_remove_region (service, region, TRUE, &error))
    g_message ("region %s: the domain %s has ended; it is removed", region, domain);
  else
    g_debug ("region %s is not removed yet: %s", region, error->message);
}

static void
release_region (MfService *service, const char *domain, const char *region)
{
  g_autoptr (GError) error = NULL;

  if (!mf_region_set_domain (mf_service_regions (service), region, domain, TRUE, &error))
    g_warning ("region %s: that its domain has ended can't be written: %s", region, error->message);
  mf_service_settle_domain (service, region);
}

/* "PID TIME": a number may be another process by the next time, its start isn't. NULL: there is no such process. */
static char *
describe_process (pid_t pid)
{
  g_autofree char *path = g_strdup_printf ("/proc/%d/stat", (int) pid);
  g_autofree char *text = NULL;
  g_auto (GStrv) words = NULL;
  const char *rest;

  if (pid <= 0 || !g_file_get_contents (path, &text, NULL, NULL) || !(rest = strrchr (text, ')')))
    return NULL;
  /* The first one here is the third of all; the start is the 22nd. */
  words = g_strsplit (rest + 2, " ", -1);
  return g_strv_length (words) > 19 ? g_strdup_printf ("%d %s", (int) pid, words[19]) : NULL;
}

void
mf_service_domain_attached (MfService *service, const char *region, pid_t pid)
{
  gboolean released = FALSE;
  g_autofree char *domain = mf_region_set_dup_domain (mf_service_regions (service), region, &released);
  g_autofree char *process = domain ? describe_process (pid) : NULL;
  g_autoptr (GError) error = NULL;

  if (process && !mf_region_set_process (mf_service_regions (service), region, process, &error))
    g_warning ("region %s: its process can't be written: %s", region, error->message);
}

void
mf_service_recover_domain (MfService *service, const char *region)
{
  gboolean released = FALSE;
  g_autofree char *domain = mf_region_set_dup_domain (mf_service_regions (service), region, &released);
  g_autofree char *process = mf_region_set_dup_process (mf_service_regions (service), region), *now = NULL;

  if (!domain || !process)
    return;
  now = describe_process ((pid_t) g_ascii_strtoll (process, NULL, 10));
  if (g_strcmp0 (now, process) != 0)
    release_region (service, domain, region);
}

void
mf_service_release_domain (MfService *service, const char *name)
{
  MfRegionSet *set = mf_service_regions (service);
  g_auto (GStrv) names = mf_region_set_names (set);

  for (char **region = names; *region; region++) {
    gboolean released = FALSE;
    g_autofree char *domain = mf_region_set_dup_domain (set, *region, &released);

    if (g_strcmp0 (domain, name) != 0)
      continue;
    if (mf_service_host (service))
      mf_host_forgo (mf_service_host (service), *region);
    release_region (service, domain, *region);
  }
}

/* --- Start --- */

/* Whose it is, if it may be replaced: what is left of a domain that has ended without anybody being told. */
static gboolean
may_replace (MfService *service, const char *name, const char *domain, GError **error)
{
  gboolean released = FALSE;
  g_autofree char *owner = mf_region_set_dup_domain (mf_service_regions (service), name, &released);

  if (g_strcmp0 (owner, domain) == 0)
    return TRUE;
  if (owner)
    g_set_error (error, MF_ERROR, MF_ERROR_EXISTS, "region %s is there already, for the domain %s", name, owner);
  else
    g_set_error (error, MF_ERROR, MF_ERROR_EXISTS,
                 "region %s is there already, and no domain's: remove it (memferry remove %s), or give the domain "
                 "another name",
                 name, name);
  return FALSE;
}

/* An empty region. */
static gboolean
make_region (MfService *service, const char *domain, const mf_service_memory *memory, GError **error)
{
  const mf_service_client client = { .uid = geteuid () };
  g_autoptr (MfRegion) old = mf_region_set_find (mf_service_regions (service), memory->region, NULL);

  if (old && (!may_replace (service, memory->region, domain, error) ||
              !mf_service_remove_region (service, memory->region, TRUE, error)))
    return FALSE;
  return mf_service_create_region (service, memory->region, memory->size_bytes, &client, error);
}

/* One that a migration is filling. */
static gboolean
check_incoming (MfService *service, const mf_service_memory *memory, GError **error)
{
  g_autoptr (MfRegion) region = mf_region_set_find (mf_service_regions (service), memory->region, error);

  if (!region)
    return FALSE;
  if (mf_region_get_size (region) == memory->size_bytes)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
               "region %s comes with %" G_GUINT64_FORMAT " bytes, and the domain has %" G_GUINT64_FORMAT,
               memory->region, (guint64) mf_region_get_size (region), memory->size_bytes);
  return FALSE;
}

static gboolean
make_ready (MfService *service, const char *domain, const mf_service_memory *memory, GError **error)
{
  switch (mf_host_region_role (mf_service_host (service), memory->region)) {
  case MF_REGION_INCOMING:
    return check_incoming (service, memory, error);
  case MF_REGION_HERE:
  case MF_REGION_AWAY:
    return make_region (service, domain, memory, error);
  case MF_REGION_SERVING:
    g_set_error (
        error, MF_ERROR, MF_ERROR_BUSY,
        "region %s: the domain runs on another host and still reads from here; memferry jobs shows how far it is",
        memory->region);
    return FALSE;
  case MF_REGION_POSTCOPY:
  case MF_REGION_LEAVING:
  default:
    g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "region %s is in a migration; memferry jobs shows how far it is",
                 memory->region);
    return FALSE;
  }
}

static gboolean
give_to (MfRegion *region, uid_t owner, GError **error)
{
  MfStore *store = mf_region_store (region);

  if (fchown (mf_store_fd (store), owner, (gid_t) -1) == 0)
    return TRUE;
  return mf_error_from_errno (error, errno, "giving %s to user %u", mf_store_path (store), owner);
}

/* Returns the region's file. */
static char *
prepare_memory (MfService *service, const mf_service_domain *wish, const mf_service_memory *memory, GError **error)
{
  MfRegionSet *set = mf_service_regions (service);
  g_autoptr (MfRegion) region = NULL;

  if (mf_service_is_taken (service, memory->region, 0, error) || !make_ready (service, wish->name, memory, error))
    return NULL;
  region = mf_region_set_find (set, memory->region, error);
  if (!region || !mf_service_check_programs (service, mf_region_store (region), error) ||
      !give_to (region, wish->owner, error) || !mf_region_set_domain (set, memory->region, wish->name, FALSE, error) ||
      !mf_region_set_process (set, memory->region, NULL, error) ||
      !mf_service_remember_control (service, memory->region, wish->qmp, error))
    return NULL;
  mf_service_show_region (service, memory->region);
  return g_strdup (mf_store_path (mf_region_store (region)));
}

gboolean
mf_service_prepare_domain (MfService *service, const mf_service_domain *wish, char ***files, GError **error)
{
  g_autoptr (GPtrArray) list = g_ptr_array_new_with_free_func (g_free);

  if (!mf_service_check_programs (service, NULL, error))
    return FALSE;
  for (guint i = 0; i < wish->n_memory; i++) {
    char *file = prepare_memory (service, wish, &wish->memory[i], error);

    if (!file) {
      /* Those before it, which nobody will use. */
      while (i-- > 0)
        release_region (service, wish->name, wish->memory[i].region);
      return FALSE;
    }
    g_ptr_array_add (list, file);
  }
  g_ptr_array_add (list, NULL);
  *files = (char **) g_ptr_array_free (g_steal_pointer (&list), FALSE);
  return TRUE;
}
