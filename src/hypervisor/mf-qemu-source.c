/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU as the source.
 *
 * Its migration with x-ignore-shared carries the device state only. The guest runs until QEMU has written what else there is of RAM (video memory, ROMs),
 * then it is stopped, its I/O drained, and QEMU waits at pre-switchover: nothing changes any more. migrate-continue lets it write the rest.
 *
 * What was seen of QEMU: when its stream breaks at pre-switchover it stays there, stopped; migrate_cancel makes the guest run again. When the stream breaks
 * after migrate-continue, the migration fails and the guest *goes on by itself*. So the relay takes QEMU's stream to its end once it
 * is released, whatever becomes of the link; and QEMU itself keeps a copy of the stream's other end, so that the death of the service, which has the
 * relay, is no break either.
 */
#include "hypervisor/mf-qemu-private.h"
#include "mf-wait.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

/* QEMU drains its disks while it stops, and answers nothing meanwhile. */
#define STOP_LIMIT_USEC      (30 * G_USEC_PER_SEC)
#define ROLL_BACK_LIMIT_USEC (30 * G_USEC_PER_SEC)
#define ROLL_BACK_STEP_USEC  (10 * 1000)
/* For the end of its migration, once the return path's last word is on its way. */
#define RETURN_LIMIT_USEC (10 * G_USEC_PER_SEC)
/* The whole device state fits, so that QEMU is done with writing at once when it is released. */
#define STATE_BUFFER_BYTES (8 << 20)

/* --- standing for a scan --- */

static gboolean
did_not_pause (gint64 limit_usec, GError *failure, GError **error)
{
  if (g_error_matches (failure, MF_ERROR, MF_ERROR_TIMED_OUT)) {
    g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT,
                 "the guest did not stop within %.0f ms: its disks are slow or hang; it goes on as soon as they answer",
                 (double) limit_usec / 1000);
    g_error_free (failure);
  } else {
    g_propagate_error (error, failure);
  }
  return FALSE;
}

gboolean
mf_qemu_pause (mf_program *program, gint64 limit_usec, GCancellable *cancellable, GError **error)
{
  mf_qemu *qemu = mf_qemu_of (program);
  g_autoptr (GError) failure = NULL;
  g_autofree char *state = NULL;
  g_autoptr (mf_qmp_event) stop = NULL;
  gboolean is_running = FALSE;
  gint64 begin;

  g_return_val_if_fail (!qemu->paused, FALSE);
  state = mf_qemu_run_state (qemu, &is_running, limit_usec, cancellable, &failure);
  if (state == NULL)
    return did_not_pause (limit_usec, g_steal_pointer (&failure), error);
  /* Its user's pause is none of ours; its disks were drained then. */
  if (!is_running)
    return TRUE;
  mf_qmp_forget_events (qemu->qmp);
  begin = g_get_monotonic_time ();
  if (!mf_qmp_do (qemu->qmp, "stop", NULL, limit_usec, cancellable, &failure)) {
    /* It may stop at any time now. Whatever is sent is executed after that. */
    mf_qmp_send (qemu->qmp, "cont", NULL, NULL);
    return did_not_pause (limit_usec, g_steal_pointer (&failure), error);
  }
  stop = mf_qmp_take (qemu->qmp, mf_qmp_filter_name, (gpointer) "STOP");
  qemu->paused_usec = stop != NULL ? MAX (begin, stop->when_usec) : begin;
  qemu->paused = TRUE;
  return TRUE;
}

gboolean
mf_qemu_resume (mf_program *program, gint64 *stood_usec, GError **error)
{
  mf_qemu *qemu = mf_qemu_of (program);
  g_autoptr (mf_qmp_event) event = NULL;

  if (stood_usec != NULL)
    *stood_usec = 0;
  if (!qemu->paused)
    return TRUE;
  if (!mf_qmp_do (qemu->qmp, "cont", NULL, MF_QEMU_COMMAND_USEC, NULL, error))
    return FALSE;
  qemu->paused = FALSE;
  event = mf_qmp_take (qemu->qmp, mf_qmp_filter_name, (gpointer) "RESUME");
  if (stood_usec != NULL)
    *stood_usec = MAX (0, (event != NULL ? event->when_usec : g_get_monotonic_time ()) - qemu->paused_usec);
  return TRUE;
}

/* --- leaving --- */

static void
enlarge_buffer (int fd)
{
  int bytes = STATE_BUFFER_BYTES;

  if (setsockopt (fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) < 0)
    (void) !setsockopt (fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

static gboolean
migration_failed (mf_qemu *qemu, const char *status, GError **error)
{
  g_autofree char *reason = NULL;
  g_autofree char *now = mf_qemu_migration_status (qemu, &reason, NULL);

  g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM, "QEMU's migration %s%s%s",
               g_str_equal (status, "completed") ? "did not wait at its switchover" : status,
               reason != NULL ? ": " : "", reason != NULL ? reason : "");
  return FALSE;
}

static gboolean
begin_migration (mf_qemu *qemu, int state_fd, int reader_fd, GCancellable *cancellable, GError **error)
{
  g_autofree char *state = NULL;

  if (!mf_qemu_resume (&qemu->base, NULL, error))
    return FALSE;
  /* Its user may have paused it, or let it run, since the check. */
  state = mf_qemu_run_state (qemu, &qemu->was_running, MF_QEMU_COMMAND_USEC, cancellable, error);
  if (state == NULL)
    return FALSE;
  mf_qmp_forget_events (qemu->qmp);
  enlarge_buffer (state_fd);
  if ((reader_fd >= 0 && !mf_qemu_give_fd (qemu, MF_QEMU_READER_NAME, reader_fd, cancellable, error)) ||
      !mf_qemu_give_fd (qemu, MF_QEMU_FD_NAME, state_fd, cancellable, error))
    return FALSE;
  qemu->has_reader = reader_fd >= 0;
  qemu->begun = TRUE;
  qemu->sent = FALSE;
  return mf_qmp_do (qemu->qmp, "migrate", mf_qmp_string_argument ("uri", MF_QEMU_FD_URI), MF_QEMU_COMMAND_USEC,
                    cancellable, error);
}

gboolean
mf_qemu_await_standing (mf_qemu *qemu, gint64 deadline_usec, gint64 *stopped_usec, GCancellable *cancellable,
                        GError **error)
{
  static const char *const statuses[] = { "pre-switchover", "failed", "cancelled", "completed", NULL };
  g_autoptr (GError) failure = NULL;
  g_autoptr (mf_qmp_event) stop = NULL;
  g_autoptr (mf_qmp_event) event = mf_qemu_await (qemu, statuses, FALSE, deadline_usec, cancellable, &failure);
  const char *status;

  if (event == NULL) {
    if (g_error_matches (failure, MF_ERROR, MF_ERROR_TIMED_OUT))
      g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT, "the guest did not stop within %d s: do its disks answer?",
                   (int) (STOP_LIMIT_USEC / G_USEC_PER_SEC));
    else
      g_propagate_error (error, g_steal_pointer (&failure));
    return FALSE;
  }
  status = mf_json_string (event->data, "status");
  if (!g_str_equal (status, "pre-switchover"))
    return migration_failed (qemu, status, error);
  /* None when it was paused already. */
  stop = mf_qmp_take (qemu->qmp, mf_qmp_filter_name, (gpointer) "STOP");
  *stopped_usec = stop != NULL ? stop->when_usec : event->when_usec;
  return TRUE;
}

gboolean
mf_qemu_stop_and_send (mf_program *program, int state_fd, int reader_fd, gint64 *stopped_usec,
                       GCancellable *cancellable, GError **error)
{
  mf_qemu *qemu = mf_qemu_of (program);
  gboolean ok = begin_migration (qemu, state_fd, reader_fd, cancellable, error);

  /* QEMU has its own by now. */
  close (state_fd);
  return ok && mf_qemu_await_standing (qemu, mf_deadline_after (STOP_LIMIT_USEC), stopped_usec, cancellable, error);
}

gboolean
mf_qemu_release (mf_program *program, GCancellable *cancellable, GError **error)
{
  mf_qemu *qemu = mf_qemu_of (program);
  gboolean has_return_path = FALSE;

  mf_qemu_has_capability (qemu, "return-path", &has_return_path);
  if (!mf_qmp_do (qemu->qmp, "migrate-continue", mf_qmp_string_argument ("state", "pre-switchover"),
                  MF_QEMU_COMMAND_USEC, cancellable, error))
    return FALSE;
  /* Until QEMU is done with writing, the guest would go on if its stream broke. It takes a millisecond or two, in which the target has begun
   * to load. With a return path QEMU also waits for the target, for as long as that takes. */
  return has_return_path || mf_qemu_await_sent (program, cancellable, error);
}

gboolean
mf_qemu_await_sent (mf_program *program, GCancellable *cancellable, GError **error)
{
  static const char *const statuses[] = { "completed", "failed", "cancelled", NULL };
  mf_qemu *qemu = mf_qemu_of (program);
  g_autoptr (mf_qmp_event) event = NULL;
  gboolean has_return_path = FALSE;
  const char *status;

  if (qemu->sent)
    return TRUE;
  mf_qemu_has_capability (qemu, "return-path", &has_return_path);
  event = mf_qemu_await (qemu, statuses, FALSE, has_return_path ? mf_deadline_after (RETURN_LIMIT_USEC) : -1,
                         cancellable, error);
  if (event == NULL)
    return FALSE;
  status = mf_json_string (event->data, "status");
  qemu->sent = g_str_equal (status, "completed");
  return qemu->sent || migration_failed (qemu, status, error);
}

/* --- going back --- */

gboolean
mf_qemu_cancel_migration (mf_qemu *qemu, gint64 deadline_usec, GError **error)
{
  static const char *const nothing[] = { NULL };
  gboolean is_asked = FALSE;

  for (;;) {
    g_autofree char *status = mf_qemu_migration_status (qemu, NULL, error);

    if (status == NULL)
      return FALSE;
    if (!mf_qemu_status_is_active (status))
      return TRUE;
    if (!is_asked && !mf_qmp_do (qemu->qmp, "migrate_cancel", NULL, MF_QEMU_COMMAND_USEC, NULL, error))
      return FALSE;
    is_asked = TRUE;
    if (g_get_monotonic_time () >= deadline_usec) {
      g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT, "QEMU does not end its migration (%s)", status);
      return FALSE;
    }
    /* Events are for whoever awaits them; this only lets a little time pass. */
    mf_qmp_event_free (mf_qemu_await (qemu, nothing, TRUE, mf_deadline_after (ROLL_BACK_STEP_USEC), NULL, NULL));
  }
}

/* QEMU lets the guest run again by itself after a cancelled migration, a little later; until then it refuses `cont`. */
gboolean
mf_qemu_make_run (mf_qemu *qemu, gint64 deadline_usec, GError **error)
{
  static const char *const nothing[] = { NULL };

  for (;;) {
    gboolean is_running = FALSE;
    g_autofree char *state = mf_qemu_run_state (qemu, &is_running, MF_QEMU_COMMAND_USEC, NULL, error);

    if (state == NULL)
      return FALSE;
    if (is_running)
      return TRUE;
    g_clear_error (error);
    if (mf_qmp_do (qemu->qmp, "cont", NULL, MF_QEMU_COMMAND_USEC, NULL, error))
      continue;
    if (g_get_monotonic_time () >= deadline_usec)
      return FALSE;
    mf_qmp_event_free (mf_qemu_await (qemu, nothing, TRUE, mf_deadline_after (ROLL_BACK_STEP_USEC), NULL, NULL));
  }
}

/* Whether there is anything to undo, and whether the guest has to run then. */
static gboolean
find_what_to_undo (mf_qemu *qemu, gboolean *is_begun, gboolean *must_run, GError **error)
{
  mf_qemu_leftover leftover;

  if (qemu->was_checked) {
    *is_begun = qemu->begun || qemu->paused;
    *must_run = qemu->was_running;
    return TRUE;
  }
  if (!mf_qemu_connect (qemu, MF_QEMU_COMMAND_USEC, NULL, error) || !mf_qemu_find_leftover (qemu, &leftover, error))
    return FALSE;
  /* Of a target nothing is left: what was to carry its state ended with the service. */
  *is_begun = leftover == MF_QEMU_LEFT_RUNNING || leftover == MF_QEMU_LEFT_PAUSED;
  *must_run = leftover == MF_QEMU_LEFT_RUNNING;
  return TRUE;
}

gboolean
mf_qemu_roll_back (mf_program *program, GError **error)
{
  mf_qemu *qemu = mf_qemu_of (program);
  gint64 deadline_usec = mf_deadline_after (ROLL_BACK_LIMIT_USEC);
  g_autoptr (GError) failure = NULL;
  gboolean is_begun, must_run;

  if (qemu->was_checked && !qemu->is_source)
    return mf_qemu_roll_back_target (qemu, error);
  if (!find_what_to_undo (qemu, &is_begun, &must_run, error))
    return FALSE;
  if (!is_begun)
    return TRUE;
  if (mf_qemu_cancel_migration (qemu, deadline_usec, &failure) &&
      (!must_run || mf_qemu_make_run (qemu, deadline_usec, &failure))) {
    qemu->begun = qemu->paused = FALSE;
    return TRUE;
  }
  /* When QEMU answers again, this is what it does first. */
  if (must_run)
    mf_qmp_send (qemu->qmp, "cont", NULL, NULL);
  g_propagate_error (error, g_steal_pointer (&failure));
  return FALSE;
}
