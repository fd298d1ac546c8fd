/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a former service left: sessions past their switchover go on, of the others nothing stays.
 */
#include "migrate/mf-host-tables.h"

#include "migrate/mf-fetch.h"
#include "migrate/mf-migration-private.h"
#include "migrate/mf-source.h"
#include "migrate/mf-target.h"

/* With the lock held. */
static void
resume_target (MfHost *host, MfMigration *migration, mf_record *record)
{
  mf_fetch *fetch = NULL;

  if (record->target_dials) {
    fetch = mf_fetch_resume (host, migration, record);
    g_ptr_array_add (host->fetches, fetch);
  }
  g_ptr_array_add (host->targets, mf_target_resume (host, migration, record, fetch));
}

/* What a former service left of one session. Takes `record` over. */
static gboolean
recover_session (MfHost *host, mf_record *record, GError **error)
{
  gboolean is_source = record->phase == MF_PHASE_LEAVING || record->phase == MF_PHASE_HANDED;
  g_autoptr (MfMigration) migration = NULL;

  for (guint i = 0; record->regions[i] != NULL && !is_source; i++) {
    g_autoptr (MfRegion) region = mf_host_find_region (host, record->regions[i], error);
    gboolean ok;

    /* Before the switchover nothing of it counts; after it, what is not there is missing. */
    if (region == NULL)
      ok = FALSE;
    else if (record->phase == MF_PHASE_TAKEN)
      ok = mf_target_forget_holes (region, error);
    else
      ok = mf_region_reset (region, error);
    if (ok && record->phase == MF_PHASE_INCOMING)
      mf_region_set_all_present (region);
    if (!ok) {
      mf_record_free (record);
      return FALSE;
    }
  }
  if (record->phase == MF_PHASE_INCOMING) {
    mf_record_remove (record, host->state_dir);
    /* Those of a program that was still to come were made for it. */
    for (guint i = 0; record->program != NULL && record->regions[i] != NULL; i++)
      mf_host_drop_region (host, record->regions[i]);
    mf_record_free (record);
    return TRUE;
  }

  migration =
      mf_migration_new (host->context, (const char *const *) record->regions, record->peer, MF_MODE_AUTO, is_source);
  g_mutex_lock (&host->lock);
  g_ptr_array_add (host->records, record);
  if (is_source)
    g_ptr_array_add (host->sources, mf_source_resume (host, migration, record));
  else
    resume_target (host, migration, record);
  g_mutex_unlock (&host->lock);
  mf_host_announce (host, migration);
  return TRUE;
}

gboolean
mf_host_recover (MfHost *host, GError **error)
{
  g_autoptr (GPtrArray) records = mf_record_load_all (host->state_dir, error);

  if (records == NULL)
    return FALSE;
  while (records->len > 0) {
    g_autoptr (GError) local_error = NULL;
    mf_record *record = g_ptr_array_steal_index (records, 0);
    g_autofree char *first = g_strdup (record->regions[0] ? record->regions[0] : "");

    if (record->phase == MF_PHASE_AWAY || mf_host_has_ended (record)) {
      g_mutex_lock (&host->lock);
      mf_host_keep_copy (host, record);
      if (record->target_dials && mf_host_has_ended (record))
        g_ptr_array_add (host->fetches, mf_fetch_resume (host, NULL, record));
      g_mutex_unlock (&host->lock);
      mf_record_free (record);
    } else if (!recover_session (host, record, &local_error)) {
      g_warning ("the migration of region %s, which a former service began, can't go on: %s", first,
                 local_error->message);
    }
  }
  return TRUE;
}
