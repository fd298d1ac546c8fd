/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvirt's QEMU as the target.
 *
 * A monitor serves one client at a time, and libvirt's hook needs it too while it starts the guest: so it is let go between the first look and the moment at which the
 * source's QEMU has begun to send, and again as soon as the guest runs.
 */
#include "hypervisor/mf-libvirt-private.h"
#include "mf-wait.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* libvirt lets the guest run when it has heard of both ends; with a service that died in between that is soon, or never. */
#define LEFTOVER_USEC   (10 * G_USEC_PER_SEC)
#define WITHDRAW_USEC   (5 * G_USEC_PER_SEC)
#define CLEAR_STEP_USEC (20 * 1000)
#define CLEAR_USEC      (5 * G_USEC_PER_SEC)

gboolean
mf_libvirt_prepare_target (mf_libvirt *libvirt, GCancellable *cancellable, GError **error)
{
  mf_qemu *qemu = &libvirt->qemu;

  if (!mf_qemu_set_capability (qemu, "x-ignore-shared", TRUE, cancellable, error))
    return FALSE;
  g_clear_pointer (&qemu->qmp, mf_qmp_free);
  return TRUE;
}

static int
connect_to (const char *path, GError **error)
{
  struct sockaddr_un name = { .sun_family = AF_UNIX };
  int fd;

  if (strlen (path) >= sizeof name.sun_path) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s: the path is longer than a socket's may be", path);
    return -1;
  }
  g_strlcpy (name.sun_path, path, sizeof name.sun_path);
  fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd >= 0 && connect (fd, (struct sockaddr *) &name, sizeof name) == 0)
    return fd;
  g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM,
               "QEMU does not listen at %s (%s): was libvirt given the migration URI unix:%s?", path,
               g_strerror (errno), path);
  if (fd >= 0)
    close (fd);
  return -1;
}

int
mf_libvirt_receive (mf_program *program, GCancellable *cancellable, GError **error)
{
  mf_qemu *qemu = mf_libvirt_qemu (program);
  gboolean ignores = FALSE;

  if (!mf_qemu_connect (qemu, MF_QEMU_COMMAND_USEC, cancellable, error) ||
      !mf_qemu_read_settings (qemu, cancellable, error))
    return -1;
  mf_qemu_has_capability (qemu, "x-ignore-shared", &ignores);
  if (!ignores && !mf_qemu_set_capability (qemu, "x-ignore-shared", TRUE, cancellable, error))
    return -1;
  mf_qmp_forget_events (qemu->qmp);
  return connect_to (qemu->state_path, error);
}

static gboolean
is_ended (mf_libvirt *libvirt, const mf_qmp_event *event)
{
  const char *status = mf_json_string (event->data, "status");

  if (g_str_equal (event->name, "RESUME"))
    return TRUE;
  if (!g_str_equal (event->name, "MIGRATION"))
    return FALSE;
  /* Loaded is not running: libvirt has its own word to say. */
  return g_strcmp0 (status, "failed") == 0 || (libvirt->qemu.base.stays_paused && g_strcmp0 (status, "completed") == 0);
}

static gboolean
filter_ended (const mf_qmp_event *event, gpointer user_data)
{
  return is_ended (user_data, event);
}

/* From here on the guest may be saved as any other. Not before QEMU's own migration has ended, which is a moment away. */
static void
clear_capability (mf_qemu *qemu)
{
  gint64 deadline_usec = mf_deadline_after (CLEAR_USEC);
  g_autoptr (GError) error = NULL;

  do {
    g_clear_error (&error);
    if (mf_qemu_set_capability (qemu, "x-ignore-shared", FALSE, NULL, &error)) {
      g_hash_table_remove (qemu->changed, "x-ignore-shared");
      g_hash_table_insert (qemu->capabilities, g_strdup ("x-ignore-shared"), GINT_TO_POINTER (FALSE));
      g_clear_pointer (&qemu->qmp, mf_qmp_free);
      return;
    }
    mf_wait_fd (-1, 0, mf_deadline_after (CLEAR_STEP_USEC), NULL, NULL);
  } while (mf_qmp_is_usable (qemu->qmp) && g_get_monotonic_time () < deadline_usec);
  g_debug ("x-ignore-shared is still on: %s", error->message);
}

static gboolean
await_loaded (mf_libvirt *libvirt, gint64 deadline_usec, gint64 *running_usec, GCancellable *cancellable,
              GError **error)
{
  mf_qemu *qemu = &libvirt->qemu;
  g_autoptr (GError) failure = NULL;
  g_autoptr (mf_qmp_event) event = mf_qmp_wait (qemu->qmp, filter_ended, libvirt, deadline_usec, cancellable, &failure);

  if (event == NULL) {
    if (g_error_matches (failure, MF_ERROR, MF_ERROR_PROGRAM))
      g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM,
                   "the guest's QEMU ended before it ran: libvirt, or its log in /var/log/libvirt/qemu, says why");
    else
      g_propagate_error (error, g_steal_pointer (&failure));
    return FALSE;
  }
  if (g_strcmp0 (mf_json_string (event->data, "status"), "failed") == 0)
    return mf_qemu_loading_failed (qemu, error);
  libvirt->has_run = TRUE;
  *running_usec = event->when_usec;
  clear_capability (qemu);
  return TRUE;
}

/* A former service had begun. */
static gboolean
await_leftover (mf_libvirt *libvirt, gint64 *running_usec, GCancellable *cancellable, GError **error)
{
  mf_qemu *qemu = &libvirt->qemu;
  gint64 deadline_usec = mf_deadline_after (LEFTOVER_USEC);
  gboolean is_running = FALSE;
  g_autoptr (GError) failure = NULL;
  g_autofree char *state = NULL;

  /* No time limit: QEMU can't answer before the pages are there that it loads the state into. */
  if (!mf_qemu_connect (qemu, -1, cancellable, error))
    return FALSE;
  state = mf_qemu_run_state (qemu, &is_running, -1, cancellable, error);
  if (state == NULL || !mf_qemu_read_settings (qemu, cancellable, error))
    return FALSE;
  if (is_running) {
    libvirt->has_run = TRUE;
    *running_usec = g_get_monotonic_time ();
    clear_capability (qemu);
    return TRUE;
  }
  if (await_loaded (libvirt, deadline_usec, running_usec, cancellable, &failure))
    return TRUE;
  if (!g_error_matches (failure, MF_ERROR, MF_ERROR_TIMED_OUT)) {
    g_propagate_error (error, g_steal_pointer (&failure));
    return FALSE;
  }
  if (!mf_libvirt_withdraw (&qemu->base, error)) {
    g_clear_error (error);
    return libvirt->has_run || await_loaded (libvirt, -1, running_usec, cancellable, error);
  }
  g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM, "the device state was lost with the service that carried it");
  return FALSE;
}

gboolean
mf_libvirt_await_running (mf_program *program, gint64 *running_usec, GCancellable *cancellable, GError **error)
{
  mf_libvirt *libvirt = mf_libvirt_of (program);

  if (!libvirt->qemu.was_checked)
    return await_leftover (libvirt, running_usec, cancellable, error);
  return await_loaded (libvirt, -1, running_usec, cancellable, error);
}

static gboolean
runs (mf_libvirt *libvirt, GError **error)
{
  libvirt->has_run = TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "the program runs here already");
  return FALSE;
}

/* It waits for libvirt to let it run, and that must not come any more: so it ends. libvirt sees a guest that is gone. */
gboolean
mf_libvirt_withdraw (mf_program *program, GError **error)
{
  mf_libvirt *libvirt = mf_libvirt_of (program);
  mf_qemu *qemu = &libvirt->qemu;
  g_autoptr (GError) failure = NULL;
  g_autoptr (mf_qmp_event) event = NULL;
  g_autofree char *state = NULL;
  gboolean is_running = FALSE;

  if (libvirt->has_run)
    return runs (libvirt, error);
  if (!mf_qemu_connect (qemu, WITHDRAW_USEC, NULL, &failure)) {
    if (g_error_matches (failure, MF_ERROR, MF_ERROR_PROGRAM))
      return TRUE;
    g_propagate_error (error, g_steal_pointer (&failure));
    return FALSE;
  }
  if (mf_qmp_is_usable (qemu->qmp)) {
    state = mf_qemu_run_state (qemu, &is_running, WITHDRAW_USEC, NULL, &failure);
    if (is_running)
      return runs (libvirt, error);
    g_clear_error (&failure);
    mf_qmp_send (qemu->qmp, "quit", NULL, NULL);
  }
  /* To the end of what it says: it may have been let run right before. */
  event = mf_qmp_wait (qemu->qmp, mf_qmp_filter_name, (gpointer) "RESUME", mf_deadline_after (WITHDRAW_USEC), NULL,
                       &failure);
  if (event != NULL)
    return runs (libvirt, error);
  if (g_error_matches (failure, MF_ERROR, MF_ERROR_PROGRAM))
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "the program there does not end: %s", failure->message);
  return FALSE;
}
