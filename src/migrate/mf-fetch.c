/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The dialler of a migration to here.
 *
 * Its thread dials the control stream and asks for the session; the answer comes when the session is over at the source. Meanwhile the stream serves the source like one that it
 * had dialled itself: stages come in on it, and Dial where the source would dial. When the stream ends before that answer, and the target still goes on, the thread dials
 * again and asks for the same session. Who may run the program is none of its business: that is the two records', which are written as ever.
 *
 * `lock` protects what the other threads look at. It is held for moments, and never while a cancellable is connected or disconnected.
 */
#include "migrate/mf-fetch.h"

#include "link/mf-link.h"
#include "migrate/mf-migration-private.h"
#include <string.h>

#define DIAL_USEC       (10 * G_USEC_PER_SEC)
#define REDIAL_MIN_USEC (50 * 1000)
#define REDIAL_MAX_USEC (2 * G_USEC_PER_SEC)

typedef enum {
  TARGET_NONE, /* the source has not begun */
  TARGET_AT_WORK,
  TARGET_OVER,
} target_state;

struct _mf_fetch {
  MfHost *host;
  MfMigration *migration; /* NULL: it has ended already, and only the source has to hear it */
  char *address;
  mf_fetch_request request;
  GThread *thread;
  GCancellable *stop; /* the user's cancellation, before the switchover; the service's end */
  gulong cancel_handler, stop_handler;

  GMutex lock; /* the fields below */
  GCond cond;
  mf_peer *peer;
  target_state target;
  GError *target_error;
  guint n_dials; /* under way */

  /* Only the thread. */
  GError *reason; /* the first that went wrong at the source or on the way to it */
  gboolean has_finished;
};

static void
on_cancelled (GCancellable *cancellable, gpointer user_data)
{
  g_cancellable_cancel (((mf_fetch *) user_data)->stop);
}

static void
on_stop (GCancellable *stop, gpointer user_data)
{
  mf_fetch *fetch = user_data;

  g_mutex_lock (&fetch->lock);
  g_cond_broadcast (&fetch->cond);
  g_mutex_unlock (&fetch->lock);
}

/* --- streams that the source asks for --- */

typedef struct {
  mf_fetch *fetch;
  mf_preface preface;
  GDBusMethodInvocation *invocation;
} wanted_stream;

static gboolean
open_stream (mf_fetch *fetch, const mf_preface *preface, GError **error)
{
  g_autoptr (mf_peer_address) address = mf_peer_address_parse (fetch->address, error);
  int fd = address != NULL ? mf_link_dial (address, preface, DIAL_USEC, fetch->stop, error) : -1;

  return fd >= 0 && mf_host_give_stream (fetch->host, fd, preface, error);
}

static gpointer
dial_stream (gpointer data)
{
  wanted_stream *wanted = data;
  mf_fetch *fetch = wanted->fetch;
  g_autoptr (GError) error = NULL;

  if (open_stream (fetch, &wanted->preface, &error))
    mf_peer_answer_dial (wanted->invocation);
  else
    g_dbus_method_invocation_return_gerror (wanted->invocation, error);
  g_free (wanted);
  g_mutex_lock (&fetch->lock);
  fetch->n_dials--;
  g_cond_broadcast (&fetch->cond);
  g_mutex_unlock (&fetch->lock);
  return NULL;
}

void
mf_fetch_dial (mf_fetch *fetch, const mf_preface *preface, GDBusMethodInvocation *invocation)
{
  wanted_stream *wanted = g_new0 (wanted_stream, 1);

  wanted->fetch = fetch;
  wanted->preface = *preface;
  wanted->invocation = invocation;
  g_mutex_lock (&fetch->lock);
  fetch->n_dials++;
  g_mutex_unlock (&fetch->lock);
  g_thread_unref (g_thread_new ("mf-dial", dial_stream, wanted));
}

/* --- the thread --- */

static void
drop_peer (mf_fetch *fetch)
{
  mf_peer *peer;

  g_mutex_lock (&fetch->lock);
  peer = g_steal_pointer (&fetch->peer);
  g_mutex_unlock (&fetch->lock);
  if (peer == NULL)
    return;
  mf_peer_close (peer);
  mf_peer_unref (peer);
}

/* TRUE: it is over at the source, and well. */
static gboolean
attend (mf_fetch *fetch, GError **error)
{
  mf_fetch_request again = { .regions = NULL };
  mf_peer *peer = mf_host_dial (fetch->host, fetch->address, DIAL_USEC, fetch->stop, error);

  if (peer == NULL)
    return FALSE;
  g_mutex_lock (&fetch->lock);
  fetch->peer = peer;
  g_mutex_unlock (&fetch->lock);
  if (fetch->request.regions != NULL)
    return mf_peer_request (peer, "", mf_fetch_request_pack (&fetch->request), fetch->stop, error);
  memcpy (again.session, fetch->request.session, MF_SESSION_BYTES);
  return mf_peer_request (peer, "", mf_fetch_request_pack (&again), fetch->stop, error);
}

/* The user has cancelled: the source goes on as before when this returns, if it can be told. */
static void
call_off (mf_fetch *fetch)
{
  g_autoptr (GError) error = NULL;

  if (fetch->peer == NULL || g_cancellable_is_cancelled (mf_host_stopping (fetch->host)))
    return;
  if (!mf_peer_abort (fetch->peer, fetch->request.session, "it was cancelled on the host that it was to come to",
                      &error))
    g_debug ("the source could not be told: %s", error->message);
}

/* Until the target is over, or never began; at most `usec` (below 0: as long as it takes), and no longer than until the service ends. */
static target_state
await_target (mf_fetch *fetch, gint64 usec)
{
  gint64 deadline = g_get_monotonic_time () + usec;
  target_state state;
  gboolean ok = TRUE;

  g_mutex_lock (&fetch->lock);
  while (ok && fetch->target == TARGET_AT_WORK) {
    if (usec < 0)
      g_cond_wait (&fetch->cond, &fetch->lock);
    else
      ok = !g_cancellable_is_cancelled (fetch->stop) && g_cond_wait_until (&fetch->cond, &fetch->lock, deadline);
  }
  state = fetch->target;
  g_mutex_unlock (&fetch->lock);
  return state;
}

static void
pause_for (mf_fetch *fetch, gint64 usec)
{
  gint64 deadline = g_get_monotonic_time () + usec;

  g_mutex_lock (&fetch->lock);
  while (!g_cancellable_is_cancelled (fetch->stop) && g_cond_wait_until (&fetch->cond, &fetch->lock, deadline))
    ;
  g_mutex_unlock (&fetch->lock);
}

/* Of both sides' words the one that is about what went wrong, and not about how the other side heard of it. */
static GError *
outcome (mf_fetch *fetch)
{
  const GError *target_error = fetch->target_error;

  if (fetch->target == TARGET_OVER && target_error == NULL)
    return NULL;
  if (g_cancellable_is_cancelled (mf_migration_cancellable (fetch->migration)))
    return g_error_new (MF_ERROR, MF_ERROR_CANCELLED, "cancelled");
  if (target_error != NULL && !g_error_matches (target_error, MF_ERROR, MF_ERROR_CANCELLED) &&
      !g_error_matches (target_error, MF_ERROR, MF_ERROR_CONNECTION))
    return g_error_copy (target_error);
  if (fetch->reason != NULL)
    return g_error_copy (fetch->reason);
  if (target_error != NULL)
    return g_error_copy (target_error);
  return g_error_new (MF_ERROR, MF_ERROR_PROTOCOL, "%s says that it is done, and has not begun", fetch->address);
}

static void
finish (mf_fetch *fetch)
{
  g_autoptr (GError) error = NULL;

  if (fetch->has_finished)
    return;
  fetch->has_finished = TRUE;
  if (fetch->migration == NULL)
    return;
  error = outcome (fetch);
  if (error == NULL)
    mf_migration_set_stage (fetch->migration, "done");
  mf_migration_finish (fetch->migration, error);
}

static void
await_dials (mf_fetch *fetch)
{
  g_mutex_lock (&fetch->lock);
  while (fetch->n_dials > 0)
    g_cond_wait (&fetch->cond, &fetch->lock);
  g_mutex_unlock (&fetch->lock);
}

/* Once the target is over: whether the source has still to hear of it. */
static gboolean
is_unheard (mf_fetch *fetch, const GError *error)
{
  return (g_error_matches (error, MF_ERROR, MF_ERROR_CONNECTION) ||
          g_error_matches (error, MF_ERROR, MF_ERROR_TIMED_OUT)) &&
         mf_host_has_ended_here (fetch->host, fetch->request.session);
}

/* Attends the source once. FALSE: nothing is left to do. */
static gboolean
go_round (mf_fetch *fetch, gint64 *pause_usec)
{
  gint64 began_usec = g_get_monotonic_time ();
  g_autoptr (GError) error = NULL;
  gboolean ok = attend (fetch, &error), is_stopped;
  target_state target;

  is_stopped = g_cancellable_is_cancelled (fetch->stop);
  if (is_stopped && !ok)
    call_off (fetch);
  drop_peer (fetch);
  if (fetch->reason == NULL && error != NULL)
    fetch->reason = g_error_copy (error);
  if (g_get_monotonic_time () - began_usec > REDIAL_MAX_USEC)
    *pause_usec = REDIAL_MIN_USEC;
  target = await_target (fetch, is_stopped ? -1 : ok ? REDIAL_MAX_USEC : *pause_usec);
  if (target != TARGET_AT_WORK) {
    finish (fetch);
    if (is_stopped || !is_unheard (fetch, error))
      return FALSE;
    pause_for (fetch, *pause_usec);
  }
  *pause_usec = MIN (2 * *pause_usec, REDIAL_MAX_USEC);
  /* From here on it is the session that is asked for, not its beginning. */
  g_clear_pointer (&fetch->request.regions, g_strfreev);
  return TRUE;
}

static gpointer
run (gpointer data)
{
  mf_fetch *fetch = data;
  gint64 pause_usec = REDIAL_MIN_USEC;

  while (go_round (fetch, &pause_usec))
    ;
  await_dials (fetch);
  mf_host_fetch_ended (fetch->host, fetch);
  return NULL;
}

static mf_fetch *
fetch_new (MfHost *host, MfMigration *migration, const char *address)
{
  mf_fetch *fetch = g_new0 (mf_fetch, 1);

  fetch->host = host;
  fetch->migration = migration != NULL ? g_object_ref (migration) : NULL;
  fetch->address = g_strdup (address);
  fetch->stop = g_cancellable_new ();
  g_mutex_init (&fetch->lock);
  g_cond_init (&fetch->cond);
  fetch->stop_handler = g_cancellable_connect (fetch->stop, G_CALLBACK (on_stop), fetch, NULL);
  if (migration != NULL)
    fetch->cancel_handler =
        g_cancellable_connect (mf_migration_cancellable (migration), G_CALLBACK (on_cancelled), fetch, NULL);
  return fetch;
}

mf_fetch *
mf_fetch_start (MfHost *host, MfMigration *migration, const char *peer, const mf_fetch_request *request)
{
  mf_fetch *fetch = fetch_new (host, migration, peer);

  fetch->request = *request;
  fetch->request.regions = g_strdupv (request->regions);
  fetch->request.control = g_strdup (request->control);
  fetch->request.peer_control = g_strdup (request->peer_control);
  mf_record_make_session (fetch->request.session);
  fetch->thread = g_thread_new ("mf-fetch", run, fetch);
  return fetch;
}

mf_fetch *
mf_fetch_resume (MfHost *host, MfMigration *migration, const mf_record *record)
{
  mf_fetch *fetch = fetch_new (host, migration, record->peer);

  memcpy (fetch->request.session, record->session, MF_SESSION_BYTES);
  fetch->target = migration != NULL ? TARGET_AT_WORK : TARGET_OVER;
  fetch->thread = g_thread_new ("mf-fetch", run, fetch);
  return fetch;
}

void
mf_fetch_stop (mf_fetch *fetch)
{
  g_cancellable_cancel (fetch->stop);
}

void
mf_fetch_join (mf_fetch *fetch)
{
  g_thread_join (fetch->thread);
  if (fetch->migration != NULL)
    g_cancellable_disconnect (mf_migration_cancellable (fetch->migration), fetch->cancel_handler);
  g_cancellable_disconnect (fetch->stop, fetch->stop_handler);
  g_clear_object (&fetch->migration);
  g_object_unref (fetch->stop);
  mf_fetch_request_clear (&fetch->request);
  g_clear_error (&fetch->target_error);
  g_clear_error (&fetch->reason);
  g_mutex_clear (&fetch->lock);
  g_cond_clear (&fetch->cond);
  g_free (fetch->address);
  g_free (fetch);
}

/* --- from the host and the target --- */

const uint8_t *
mf_fetch_session (mf_fetch *fetch)
{
  return fetch->request.session;
}

MfMigration *
mf_fetch_migration (mf_fetch *fetch)
{
  return fetch->migration;
}

const char *
mf_fetch_address (mf_fetch *fetch)
{
  return fetch->address;
}

gboolean
mf_fetch_has_peer (mf_fetch *fetch, mf_peer *peer)
{
  gboolean has;

  g_mutex_lock (&fetch->lock);
  has = fetch->peer == peer;
  g_mutex_unlock (&fetch->lock);
  return has;
}

gboolean
mf_fetch_target_begins (mf_fetch *fetch, mf_peer *peer)
{
  gboolean may;

  /* The thread drops its peer before it looks whether there is a target. */
  g_mutex_lock (&fetch->lock);
  may = fetch->peer == peer && fetch->target == TARGET_NONE;
  if (may)
    fetch->target = TARGET_AT_WORK;
  g_mutex_unlock (&fetch->lock);
  return may;
}

void
mf_fetch_target_ended (mf_fetch *fetch, const GError *error)
{
  g_mutex_lock (&fetch->lock);
  fetch->target = TARGET_OVER;
  fetch->target_error = error != NULL ? g_error_copy (error) : NULL;
  g_cond_broadcast (&fetch->cond);
  g_mutex_unlock (&fetch->lock);
}
