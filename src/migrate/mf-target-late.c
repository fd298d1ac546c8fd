/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A program that comes later than its memory: libvirt starts the target's QEMU when pre-copy has done its work.
 *
 * Until it has mapped the regions, pages go to their stores. When it maps one it stands in mmap() until its faults are served, so that it can't touch what is missing and find
 * zeroes there (invariant 1): that is done in the main context, at once. From then on a page goes down through the attachment where the store has a hole, and is written over where
 * it has none; it is one page cache, so what was pulled before is right in the mapping, and what is invalidated afterwards is a hole in it again and faults.
 *
 * Before that, whoever starts it waits until the source's program is armed, which must not be for long (mf-source-guided.c): the source's question whether it should be is kept, and
 * answered when that changes. All of it happens in the main context.
 *
 * The rest is the session's thread's: it gives the attachment the lane for faults that has been waiting for it, and has the program checked and prepared by a
 * small thread, because a program that is just starting takes its time, and rounds go on meanwhile.
 */
#include "migrate/mf-stage.h"
#include "migrate/mf-target-private.h"

#include "mf-wait.h"

/* From mapping its memory to answering at its control socket: it may have to reserve all of it before. */
#define START_USEC (60 * G_USEC_PER_SEC)
#define RETRY_USEC (50 * 1000)
/* The source's program has been told to migrate, and soon stands: the one here should be there. */
#define COME_USEC (2 * G_USEC_PER_SEC)

static mf_target_region *
region_of (mf_target *target, MfUserfault *userfault)
{
  for (guint i = 0; i < target->regions->len; i++) {
    mf_target_region *region = mf_target_region_at (target, i);

    if (region->region == mf_userfault_region (userfault))
      return region;
  }
  return NULL;
}

/* --- arming the source's --- */

static gboolean
tell (gpointer user_data)
{
  mf_target_expectant *expectant = user_data;

  expectant->told (expectant->error, expectant->user_data);
  g_clear_error (&expectant->error);
  g_free (expectant);
  return G_SOURCE_REMOVE;
}

/* With the lock held. `why` NULL: it is armed. */
static void
tell_expectants (mf_target *target, const GError *why)
{
  for (GSList *l = target->expectants; l != NULL; l = l->next) {
    mf_target_expectant *expectant = l->data;

    expectant->error = why ? g_error_copy (why) : NULL;
    mf_host_in_main_context (target->host, tell, expectant);
  }
  g_clear_pointer (&target->expectants, g_slist_free);
}

/* With the lock held. */
static void
answer_watch (mf_target *target)
{
  GVariantDict results;

  if (target->watch == NULL || target->is_expected == target->is_armed)
    return;
  g_variant_dict_init (&results, NULL);
  g_variant_dict_insert (&results, "expected", "b", target->is_expected);
  mf_peer_answer_stage (g_steal_pointer (&target->watch), g_variant_dict_end (&results));
}

/* With the lock held. */
static void
drop_watch (mf_target *target)
{
  if (target->watch != NULL)
    g_dbus_method_invocation_return_error (g_steal_pointer (&target->watch), MF_ERROR, MF_ERROR_NOT_FOUND,
                                           "nobody tells any more whether a program comes");
}

void
mf_target_hear_watch (mf_target *target, gboolean is_armed, GDBusMethodInvocation *invocation)
{
  drop_watch (target);
  target->watch = invocation;
  target->is_armed = is_armed;
  if (!target->accepting)
    drop_watch (target);
  else if (is_armed)
    tell_expectants (target, NULL);
  answer_watch (target);
}

void
mf_target_expect (mf_target *target, mf_host_expected told, gpointer user_data)
{
  mf_target_expectant *expectant = g_new0 (mf_target_expectant, 1);
  g_autoptr (GError) ended = NULL;

  expectant->told = told;
  expectant->user_data = user_data;
  g_mutex_lock (&target->lock);
  target->expectants = g_slist_prepend (target->expectants, expectant);
  target->is_expected = TRUE;
  if (!target->accepting)
    ended = g_error_new (MF_ERROR, MF_ERROR_NOT_FOUND, "region %s: the migration to here has ended",
                         target->record->regions[0]);
  if (ended != NULL || target->is_armed)
    tell_expectants (target, ended);
  answer_watch (target);
  g_mutex_unlock (&target->lock);
}

void
mf_target_forgo (mf_target *target)
{
  g_mutex_lock (&target->lock);
  target->is_expected = FALSE;
  answer_watch (target);
  g_mutex_unlock (&target->lock);
}

/* --- its memory --- */

void
mf_target_serve_late (mf_target *target, MfUserfault *userfault)
{
  mf_target_region *region = region_of (target, userfault);
  g_autoptr (GError) error = NULL;

  if (region == NULL)
    return;
  if (!mf_userfault_serve (userfault, &error)) {
    g_warning ("region %s: %s", region->name, error->message);
    g_clear_error (&target->arrival_failure);
    target->arrival_failure = g_steal_pointer (&error);
  }
  g_ptr_array_add (target->attachments, mf_userfault_ref (userfault));
  g_ptr_array_add (target->watched, mf_userfault_ref (userfault));
  /* Who started it may not have said so. */
  target->is_expected = TRUE;
  answer_watch (target);
  g_cond_broadcast (&target->cond);
}

void
mf_target_accept_late (mf_target *target)
{
  g_mutex_lock (&target->lock);
  target->accepting = TRUE;
  g_mutex_unlock (&target->lock);
}

/* --- the program --- */

static void
drop_program (mf_target *target)
{
  if (target->program == NULL)
    return;
  target->program->ops->clean_up (target->program);
  target->program->ops->free (target->program);
  target->program = NULL;
  mf_program_info_clear (&target->info);
}

static gboolean
check_program (mf_target *target, GError **error)
{
  gint64 deadline = g_get_monotonic_time () + START_USEC;

  for (;;) {
    g_autoptr (GError) local_error = NULL;

    if (target->program->ops->check (target->program, FALSE, &target->info, target->interrupt, &local_error))
      return TRUE;
    mf_program_info_clear (&target->info);
    if (!g_error_matches (local_error, MF_ERROR, MF_ERROR_NOT_FOUND) &&
        !g_error_matches (local_error, MF_ERROR, MF_ERROR_TIMED_OUT) &&
        !g_error_matches (local_error, MF_ERROR, MF_ERROR_BUSY)) {
      g_propagate_error (error, g_steal_pointer (&local_error));
      return FALSE;
    }
    if (g_get_monotonic_time () >= deadline || g_cancellable_is_cancelled (target->interrupt)) {
      g_propagate_error (error, g_steal_pointer (&local_error));
      return FALSE;
    }
    mf_wait_fd (-1, 0, mf_deadline_after (RETRY_USEC), target->interrupt, NULL);
  }
}

static gpointer
arrive (gpointer data)
{
  mf_target *target = data;
  g_autoptr (GPtrArray) objects = g_ptr_array_new ();
  gboolean ok;

  for (guint i = 0; i < target->regions->len; i++)
    g_ptr_array_add (objects, mf_target_region_at (target, i)->region);
  target->program = mf_host_new_program (target->host, (MfRegion *const *) objects->pdata, objects->len, target->record,
                                         &target->unfit);
  ok = target->program != NULL && check_program (target, &target->unfit) &&
       mf_target_compare_signatures (target->signature ? target->signature : "",
                                     target->info.signature ? target->info.signature : "", &target->unfit) &&
       target->program->ops->prepare (target->program, FALSE, target->interrupt, &target->unfit);
  target->has_come = ok;
  return NULL;
}

static void
join_arrival (mf_target *target)
{
  if (target->arrival != NULL)
    g_thread_join (g_steal_pointer (&target->arrival));
}

gboolean
mf_target_has_mapped (mf_target *target)
{
  for (guint i = 0; i < target->regions->len; i++) {
    if (mf_target_region_at (target, i)->userfault == NULL)
      return FALSE;
  }
  return TRUE;
}

static void
take_one (mf_target *target, MfUserfault *userfault)
{
  mf_target_region *region = region_of (target, userfault);
  MfUserfault *former;

  mf_migration_set_sampler (target->migration, NULL, NULL);
  g_mutex_lock (&target->lock);
  former = region->userfault;
  region->userfault = mf_userfault_ref (userfault);
  g_mutex_unlock (&target->lock);
  if (former != NULL) {
    mf_userfault_set_puller (former, NULL);
    mf_userfault_set_lost (former, NULL, NULL);
    mf_userfault_unref (former);
  }
  if (region->faults != NULL)
    mf_target_use_fault_lane (target, region);
  if (region->puller != NULL)
    mf_migration_set_sampler (target->migration, mf_target_sample, target);
}

void
mf_target_take_late (mf_target *target)
{
  g_autoptr (GPtrArray) came = NULL;

  g_mutex_lock (&target->lock);
  if (target->attachments->len > 0) {
    came = target->attachments;
    target->attachments = g_ptr_array_new_with_free_func ((GDestroyNotify) mf_userfault_unref);
  }
  g_mutex_unlock (&target->lock);
  if (came == NULL)
    return;

  for (guint i = 0; i < came->len; i++)
    take_one (target, g_ptr_array_index (came, i));
  if (!mf_target_has_mapped (target))
    return;
  join_arrival (target);
  drop_program (target);
  g_clear_error (&target->unfit);
  target->has_come = FALSE;
  target->arrival = g_thread_new ("mf-arrival", arrive, target);
}

static gboolean
await_mapped (mf_target *target, GError **error)
{
  gint64 deadline = g_get_monotonic_time () + COME_USEC;
  gboolean in_time = TRUE;

  mf_target_take_late (target);
  while (!mf_target_has_mapped (target)) {
    g_mutex_lock (&target->lock);
    while (in_time && target->attachments->len == 0 && target->peer != NULL &&
           !g_cancellable_is_cancelled (target->interrupt))
      in_time = g_cond_wait_until (&target->cond, &target->lock, deadline);
    in_time = in_time && target->attachments->len > 0;
    g_mutex_unlock (&target->lock);
    if (!in_time) {
      g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT,
                   "no program has mapped region %s: was it started there with the preload library, and with "
                   "that region's file as its memory?",
                   target->record->regions[0]);
      return FALSE;
    }
    mf_target_take_late (target);
  }
  return TRUE;
}

gboolean
mf_target_await_late (mf_target *target, GVariant *arguments, GError **error)
{
  gboolean acknowledges = FALSE, is_running = TRUE;

  if (!target->is_late || target->relay != NULL) {
    g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "the source asks for a program out of turn");
    return FALSE;
  }
  g_variant_lookup (arguments, "acknowledges", "b", &acknowledges);
  g_variant_lookup (arguments, "running", "b", &is_running);
  if (!await_mapped (target, error))
    return FALSE;
  join_arrival (target);
  if (!target->has_come || target->arrival_failure != NULL) {
    g_propagate_error (error, g_error_copy (target->has_come ? target->arrival_failure : target->unfit));
    return FALSE;
  }
  target->program->stays_paused = !is_running;
  return mf_target_make_relay (target, acknowledges, error);
}

void
mf_target_end_late (mf_target *target)
{
  g_autoptr (GError) ended = NULL;

  if (!target->is_late)
    return;
  ended = g_error_new (MF_ERROR, MF_ERROR_NOT_FOUND, "region %s: the migration to here has ended",
                       target->record->regions[0]);
  /* No program is served by this session any more. */
  g_mutex_lock (&target->lock);
  target->accepting = FALSE;
  tell_expectants (target, ended);
  drop_watch (target);
  g_mutex_unlock (&target->lock);
  join_arrival (target);
  if (target->taken)
    return;
  for (guint i = 0; i < target->attachments->len; i++)
    mf_userfault_abandon (g_ptr_array_index (target->attachments, i));
  for (guint i = 0; i < target->regions->len; i++) {
    if (mf_target_region_at (target, i)->userfault != NULL)
      mf_userfault_abandon (mf_target_region_at (target, i)->userfault);
  }
}
