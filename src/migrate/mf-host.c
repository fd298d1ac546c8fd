/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The host: the sessions. Who has which region is in mf-host-records.c.
 *
 * `lock` protects the tables and is held for moments; callbacks are called without it. A session's thread announces its end by an idle source in the main context, which
 * joins and frees it there: so what the main context looks up stays alive while it looks.
 */
#include "migrate/mf-host-tables.h"

#include "link/mf-link.h"
#include "migrate/mf-fetch.h"
#include "migrate/mf-migration-private.h"
#include "migrate/mf-peer.h"
#include "migrate/mf-source.h"
#include "migrate/mf-target.h"
#include <string.h>
#include <unistd.h>

/* Programs connect again every few milliseconds; a busy machine takes its time. */
#define SETTLE_USEC (10 * G_USEC_PER_SEC)

GMainContext *
mf_host_context (MfHost *host)
{
  return host->context;
}

const char *
mf_host_state_dir (MfHost *host)
{
  return host->state_dir;
}

GCancellable *
mf_host_stopping (MfHost *host)
{
  return host->stopping;
}

MfRegion *
mf_host_find_region (MfHost *host, const char *name, GError **error)
{
  return host->callbacks.find_region (name, error, host->user_data);
}

MfUserfault *
mf_host_find_attachment (MfHost *host, MfRegion *region, GError **error)
{
  return host->callbacks.find_attachment (region, error, host->user_data);
}

mf_program *
mf_host_new_program (MfHost *host, MfRegion *const *regions, guint n_regions, const mf_record *record, GError **error)
{
  const mf_program_choice choice = { .kind = record->program, .control = record->control, .state = record->state };

  return host->callbacks.new_program (regions, n_regions, &choice, error, host->user_data);
}

MfRegion *
mf_host_make_region (MfHost *host, const char *name, guint64 size_bytes, gboolean *is_new, GError **error)
{
  return host->callbacks.make_region (name, size_bytes, is_new, error, host->user_data);
}

void
mf_host_drop_region (MfHost *host, const char *name)
{
  host->callbacks.drop_region (name, host->user_data);
}

typedef struct {
  MfHost *host;
  MfMigration *migration;
} announcement;

static gboolean
on_announce (gpointer user_data)
{
  announcement *news = user_data;

  if (news->host->callbacks.appeared != NULL)
    news->host->callbacks.appeared (news->migration, news->host->user_data);
  g_object_unref (news->migration);
  g_free (news);
  return G_SOURCE_REMOVE;
}

void
mf_host_in_main_context (MfHost *host, GSourceFunc func, gpointer data)
{
  g_autoptr (GSource) source = g_idle_source_new ();

  g_source_set_priority (source, G_PRIORITY_DEFAULT);
  g_source_set_callback (source, func, data, NULL);
  g_source_attach (source, host->context);
}

void
mf_host_announce (MfHost *host, MfMigration *migration)
{
  announcement *news = g_new0 (announcement, 1);

  news->host = host;
  news->migration = g_object_ref (migration);
  mf_host_in_main_context (host, on_announce, news);
}

/* --- sessions --- */

/* With the lock held. */
static mf_target *
target_of (MfHost *host, const uint8_t session[MF_SESSION_BYTES])
{
  for (guint i = 0; i < host->targets->len; i++) {
    mf_target *target = g_ptr_array_index (host->targets, i);

    if (memcmp (mf_target_session (target), session, MF_SESSION_BYTES) == 0)
      return target;
  }
  return NULL;
}

typedef struct {
  MfHost *host;
  gpointer session;
} ending;

static gboolean
on_source_ended (gpointer user_data)
{
  ending *end = user_data;

  g_mutex_lock (&end->host->lock);
  g_ptr_array_remove (end->host->sources, end->session);
  g_cond_broadcast (&end->host->cond);
  g_mutex_unlock (&end->host->lock);
  mf_source_join (end->session);
  g_free (end);
  return G_SOURCE_REMOVE;
}

static gboolean
on_target_ended (gpointer user_data)
{
  ending *end = user_data;

  g_mutex_lock (&end->host->lock);
  g_ptr_array_remove (end->host->targets, end->session);
  g_cond_broadcast (&end->host->cond);
  g_mutex_unlock (&end->host->lock);
  mf_target_join (end->session);
  g_free (end);
  return G_SOURCE_REMOVE;
}

static gboolean
on_fetch_ended (gpointer user_data)
{
  ending *end = user_data;

  g_mutex_lock (&end->host->lock);
  g_ptr_array_remove (end->host->fetches, end->session);
  g_cond_broadcast (&end->host->cond);
  g_mutex_unlock (&end->host->lock);
  mf_fetch_join (end->session);
  g_free (end);
  return G_SOURCE_REMOVE;
}

void
mf_host_fetch_ended (MfHost *host, mf_fetch *fetch)
{
  ending *end = g_new0 (ending, 1);

  end->host = host;
  end->session = fetch;
  mf_host_in_main_context (host, on_fetch_ended, end);
}

void
mf_host_source_ended (MfHost *host, mf_source *source)
{
  ending *end = g_new0 (ending, 1);

  end->host = host;
  end->session = source;
  mf_host_in_main_context (host, on_source_ended, end);
}

void
mf_host_target_ended (MfHost *host, mf_target *target)
{
  ending *end = g_new0 (ending, 1);

  end->host = host;
  end->session = target;
  mf_host_in_main_context (host, on_target_ended, end);
}

gboolean
mf_host_has_ended (const mf_record *record)
{
  return record->phase == MF_PHASE_UNDONE || record->phase == MF_PHASE_COMPLETE;
}

/* With the lock held: the record of a session that has ended here. */
static mf_record *
ended_of (MfHost *host, const uint8_t session[MF_SESSION_BYTES])
{
  for (guint i = 0; i < host->kept->len; i++) {
    mf_record *record = g_ptr_array_index (host->kept, i);

    if (mf_host_has_ended (record) && memcmp (record->session, session, MF_SESSION_BYTES) == 0)
      return record;
  }
  return NULL;
}

gboolean
mf_host_has_ended_here (MfHost *host, const uint8_t session[MF_SESSION_BYTES])
{
  gboolean has;

  g_mutex_lock (&host->lock);
  has = ended_of (host, session) != NULL;
  g_mutex_unlock (&host->lock);
  return has;
}

/* With the lock held: asked of a session that isn't under way. */
static void
answer_ended (MfHost *host, const uint8_t session[MF_SESSION_BYTES], const char *stage,
              GDBusMethodInvocation *invocation)
{
  mf_record *ended = ended_of (host, session);

  if (ended == NULL) {
    /* It may have run here: never a yes to an Abort. */
    g_dbus_method_invocation_return_error (invocation, MF_ERROR, MF_ERROR_NOT_FOUND, "there is no such session");
    return;
  }
  if (!mf_target_answer_by_record (ended->phase, stage, invocation))
    return;
  mf_record_remove (ended, host->state_dir);
  g_ptr_array_remove (host->records, ended);
  g_ptr_array_remove (host->kept, ended);
}

/* With the lock held. What this host has dialled is for the one session that it dialled for. */
static gboolean
may_ask (MfHost *host, mf_peer *peer, const uint8_t session[MF_SESSION_BYTES], GDBusMethodInvocation *invocation)
{
  mf_fetch *fetch = mf_host_fetch_of (host, session);

  if (!mf_peer_is_source (peer) || (fetch != NULL && mf_fetch_has_peer (fetch, peer)))
    return TRUE;
  g_dbus_method_invocation_return_error (invocation, MF_ERROR, MF_ERROR_CONNECTION,
                                         "this is not the control stream of that session");
  return FALSE;
}

/* With the lock held: a target for a session that begins; NULL: it may not. */
static mf_target *
begin_target (MfHost *host, mf_peer *peer, const uint8_t session[MF_SESSION_BYTES])
{
  mf_fetch *fetch = mf_host_fetch_of (host, session);
  mf_target *target;

  if (g_cancellable_is_cancelled (host->stopping) || ended_of (host, session) != NULL ||
      (fetch != NULL && !mf_fetch_target_begins (fetch, peer)))
    return NULL;
  target = mf_target_start (host, session, peer, fetch);
  g_ptr_array_add (host->targets, target);
  return target;
}

/* With the lock held. Who asked for it here wants to know how long the program stood. */
static void
learn_downtime (MfHost *host, const uint8_t session[MF_SESSION_BYTES], GVariant *arguments)
{
  mf_fetch *fetch = mf_host_fetch_of (host, session);
  guint64 downtime_usec = 0;

  if (fetch != NULL && mf_fetch_migration (fetch) != NULL &&
      g_variant_lookup (arguments, "downtime", "t", &downtime_usec) && downtime_usec > 0)
    mf_migration_set_downtime (mf_fetch_migration (fetch), downtime_usec);
}

static void
on_stage (mf_peer *peer, const uint8_t session[MF_SESSION_BYTES], const char *stage, GVariant *arguments,
          GDBusMethodInvocation *invocation, gpointer user_data)
{
  MfHost *host = user_data;
  mf_target *target;

  g_mutex_lock (&host->lock);
  if (!may_ask (host, peer, session, invocation)) {
    g_mutex_unlock (&host->lock);
    return;
  }
  if (g_str_equal (stage, "done"))
    learn_downtime (host, session, arguments);
  target = target_of (host, session);
  if (target == NULL && g_str_equal (stage, "connect"))
    target = begin_target (host, peer, session);
  if (target != NULL)
    mf_target_ask (target, peer, stage, arguments, invocation);
  else
    answer_ended (host, session, stage, invocation);
  g_mutex_unlock (&host->lock);
}

/* With the lock held: the session that fills the region, before its switchover; NULL: none. */
static mf_target *
incoming_of (MfHost *host, const char *region)
{
  const mf_record *record = mf_host_incoming_record (host, region);

  return record != NULL ? target_of (host, record->session) : NULL;
}

void
mf_host_expect (MfHost *host, const char *region, mf_host_expected told, gpointer user_data)
{
  mf_target *target;

  g_mutex_lock (&host->lock);
  target = incoming_of (host, region);
  if (target != NULL)
    mf_target_expect (target, told, user_data);
  g_mutex_unlock (&host->lock);
  if (target == NULL)
    told (NULL, user_data);
}

void
mf_host_forgo (MfHost *host, const char *region)
{
  mf_target *target;

  g_mutex_lock (&host->lock);
  target = incoming_of (host, region);
  if (target != NULL)
    mf_target_forgo (target);
  g_mutex_unlock (&host->lock);
}

static void
on_dial (mf_peer *peer, const mf_preface *preface, GDBusMethodInvocation *invocation, gpointer user_data)
{
  MfHost *host = user_data;

  g_mutex_lock (&host->lock);
  if (may_ask (host, peer, preface->session, invocation))
    mf_fetch_dial (mf_host_fetch_of (host, preface->session), preface, invocation);
  g_mutex_unlock (&host->lock);
}

static void
on_abort (mf_peer *peer, const uint8_t session[MF_SESSION_BYTES], const char *reason, GDBusMethodInvocation *invocation,
          gpointer user_data)
{
  MfHost *host = user_data;
  mf_source *source;
  mf_target *target;

  g_mutex_lock (&host->lock);
  if (!may_ask (host, peer, session, invocation)) {
    g_mutex_unlock (&host->lock);
    return;
  }
  source = mf_host_dialled_source (host, session);
  target = target_of (host, session);
  if (source != NULL)
    mf_host_cancel_source (host, source, reason, invocation);
  else if (target != NULL)
    mf_target_abort (target, reason, invocation);
  else
    answer_ended (host, session, NULL, invocation);
  g_mutex_unlock (&host->lock);
}

static void
on_request (mf_peer *peer, const char *domain, GVariant *options, GDBusMethodInvocation *invocation, gpointer user_data)
{
  MfHost *host = user_data;

  if (mf_fetch_request_is_session (options))
    mf_host_answer_regions (host, peer, options, invocation);
  else
    host->callbacks.requested (domain, options, invocation, host->user_data);
}

static void
on_lost (mf_peer *peer, gpointer user_data)
{
  MfHost *host = user_data;

  g_mutex_lock (&host->lock);
  for (guint i = 0; i < host->targets->len; i++)
    mf_target_peer_lost (g_ptr_array_index (host->targets, i), peer);
  g_ptr_array_remove (host->peers, peer);
  g_mutex_unlock (&host->lock);
}

static const mf_peer_handlers handlers = {
  .stage = on_stage, .abort = on_abort, .request = on_request, .dial = on_dial, .lost = on_lost
};

/* Takes the reference over, until it is lost. */
static void
keep_peer (MfHost *host, mf_peer *peer)
{
  g_mutex_lock (&host->lock);
  g_ptr_array_add (host->peers, peer);
  /* on_lost may have come and found nothing. */
  if (mf_peer_is_lost (peer))
    g_ptr_array_remove (host->peers, peer);
  g_mutex_unlock (&host->lock);
}

mf_peer *
mf_host_dial (MfHost *host, const char *address, gint64 timeout_usec, GCancellable *cancellable, GError **error)
{
  mf_peer *peer = mf_peer_dial_source (address, &handlers, host, timeout_usec, cancellable, error);

  if (peer != NULL)
    keep_peer (host, mf_peer_ref (peer));
  return peer;
}

static gboolean
accept_control (MfHost *host, int fd, const mf_preface *preface, GError **error)
{
  g_autoptr (GError) local_error = NULL;
  mf_peer *peer;

  if (!mf_link_answer (fd, preface, error))
    return FALSE;
  /* From here on the descriptor is not the listener's any more. The lock is not held while a peer may be slow to say who it is. */
  peer = mf_peer_new_accepted (fd, &handlers, host, &local_error);
  if (peer == NULL) {
    g_debug ("a control stream came to nothing: %s", local_error->message);
    return TRUE;
  }
  keep_peer (host, peer);
  return TRUE;
}

gboolean
mf_host_give_stream (MfHost *host, int fd, const mf_preface *preface, GError **error)
{
  mf_target *target;

  g_mutex_lock (&host->lock);
  target = target_of (host, preface->session);
  if (target != NULL)
    mf_target_stream (target, fd, preface);
  g_mutex_unlock (&host->lock);
  if (target != NULL)
    return TRUE;
  close (fd);
  g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "the session is over");
  return FALSE;
}

gboolean
mf_host_accept (int fd, const mf_preface *preface, gpointer user_data, GError **error)
{
  MfHost *host = user_data;
  gboolean ok = FALSE;
  mf_source *source;
  mf_target *target;

  if (preface->kind == MF_STREAM_CONTROL)
    return accept_control (host, fd, preface, error);
  g_mutex_lock (&host->lock);
  source = mf_host_dialled_source (host, preface->session);
  target = target_of (host, preface->session);
  if (source != NULL) {
    ok = mf_link_answer (fd, preface, error);
    if (ok)
      mf_source_take_stream (source, fd, preface);
  } else if (target == NULL)
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "there is no such session");
  else
    ok = mf_link_answer (fd, preface, error) && mf_target_stream (target, fd, preface);
  g_mutex_unlock (&host->lock);
  return ok;
}

/* --- from outside --- */

gboolean
mf_host_has_settled (MfHost *host)
{
  return g_get_monotonic_time () - host->began_usec >= SETTLE_USEC;
}

MfHost *
mf_host_new (const char *state_dir, const char *runtime_dir, const mf_host_callbacks *callbacks, gpointer user_data)
{
  MfHost *host = g_new0 (MfHost, 1);

  host->state_dir = g_strdup (state_dir);
  host->runtime_dir = g_strdup (runtime_dir);
  host->callbacks = *callbacks;
  host->user_data = user_data;
  host->context = g_main_context_ref_thread_default ();
  host->began_usec = g_get_monotonic_time ();
  host->stopping = g_cancellable_new ();
  g_mutex_init (&host->lock);
  g_cond_init (&host->cond);
  host->records = g_ptr_array_new ();
  host->kept = g_ptr_array_new_with_free_func ((GDestroyNotify) mf_record_free);
  host->sources = g_ptr_array_new ();
  host->targets = g_ptr_array_new ();
  host->fetches = g_ptr_array_new ();
  host->peers = g_ptr_array_new_with_free_func ((GDestroyNotify) mf_peer_unref);
  return host;
}

void
mf_host_free (MfHost *host)
{
  gboolean waiting;

  g_cancellable_cancel (host->stopping);
  g_mutex_lock (&host->lock);
  for (guint i = 0; i < host->sources->len; i++)
    mf_source_stop (g_ptr_array_index (host->sources, i));
  for (guint i = 0; i < host->targets->len; i++)
    mf_target_stop (g_ptr_array_index (host->targets, i));
  for (guint i = 0; i < host->fetches->len; i++)
    mf_fetch_stop (g_ptr_array_index (host->fetches, i));
  g_mutex_unlock (&host->lock);
  /* Their ends are joined in this context. */
  do {
    g_mutex_lock (&host->lock);
    waiting = host->sources->len + host->targets->len + host->fetches->len > 0;
    g_mutex_unlock (&host->lock);
    if (waiting)
      g_main_context_iteration (host->context, TRUE);
  } while (waiting);
  while (g_main_context_iteration (host->context, FALSE))
    ;

  g_ptr_array_unref (host->peers);
  g_ptr_array_unref (host->sources);
  g_ptr_array_unref (host->targets);
  g_ptr_array_unref (host->fetches);
  g_ptr_array_unref (host->records);
  g_ptr_array_unref (host->kept);
  g_object_unref (host->stopping);
  g_main_context_unref (host->context);
  g_mutex_clear (&host->lock);
  g_cond_clear (&host->cond);
  g_free (host->state_dir);
  g_free (host->runtime_dir);
  g_free (host);
}

MfMigration *
mf_host_migrate (MfHost *host, const char *const *regions, const char *peer, const mf_program_choice *program,
                 const mf_program_choice *peer_program, const mf_migrate_options *options, GError **error)
{
  g_autoptr (mf_peer_address) address = mf_peer_address_parse (peer, error);
  mf_migrate_options filled = *options;
  MfMigration *migration;

  if (address == NULL)
    return NULL;
  if (!mf_host_find_all (host, regions, error))
    return NULL;
  mf_host_fill_options (&filled);

  migration = mf_migration_new (host->context, regions, peer, filled.mode, TRUE);
  g_mutex_lock (&host->lock);
  g_ptr_array_add (host->sources, mf_source_start (host, migration, regions, peer, program, peer_program, &filled));
  g_mutex_unlock (&host->lock);
  return migration;
}

void
mf_host_attached (MfHost *host, MfUserfault *userfault)
{
  g_mutex_lock (&host->lock);
  for (guint i = 0; i < host->targets->len; i++)
    mf_target_attached (g_ptr_array_index (host->targets, i), userfault);
  g_mutex_unlock (&host->lock);
}

void
mf_host_detached (MfHost *host, MfUserfault *userfault)
{
  g_mutex_lock (&host->lock);
  for (guint i = 0; i < host->targets->len; i++)
    mf_target_detached (g_ptr_array_index (host->targets, i), userfault);
  g_mutex_unlock (&host->lock);
}
