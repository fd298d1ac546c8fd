/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Migrations whose target dials: what the host that fetches regions asks of the one that has them. mf-fetch.c is the other end.
 */
#include "migrate/mf-host-tables.h"

#include "link/mf-link.h"
#include "migrate/mf-fetch.h"
#include "migrate/mf-migration-private.h"
#include "migrate/mf-source.h"
#include <string.h>

/* With the lock held: one that the target of dials. */
mf_source *
mf_host_dialled_source (MfHost *host, const uint8_t session[MF_SESSION_BYTES])
{
  for (guint i = 0; i < host->sources->len; i++) {
    mf_source *source = g_ptr_array_index (host->sources, i);

    if (mf_source_is_dialled (source) && memcmp (mf_source_session (source), session, MF_SESSION_BYTES) == 0)
      return source;
  }
  return NULL;
}

/* With the lock held. */
mf_fetch *
mf_host_fetch_of (MfHost *host, const uint8_t session[MF_SESSION_BYTES])
{
  for (guint i = 0; i < host->fetches->len; i++) {
    mf_fetch *fetch = g_ptr_array_index (host->fetches, i);

    if (memcmp (mf_fetch_session (fetch), session, MF_SESSION_BYTES) == 0)
      return fetch;
  }
  return NULL;
}

/* With the lock held. */
static gboolean
has_record (MfHost *host, const uint8_t session[MF_SESSION_BYTES])
{
  for (guint i = 0; i < host->records->len; i++) {
    if (memcmp (((mf_record *) g_ptr_array_index (host->records, i))->session, session, MF_SESSION_BYTES) == 0)
      return TRUE;
  }
  return FALSE;
}

/* Whether only the other host may run it, and may still need something from here. */
static gboolean
is_handed (MfHost *host, const uint8_t session[MF_SESSION_BYTES])
{
  gboolean is = FALSE;

  g_mutex_lock (&host->lock);
  for (guint i = 0; i < host->kept->len; i++) {
    mf_record *record = g_ptr_array_index (host->kept, i);

    is = is || (record->phase == MF_PHASE_HANDED && memcmp (record->session, session, MF_SESSION_BYTES) == 0);
  }
  g_mutex_unlock (&host->lock);
  return is;
}

typedef struct {
  MfHost *host;
  MfMigration *migration;
  GDBusMethodInvocation *invocation;
  gboolean is_abort;
  uint8_t session[MF_SESSION_BYTES];
} waiting_target;

/* The target is told when the source is done. One that ends with its service is not: the next service goes on, and the target dials again. */
static void
answer (waiting_target *waiting)
{
  g_autoptr (GError) error = mf_migration_get_error (waiting->migration);

  if (waiting->is_abort)
    mf_peer_answer_abort (waiting->invocation);
  else if (error == NULL)
    mf_peer_answer_request (waiting->invocation);
  else if (is_handed (waiting->host, waiting->session))
    g_dbus_method_invocation_return_error (waiting->invocation, MF_ERROR, MF_ERROR_CONNECTION, "%s", error->message);
  else
    g_dbus_method_invocation_return_gerror (waiting->invocation, error);
  g_object_unref (waiting->migration);
  g_free (waiting);
}

static gboolean
answer_now (gpointer user_data)
{
  answer (user_data);
  return G_SOURCE_REMOVE;
}

static void
on_source_finished (MfMigration *migration, gpointer user_data)
{
  g_signal_handlers_disconnect_by_data (migration, user_data);
  answer (user_data);
}

/* In the main context, in which the signal comes. */
static void
answer_when_finished (MfHost *host, mf_source *source, GDBusMethodInvocation *invocation, gboolean is_abort)
{
  waiting_target *waiting = g_new0 (waiting_target, 1);
  mf_migration_status status;

  waiting->host = host;
  waiting->migration = g_object_ref (mf_source_migration (source));
  waiting->invocation = invocation;
  waiting->is_abort = is_abort;
  memcpy (waiting->session, mf_source_session (source), MF_SESSION_BYTES);
  mf_migration_get_status (waiting->migration, &status);
  if (status.state == MF_MIGRATION_RUNNING || status.state == MF_MIGRATION_PAUSED)
    g_signal_connect (waiting->migration, "finished", G_CALLBACK (on_source_finished), waiting);
  else
    mf_host_in_main_context (host, answer_now, waiting); /* the signal may have been */
}

/* With the lock held: the user of the target's host doesn't want it any more. */
void
mf_host_cancel_source (MfHost *host, mf_source *source, const char *reason, GDBusMethodInvocation *invocation)
{
  g_autoptr (GError) error = NULL;

  g_debug ("%s", reason);
  if (mf_migration_cancel (mf_source_migration (source), &error) ||
      g_error_matches (error, MF_ERROR, MF_ERROR_NOT_FOUND))
    answer_when_finished (host, source, invocation, TRUE);
  else
    g_dbus_method_invocation_return_gerror (invocation, error);
}

gboolean
mf_host_find_all (MfHost *host, const char *const *regions, GError **error)
{
  if (regions[0] == NULL) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "no region is named");
    return FALSE;
  }
  for (; *regions != NULL; regions++) {
    g_autoptr (MfRegion) region = mf_host_find_region (host, *regions, error);

    if (region == NULL)
      return FALSE;
  }
  return TRUE;
}

void
mf_host_fill_options (mf_migrate_options *options)
{
  if (options->max_downtime_usec == 0)
    options->max_downtime_usec = MF_DEFAULT_MAX_DOWNTIME_USEC;
  if (options->max_pause_usec == 0)
    options->max_pause_usec = MF_DEFAULT_MAX_PAUSE_USEC;
  if (options->max_pauses == 0)
    options->max_pauses = MF_DEFAULT_MAX_PAUSES;
}

/* A session that begins. Two of one name would mix their streams and their records. */
static mf_source *
begin_source (MfHost *host, mf_peer *peer, mf_fetch_request *request, GError **error)
{
  const char *name = mf_peer_host (peer);
  g_autoptr (MfMigration) migration = NULL;
  mf_source *source;

  if (!mf_host_find_all (host, (const char *const *) request->regions, error))
    return NULL;
  mf_host_fill_options (&request->options);
  migration = mf_migration_new (host->context, (const char *const *) request->regions,
                                name ? name : "the host that asked", request->options.mode, TRUE);
  g_mutex_lock (&host->lock);
  source = mf_source_answer (host, migration, peer, request);
  g_ptr_array_add (host->sources, source);
  g_mutex_unlock (&host->lock);
  mf_host_announce (host, migration);
  return source;
}

/* Sources are freed in this context, so what is found stays. */
static mf_source *
take_request (MfHost *host, mf_peer *peer, mf_fetch_request *request, GError **error)
{
  mf_source *source;
  gboolean is_known;

  g_mutex_lock (&host->lock);
  source = mf_host_dialled_source (host, request->session);
  is_known = source != NULL || has_record (host, request->session);
  if (source != NULL && request->regions == NULL)
    mf_source_take_peer (source, peer);
  g_mutex_unlock (&host->lock);
  if (request->regions == NULL) {
    if (source == NULL)
      g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "there is no such session");
    return source;
  }
  if (!is_known)
    return begin_source (host, peer, request, error);
  g_set_error (error, MF_ERROR, MF_ERROR_EXISTS, "there is such a session already");
  return NULL;
}

void
mf_host_answer_regions (MfHost *host, mf_peer *peer, GVariant *options, GDBusMethodInvocation *invocation)
{
  g_auto (mf_fetch_request) request = { .regions = NULL };
  g_autoptr (GError) error = NULL;
  mf_source *source = NULL;

  if (g_cancellable_is_cancelled (host->stopping))
    g_set_error (&error, MF_ERROR, MF_ERROR_CONNECTION, "the service ends");
  else if (mf_fetch_request_parse (options, &request, &error))
    source = take_request (host, peer, &request, &error);
  if (source != NULL)
    answer_when_finished (host, source, invocation, FALSE);
  else
    g_dbus_method_invocation_return_gerror (invocation, error);
}

MfMigration *
mf_host_fetch (MfHost *host, const char *const *regions, const char *peer, const mf_program_choice *program,
               const mf_program_choice *peer_program, const mf_migrate_options *options, GError **error)
{
  g_autoptr (mf_peer_address) address = mf_peer_address_parse (peer, error);
  const mf_fetch_request request = {
    .regions = (char **) regions,
    .options = *options,
    .control = (char *) peer_program->control,
    .peer_control = (char *) program->control,
  };
  MfMigration *migration;

  if (address == NULL || !mf_host_find_all (host, regions, error))
    return NULL;
  migration = mf_migration_new (host->context, regions, peer, options->mode, FALSE);
  g_mutex_lock (&host->lock);
  g_ptr_array_add (host->fetches, mf_fetch_start (host, migration, peer, &request));
  g_mutex_unlock (&host->lock);
  return migration;
}
