/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A QEMU as the source: it stands when it is told to, and, whatever was begun, everything is as before when it is rolled back. */
#include "guest-fixture.h"
#include "migrate/mf-state-relay.h"
#include "mf-wait.h"

#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE_USEC (20 * G_USEC_PER_SEC)

/* One that has been found good, and counts. */
static Guest *
checked_guest (void)
{
  Guest *guest = guest_new (NULL);

  guest_await_counting (guest);
  guest_assert_check (guest, TRUE);
  return guest;
}

static Guest *
prepared_guest (void)
{
  Guest *guest = checked_guest ();

  guest_assert_prepare (guest, TRUE);
  return guest;
}

/* Rolled back and cleaned up, it runs and nothing is left. */
static void
assert_as_before (Guest *guest)
{
  g_autofree char *state = NULL;

  guest_assert_roll_back (guest);
  state = guest_run_state (guest);
  g_assert_cmpstr (state, ==, "running");
  guest_await_counting (guest);
  guest_end_program (guest);
  guest_assert_untouched (guest);
}

static void
pause_guest (Guest *guest)
{
  g_autoptr (GError) error = NULL;

  guest->program->ops->pause (guest->program, PATIENCE_USEC, NULL, &error);
  g_assert_no_error (error);
}

static gint64
resume_guest (Guest *guest)
{
  g_autoptr (GError) error = NULL;
  gint64 stood_usec = -1;

  guest->program->ops->resume (guest->program, &stood_usec, &error);
  g_assert_no_error (error);
  return stood_usec;
}

/* --- pauses --- */

static void
test_pause (void)
{
  g_autoptr (Guest) guest = NULL;
  gint64 begin, stood_usec, first_usec = G_MAXINT64;

  if (!qemu_is_there ())
    return;
  guest = prepared_guest ();
  for (guint i = 0; i < 5; i++) {
    begin = g_get_monotonic_time ();
    pause_guest (guest);
    stood_usec = resume_guest (guest);
    g_assert_cmpint (stood_usec, >, 0);
    g_assert_cmpint (stood_usec, <=, g_get_monotonic_time () - begin);
    first_usec = MIN (first_usec, stood_usec);
  }
  g_test_message ("stood for %" G_GINT64_FORMAT " us at least", first_usec);
  pause_guest (guest);
  guest_assert_not_counting (guest);
  resume_guest (guest);
  guest_await_counting (guest);
  assert_as_before (guest);
}

/* A guest that its user has paused stays so. */
static void
test_pause_of_paused (void)
{
  g_autoptr (Guest) guest = NULL;
  g_autofree char *state = NULL;

  if (!qemu_is_there ())
    return;
  guest = prepared_guest ();
  guest_do (guest, "stop");
  pause_guest (guest);
  g_assert_cmpint (resume_guest (guest), ==, 0);
  state = guest_run_state (guest);
  g_assert_cmpstr (state, ==, "paused");
}

/* A disk that takes its time, and a read of it that is under way: QEMU stands still in the middle of stopping the guest. The pause gives up in
 * time, and as soon as the disk answers the guest goes on, although nobody waits for it any more. */
static void
test_pause_limit (void)
{
  static const char *const args[] = { "-drive", "driver=null-co,latency-ns=1500000000,if=none,id=slow", NULL };
  static const gint64 limit_usec = 200 * 1000, disk_usec = 1500 * 1000;
  g_autoptr (Guest) guest = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (mf_qmp_event) stop = NULL;
  g_autoptr (mf_qmp_event) resume = NULL;
  gint64 begin, gave_up_usec;

  if (!qemu_is_there ())
    return;
  guest = guest_new (&(GuestOptions){ .args = args });
  guest_await_counting (guest);
  guest_assert_check (guest, TRUE);
  mf_qmp_do (guest->witness, "human-monitor-command",
             mf_qmp_string_argument ("command-line", "qemu-io slow \"aio_read 0 512\""), PATIENCE_USEC, NULL, &error);
  g_assert_no_error (error);
  begin = g_get_monotonic_time ();
  g_assert_false (guest->program->ops->pause (guest->program, limit_usec, NULL, &error));
  gave_up_usec = g_get_monotonic_time () - begin;
  g_assert_error (error, MF_ERROR, MF_ERROR_TIMED_OUT);
  g_test_message ("after %" G_GINT64_FORMAT " us: %s", gave_up_usec, error->message);
  g_clear_error (&error);
  g_assert_cmpint (gave_up_usec, >=, limit_usec);
  g_assert_cmpint (gave_up_usec, <, disk_usec);
  guest_end_program (guest);

  stop = mf_qmp_wait (guest->witness, mf_qmp_filter_name, (gpointer) "STOP", begin + PATIENCE_USEC, NULL, &error);
  g_assert_no_error (error);
  resume = mf_qmp_wait (guest->witness, mf_qmp_filter_name, (gpointer) "RESUME", begin + PATIENCE_USEC, NULL, &error);
  g_assert_no_error (error);
  g_test_message ("the guest stood for %" G_GINT64_FORMAT " us", resume->when_usec - stop->when_usec);
  guest_await_counting (guest);
  guest_assert_untouched (guest);
}

/* --- rolling back --- */

static void
test_roll_back_early (void)
{
  g_autoptr (Guest) guest = NULL;

  if (!qemu_is_there ())
    return;
  guest = guest_new (NULL);
  guest_await_counting (guest);
  guest_assert_check (guest, TRUE);
  assert_as_before (guest);
  guest_assert_check (guest, TRUE);
  guest_assert_prepare (guest, TRUE);
  g_assert_true (guest_capability (guest, "x-ignore-shared"));
  g_assert_true (guest_capability (guest, "pause-before-switchover"));
  assert_as_before (guest);
}

static void
test_roll_back_pause (void)
{
  g_autoptr (Guest) guest = NULL;

  if (!qemu_is_there ())
    return;
  guest = prepared_guest ();
  pause_guest (guest);
  assert_as_before (guest);
}

/* At pre-switchover, with the state's stream open or closed; more than once with the same QEMU. */
static void
test_roll_back_standing (void)
{
  g_autoptr (Guest) guest = NULL;

  if (!qemu_is_there ())
    return;
  guest = guest_new (NULL);
  guest_await_counting (guest);
  for (guint i = 0; i < 4; i++) {
    gint64 begin = g_get_monotonic_time (), stopped_usec;
    int fd;

    guest_assert_check (guest, TRUE);
    guest_assert_prepare (guest, TRUE);
    fd = guest_assert_stop_and_send (guest, &stopped_usec);
    g_assert_cmpint (stopped_usec, >, begin);
    g_assert_cmpint (stopped_usec, <=, g_get_monotonic_time ());
    guest_assert_not_counting (guest);
    if (i % 2 == 0)
      close (fd);
    begin = g_get_monotonic_time ();
    assert_as_before (guest);
    g_test_message ("rolled back in %" G_GINT64_FORMAT " us", g_get_monotonic_time () - begin);
    if (i % 2 != 0)
      close (fd);
  }
}

/* A guest that runs is made to stand by stop_and_send also when a pause of a scan was not undone. */
static void
test_send_from_pause (void)
{
  g_autoptr (Guest) guest = NULL;

  if (!qemu_is_there ())
    return;
  guest = prepared_guest ();
  pause_guest (guest);
  close (guest_assert_stop_and_send (guest, NULL));
  assert_as_before (guest);
}

/* The service dies when it has released the guest: all its ends are closed. The guest must not go on by itself, since the target may have got enough to run
 * it; the next service, when it knows that it has not, can still have it back. */
static void
test_service_dies_when_released (void)
{
  g_autoptr (Guest) guest = NULL;
  g_autoptr (GError) error = NULL;
  g_autofree char *state = NULL;

  if (!qemu_is_there ())
    return;
  guest = prepared_guest ();
  close (guest_assert_stop_and_send (guest, NULL));
  g_assert_true (guest->program->ops->release (guest->program, NULL, &error));
  g_assert_no_error (error);
  g_assert_true (guest->program->ops->await_sent (guest->program, NULL, &error));
  g_assert_no_error (error);
  guest_assert_not_counting (guest);
  state = guest_run_state (guest);
  g_assert_cmpstr (state, ==, "postmigrate");
  assert_as_before (guest);
}

/* The link is lost at the worst moment. With the relay between them QEMU does not see it: the guest does not go on by itself, since the target may
 * have got enough to run it; whoever knows that it has not can still have it back. */
static void
test_link_lost_when_released (void)
{
  g_autoptr (Guest) guest = NULL;
  g_autoptr (mf_state_relay) relay = NULL;
  g_autoptr (GError) error = NULL;
  g_autofree char *state = NULL;
  int stream[2], fd;

  if (!qemu_is_there ())
    return;
  guest = prepared_guest ();
  fd = guest_assert_stop_and_send (guest, NULL);
  g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stream), ==, 0);
  close (stream[1]);
  relay = mf_state_relay_new (fd, stream[0], MF_STATE_RELAY_FORWARD, &error);
  g_assert_no_error (error);
  guest->program->ops->release (guest->program, NULL, &error);
  g_assert_no_error (error);
  guest->program->ops->await_sent (guest->program, NULL, &error);
  g_assert_no_error (error);
  guest_assert_not_counting (guest);
  state = guest_run_state (guest);
  g_assert_cmpstr (state, ==, "postmigrate");
  g_clear_pointer (&relay, mf_state_relay_free);
  guest_assert_not_counting (guest);
  assert_as_before (guest);
}

static void *
drain_thread (void *data)
{
  int fd = GPOINTER_TO_INT (data);
  char ignored[65536];

  while (read (fd, ignored, sizeof ignored) > 0)
    ;
  close (fd);
  return NULL;
}

/* Everything is sent, and the target says that it did not run. */
static void
test_roll_back_sent (void)
{
  g_autoptr (Guest) guest = NULL;
  g_autoptr (GError) error = NULL;
  g_autofree char *state = NULL;
  pthread_t thread;
  int fd;

  if (!qemu_is_there ())
    return;
  guest = prepared_guest ();
  fd = guest_assert_stop_and_send (guest, NULL);
  g_assert_cmpint (pthread_create (&thread, NULL, drain_thread, GINT_TO_POINTER (fd)), ==, 0);
  guest->program->ops->release (guest->program, NULL, &error);
  g_assert_no_error (error);
  guest->program->ops->await_sent (guest->program, NULL, &error);
  g_assert_no_error (error);
  pthread_join (thread, NULL);
  state = guest_run_state (guest);
  g_assert_cmpstr (state, ==, "postmigrate");
  guest_assert_not_counting (guest);
  assert_as_before (guest);
}

static void
test_roll_back_of_paused (void)
{
  g_autoptr (Guest) guest = NULL;
  g_autofree char *state = NULL;

  if (!qemu_is_there ())
    return;
  guest = guest_new (NULL);
  guest_await_counting (guest);
  guest_do (guest, "stop");
  guest_assert_check (guest, TRUE);
  guest_assert_prepare (guest, TRUE);
  close (guest_assert_stop_and_send (guest, NULL));
  guest_assert_roll_back (guest);
  guest_end_program (guest);
  guest_assert_not_counting (guest);
  guest_assert_untouched (guest);
  guest_do (guest, "cont");
  guest_await_counting (guest);
}

/* Paused by its user while the migration was under way already: it is theirs, and stays so. */
static void
test_paused_meanwhile (void)
{
  g_autoptr (Guest) guest = NULL;

  if (!qemu_is_there ())
    return;
  guest = prepared_guest ();
  guest_do (guest, "stop");
  close (guest_assert_stop_and_send (guest, NULL));
  guest_assert_roll_back (guest);
  guest_end_program (guest);
  guest_assert_not_counting (guest);
  guest_assert_untouched (guest);
}

/* --- what goes wrong --- */

static void *
cancel_thread (void *cancellable)
{
  mf_wait_fd (-1, 0, mf_deadline_after (100 * 1000), NULL, NULL);
  g_cancellable_cancel (cancellable);
  return NULL;
}

/* Nobody takes QEMU's stream, so it can't get as far as to stop the guest. */
static void
test_cancel_sending (void)
{
  g_autoptr (Guest) guest = NULL;
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  g_autoptr (GError) error = NULL;
  gint64 stopped_usec;
  pthread_t thread;
  int ends[2];

  if (!qemu_is_there ())
    return;
  guest = prepared_guest ();
  g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
  g_cancellable_cancel (cancellable);
  g_assert_false (
      guest->program->ops->stop_and_send (guest->program, ends[1], ends[0], &stopped_usec, cancellable, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_CANCELLED);
  g_clear_error (&error);
  assert_as_before (guest);
  close (ends[0]);

  guest_assert_check (guest, TRUE);
  guest_assert_prepare (guest, TRUE);
  close (guest_assert_stop_and_send (guest, NULL));
  g_cancellable_reset (cancellable);
  g_assert_cmpint (pthread_create (&thread, NULL, cancel_thread, cancellable), ==, 0);
  g_assert_false (guest->program->ops->await_sent (guest->program, cancellable, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_CANCELLED);
  pthread_join (thread, NULL);
  assert_as_before (guest);
}

static void
test_broken_stream (void)
{
  g_autoptr (Guest) guest = NULL;
  g_autoptr (GError) error = NULL;
  gint64 stopped_usec;
  int ends[2];

  if (!qemu_is_there ())
    return;
  guest = prepared_guest ();
  g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
  close (ends[0]);
  g_assert_false (guest->program->ops->stop_and_send (guest->program, ends[1], -1, &stopped_usec, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_PROGRAM);
  g_test_message ("%s", error->message);
  assert_as_before (guest);
}

static void
test_qemu_dies (void)
{
  g_autoptr (Guest) guest = NULL;
  g_autoptr (GError) error = NULL;
  int fd;

  if (!qemu_is_there ())
    return;
  guest = prepared_guest ();
  fd = guest_assert_stop_and_send (guest, NULL);
  g_subprocess_force_exit (guest->qemu->process);
  g_subprocess_wait (guest->qemu->process, NULL, NULL);
  g_assert_false (guest->program->ops->release (guest->program, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_PROGRAM);
  g_clear_error (&error);
  g_assert_false (guest->program->ops->roll_back (guest->program, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_PROGRAM);
  g_test_message ("%s", error->message);
  guest->program->ops->clean_up (guest->program);
  close (fd);
}

/* --- a service that died --- */

/* At each stage: the next service undoes what this one has begun, without having been told anything. */
static void
test_leftovers (void)
{
  g_autoptr (Guest) guest = NULL;

  if (!qemu_is_there ())
    return;
  guest = guest_new (NULL);
  guest_await_counting (guest);
  for (guint stage = 0; stage < 4; stage++) {
    int fd = -1;

    guest_assert_check (guest, TRUE);
    if (stage >= 1)
      guest_assert_prepare (guest, TRUE);
    if (stage == 2)
      pause_guest (guest);
    if (stage == 3)
      fd = guest_assert_stop_and_send (guest, NULL);
    guest_renew_program (guest);
    if (fd >= 0)
      close (fd);
    assert_as_before (guest);
  }
}

static void
test_leftover_of_paused (void)
{
  g_autoptr (Guest) guest = NULL;
  int fd;

  if (!qemu_is_there ())
    return;
  guest = guest_new (NULL);
  guest_await_counting (guest);
  guest_do (guest, "stop");
  guest_assert_check (guest, TRUE);
  guest_assert_prepare (guest, TRUE);
  fd = guest_assert_stop_and_send (guest, NULL);
  guest_renew_program (guest);
  close (fd);
  guest_assert_roll_back (guest);
  guest_end_program (guest);
  guest_assert_not_counting (guest);
  guest_assert_untouched (guest);
}

/* A guest that memferry has nothing to do with, paused by its user, is not touched. */
static void
test_no_leftover (void)
{
  g_autoptr (Guest) guest = NULL;
  g_autofree char *state = NULL;

  if (!qemu_is_there ())
    return;
  guest = guest_new (NULL);
  guest_do (guest, "stop");
  guest_assert_roll_back (guest);
  guest_end_program (guest);
  state = guest_run_state (guest);
  g_assert_cmpstr (state, ==, "paused");
  guest_assert_untouched (guest);
}

/* The user's own settings are theirs again. */
static void
test_settings_come_back (void)
{
  static const char *const on[] = { "events", "postcopy-ram" };
  g_autoptr (Guest) guest = NULL;
  g_autoptr (GError) error = NULL;

  if (!qemu_is_there ())
    return;
  guest = checked_guest ();
  guest_end_program (guest);
  for (guint i = 0; i < G_N_ELEMENTS (on); i++)
    g_assert_true (guest_set_capability (guest, on[i], TRUE));
  mf_qmp_do (guest->witness, "migrate-set-parameters",
             json_from_string ("{\"max-bandwidth\": 12345678, \"downtime-limit\": 77}", NULL), PATIENCE_USEC, NULL,
             &error);
  g_assert_no_error (error);

  guest_assert_check (guest, TRUE);
  guest_assert_prepare (guest, TRUE);
  g_assert_false (guest_capability (guest, "postcopy-ram"));
  close (guest_assert_stop_and_send (guest, NULL));
  guest_assert_roll_back (guest);
  guest_end_program (guest);
  for (guint i = 0; i < G_N_ELEMENTS (on); i++)
    g_assert_true (guest_capability (guest, on[i]));
  g_assert_false (guest_capability (guest, "x-ignore-shared"));
  g_assert_cmpint (guest_parameter (guest, "max-bandwidth"), ==, 12345678);
  g_assert_cmpint (guest_parameter (guest, "downtime-limit"), ==, 77);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/qemu-source/pause", test_pause);
  g_test_add_func ("/qemu-source/pause-of-paused", test_pause_of_paused);
  g_test_add_func ("/qemu-source/pause-limit", test_pause_limit);
  g_test_add_func ("/qemu-source/roll-back-early", test_roll_back_early);
  g_test_add_func ("/qemu-source/roll-back-pause", test_roll_back_pause);
  g_test_add_func ("/qemu-source/roll-back-standing", test_roll_back_standing);
  g_test_add_func ("/qemu-source/send-from-pause", test_send_from_pause);
  g_test_add_func ("/qemu-source/service-dies-when-released", test_service_dies_when_released);
  g_test_add_func ("/qemu-source/link-lost-when-released", test_link_lost_when_released);
  g_test_add_func ("/qemu-source/roll-back-sent", test_roll_back_sent);
  g_test_add_func ("/qemu-source/roll-back-of-paused", test_roll_back_of_paused);
  g_test_add_func ("/qemu-source/paused-meanwhile", test_paused_meanwhile);
  g_test_add_func ("/qemu-source/cancel-sending", test_cancel_sending);
  g_test_add_func ("/qemu-source/broken-stream", test_broken_stream);
  g_test_add_func ("/qemu-source/qemu-dies", test_qemu_dies);
  g_test_add_func ("/qemu-source/leftovers", test_leftovers);
  g_test_add_func ("/qemu-source/leftover-of-paused", test_leftover_of_paused);
  g_test_add_func ("/qemu-source/no-leftover", test_no_leftover);
  g_test_add_func ("/qemu-source/settings-come-back", test_settings_come_back);
  return g_test_run ();
}
