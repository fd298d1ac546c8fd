/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The host's records: which session has which region, and who may run a program on it.
 */
#include "migrate/mf-host-tables.h"

/* With the lock held. */
static mf_record *
record_of (MfHost *host, const char *region)
{
  for (guint i = 0; i < host->records->len; i++) {
    mf_record *record = g_ptr_array_index (host->records, i);

    if (g_strv_contains ((const char *const *) record->regions, region))
      return record;
  }
  return NULL;
}

static mf_region_role
role_of (const mf_record *record)
{
  switch (record->phase) {
  case MF_PHASE_INCOMING:
    return MF_REGION_INCOMING;
  case MF_PHASE_TAKEN:
    return MF_REGION_POSTCOPY;
  case MF_PHASE_LEAVING:
    return MF_REGION_LEAVING;
  case MF_PHASE_HANDED:
    return MF_REGION_SERVING;
  case MF_PHASE_AWAY:
    return MF_REGION_AWAY;
  case MF_PHASE_UNDONE:
  case MF_PHASE_COMPLETE:
  default:
    return MF_REGION_HERE;
  }
}

static gboolean
may_claim (mf_record *record, const char *region, mf_record_phase phase, GError **error)
{
  if (record == NULL)
    return TRUE;
  if (record->phase == MF_PHASE_AWAY && phase == MF_PHASE_INCOMING)
    return TRUE;
  if (record->phase == MF_PHASE_AWAY)
    g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "region %s has moved to %s: move it from there", region, record->peer);
  else
    g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "region %s is in a migration already (%s)", region,
                 mf_region_role_name (role_of (record)));
  return FALSE;
}

/* With the lock held: history that a new session replaces. */
static void
forget_history (MfHost *host, const char *region)
{
  mf_record *old = record_of (host, region);

  if (old == NULL)
    return;
  mf_record_remove (old, host->state_dir);
  g_ptr_array_remove (host->records, old);
  g_ptr_array_remove (host->kept, old);
}

gboolean
mf_host_claim (MfHost *host, mf_record *record, mf_record_phase phase, GError **error)
{
  gboolean ok = TRUE;

  g_mutex_lock (&host->lock);
  for (guint i = 0; ok && record->regions[i] != NULL; i++) {
    ok = may_claim (record_of (host, record->regions[i]), record->regions[i], phase, error);
    for (guint k = 0; ok && k < i; k++) {
      if (g_str_equal (record->regions[i], record->regions[k])) {
        g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "region %s is named twice", record->regions[i]);
        ok = FALSE;
      }
    }
  }
  ok = ok && mf_record_write (record, host->state_dir, phase, error);
  for (guint i = 0; ok && record->regions[i] != NULL; i++)
    forget_history (host, record->regions[i]);
  if (ok)
    g_ptr_array_add (host->records, record);
  g_mutex_unlock (&host->lock);
  return ok;
}

gboolean
mf_host_record (MfHost *host, mf_record *record, mf_record_phase phase, GError **error)
{
  gboolean ok;

  g_mutex_lock (&host->lock);
  ok = mf_record_write (record, host->state_dir, phase, error);
  g_mutex_unlock (&host->lock);
  return ok;
}

void
mf_host_drop (MfHost *host, mf_record *record)
{
  g_mutex_lock (&host->lock);
  mf_record_remove (record, host->state_dir);
  g_ptr_array_remove (host->records, record);
  g_mutex_unlock (&host->lock);
}

/* With the lock held. */
void
mf_host_keep_copy (MfHost *host, const mf_record *record)
{
  mf_record *copy =
      mf_record_new (record->session, (const char *const *) record->regions, record->peer, record->control);

  copy->program = g_strdup (record->program);
  copy->state = g_strdup (record->state);
  copy->phase = record->phase;
  copy->running = record->running;
  copy->bandwidth = record->bandwidth;
  copy->target_dials = record->target_dials;
  g_ptr_array_add (host->kept, copy);
  g_ptr_array_add (host->records, copy);
}

void
mf_host_bury (MfHost *host, mf_record *record, mf_record_phase phase)
{
  g_autoptr (GError) error = NULL;

  g_mutex_lock (&host->lock);
  g_clear_pointer (&record->regions, g_strfreev);
  record->regions = g_new0 (char *, 1);
  if (!mf_record_write (record, host->state_dir, phase, &error))
    g_warning ("%s", error->message);
  if (g_ptr_array_remove (host->records, record))
    mf_host_keep_copy (host, record);
  g_mutex_unlock (&host->lock);
}

void
mf_host_keep (MfHost *host, mf_record *record)
{
  g_mutex_lock (&host->lock);
  if (g_ptr_array_remove (host->records, record))
    mf_host_keep_copy (host, record);
  g_mutex_unlock (&host->lock);
}

const char *
mf_region_role_name (mf_region_role role)
{
  static const char *const names[] = {
    [MF_REGION_HERE] = "here",       [MF_REGION_INCOMING] = "incoming", [MF_REGION_POSTCOPY] = "post-copy",
    [MF_REGION_LEAVING] = "leaving", [MF_REGION_SERVING] = "serving",   [MF_REGION_AWAY] = "away",
  };

  return names[role];
}

mf_region_role
mf_host_region_role (MfHost *host, const char *name)
{
  mf_region_role role = MF_REGION_HERE;
  mf_record *record;

  g_mutex_lock (&host->lock);
  record = record_of (host, name);
  if (record != NULL)
    role = role_of (record);
  g_mutex_unlock (&host->lock);
  return role;
}

gboolean
mf_host_forget (MfHost *host, const char *name, GError **error)
{
  mf_record *record;
  gboolean ok = TRUE;

  g_mutex_lock (&host->lock);
  record = record_of (host, name);
  if (record != NULL && record->phase != MF_PHASE_AWAY) {
    g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "region %s is in a migration (%s): cancel it first", name,
                 mf_region_role_name (role_of (record)));
    ok = FALSE;
  } else {
    forget_history (host, name);
  }
  g_mutex_unlock (&host->lock);
  return ok;
}

const mf_record *
mf_host_incoming_record (MfHost *host, const char *region)
{
  mf_record *record = record_of (host, region);

  return record != NULL && record->phase == MF_PHASE_INCOMING ? record : NULL;
}
