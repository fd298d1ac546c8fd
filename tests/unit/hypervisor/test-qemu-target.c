/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A QEMU as the target, and whole moves from one QEMU to another. The RAM is copied by the test while neither runs; what carries the device state is
 * the test as well. */
#include "guest-fixture.h"
#include "migrate/mf-state-relay.h"
#include "mf-wait.h"

#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE_USEC (20 * G_USEC_PER_SEC)

static Guest *
waiting_guest (void)
{
  Guest *guest = guest_new (&(GuestOptions){ .is_target = TRUE });

  guest_assert_check (guest, FALSE);
  guest_assert_prepare (guest, FALSE);
  return guest;
}

static int
receive (Guest *guest)
{
  g_autoptr (GError) error = NULL;
  int fd = guest->program->ops->receive (guest->program, NULL, &error);

  g_assert_no_error (error);
  return fd;
}

static void
await_running (Guest *guest, gint64 *running_usec)
{
  g_autoptr (GError) error = NULL;

  guest->program->ops->await_running (guest->program, running_usec, NULL, &error);
  g_assert_no_error (error);
}

static void
assert_does_not_run (Guest *guest, const char *part)
{
  g_autoptr (GError) error = NULL;
  gint64 running_usec;

  g_assert_false (guest->program->ops->await_running (guest->program, &running_usec, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_PROGRAM);
  g_test_message ("%s", error->message);
  g_assert_nonnull (strstr (error->message, part));
}

/* --- moves --- */

typedef struct {
  int from, to;
  size_t limit; /* bytes that are carried, the rest is thrown away; 0: all are carried */
} Carrier;

/* Takes all of the state, as the relay does, also when nobody wants it any more. */
static void *
carry_thread (void *data)
{
  Carrier *carrier = data;
  size_t left = carrier->limit != 0 ? carrier->limit : G_MAXSIZE;
  char bytes[65536];
  ssize_t n;

  while ((n = read (carrier->from, bytes, sizeof bytes)) > 0) {
    size_t wanted = MIN (left, (size_t) n), sent = 0;

    while (sent < wanted) {
      ssize_t m = send (carrier->to, bytes + sent, wanted - sent, MSG_NOSIGNAL);

      if (m < 0)
        break;
      sent += m;
    }
    left = sent < wanted ? 0 : left - wanted;
    if (left == 0)
      shutdown (carrier->to, SHUT_WR);
  }
  shutdown (carrier->to, SHUT_WR);
  return NULL;
}

/* From where the source's guest stands. */
static void
hand_over (Guest *source, Guest *target, int from, gint64 *running_usec)
{
  Carrier carrier = { .from = from, .to = receive (target) };
  g_autoptr (GError) error = NULL;
  pthread_t thread;

  guest_copy_ram (source, target);
  g_assert_cmpint (pthread_create (&thread, NULL, carry_thread, &carrier), ==, 0);
  source->program->ops->release (source->program, NULL, &error);
  g_assert_no_error (error);
  await_running (target, running_usec);
  source->program->ops->await_sent (source->program, NULL, &error);
  g_assert_no_error (error);
  pthread_join (thread, NULL);
  close (carrier.from);
  close (carrier.to);
}

static void
move (Guest *source, Guest *target)
{
  gint64 stopped_usec, running_usec, stands_usec;
  g_autofree char *state = NULL;
  guint32 counted;
  int from = guest_assert_stop_and_send (source, &stopped_usec);

  stands_usec = g_get_monotonic_time ();
  counted = guest_counter (source);
  hand_over (source, target, from, &running_usec);
  g_test_message ("%" G_GINT64_FORMAT " us from stop to pre-switchover, %" G_GINT64_FORMAT
                  " us in all, the copy of 64 MiB included",
                  stands_usec - stopped_usec, running_usec - stopped_usec);
  g_assert_cmpint (running_usec, >, stands_usec);
  guest_end_program (source);
  guest_end_program (target);
  guest_assert_untouched (source);
  guest_assert_untouched (target);
  guest_assert_not_counting (source);
  g_assert_cmpuint (guest_counter (source), ==, counted);
  state = guest_run_state (source);
  g_assert_cmpstr (state, ==, "postmigrate");
}

/* The guest goes on counting where it was, over there and there alone. */
static void
test_move (void)
{
  g_autoptr (Guest) source = NULL;
  g_autoptr (Guest) target = NULL;
  g_autofree char *state = NULL;
  guint32 counted;

  if (!qemu_is_there ())
    return;
  source = guest_new (NULL);
  target = waiting_guest ();
  guest_await_counting (source);
  guest_assert_check (source, TRUE);
  guest_assert_prepare (source, TRUE);
  move (source, target);
  counted = guest_counter (source);
  guest_await_counting (target);
  g_assert_cmpuint (guest_counter (target), >, counted);
  g_assert_cmpuint (guest_counter (target) - counted, <, G_MAXUINT32 / 2);
  state = guest_run_state (target);
  g_assert_cmpstr (state, ==, "running");
}

/* Two relays and a stream between them carry the state, as they do between two services; with and without an acknowledgement. */
static void
move_through_relays (Guest *source, Guest *target, mf_state_relay_flags ack)
{
  g_autoptr (mf_state_relay) source_relay = NULL;
  g_autoptr (mf_state_relay) target_relay = NULL;
  g_autoptr (GError) error = NULL;
  gint64 stopped_usec, released_usec, running_usec;
  int stream[2], program[2];

  g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stream), ==, 0);
  g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, program), ==, 0);
  target_relay = mf_state_relay_new (receive (target), stream[1], MF_STATE_RELAY_HOLD | ack, &error);
  g_assert_no_error (error);
  source_relay = mf_state_relay_new (program[0], stream[0], MF_STATE_RELAY_FORWARD, &error);
  g_assert_no_error (error);
  source->program->ops->stop_and_send (source->program, program[1], program[0], &stopped_usec, NULL, &error);
  g_assert_no_error (error);
  guest_copy_ram (source, target);
  guest_assert_not_counting (target);
  released_usec = g_get_monotonic_time ();
  mf_state_relay_release (target_relay);
  source->program->ops->release (source->program, NULL, &error);
  g_assert_no_error (error);
  await_running (target, &running_usec);
  source->program->ops->await_sent (source->program, NULL, &error);
  g_assert_no_error (error);
  g_test_message ("%" G_GINT64_FORMAT " bytes of device state; runs %" G_GINT64_FORMAT " us after the release",
                  (gint64) mf_state_relay_get_bytes (source_relay), running_usec - released_usec);
  g_assert_null (mf_state_relay_get_error (source_relay));
  g_assert_null (mf_state_relay_get_error (target_relay));
}

static void
test_relays (gconstpointer with_ack)
{
  static const char *const capabilities[] = { "return-path", "switchover-ack" };
  gboolean acknowledges = GPOINTER_TO_INT (with_ack);
  g_autoptr (Guest) source = NULL;
  g_autoptr (Guest) target = NULL;

  if (!qemu_is_there ())
    return;
  source = guest_new (NULL);
  target = guest_new (&(GuestOptions){ .is_target = TRUE });
  for (guint i = 0; acknowledges && i < G_N_ELEMENTS (capabilities); i++)
    if (!guest_set_capability (source, capabilities[i], TRUE) ||
        !guest_set_capability (target, capabilities[i], TRUE)) {
      g_test_skip ("this QEMU has no switchover-ack");
      return;
    }
  guest_await_counting (source);
  guest_assert_check (source, TRUE);
  guest_assert_check (target, FALSE);
  g_assert_cmpint (source->info.switchover_ack, ==, acknowledges);
  g_assert_cmpint (target->info.switchover_ack, ==, acknowledges);
  guest_assert_prepare (source, TRUE);
  guest_assert_prepare (target, FALSE);
  move_through_relays (source, target, acknowledges ? MF_STATE_RELAY_ACK : 0);
  guest_end_program (source);
  guest_end_program (target);
  guest_assert_untouched (source);
  guest_assert_untouched (target);
  guest_assert_not_counting (source);
  guest_await_counting (target);
}

/* What was a target becomes a source. */
static void
test_move_on (void)
{
  Guest *chain[3];

  if (!qemu_is_there ())
    return;
  chain[0] = guest_new (NULL);
  for (guint i = 0; i < 2; i++) {
    chain[i + 1] = waiting_guest ();
    guest_await_counting (chain[i]);
    guest_assert_check (chain[i], TRUE);
    guest_assert_prepare (chain[i], TRUE);
    move (chain[i], chain[i + 1]);
    guest_await_counting (chain[i + 1]);
  }
  for (guint i = 0; i < 3; i++)
    guest_free (chain[i]);
}

/* Paused by its user it arrives paused. */
static void
test_move_of_paused (void)
{
  g_autoptr (Guest) source = NULL;
  g_autoptr (Guest) target = NULL;
  g_autofree char *state = NULL;

  if (!qemu_is_there ())
    return;
  source = guest_new (NULL);
  target = waiting_guest ();
  guest_await_counting (source);
  guest_do (source, "stop");
  guest_assert_check (source, TRUE);
  guest_assert_prepare (source, TRUE);
  move (source, target);
  state = guest_run_state (target);
  g_assert_cmpstr (state, ==, "paused");
  guest_assert_not_counting (target);
  guest_do (target, "cont");
  guest_await_counting (target);
}

/* A destination that was started with -S arrives paused too, and that is no failure. */
static void
test_move_to_paused (void)
{
  static const char *const args[] = { "-S", NULL };
  g_autoptr (Guest) source = NULL;
  g_autoptr (Guest) target = NULL;

  if (!qemu_is_there ())
    return;
  source = guest_new (NULL);
  target = guest_new (&(GuestOptions){ .is_target = TRUE, .args = args });
  guest_assert_check (target, FALSE);
  guest_assert_prepare (target, FALSE);
  guest_await_counting (source);
  guest_assert_check (source, TRUE);
  guest_assert_prepare (source, TRUE);
  move (source, target);
  guest_assert_not_counting (target);
  guest_do (target, "cont");
  guest_await_counting (target);
}

/* An attempt that is rolled back after the target was ready leaves both as they were, and the next one succeeds. */
static void
test_second_attempt (void)
{
  g_autoptr (Guest) source = NULL;
  g_autoptr (Guest) target = NULL;
  g_autofree char *state = NULL;

  if (!qemu_is_there ())
    return;
  source = guest_new (NULL);
  target = waiting_guest ();
  guest_await_counting (source);
  for (guint i = 0; i < 2; i++) {
    int to = receive (target), from;

    guest_assert_check (source, TRUE);
    guest_assert_prepare (source, TRUE);
    from = guest_assert_stop_and_send (source, NULL);
    /* Even what the relay has passed on already. */
    g_assert_cmpint (send (to, "QEVM", 4, MSG_NOSIGNAL), ==, 4);
    close (to);
    close (from);
    guest_assert_roll_back (source);
    guest_assert_roll_back (target);
    guest_end_program (source);
    guest_end_program (target);
    guest_await_counting (source);
    guest_assert_untouched (source);
    guest_assert_untouched (target);
    guest_assert_check (target, FALSE);
    guest_assert_prepare (target, FALSE);
  }
  state = guest_run_state (target);
  g_assert_cmpstr (state, ==, "inmigrate");
  guest_assert_check (source, TRUE);
  guest_assert_prepare (source, TRUE);
  move (source, target);
  guest_await_counting (target);
}

/* --- failures --- */

static void
test_garbage (void)
{
  g_autoptr (Guest) target = NULL;
  int fd;

  if (!qemu_is_there ())
    return;
  target = waiting_guest ();
  fd = receive (target);
  g_assert_cmpint (send (fd, "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL), ==, 18);
  assert_does_not_run (target, "could not load the device state");
  target->program->ops->clean_up (target->program);
  close (fd);
}

/* Source and target, the source's guest standing, its RAM copied. */
static void
assert_move_fails (Guest *source, Guest *target, size_t limit)
{
  g_autoptr (GError) error = NULL;
  Carrier carrier;
  pthread_t thread;

  guest_await_counting (source);
  guest_assert_check (source, TRUE);
  guest_assert_prepare (source, TRUE);
  carrier = (Carrier){ guest_assert_stop_and_send (source, NULL), receive (target), limit };
  guest_copy_ram (source, target);
  g_assert_cmpint (pthread_create (&thread, NULL, carry_thread, &carrier), ==, 0);
  source->program->ops->release (source->program, NULL, &error);
  g_assert_no_error (error);
  assert_does_not_run (target, "could not load the device state");
  target->program->ops->clean_up (target->program);
  pthread_join (thread, NULL);
  close (carrier.from);
  close (carrier.to);
  guest_assert_not_counting (source);
  guest_assert_roll_back (source);
  guest_await_counting (source);
  guest_end_program (source);
  guest_assert_untouched (source);
}

/* The state ends in the middle. */
static void
test_cut_state (void)
{
  g_autoptr (Guest) source = NULL;
  g_autoptr (Guest) target = NULL;

  if (!qemu_is_there ())
    return;
  source = guest_new (NULL);
  target = waiting_guest ();
  assert_move_fails (source, target, 30000);
}

/* The other side's machine has a device that this one has not: the signature would have said so; QEMU says so as well. */
static void
test_other_device (void)
{
  static const char *const args[] = { "-device", "virtio-rng-pci", NULL };
  g_autoptr (Guest) source = NULL;
  g_autoptr (Guest) target = NULL;

  if (!qemu_is_there ())
    return;
  source = guest_new (&(GuestOptions){ .args = args });
  target = waiting_guest ();
  assert_move_fails (source, target, 0);
}

static void
test_qemu_dies (void)
{
  g_autoptr (Guest) target = NULL;
  g_autoptr (GError) error = NULL;
  int fd;

  if (!qemu_is_there ())
    return;
  target = waiting_guest ();
  fd = receive (target);
  g_subprocess_force_exit (target->qemu->process);
  g_subprocess_wait (target->qemu->process, NULL, NULL);
  assert_does_not_run (target, "");
  close (fd);
}

static void *
cancel_thread (void *cancellable)
{
  mf_wait_fd (-1, 0, mf_deadline_after (100 * 1000), NULL, NULL);
  g_cancellable_cancel (cancellable);
  return NULL;
}

static void
test_cancel (void)
{
  g_autoptr (Guest) target = NULL;
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  g_autoptr (GError) error = NULL;
  gint64 running_usec;
  pthread_t thread;
  int fd;

  if (!qemu_is_there ())
    return;
  target = waiting_guest ();
  fd = receive (target);
  g_assert_cmpint (pthread_create (&thread, NULL, cancel_thread, cancellable), ==, 0);
  g_assert_false (target->program->ops->await_running (target->program, &running_usec, cancellable, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_CANCELLED);
  pthread_join (thread, NULL);
  close (fd);
}

/* --- a service that died --- */

static void
test_leftovers (void)
{
  g_autoptr (Guest) source = NULL;
  g_autoptr (Guest) target = NULL;
  gint64 running_usec;
  int from;

  if (!qemu_is_there ())
    return;
  /* Before QEMU was told to read: it never will run what was lost. */
  target = waiting_guest ();
  close (receive (target));
  guest_renew_program (target);
  assert_does_not_run (target, "lost with the service");
  guest_end_program (target);
  guest_assert_untouched (target);

  /* After the guest ran. */
  source = guest_new (NULL);
  guest_await_counting (source);
  guest_assert_check (source, TRUE);
  guest_assert_prepare (source, TRUE);
  guest_assert_check (target, FALSE);
  guest_assert_prepare (target, FALSE);
  from = guest_assert_stop_and_send (source, NULL);
  hand_over (source, target, from, &running_usec);
  guest_renew_program (target);
  await_running (target, &running_usec);
  guest_end_program (target);
  guest_assert_untouched (target);
  guest_await_counting (target);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/qemu-target/move", test_move);
  g_test_add_data_func ("/qemu-target/relays/plain", GINT_TO_POINTER (FALSE), test_relays);
  g_test_add_data_func ("/qemu-target/relays/acknowledged", GINT_TO_POINTER (TRUE), test_relays);
  g_test_add_func ("/qemu-target/move-on", test_move_on);
  g_test_add_func ("/qemu-target/move-of-paused", test_move_of_paused);
  g_test_add_func ("/qemu-target/move-to-paused", test_move_to_paused);
  g_test_add_func ("/qemu-target/second-attempt", test_second_attempt);
  g_test_add_func ("/qemu-target/garbage", test_garbage);
  g_test_add_func ("/qemu-target/cut-state", test_cut_state);
  g_test_add_func ("/qemu-target/other-device", test_other_device);
  g_test_add_func ("/qemu-target/qemu-dies", test_qemu_dies);
  g_test_add_func ("/qemu-target/cancel", test_cancel);
  g_test_add_func ("/qemu-target/leftovers", test_leftovers);
  return g_test_run ();
}
