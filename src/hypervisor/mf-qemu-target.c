/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU as the target.
 *
 * A QEMU that has begun to read a device state ends its process when the stream ends before the state does. So it gets its end of the socket, but is not told to read from
 * it before the migration can't be rolled back any more: what is rolled back leaves it waiting, as if nothing had been asked. Only where it has to acknowledge the head
 * of the state it begins at once.
 */
#include "hypervisor/mf-qemu-private.h"
#include "mf-wait.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define LEFTOVER_USEC      (5 * G_USEC_PER_SEC)
#define LEFTOVER_STEP_USEC (20 * 1000)

static gboolean
begin_loading (mf_qemu *qemu, GCancellable *cancellable, GError **error)
{
  if (qemu->loading)
    return TRUE;
  mf_qmp_forget_events (qemu->qmp);
  if (!mf_qmp_do (qemu->qmp, "migrate-incoming", mf_qmp_string_argument ("uri", MF_QEMU_FD_URI), MF_QEMU_COMMAND_USEC,
                  cancellable, error))
    return FALSE;
  qemu->loading = TRUE;
  /* From here on QEMU's end is QEMU's alone, and an end of its is seen on ours. */
  close (qemu->incoming_fd);
  qemu->incoming_fd = -1;
  return TRUE;
}

int
mf_qemu_receive (mf_program *program, GCancellable *cancellable, GError **error)
{
  mf_qemu *qemu = mf_qemu_of (program);
  gboolean acknowledges = FALSE;
  int ends[2];

  if (qemu->incoming_fd >= 0 || qemu->loading) {
    g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "QEMU has been given a device state already");
    return -1;
  }
  if (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    mf_error_from_errno (error, errno, "making a socket for the device state");
    return -1;
  }
  qemu->incoming_fd = ends[1];
  mf_qemu_has_capability (qemu, "switchover-ack", &acknowledges);
  if (mf_qemu_give_fd (qemu, MF_QEMU_FD_NAME, ends[1], cancellable, error) &&
      (!acknowledges || begin_loading (qemu, cancellable, error)))
    return ends[0];
  close (ends[0]);
  close (qemu->incoming_fd);
  qemu->incoming_fd = -1;
  return -1;
}

gboolean
mf_qemu_loading_failed (mf_qemu *qemu, GError **error)
{
  g_autofree char *reason = NULL;
  g_autofree char *status = mf_qemu_migration_status (qemu, &reason, NULL);

  g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM, "QEMU could not load the device state: %s",
               reason != NULL ? reason : "its output says why");
  return FALSE;
}

static gboolean
await_loaded (mf_qemu *qemu, gint64 *running_usec, GCancellable *cancellable, GError **error)
{
  static const char *const statuses[] = { "completed", "failed", NULL };
  g_autoptr (GError) failure = NULL;
  g_autoptr (mf_qmp_event) event = mf_qemu_await (qemu, statuses, TRUE, -1, cancellable, &failure);

  if (event == NULL) {
    /* It ends when it can't load, and what it says then is not for us to hear. */
    if (g_error_matches (failure, MF_ERROR, MF_ERROR_PROGRAM))
      g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM,
                   "QEMU could not load the device state and has ended: its output says why");
    else
      g_propagate_error (error, g_steal_pointer (&failure));
    return FALSE;
  }
  if (g_strcmp0 (mf_json_string (event->data, "status"), "failed") == 0)
    return mf_qemu_loading_failed (qemu, error);
  *running_usec = event->when_usec;
  return TRUE;
}

static gboolean
is_still_waiting (mf_qemu *qemu, gboolean *is_waiting, GCancellable *cancellable, GError **error)
{
  /* No time limit: QEMU can't answer before the pages are there that it loads the state into. */
  g_autofree char *state = mf_qemu_run_state (qemu, NULL, -1, cancellable, error);

  *is_waiting = g_strcmp0 (state, "inmigrate") == 0;
  return state != NULL;
}

/* A former service had begun: the guest runs already, or is still loading, or its state was lost with that service. QEMU's stream ended with the service; so if it reads
 * from it at all it soon runs or ends, and if it answers for long that it waits, it was never told to read, and never will be. */
static gboolean
await_leftover (mf_qemu *qemu, gint64 *running_usec, GCancellable *cancellable, GError **error)
{
  gboolean is_waiting = FALSE;
  gint64 deadline_usec;

  if (!mf_qemu_connect (qemu, -1, cancellable, error) || !is_still_waiting (qemu, &is_waiting, cancellable, error))
    return FALSE;
  deadline_usec = mf_deadline_after (LEFTOVER_USEC);
  while (is_waiting && g_get_monotonic_time () < deadline_usec) {
    g_autoptr (GError) failure = NULL;

    if (!mf_wait_fd (-1, 0, mf_deadline_after (LEFTOVER_STEP_USEC), cancellable, &failure) &&
        g_error_matches (failure, MF_ERROR, MF_ERROR_CANCELLED)) {
      g_propagate_error (error, g_steal_pointer (&failure));
      return FALSE;
    }
    if (!is_still_waiting (qemu, &is_waiting, cancellable, error))
      return FALSE;
  }
  if (is_waiting) {
    g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM, "the device state was lost with the service that carried it");
    return FALSE;
  }
  *running_usec = g_get_monotonic_time ();
  return TRUE;
}

gboolean
mf_qemu_await_running (mf_program *program, gint64 *running_usec, GCancellable *cancellable, GError **error)
{
  mf_qemu *qemu = mf_qemu_of (program);

  if (!qemu->was_checked)
    return await_leftover (qemu, running_usec, cancellable, error);
  return begin_loading (qemu, cancellable, error) && await_loaded (qemu, running_usec, cancellable, error);
}

gboolean
mf_qemu_roll_back_target (mf_qemu *qemu, GError **error)
{
  if (qemu->incoming_fd < 0)
    return TRUE;
  close (qemu->incoming_fd);
  qemu->incoming_fd = -1;
  return mf_qmp_do (qemu->qmp, "closefd", mf_qmp_string_argument ("fdname", MF_QEMU_FD_NAME), MF_QEMU_COMMAND_USEC,
                    NULL, error);
}
