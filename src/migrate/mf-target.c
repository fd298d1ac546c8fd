/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The target: its thread and its mailbox.
 *
 * The main context puts what the peer asks for, streams that came in and news (peer lost, attachment back, service ending) into the mailbox;
 * the thread takes them out. Before the switchover it does one request after the other, and the loss of the peer ends it: everything is undone. After the
 * switchover (mf-target-run.c) it goes on by itself, whatever happens to the peer.
 *
 * `lock` protects the mailbox and what the main context has to know; it is held for moments only.
 */
#include "migrate/mf-fetch.h"
#include "migrate/mf-stage.h"
#include "migrate/mf-target-private.h"

#include <string.h>
#include <unistd.h>

mf_target_region *
mf_target_region_at (mf_target *target, guint index)
{
  return &g_array_index (target->regions, mf_target_region, index);
}

void
mf_target_request_free (mf_target_request *request)
{
  g_free (request->stage);
  g_free (request->reason);
  g_clear_pointer (&request->arguments, g_variant_unref);
  g_free (request);
}

static void
region_clear (gpointer data)
{
  mf_target_region *region = data;

  g_free (region->name);
  mf_target_free_plan (region->plan);
  g_clear_pointer (&region->userfault, mf_userfault_unref);
  g_clear_object (&region->region);
}

static void
stream_clear (gpointer data)
{
  mf_stream_in *stream = data;

  if (stream->fd >= 0)
    close (stream->fd);
}

/* --- The mailbox, from the main context --- */

/* With the lock held: the thread is to look up from whatever it waits for. */
static void
interrupt (mf_target *target)
{
  g_cancellable_cancel (target->interrupt);
  g_cond_broadcast (&target->cond);
}

/* With the lock held. */
static void
post (mf_target *target, mf_target_request *request)
{
  g_queue_push_tail (&target->requests, request);
  /* After the switchover the thread may be waiting for pages. */
  if (target->taken)
    g_cancellable_cancel (target->interrupt);
  g_cond_broadcast (&target->cond);
}

void
mf_target_ask (mf_target *target, mf_peer *peer, const char *stage, GVariant *arguments,
               GDBusMethodInvocation *invocation)
{
  mf_target_request *request;
  gboolean is_armed;

  /* Beside the session's order: it waits, and what is asked for after it does not wait for it. */
  if (g_str_equal (stage, "pre-copy") && g_variant_lookup (arguments, "armed", "b", &is_armed)) {
    g_mutex_lock (&target->lock);
    mf_target_hear_watch (target, is_armed, invocation);
    g_mutex_unlock (&target->lock);
    return;
  }
  request = g_new0 (mf_target_request, 1);
  request->stage = g_strdup (stage);
  request->arguments = g_variant_ref (arguments);
  request->invocation = invocation;
  g_mutex_lock (&target->lock);
  if (target->peer != peer) {
    g_clear_pointer (&target->peer, mf_peer_unref);
    target->peer = mf_peer_ref (peer);
  }
  post (target, request);
  g_mutex_unlock (&target->lock);
}

void
mf_target_abort (mf_target *target, const char *reason, GDBusMethodInvocation *invocation)
{
  mf_target_request *request = g_new0 (mf_target_request, 1);

  request->reason = g_strdup (reason);
  request->invocation = invocation;
  g_mutex_lock (&target->lock);
  post (target, request);
  /* Whatever the thread is waiting for, it isn't wanted any more. */
  g_cancellable_cancel (target->interrupt);
  g_mutex_unlock (&target->lock);
}

void
mf_target_peer_lost (mf_target *target, mf_peer *peer)
{
  g_mutex_lock (&target->lock);
  if (target->peer == peer) {
    g_clear_pointer (&target->peer, mf_peer_unref);
    interrupt (target);
  }
  g_mutex_unlock (&target->lock);
}

gboolean
mf_target_stream (mf_target *target, int fd, const mf_preface *preface)
{
  mf_stream_in stream = { .fd = fd, .preface = *preface };

  g_mutex_lock (&target->lock);
  g_array_append_val (target->streams, stream);
  g_cond_broadcast (&target->cond);
  g_mutex_unlock (&target->lock);
  return TRUE;
}

void
mf_target_attached (mf_target *target, MfUserfault *userfault)
{
  g_mutex_lock (&target->lock);
  if (target->accepting && !target->taken) {
    mf_target_serve_late (target, userfault);
  } else if (target->taken) {
    g_ptr_array_add (target->attachments, mf_userfault_ref (userfault));
    interrupt (target);
  }
  g_mutex_unlock (&target->lock);
}

void
mf_target_detached (mf_target *target, MfUserfault *userfault)
{
  g_mutex_lock (&target->lock);
  if (g_ptr_array_find (target->watched, userfault, NULL)) {
    target->program_gone = TRUE;
    /* After the switchover who waits for it to run sees the same, and once it has run the rest of its memory comes all the same. */
    if (!target->taken)
      interrupt (target);
    /* A source that waits for somebody else asks nothing, but sees this. */
    if (!target->taken && target->accepting && target->peer != NULL)
      mf_peer_close (target->peer);
  }
  g_mutex_unlock (&target->lock);
}

void
mf_target_watch (mf_target *target, MfUserfault *userfault)
{
  g_mutex_lock (&target->lock);
  g_ptr_array_add (target->watched, mf_userfault_ref (userfault));
  g_mutex_unlock (&target->lock);
}

void
mf_target_stop (mf_target *target)
{
  g_mutex_lock (&target->lock);
  target->stopping = TRUE;
  interrupt (target);
  g_cancellable_cancel (target->await_stop);
  g_mutex_unlock (&target->lock);
}

const uint8_t *
mf_target_session (mf_target *target)
{
  return target->record->session;
}

/* From whatever thread cancels, with the migration's lock held. */
static void
on_cancelled (GCancellable *cancellable, gpointer user_data)
{
  mf_target *target = user_data;

  g_mutex_lock (&target->lock);
  interrupt (target);
  g_mutex_unlock (&target->lock);
}

void
mf_target_heed_cancel (mf_target *target)
{
  target->cancel_handler =
      g_cancellable_connect (mf_migration_cancellable (target->migration), G_CALLBACK (on_cancelled), target, NULL);
}

/* --- The thread --- */

/* The next request, or NULL when the session is over: the peer is lost, or the service ends. */
static mf_target_request *
next_request (mf_target *target)
{
  mf_target_request *request;
  gboolean came;

  do {
    g_mutex_lock (&target->lock);
    while (g_queue_is_empty (&target->requests) && target->peer != NULL && !target->stopping &&
           target->attachments->len == 0)
      g_cond_wait (&target->cond, &target->lock);
    request = target->stopping ? NULL : g_queue_pop_head (&target->requests);
    came = target->attachments->len > 0;
    g_mutex_unlock (&target->lock);
    if (came)
      mf_target_take_late (target);
  } while (came && request == NULL);
  return request;
}

/* In order: each row once, but for the rounds of pre-copy. */
static gboolean
may_follow (int row, int last)
{
  return row >= 0 && mf_stages[row].target != NULL &&
         (row == last + 1 || (row == last && g_str_equal (mf_stages[row].name, "pre-copy")) ||
          (g_str_equal (mf_stages[row].name, "switchover") && row == last + 2));
}

gboolean
mf_target_has_lost_program (mf_target *target)
{
  gboolean has_lost;

  g_mutex_lock (&target->lock);
  has_lost = target->program_gone;
  g_mutex_unlock (&target->lock);
  return has_lost;
}

/* Before the switchover. What else fails for the same reason is not worth a word. */
static gboolean
may_go_on (mf_target *target, GError **error)
{
  gboolean is_cancelled =
      target->migration != NULL && g_cancellable_is_cancelled (mf_migration_cancellable (target->migration));
  gboolean is_gone = mf_target_has_lost_program (target);

  if (!is_gone && !is_cancelled)
    return TRUE;
  g_clear_error (error);
  if (is_gone)
    g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM, "region %s: the program that was to take it over has ended",
                 target->record->regions[0]);
  else
    g_set_error (error, MF_ERROR, MF_ERROR_CANCELLED, "the migration was cancelled there");
  return FALSE;
}

static gboolean
do_stage (mf_target *target, mf_target_request *request, GVariantDict *results, GError **error)
{
  int row = mf_stage_find (request->stage);

  if (!may_follow (row, target->stage)) {
    g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "stage \"%s\" can't follow \"%s\" here", request->stage,
                 target->stage < 0 ? "" : mf_stages[target->stage].name);
    return FALSE;
  }
  g_debug ("target: %s", request->stage);
  /* Also when it fails half-way its rollback is due. */
  target->stage = row;
  if (target->migration != NULL)
    mf_migration_set_stage (target->migration, mf_stages[row].name);
  return mf_stages[row].target (target, request->arguments, results, error);
}

/* Before the switchover, or after it when the program certainly did not run here. */
static void
undo (mf_target *target)
{
  if (target->migration != NULL)
    mf_migration_set_sampler (target->migration, NULL, NULL);
  for (int row = target->stage; row >= 0; row--) {
    if (mf_stages[row].target_rollback != NULL)
      mf_stages[row].target_rollback (target);
  }
  if (target->record->phase == MF_PHASE_TAKEN)
    mf_host_bury (target->host, target->record, MF_PHASE_UNDONE);
  else if (target->record->phase != 0)
    mf_host_drop (target->host, target->record);
  for (guint i = 0; i < target->regions->len; i++) {
    if (mf_target_region_at (target, i)->is_new)
      mf_host_drop_region (target->host, mf_target_region_at (target, i)->name);
  }
}

static void
answer_abort (mf_target_request *request, GError **why)
{
  g_clear_error (why);
  g_set_error (why, MF_ERROR, MF_ERROR_CANCELLED, "the source gave up: %s", request->reason);
}

/* Until the switchover. TRUE: the program is ours. FALSE: it came to nothing; `abort` is the request to be answered when everything is undone, or
 * NULL. */
static gboolean
follow_source (mf_target *target, GDBusMethodInvocation **abort, GError **error)
{
  mf_target_request *request;

  while ((request = next_request (target)) != NULL) {
    g_autoptr (GError) local_error = NULL;
    GVariantDict results;
    gboolean ok;

    if (request->stage == NULL) {
      *abort = request->invocation;
      /* Who asked for it here is told what went wrong here, if it did. */
      if (target->fetch == NULL || *error == NULL)
        answer_abort (request, error);
      mf_target_request_free (request);
      return FALSE;
    }
    g_variant_dict_init (&results, NULL);
    ok = may_go_on (target, &local_error) && do_stage (target, request, &results, &local_error);
    if (!target->taken)
      ok = may_go_on (target, &local_error) && ok;
    if (ok)
      mf_peer_answer_stage (request->invocation, g_variant_dict_end (&results));
    else
      g_dbus_method_invocation_return_gerror (request->invocation, local_error);
    g_variant_dict_clear (&results);
    mf_target_request_free (request);
    if (target->taken)
      return TRUE;
    if (!ok) {
      /* The source will abort, or go away: either way the next request ends it. */
      g_clear_error (error);
      g_propagate_error (error, g_steal_pointer (&local_error));
    }
  }
  if (error != NULL && *error == NULL)
    g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION,
                 "the source went away before the switchover: nothing was changed here");
  return FALSE;
}

gboolean
mf_target_answer_by_record (mf_record_phase phase, const char *stage, GDBusMethodInvocation *invocation)
{
  gboolean never_taken = phase == MF_PHASE_INCOMING || phase == 0;
  GVariantDict results;

  if (phase == MF_PHASE_COMPLETE && stage == NULL) {
    g_dbus_method_invocation_return_error (invocation, MF_ERROR, MF_ERROR_BUSY, "the program runs here already");
  } else if (phase == MF_PHASE_COMPLETE) {
    g_variant_dict_init (&results, NULL);
    g_variant_dict_insert (&results, "complete", "b", TRUE);
    mf_peer_answer_stage (invocation, g_variant_dict_end (&results));
    return g_str_equal (stage, "done");
  } else if (phase == MF_PHASE_UNDONE && stage != NULL) {
    g_dbus_method_invocation_return_error (invocation, MF_ERROR, MF_ERROR_PROGRAM,
                                           "the program did not start there, and will not");
  } else if (stage == NULL && (phase == MF_PHASE_UNDONE || never_taken)) {
    /* An answer may be lost: the record stays. */
    mf_peer_answer_abort (invocation);
  } else {
    g_dbus_method_invocation_return_error (invocation, MF_ERROR, MF_ERROR_NOT_FOUND, "the session is over");
  }
  return FALSE;
}

/* What came while the session ended. */
static void
refuse_requests (mf_target *target)
{
  mf_target_request *request;

  g_mutex_lock (&target->lock);
  while ((request = g_queue_pop_head (&target->requests)) != NULL) {
    mf_target_answer_by_record (target->record->phase, request->stage, request->invocation);
    mf_target_request_free (request);
  }
  g_mutex_unlock (&target->lock);
}

static void
clean_up (mf_target *target)
{
  g_clear_pointer (&target->relay, mf_state_relay_free);
  mf_target_end_late (target);
  mf_target_drop_lanes (target);
  if (target->program != NULL) {
    target->program->ops->clean_up (target->program);
    target->program->ops->free (target->program);
    target->program = NULL;
  }
  mf_program_info_clear (&target->info);
}

static gpointer
run (gpointer data)
{
  mf_target *target = data;
  GDBusMethodInvocation *abort = NULL;
  g_autoptr (GError) error = NULL;

  if (target->taken || follow_source (target, &abort, &error)) {
    abort = mf_target_go_on (target);
    if (target->failure != NULL)
      error = g_error_copy (target->failure);
    else if (target->complete && mf_target_has_lost_program (target))
      error = g_error_new (MF_ERROR, MF_ERROR_PROGRAM, MF_TARGET_LOST_PROGRAM);
  }
  if (target->record->phase == MF_PHASE_INCOMING || target->record->phase == 0 || target->failure != NULL)
    undo (target);
  if (target->migration != NULL) {
    mf_migration_set_sampler (target->migration, NULL, NULL);
    g_cancellable_disconnect (mf_migration_cancellable (target->migration), target->cancel_handler);
  }
  clean_up (target);
  if (target->record->phase == MF_PHASE_TAKEN)
    mf_host_keep (target->host, target->record);
  if (abort != NULL)
    mf_peer_answer_abort (abort);
  refuse_requests (target);
  if (target->fetch != NULL)
    mf_fetch_target_ended (target->fetch, error);
  else if (target->migration != NULL)
    mf_migration_finish (target->migration, error);
  mf_host_target_ended (target->host, target);
  return NULL;
}

static mf_target *
target_new (MfHost *host)
{
  mf_target *target = g_new0 (mf_target, 1);

  target->host = host;
  g_mutex_init (&target->lock);
  g_cond_init (&target->cond);
  g_queue_init (&target->requests);
  target->streams = g_array_new (FALSE, TRUE, sizeof (mf_stream_in));
  g_array_set_clear_func (target->streams, stream_clear);
  target->attachments = g_ptr_array_new_with_free_func ((GDestroyNotify) mf_userfault_unref);
  target->watched = g_ptr_array_new_with_free_func ((GDestroyNotify) mf_userfault_unref);
  target->interrupt = g_cancellable_new ();
  target->await_stop = g_cancellable_new ();
  target->regions = g_array_new (FALSE, TRUE, sizeof (mf_target_region));
  g_array_set_clear_func (target->regions, region_clear);
  target->stage = -1;
  return target;
}

mf_target *
mf_target_start (MfHost *host, const uint8_t session[MF_SESSION_BYTES], mf_peer *peer, mf_fetch *fetch)
{
  const char *const none[] = { NULL };
  mf_target *target = target_new (host);

  target->fetch = fetch;
  target->record = mf_record_new (session, none, fetch ? mf_fetch_address (fetch) : mf_peer_host (peer), NULL);
  target->record->target_dials = fetch != NULL;
  target->peer = mf_peer_ref (peer);
  target->thread = g_thread_new ("mf-target", run, target);
  return target;
}

mf_target *
mf_target_resume (MfHost *host, MfMigration *migration, mf_record *record, mf_fetch *fetch)
{
  mf_target *target = target_new (host);

  target->fetch = fetch;
  target->migration = g_object_ref (migration);
  target->record = record;
  target->taken = TRUE;
  mf_migration_commit (migration);
  target->running = record->running;
  target->stage = mf_stage_find ("switchover");
  target->thread = g_thread_new ("mf-target", run, target);
  return target;
}

void
mf_target_join (mf_target *target)
{
  g_thread_join (target->thread);
  refuse_requests (target);
  g_clear_pointer (&target->peer, mf_peer_unref);
  g_array_unref (target->streams);
  g_ptr_array_unref (target->attachments);
  g_ptr_array_unref (target->watched);
  g_array_unref (target->regions);
  g_object_unref (target->interrupt);
  g_object_unref (target->await_stop);
  g_free (target->signature);
  g_clear_error (&target->arrival_failure);
  g_clear_error (&target->unfit);
  g_clear_object (&target->migration);
  g_clear_error (&target->failure);
  g_clear_error (&target->news_failure);
  mf_record_free (target->record);
  g_mutex_clear (&target->lock);
  g_cond_clear (&target->cond);
  g_free (target);
}
