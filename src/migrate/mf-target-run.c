/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The target at the switchover and after it.
 *
 * After the record says TAKEN the thread looks round and round: requests (a source that came back, or that has let go), attachments that came back, and
 * between them it waits for pages. Whether the program runs is watched by a small thread of its own, because the program may need pages to get there. Nothing
 * ends the session but: running and complete, the service's end (the record lets the next one go on), or the certainty that the program
 * did not and will not run here.
 */
#include "migrate/mf-stage.h"
#include "migrate/mf-target-private.h"

#define NO_SPACE_RETRY_USEC   (100 * 1000)
#define UNREADABLE_RETRY_USEC (5 * G_USEC_PER_SEC)

/* --- switchover --- */

static void
queue_plan (mf_target_region *region)
{
  for (guint i = 0; i < MF_HEAT_CLASSES; i++)
    mf_puller_queue_set (region->puller, region->plan[i], MF_PULL_HINT_0 + i);
}

gboolean
mf_target_switchover (mf_target *target, GVariant *arguments, GVariantDict *results, GError **error)
{
  g_autoptr (GVariant) sets = g_variant_lookup_value (arguments, "sets", G_VARIANT_TYPE ("aa(yay)"));
  gboolean complete = FALSE;

  g_variant_lookup (arguments, "complete", "b", &complete);
  if (!complete && sets == NULL) {
    g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "the source switches over without a dirty set");
    return FALSE;
  }
  if (target->relay == NULL) {
    g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "the source switches over, and has not asked for the program");
    return FALSE;
  }
  if (complete ? !mf_target_pull_final (target, error) : !mf_target_learn_sets (target, sets, error))
    return FALSE;
  for (guint i = 0; complete && i < target->regions->len; i++)
    mf_region_set_all_present (mf_target_region_at (target, i)->region);
  for (guint i = 0; i < target->regions->len; i++)
    mf_puller_set_mode (mf_target_region_at (target, i)->puller, MF_PUT_KEEP);

  if (!mf_migration_commit (target->migration)) {
    g_set_error (error, MF_ERROR, MF_ERROR_CANCELLED, "the migration was cancelled there");
    return FALSE;
  }
  /* Recorded before it is answered. Memory is right from here on: what is not, is missing, and faults on it are served. */
  if (!mf_host_record (target->host, target->record, MF_PHASE_TAKEN, error))
    return FALSE;
  g_mutex_lock (&target->lock);
  target->taken = TRUE;
  g_mutex_unlock (&target->lock);
  /* A program that somebody else drives has written all of its state by now: its source has nothing to hold back until its own record is written. */
  target->is_held = target->is_late;
  if (!target->is_held)
    mf_state_relay_release (target->relay);
  return TRUE;
}

/* The source says something that it says only after its record. */
static void
let_go (mf_target *target)
{
  if (target->is_held && target->relay != NULL)
    mf_state_relay_release (target->relay);
  target->is_held = FALSE;
}

void
mf_target_unswitch (mf_target *target)
{
  /* The program that loads from it fails, and can't run. */
  g_clear_pointer (&target->relay, mf_state_relay_free);
}

/* --- who waits for how far it is --- */

static gboolean
answer_waiter (mf_target *target, mf_target_request *request)
{
  const char *until = "complete";
  GVariantDict results;

  g_variant_lookup (request->arguments, "until", "&s", &until);
  if (target->failure != NULL) {
    g_dbus_method_invocation_return_gerror (request->invocation, target->failure);
    return TRUE;
  }
  if (!target->running || (g_str_equal (until, "complete") && !target->complete))
    return FALSE;
  g_variant_dict_init (&results, NULL);
  if (target->complete) {
    mf_migration_status status = { 0 };

    mf_target_sample (&status, target);
    g_variant_dict_insert (&results, "faults", "t", status.faults);
    g_variant_dict_insert (&results, "fault-p50", "u", status.fault_p50_usec);
    g_variant_dict_insert (&results, "fault-p99", "u", status.fault_p99_usec);
    g_variant_dict_insert (&results, "ended", "b", mf_target_has_lost_program (target));
  }
  mf_peer_answer_stage (request->invocation, g_variant_dict_end (&results));
  return TRUE;
}

static void
answer_waiters (mf_target *target)
{
  GSList *link = target->waiters, *still = NULL;

  for (; link != NULL; link = link->next) {
    if (answer_waiter (target, link->data))
      mf_target_request_free (link->data);
    else
      still = g_slist_prepend (still, link->data);
  }
  g_slist_free (target->waiters);
  target->waiters = still;
}

static void
drop_waiters (mf_target *target)
{
  for (GSList *link = target->waiters; link != NULL; link = link->next) {
    mf_target_request *request = link->data;

    g_dbus_method_invocation_return_error (request->invocation, MF_ERROR, MF_ERROR_CONNECTION, "the service ends");
    mf_target_request_free (request);
  }
  g_clear_pointer (&target->waiters, g_slist_free);
}

/* --- the program --- */

static gpointer
await_running (gpointer data)
{
  mf_target *target = data;
  g_autoptr (GError) error = NULL;
  gint64 running_usec;
  gboolean ok = target->program->ops->await_running (target->program, &running_usec, target->await_stop, &error);

  g_mutex_lock (&target->lock);
  if (ok)
    target->news_running = TRUE;
  else if (!g_cancellable_is_cancelled (target->await_stop))
    target->news_failure = g_steal_pointer (&error);
  g_cancellable_cancel (target->interrupt);
  g_cond_broadcast (&target->cond);
  g_mutex_unlock (&target->lock);
  return NULL;
}

static void
note_running (mf_target *target)
{
  g_autoptr (GError) error = NULL;

  target->record->running = TRUE;
  if (!mf_host_record (target->host, target->record, MF_PHASE_TAKEN, &error))
    g_warning ("%s: %s", target->record->regions[0], error->message);
}

/* --- after a former service --- */

static gboolean
find_leftover (mf_target *target, GError **error)
{
  g_autoptr (GPtrArray) objects = g_ptr_array_new ();

  for (guint i = 0; target->record->regions[i] != NULL; i++) {
    mf_target_region region = { .name = g_strdup (target->record->regions[i]) };

    region.region = mf_host_find_region (target->host, target->record->regions[i], error);
    g_array_append_val (target->regions, region);
    if (region.region == NULL)
      return FALSE;
    g_ptr_array_add (objects, region.region);
    target->total_bytes += mf_region_get_size (region.region);
  }
  target->program =
      mf_host_new_program (target->host, (MfRegion *const *) objects->pdata, objects->len, target->record, error);
  return target->program != NULL;
}

/* The holes of the store are what is missing: the rest was put there whole, page by page, or written by the program. */
gboolean
mf_target_forget_holes (MfRegion *region, GError **error)
{
  mf_bitmap *holes = mf_bitmap_new (mf_region_n_pages (region));
  uint64_t offset = 0, data, end;
  gboolean ok;
  mf_run run;

  if (holes == NULL)
    return mf_error_from_errno (error, ENOMEM, "looking for what is missing");
  /* There everything counts as data: what is missing would be zeroes. */
  if (mf_store_kind (mf_region_store (region)) == MF_STORE_HUGETLBFS) {
    mf_bitmap_free (holes);
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED, "region %s: on hugetlbfs nobody can tell what is missing",
                 mf_region_get_name (region));
    return FALSE;
  }
  mf_bitmap_set_run (holes, (mf_run){ 0, mf_region_n_pages (region) });
  while (mf_store_next_data (mf_region_store (region), offset, &data, &end)) {
    if (mf_run_from_bytes (data, MIN (end, mf_region_get_size (region)) - data, mf_region_page_bytes (region),
                           mf_region_n_pages (region), &run))
      mf_bitmap_clear_run (holes, run);
    offset = end;
  }
  ok = mf_region_invalidate (region, holes, error);
  mf_bitmap_free (holes);
  return ok;
}

/* The attachment that had the lane for faults is gone, and the lane with it. */
static void
have_source_redial (mf_target *target)
{
  g_mutex_lock (&target->lock);
  if (target->peer != NULL)
    mf_peer_close (target->peer);
  g_mutex_unlock (&target->lock);
}

/* A program's attachment came back: its faults are to be served. */
static void
take_attachments (mf_target *target)
{
  g_autoptr (GPtrArray) came = NULL;

  g_mutex_lock (&target->lock);
  came = g_ptr_array_ref (target->attachments);
  g_ptr_array_unref (target->attachments);
  target->attachments = g_ptr_array_new_with_free_func ((GDestroyNotify) mf_userfault_unref);
  g_mutex_unlock (&target->lock);

  for (guint i = 0; i < came->len; i++) {
    MfUserfault *userfault = g_ptr_array_index (came, i);

    for (guint k = 0; k < target->regions->len; k++) {
      mf_target_region *region = mf_target_region_at (target, k);
      g_autoptr (GError) error = NULL;

      if (mf_userfault_region (userfault) != region->region)
        continue;
      if (!mf_userfault_serve (userfault, &error)) {
        g_warning ("region %s: %s", region->name, error->message);
        continue;
      }
      mf_migration_set_sampler (target->migration, NULL, NULL);
      g_clear_pointer (&region->userfault, mf_userfault_unref);
      region->userfault = mf_userfault_ref (userfault);
      mf_target_watch (target, userfault);
      mf_migration_set_sampler (target->migration, mf_target_sample, target);
      if (region->faults != NULL)
        mf_target_use_fault_lane (target, region);
      else if (region->puller != NULL)
        have_source_redial (target);
    }
  }
}

/* --- pulling the rest --- */

void
mf_target_queue_missing (mf_target *target)
{
  for (guint i = 0; i < target->regions->len; i++) {
    mf_target_region *region = mf_target_region_at (target, i);
    mf_page_map *map = mf_region_map (region->region);
    mf_run within = { 0, mf_region_n_pages (region->region) }, run;

    while (within.count > 0 && mf_page_map_next_run (map, within, MF_PAGE_MISSING, &run)) {
      mf_puller_queue (region->puller, run, MF_PULL_LINEAR);
      within.count -= run.first + run.count - within.first;
      within.first = run.first + run.count;
    }
  }
}

static gboolean
is_complete (mf_target *target)
{
  for (guint i = 0; i < target->regions->len; i++) {
    MfRegion *region = mf_target_region_at (target, i)->region;

    if (mf_page_map_count (mf_region_map (region), MF_PAGE_PRESENT) < mf_region_n_pages (region))
      return FALSE;
  }
  return TRUE;
}

static gboolean
have_lanes (mf_target *target)
{
  gboolean have;

  g_mutex_lock (&target->lock);
  have = !target->lane_lost;
  g_mutex_unlock (&target->lock);
  return have && target->regions->len > 0 && mf_target_region_at (target, 0)->puller != NULL;
}

/* Waits for pages. FALSE: something else happened, or the link is lost. */
static gboolean
pull_rest (mf_target *target, GError **error)
{
  for (guint i = 0; i < target->regions->len; i++) {
    if (!mf_puller_wait_idle (mf_target_region_at (target, i)->puller, -1, target->interrupt, error))
      return FALSE;
  }
  if (!is_complete (target)) {
    /* A put failed, or a page was claimed by a lane that died: ask again. */
    mf_target_queue_missing (target);
    return FALSE;
  }
  return TRUE;
}

static gboolean
finish_attachments (mf_target *target, GError **error)
{
  for (guint i = 0; i < target->regions->len; i++) {
    mf_target_region *region = mf_target_region_at (target, i);

    if (region->userfault != NULL && !mf_userfault_finish (region->userfault, error))
      return FALSE;
  }
  return TRUE;
}

/* The source is here again, with fresh streams on their way. */
static void
resume (mf_target *target)
{
  g_autoptr (GError) error = NULL;
  gboolean ok;

  g_mutex_lock (&target->lock);
  target->lane_lost = FALSE;
  g_mutex_unlock (&target->lock);
  mf_migration_set_sampler (target->migration, NULL, NULL);
  mf_target_drop_lanes (target);
  ok = mf_target_make_lanes (target, &error);
  if (!ok)
    mf_target_drop_lanes (target);
  mf_migration_set_sampler (target->migration, mf_target_sample, target);
  if (ok) {
    mf_target_queue_missing (target);
    return;
  }
  g_debug ("resume: %s", error->message);
  have_source_redial (target);
}

/* --- looking round --- */

/* The source dials its data streams when it has the answer: those that are here are none of them. */
static gboolean
answer_resume (mf_target *target, mf_target_request *request)
{
  g_autoptr (GError) error = NULL;

  if (!mf_target_read_lanes (target, request->arguments, &error)) {
    g_dbus_method_invocation_return_gerror (request->invocation, error);
    return FALSE;
  }
  mf_target_drop_streams (target);
  mf_peer_answer_stage (request->invocation, NULL);
  return TRUE;
}

/* Does what was asked for. TRUE: the source is here again. */
static gboolean
do_requests (mf_target *target, GDBusMethodInvocation **abort)
{
  mf_target_request *request;
  gboolean must_resume = FALSE;

  for (;;) {
    g_mutex_lock (&target->lock);
    request = g_queue_pop_head (&target->requests);
    g_mutex_unlock (&target->lock);
    if (request == NULL)
      return must_resume;
    if (request->stage == NULL) {
      if (*abort != NULL)
        mf_peer_answer_abort (*abort);
      *abort = request->invocation;
    } else if (g_str_equal (request->stage, "post-copy")) {
      let_go (target);
      target->waiters = g_slist_prepend (target->waiters, request);
      continue;
    } else if (g_str_equal (request->stage, "resume")) {
      let_go (target);
      must_resume |= answer_resume (target, request);
    } else {
      g_dbus_method_invocation_return_error (request->invocation, MF_ERROR, MF_ERROR_PROTOCOL,
                                             "stage \"%s\" can't come now", request->stage);
    }
    mf_target_request_free (request);
  }
}

/* Waits until something is in the mailbox. FALSE: `deadline` passed (-1: never). */
static gboolean
wait_for_news (mf_target *target, gint64 deadline)
{
  gboolean ok = TRUE;

  g_mutex_lock (&target->lock);
  while (ok && !g_cancellable_is_cancelled (target->interrupt)) {
    if (deadline < 0)
      g_cond_wait (&target->cond, &target->lock);
    else
      ok = g_cond_wait_until (&target->cond, &target->lock, deadline);
  }
  g_mutex_unlock (&target->lock);
  return ok;
}

/* Takes over what the small thread has seen. */
static void
take_news (mf_target *target)
{
  g_mutex_lock (&target->lock);
  target->running = target->running || target->news_running;
  if (target->failure == NULL)
    target->failure = g_steal_pointer (&target->news_failure);
  g_mutex_unlock (&target->lock);
}

/* The source asks to forget it after the switchover: allowed only when the program will certainly not run here. Without its device state it
 * can't. */
static gboolean
abort_taken (mf_target *target, GDBusMethodInvocation *abort)
{
  g_autoptr (GError) error = NULL;

  mf_target_unswitch (target);
  /* One that has its state and waits for who drives it would wait for ever. */
  if (target->program->ops->withdraw != NULL)
    g_cancellable_cancel (target->await_stop);
  if (target->await_thread != NULL)
    g_thread_join (g_steal_pointer (&target->await_thread));
  take_news (target);
  if (!target->running && target->failure == NULL && target->program->ops->withdraw != NULL &&
      !target->program->ops->withdraw (target->program, &error)) {
    g_dbus_method_invocation_return_error (abort, MF_ERROR, MF_ERROR_BUSY, "%s", error->message);
    target->running = TRUE;
    return FALSE;
  }
  if (target->running) {
    g_dbus_method_invocation_return_error (abort, MF_ERROR, MF_ERROR_BUSY, "the program runs here already");
    return FALSE;
  }
  if (target->failure == NULL)
    target->failure = g_error_new (MF_ERROR, MF_ERROR_CANCELLED, "the source took the program back");
  return TRUE;
}

/* How far it is, written down, and then told to everybody who waits for it. TRUE: everything is here and the program runs: the session is over. */
static gboolean
reached (mf_target *target)
{
  gboolean is_over = target->complete && target->running;

  if (target->running && !target->record->running) {
    note_running (target);
    mf_migration_set_stage (target->migration, "post-copy");
  }
  /* From here on the region is here like any other, and holes are zeroes again; a source that didn't hear it is told by the record. */
  if (is_over)
    mf_host_bury (target->host, target->record, MF_PHASE_COMPLETE);
  answer_waiters (target);
  return is_over;
}

/* The next look round: what interrupted the last one counts as seen from here on. FALSE: the service ends. */
static gboolean
look_round (mf_target *target, gboolean *lost)
{
  gboolean stopping;

  g_mutex_lock (&target->lock);
  g_object_unref (target->interrupt);
  target->interrupt = g_cancellable_new ();
  stopping = target->stopping;
  *lost = target->peer == NULL;
  g_mutex_unlock (&target->lock);
  take_news (target);
  take_attachments (target);
  return !stopping;
}

/* Over a link that is cut lanes are silent for longer than the control stream, which asks. */
static void
pull_on (mf_target *target, gboolean lost)
{
  g_autoptr (GError) error = NULL;

  mf_migration_set_state (target->migration, lost ? MF_MIGRATION_PAUSED : MF_MIGRATION_RUNNING);
  if (pull_rest (target, &error) && finish_attachments (target, &error)) {
    target->complete = TRUE;
  } else if (g_error_matches (error, MF_ERROR, MF_ERROR_NO_SPACE)) {
    /* The pages wait in the queue, and whoever touches one waits with them, until there is room again. */
    g_warning ("%s: %s", target->record->regions[0], error->message);
    wait_for_news (target, g_get_monotonic_time () + NO_SPACE_RETRY_USEC);
  } else if (error != NULL && !g_error_matches (error, MF_ERROR, MF_ERROR_CANCELLED) && have_lanes (target)) {
    /* So they do where the source can't read its own memory just now, or says that it can't be trusted. */
    g_warning ("%s: on the source: %s", target->record->regions[0], error->message);
    mf_migration_set_state (target->migration, MF_MIGRATION_PAUSED);
    wait_for_news (target, g_get_monotonic_time () + UNREADABLE_RETRY_USEC);
    mf_target_queue_missing (target);
  }
}

static void
begin (mf_target *target)
{
  for (guint i = 0; i < target->regions->len; i++) {
    mf_target_region *region = mf_target_region_at (target, i);

    g_clear_pointer (&region->status, mf_lane_close);
    if (region->puller != NULL && region->plan[0] != NULL)
      queue_plan (region);
  }
  if (!target->running)
    target->await_thread = g_thread_new ("mf-await", await_running, target);
}

static void
look_round_until_over (mf_target *target, GDBusMethodInvocation **abort)
{
  gboolean lost;

  while (look_round (target, &lost)) {
    gboolean must_resume = do_requests (target, abort);

    if (reached (target))
      return;
    if (must_resume)
      resume (target);
    if (*abort != NULL) {
      if (abort_taken (target, *abort))
        return;
      *abort = NULL;
    }
    if (target->failure != NULL && lost)
      return;
    if (!target->complete && target->failure == NULL && have_lanes (target)) {
      pull_on (target, lost);
      continue;
    }
    if (!target->complete && target->failure == NULL)
      mf_migration_set_state (target->migration, MF_MIGRATION_PAUSED);
    wait_for_news (target, -1);
  }
}

GDBusMethodInvocation *
mf_target_go_on (mf_target *target)
{
  GDBusMethodInvocation *abort = NULL;

  if (target->regions->len == 0 && !find_leftover (target, &target->failure))
    return NULL;
  begin (target);
  look_round_until_over (target, &abort);
  drop_waiters (target);
  if (target->await_thread != NULL)
    g_thread_join (g_steal_pointer (&target->await_thread));
  return abort;
}
