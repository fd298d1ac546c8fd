/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvirt's QEMU as the source.
 *
 * QEMU has a copy of its stream's other end from `commit` on (not before: until then the death of this service is to break the stream, so that the guest goes
 * on by itself). So nothing ends its migration after that but libvirt, or the target's word through the relay.
 */
#include "hypervisor/mf-libvirt-private.h"
#include "mf-wait.h"

#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LOOK_USEC            (20 * 1000)
#define STOP_LIMIT_USEC      (60 * G_USEC_PER_SEC)
#define HANG_UP_USEC         (300 * 1000)
#define BY_ITSELF_USEC       (1 * G_USEC_PER_SEC)
#define ROLL_BACK_LIMIT_USEC (30 * G_USEC_PER_SEC)
#define CLEAR_LIMIT_USEC     (5 * G_USEC_PER_SEC)

/* --- where libvirt connects --- */

static gboolean
listen_failed (const char *path, int fd, GError **error)
{
  mf_error_from_errno (error, errno, "listening for libvirt at %s", path);
  if (fd >= 0)
    close (fd);
  return FALSE;
}

/* The socket belongs to whom the folder belongs to: QEMU's user in /var/lib/libvirt/qemu; root may connect anyway. */
static gboolean
listen_at (const char *path, int *listen_fd, GError **error)
{
  g_autofree char *folder = g_path_get_dirname (path);
  struct sockaddr_un name = { .sun_family = AF_UNIX };
  struct stat st;
  int fd;

  if (strlen (path) >= sizeof name.sun_path) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s: the path is longer than a socket's may be", path);
    return FALSE;
  }
  g_strlcpy (name.sun_path, path, sizeof name.sun_path);
  /* What a QEMU that came here, or a service that died, has left. */
  if (lstat (path, &st) == 0 && S_ISSOCK (st.st_mode))
    unlink (path);
  fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0 || bind (fd, (struct sockaddr *) &name, sizeof name) != 0)
    return listen_failed (path, fd, error);
  if (chmod (path, 0600) != 0 || stat (folder, &st) != 0 ||
      (geteuid () == 0 && chown (path, st.st_uid, st.st_gid) != 0) || listen (fd, 1) != 0) {
    listen_failed (path, fd, error);
    unlink (path);
    return FALSE;
  }
  *listen_fd = fd;
  return TRUE;
}

void
mf_libvirt_close_sender (mf_libvirt *libvirt)
{
  if (libvirt->listen_fd < 0)
    return;
  close (libvirt->listen_fd);
  libvirt->listen_fd = -1;
  unlink (libvirt->qemu.state_path);
}

gboolean
mf_libvirt_open_sender (mf_program *program, GCancellable *cancellable, GError **error)
{
  mf_libvirt *libvirt = mf_libvirt_of (program);

  g_autofree char *state = NULL;

  mf_qmp_forget_events (libvirt->qemu.qmp);
  state = mf_qemu_run_state (&libvirt->qemu, &libvirt->qemu.was_running, MF_QEMU_COMMAND_USEC, cancellable, error);
  if (state == NULL)
    return FALSE;
  return listen_at (libvirt->qemu.state_path, &libvirt->listen_fd, error);
}

gboolean
mf_libvirt_arm (mf_program *program, gboolean on, GCancellable *cancellable, GError **error)
{
  mf_libvirt *libvirt = mf_libvirt_of (program);

  g_debug ("x-ignore-shared: %s", on ? "on" : "off");
  /* libvirt wants a pause, too; who saves the guest does not, and is caught in it (stop_stranger), unless he turns it off. */
  if (on && !mf_qemu_set_capability (&libvirt->qemu, "pause-before-switchover", TRUE, cancellable, error))
    return FALSE;
  if (!mf_qemu_set_capability (&libvirt->qemu, "x-ignore-shared", on, cancellable, error))
    return FALSE;
  libvirt->is_armed = on;
  return TRUE;
}

static gboolean
filter_all (const mf_qmp_event *event, gpointer user_data)
{
  return TRUE;
}

/* Whether QEMU's migration has somewhere to go to. It says that it sets one up before it has connected; and one that ends there has moved nothing. */
static gboolean
has_channel (const mf_qmp_event *event)
{
  static const char *const without[] = { "setup", "failing", "failed", "cancelling", "cancelled", NULL };
  const char *status = mf_json_string (event->data, "status");

  return g_str_equal (event->name, "MIGRATION") && status != NULL && !g_strv_contains (without, status);
}

/* Reads what QEMU has said until it says that it migrates, or no more. Whether the guest ran before that is known from what came before: QEMU's
 * own stop comes after it. */
static gboolean
read_events (mf_libvirt *libvirt, gboolean *migrates, GError **error)
{
  mf_qemu *qemu = &libvirt->qemu;

  for (;;) {
    g_autoptr (GError) failure = NULL;
    g_autoptr (mf_qmp_event) event = mf_qmp_wait (qemu->qmp, filter_all, NULL, 0, NULL, &failure);

    *migrates = event != NULL && has_channel (event);
    if (event != NULL)
      g_debug ("the source's QEMU says %s %s", event->name,
               mf_json_string (event->data, "status") != NULL ? mf_json_string (event->data, "status") : "");
    if (*migrates || g_error_matches (failure, MF_ERROR, MF_ERROR_TIMED_OUT))
      return TRUE;
    if (event == NULL) {
      g_propagate_error (error, g_steal_pointer (&failure));
      return FALSE;
    }
    if (!g_str_equal (event->name, "MIGRATION"))
      qemu->was_running = g_str_equal (event->name, "RESUME");
  }
}

/* QEMU migrates, and not to us: the guest is being saved, or moved by other means, with its memory left out. */
static gboolean
stop_stranger (mf_libvirt *libvirt, GError **error)
{
  mf_qmp_do (libvirt->qemu.qmp, "migrate_cancel", NULL, MF_QEMU_COMMAND_USEC, NULL, NULL);
  g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM,
               "the guest was to be saved, or migrated to another address than unix:%s, while it was ready to be "
               "moved: that was "
               "cancelled, for its memory would have been missing",
               libvirt->qemu.state_path);
  return FALSE;
}

/* What libvirt has set. */
static gboolean
check_begun (mf_libvirt *libvirt, mf_program_info *info, GCancellable *cancellable, GError **error)
{
  mf_qemu *qemu = &libvirt->qemu;
  gboolean ignores = FALSE, pauses = FALSE, acknowledges = FALSE;

  if (!libvirt->is_armed) {
    g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM,
                 "the guest was told to migrate, and on the other host no program has been started for it that has "
                 "mapped its memory");
    return FALSE;
  }
  if (!mf_qemu_read_settings (qemu, cancellable, error))
    return FALSE;
  mf_qemu_has_capability (qemu, "x-ignore-shared", &ignores);
  mf_qemu_has_capability (qemu, "pause-before-switchover", &pauses);
  mf_qemu_has_capability (qemu, "switchover-ack", &acknowledges);
  if (!ignores || !pauses) {
    g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM, "QEMU's migration capability %s has been turned off",
                 ignores ? "pause-before-switchover" : "x-ignore-shared");
    return FALSE;
  }
  g_debug ("libvirt migrates, %s switchover-ack", acknowledges ? "with" : "without");
  info->is_running = qemu->was_running;
  info->switchover_ack = acknowledges;
  return TRUE;
}

int
mf_libvirt_await_sender (mf_program *program, gint64 deadline_usec, mf_program_info *info, GCancellable *cancellable,
                         GError **error)
{
  mf_libvirt *libvirt = mf_libvirt_of (program);

  for (;;) {
    g_autoptr (GError) failure = NULL;
    gint64 slice_usec = MIN (deadline_usec, g_get_monotonic_time () + LOOK_USEC);
    gboolean migrates = FALSE;
    int fd;

    if (!mf_wait_fd (libvirt->listen_fd, POLLIN, slice_usec, cancellable, &failure) &&
        !g_error_matches (failure, MF_ERROR, MF_ERROR_TIMED_OUT)) {
      g_propagate_error (error, g_steal_pointer (&failure));
      return -1;
    }
    /* Events first: a migration that has somewhere to go to has connected before it says so, and is in the queue by then if that is here. */
    if (!read_events (libvirt, &migrates, error))
      return -1;
    fd = accept4 (libvirt->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0) {
      mf_libvirt_close_sender (libvirt);
      libvirt->was_connected = TRUE;
      if (check_begun (libvirt, info, cancellable, error))
        return fd;
      close (fd);
      return -1;
    }
    /* Otherwise it takes its memory along, and that is nothing to us. */
    if (migrates && libvirt->is_armed) {
      stop_stranger (libvirt, error);
      return -1;
    }
    if (g_get_monotonic_time () >= deadline_usec) {
      g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT, "timed out");
      return -1;
    }
  }
}

/* --- leaving --- */

static gboolean
has_hung_up (int fd)
{
  struct pollfd look = { .fd = fd, .events = POLLRDHUP };

  return fd >= 0 && poll (&look, 1, 0) > 0 && (look.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

gboolean
mf_libvirt_stop_and_send (mf_program *program, int state_fd, int reader_fd, gint64 *stopped_usec,
                          GCancellable *cancellable, GError **error)
{
  mf_qemu *qemu = mf_libvirt_qemu (program);
  gint64 deadline_usec = mf_deadline_after (STOP_LIMIT_USEC), gone_usec = 0;

  for (;;) {
    g_autoptr (GError) failure = NULL;
    gint64 now = g_get_monotonic_time ();

    if (mf_qemu_await_standing (qemu, MIN (deadline_usec, now + LOOK_USEC), stopped_usec, cancellable, &failure))
      return TRUE;
    if (!g_error_matches (failure, MF_ERROR, MF_ERROR_TIMED_OUT) || now >= deadline_usec) {
      g_propagate_error (error, g_steal_pointer (&failure));
      return FALSE;
    }
    /* libvirt thought better of it; if QEMU had begun, it would say so itself. */
    if (gone_usec == 0 && has_hung_up (reader_fd))
      gone_usec = now;
    if (gone_usec != 0 && now - gone_usec > HANG_UP_USEC) {
      g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM, "libvirt ended its migration before the guest was stopped");
      return FALSE;
    }
  }
}

static gboolean
filter_back (const mf_qmp_event *event, gpointer user_data)
{
  const char *status = mf_json_string (event->data, "status");

  if (g_str_equal (event->name, "RESUME"))
    return TRUE;
  return g_str_equal (event->name, "MIGRATION") &&
         (g_strcmp0 (status, "failed") == 0 || g_strcmp0 (status, "cancelled") == 0 ||
          g_strcmp0 (status, "cancelling") == 0 || g_strcmp0 (status, "failing") == 0);
}

gboolean
mf_libvirt_commit (mf_program *program, int reader_fd, GError **error)
{
  mf_libvirt *libvirt = mf_libvirt_of (program);
  mf_qemu *qemu = &libvirt->qemu;
  g_autoptr (mf_qmp_event) back = NULL;

  if (!mf_qemu_give_fd (qemu, MF_QEMU_READER_NAME, reader_fd, NULL, error))
    return FALSE;
  qemu->has_reader = TRUE;
  back = mf_qmp_take (qemu->qmp, filter_back, NULL);
  if (back != NULL) {
    g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM,
                 "libvirt rolled its migration back: the guest goes on at the source");
    return FALSE;
  }
  libvirt->is_committed = TRUE;
  return TRUE;
}

/* A service that died had got this far: what its QEMU is doing now. FALSE: it must be asked whose it is. */
static gboolean
look_at_leftover (mf_libvirt *libvirt, GError **error)
{
  mf_qemu *qemu = &libvirt->qemu;
  gboolean is_running = FALSE;
  g_autoptr (GError) failure = NULL;
  g_autofree char *status = NULL;
  g_autofree char *state = NULL;

  if (!mf_qemu_connect (qemu, MF_QEMU_COMMAND_USEC, NULL, &failure)) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "%s", failure->message);
    return FALSE;
  }
  libvirt->is_committed = TRUE;
  state = mf_qemu_run_state (qemu, &is_running, MF_QEMU_COMMAND_USEC, NULL, error);
  status = state != NULL ? mf_qemu_migration_status (qemu, NULL, error) : NULL;
  if (status == NULL)
    return FALSE;
  if (is_running) {
    mf_qmp_send (qemu->qmp, "stop", NULL, NULL);
    libvirt->was_stopped = TRUE;
  }
  /* Nothing tells it any more that the target has its state: its stream went down with that service. */
  if (!is_running && !mf_qemu_status_is_active (status))
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM, "the guest's device state was lost with the service that carried it");
  return FALSE;
}

gboolean
mf_libvirt_came_back (mf_program *program, gboolean *is_known)
{
  mf_libvirt *libvirt = mf_libvirt_of (program);
  mf_qemu *qemu = &libvirt->qemu;
  g_autoptr (GError) failure = NULL;
  g_autoptr (mf_qmp_event) back = NULL;
  g_autofree char *state = NULL;
  gboolean is_running = FALSE;

  *is_known = TRUE;
  if (!qemu->was_checked && qemu->qmp == NULL) {
    libvirt->came_back = !look_at_leftover (libvirt, &failure) && g_error_matches (failure, MF_ERROR, MF_ERROR_PROGRAM);
    return libvirt->was_stopped;
  }
  /* What QEMU has said before it answers has been read then. */
  state = mf_qemu_run_state (qemu, &is_running, MF_QEMU_COMMAND_USEC, NULL, NULL);
  back = mf_qmp_take (qemu->qmp, filter_back, NULL);
  *is_known = state != NULL;
  libvirt->came_back = is_running || back != NULL;
  return libvirt->came_back;
}

gboolean
mf_libvirt_guard (mf_program *program, GCancellable *cancellable, GError **error)
{
  mf_libvirt *libvirt = mf_libvirt_of (program);
  mf_qemu *qemu = &libvirt->qemu;
  g_autoptr (GError) failure = NULL;
  g_autoptr (mf_qmp_event) event = NULL;

  if (qemu->qmp == NULL) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "the guest's QEMU has ended");
    return FALSE;
  }
  if (!libvirt->came_back)
    event = mf_qmp_wait (qemu->qmp, filter_back, NULL, -1, cancellable, &failure);
  if (!libvirt->came_back && event == NULL) {
    g_set_error (error, MF_ERROR,
                 g_error_matches (failure, MF_ERROR, MF_ERROR_CANCELLED) ? MF_ERROR_CANCELLED : MF_ERROR_NOT_FOUND,
                 "%s", failure->message);
    return FALSE;
  }
  /* After a migration that failed it runs in a moment. A stop before that is as good. */
  libvirt->came_back = FALSE;
  libvirt->was_stopped = TRUE;
  /* Its answer may be long in coming: a CPU that waits for its memory to thaw stops afterwards. */
  mf_qmp_send (qemu->qmp, "stop", NULL, NULL);
  g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM, "libvirt let the guest run here again");
  return FALSE;
}

/* --- going back --- */

/* Its stream is broken: QEMU notices by itself, and lets the guest run if it ran. */
static gboolean
await_end (mf_qemu *qemu, GError **error)
{
  gint64 deadline_usec = mf_deadline_after (BY_ITSELF_USEC);

  for (;;) {
    g_autofree char *status = mf_qemu_migration_status (qemu, NULL, error);

    if (status == NULL)
      return FALSE;
    if (!mf_qemu_status_is_active (status))
      return TRUE;
    if (g_get_monotonic_time () >= deadline_usec)
      return mf_qemu_cancel_migration (qemu, mf_deadline_after (ROLL_BACK_LIMIT_USEC), error);
    mf_wait_fd (-1, 0, mf_deadline_after (1000), NULL, NULL);
  }
}

/* Of a former service's guest nobody remembers whether it ran. A state that only migrations leave says that it did. */
static gboolean
must_run (mf_libvirt *libvirt, GError **error)
{
  static const char *const by_migration[] = { "finish-migrate", "postmigrate", NULL };
  g_autofree char *state = NULL;

  if (libvirt->qemu.was_checked)
    return libvirt->qemu.was_running;
  state = mf_qemu_run_state (&libvirt->qemu, NULL, MF_QEMU_COMMAND_USEC, NULL, error);
  return libvirt->was_stopped || (state != NULL && g_strv_contains (by_migration, state));
}

gboolean
mf_libvirt_roll_back_source (mf_libvirt *libvirt, GError **error)
{
  mf_qemu *qemu = &libvirt->qemu;
  g_autoptr (GError) failure = NULL;

  mf_libvirt_close_sender (libvirt);
  libvirt->is_committed = FALSE;
  if (qemu->paused && !mf_qemu_resume (&qemu->base, NULL, error))
    return FALSE;
  if (qemu->was_checked && !libvirt->was_connected)
    return TRUE;
  if (!mf_qemu_connect (qemu, MF_QEMU_COMMAND_USEC, NULL, error))
    return FALSE;
  if (qemu->has_reader || !qemu->was_checked)
    mf_qmp_do (qemu->qmp, "closefd", mf_qmp_string_argument ("fdname", MF_QEMU_READER_NAME), MF_QEMU_COMMAND_USEC, NULL,
               NULL);
  qemu->has_reader = FALSE;
  if (!await_end (qemu, error))
    return FALSE;
  if (must_run (libvirt, &failure))
    return mf_qemu_make_run (qemu, mf_deadline_after (ROLL_BACK_LIMIT_USEC), error);
  if (failure != NULL)
    g_propagate_error (error, g_steal_pointer (&failure));
  return failure == NULL;
}

/* --- after the end --- */

static void *
watch_thread (void *data)
{
  mf_qmp *qmp = data;

  for (;;) {
    g_autoptr (mf_qmp_event) event = mf_qmp_wait (qmp, mf_qmp_filter_name, (gpointer) "RESUME", -1, NULL, NULL);

    if (event == NULL)
      break;
    g_critical (
        "a guest that has moved was resumed where it came from, and has been stopped: it runs on the other host");
    if (!mf_qmp_do (qmp, "stop", NULL, MF_QEMU_COMMAND_USEC, NULL, NULL))
      break;
  }
  mf_qmp_free (qmp);
  return NULL;
}

void
mf_libvirt_watch_to_the_end (mf_libvirt *libvirt)
{
  mf_qemu *qemu = &libvirt->qemu;
  pthread_attr_t attr;
  pthread_t thread;
  int result;

  if (qemu->qmp == NULL || !mf_qmp_is_usable (qemu->qmp))
    return;
  mf_qemu_restore_settings (qemu);
  if (!mf_qmp_is_usable (qemu->qmp))
    return;
  pthread_attr_init (&attr);
  pthread_attr_setdetachstate (&attr, PTHREAD_CREATE_DETACHED);
  result = pthread_create (&thread, &attr, watch_thread, qemu->qmp);
  pthread_attr_destroy (&attr);
  if (result == 0) {
    qemu->qmp = NULL;
    qemu->has_reader = FALSE;
  }
}
