/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "migrate/mf-state-relay.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE_MSEC 20000
#define BIG_BYTES     (8u << 20)

typedef struct {
  int program; /* our end of the program's socket */
  int stream;  /* our end of the stream */
  mf_state_relay *relay;
} Fixture;

static void
start (Fixture *f, mf_state_relay_flags flags)
{
  g_autoptr (GError) error = NULL;
  int program[2], stream[2];

  g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM, 0, program), ==, 0);
  g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM, 0, stream), ==, 0);
  f->program = program[0];
  f->stream = stream[0];
  f->relay = mf_state_relay_new (program[1], stream[1], flags, &error);
  g_assert_no_error (error);
}

static void
stop (Fixture *f)
{
  g_clear_pointer (&f->relay, mf_state_relay_free);
  close (f->program);
  close (f->stream);
}

static void
put (int fd, const void *bytes, gsize length)
{
  const char *at = bytes;

  while (length > 0) {
    ssize_t n = send (fd, at, length, MSG_NOSIGNAL);

    g_assert_cmpint (n, >, 0);
    at += n;
    length -= (gsize) n;
  }
}

static gboolean
is_readable (int fd, int msec)
{
  struct pollfd p = { .fd = fd, .events = POLLIN };

  return poll (&p, 1, msec) == 1;
}

static void
expect (int fd, const void *bytes, gsize length)
{
  g_autofree char *got = g_malloc (length);
  gsize have = 0;

  while (have < length) {
    ssize_t n;

    g_assert_true (is_readable (fd, PATIENCE_MSEC));
    n = recv (fd, got + have, length - have, 0);
    g_assert_cmpint (n, >, 0);
    have += (gsize) n;
  }
  g_assert_cmpmem (got, length, bytes, length);
}

static void
expect_end (int fd)
{
  char byte;

  g_assert_true (is_readable (fd, PATIENCE_MSEC));
  g_assert_cmpint (recv (fd, &byte, 1, 0), ==, 0);
}

/* Until the relay has taken `bytes` in from the stream. */
static void
await_bytes (Fixture *f, guint64 bytes)
{
  gint64 deadline = g_get_monotonic_time () + PATIENCE_MSEC * 1000;

  while (mf_state_relay_get_bytes (f->relay) < bytes) {
    g_assert_cmpint (g_get_monotonic_time (), <, deadline);
    g_thread_yield ();
  }
}

static void
test_forward (void)
{
  Fixture f;

  start (&f, MF_STATE_RELAY_FORWARD);
  put (f.program, "state", 5);
  expect (f.stream, "state", 5);
  put (f.stream, "return", 6);
  expect (f.program, "return", 6);
  /* Each end on its own: what comes the other way still goes through. */
  g_assert_cmpint (shutdown (f.program, SHUT_WR), ==, 0);
  expect_end (f.stream);
  put (f.stream, "more", 4);
  expect (f.program, "more", 4);
  g_assert_cmpuint (mf_state_relay_get_bytes (f.relay), ==, 5);
  g_assert_null (mf_state_relay_get_error (f.relay));
  stop (&f);
}

/* Nothing reaches the program before the release, however much comes, and then all of it does, in order. */
static void
test_hold (void)
{
  g_autofree guint8 *big = g_malloc (BIG_BYTES);
  Fixture f;

  for (guint i = 0; i < BIG_BYTES; i++)
    big[i] = (guint8) (i * 2654435761u >> 24);
  start (&f, MF_STATE_RELAY_HOLD);
  put (f.stream, big, BIG_BYTES);
  await_bytes (&f, BIG_BYTES);
  g_assert_false (is_readable (f.program, 0));
  put (f.program, "return path is not held", 23);
  expect (f.stream, "return path is not held", 23);
  g_assert_cmpint (shutdown (f.stream, SHUT_WR), ==, 0);
  mf_state_relay_release (f.relay);
  expect (f.program, big, BIG_BYTES);
  expect_end (f.program);
  stop (&f);
}

/* The head goes through until the program's return path acknowledges it; the bytes of the acknowledgement in another message's payload, or in two
 * pieces, don't mislead. */
static void
test_acknowledgement (void)
{
  const guint8 decoy[] = { 0, 1, 0, 4, 0, 7, 0, 0 };
  const guint8 first[] = { 0, 7, 0 }, second[] = { 0 };
  Fixture f;

  start (&f, MF_STATE_RELAY_HOLD | MF_STATE_RELAY_ACK);
  put (f.stream, "head", 4);
  expect (f.program, "head", 4);
  put (f.program, decoy, sizeof decoy);
  expect (f.stream, decoy, sizeof decoy);
  put (f.stream, "neck", 4);
  expect (f.program, "neck", 4);
  put (f.program, first, sizeof first);
  expect (f.stream, first, sizeof first);
  put (f.program, second, sizeof second);
  expect (f.stream, second, sizeof second);
  put (f.stream, "body", 4);
  await_bytes (&f, 12);
  g_assert_false (is_readable (f.program, 0));
  mf_state_relay_release (f.relay);
  expect (f.program, "body", 4);
  stop (&f);
}

/* Closing is the roll-back: both sides see the end at once, and the program nothing of what was held. */
static void
test_roll_back (void)
{
  Fixture f;

  start (&f, MF_STATE_RELAY_HOLD);
  put (f.stream, "state", 5);
  await_bytes (&f, 5);
  g_clear_pointer (&f.relay, mf_state_relay_free);
  expect_end (f.program);
  expect_end (f.stream);
  stop (&f);
}

static void
await_error (Fixture *f)
{
  gint64 deadline = g_get_monotonic_time () + PATIENCE_MSEC * 1000;
  g_autoptr (GError) error = NULL;

  while ((error = mf_state_relay_get_error (f->relay)) == NULL) {
    g_assert_cmpint (g_get_monotonic_time (), <, deadline);
    g_thread_yield ();
  }
  g_assert_error (error, MF_ERROR, MF_ERROR_CONNECTION);
}

/* On the target, a side that is gone, with something on its way to it, ends the other one. */
static void
test_broken_target (void)
{
  Fixture f;

  start (&f, MF_STATE_RELAY_HOLD);
  close (f.stream);
  f.stream = dup (f.program);
  put (f.program, "return", 6);
  expect_end (f.program);
  await_error (&f);
  stop (&f);
}

/* The stream is gone when the target's program begins to read: it gets all there is, whatever it says itself meanwhile. */
static void
test_released_target (void)
{
  g_autofree guint8 *big = g_malloc0 (BIG_BYTES);
  Fixture f;

  start (&f, MF_STATE_RELAY_HOLD);
  put (f.stream, big, BIG_BYTES);
  await_bytes (&f, BIG_BYTES);
  close (f.stream);
  f.stream = dup (f.program);
  mf_state_relay_release (f.relay);
  put (f.program, "return", 6);
  await_error (&f);
  expect (f.program, big, BIG_BYTES);
  expect_end (f.program);
  stop (&f);
}

/* On the source, the program gets rid of all that it has to say and sees no end, although nobody is there any more. */
static void
test_broken_source (void)
{
  g_autofree guint8 *big = g_malloc0 (BIG_BYTES);
  Fixture f;

  start (&f, MF_STATE_RELAY_FORWARD);
  put (f.program, "head", 4);
  expect (f.stream, "head", 4);
  close (f.stream);
  f.stream = dup (f.program);
  put (f.program, big, BIG_BYTES);
  await_bytes (&f, BIG_BYTES + 4);
  await_error (&f);
  g_assert_false (is_readable (f.program, 0));
  g_clear_pointer (&f.relay, mf_state_relay_free);
  expect_end (f.program);
  stop (&f);
}

/* The target's service ends in order, its side of the stream is closed: that doesn't reach the source's program either. */
static void
test_return_path_ends (void)
{
  Fixture f;

  start (&f, MF_STATE_RELAY_FORWARD);
  put (f.stream, "last", 4);
  g_assert_cmpint (shutdown (f.stream, SHUT_WR), ==, 0);
  expect (f.program, "last", 4);
  put (f.program, "state", 5);
  expect (f.stream, "state", 5);
  g_assert_false (is_readable (f.program, 0));
  g_assert_null (mf_state_relay_get_error (f.relay));
  stop (&f);
}

static const guint8 last_word[] = { 0, 1, 0, 4, 0, 0, 0, 0 };

/* The stream breaks in the middle of a message: the program gets whole ones only, and the last word when it is due. */
static void
test_last_word_is_said (void)
{
  const guint8 whole[] = { 0, 2, 0, 1, 9 };
  const guint8 broken[] = { 0, 1, 0, 4, 0, 0 };
  Fixture f;

  start (&f, MF_STATE_RELAY_RETURN);
  put (f.stream, whole, sizeof whole);
  put (f.stream, broken, sizeof broken);
  expect (f.program, whole, sizeof whole);
  close (f.stream);
  f.stream = dup (f.program);
  put (f.program, "state", 5);
  await_bytes (&f, 5);
  await_error (&f);
  g_assert_false (is_readable (f.program, 0));
  mf_state_relay_end_return (f.relay);
  expect (f.program, last_word, sizeof last_word);
  g_assert_false (is_readable (f.program, 0));
  stop (&f);
}

/* It comes in two pieces, and is not said again. */
static void
test_last_word_came (void)
{
  Fixture f;

  start (&f, MF_STATE_RELAY_RETURN);
  put (f.stream, last_word, 3);
  put (f.stream, last_word + 3, sizeof last_word - 3);
  expect (f.program, last_word, sizeof last_word);
  mf_state_relay_end_return (f.relay);
  /* Whatever it had to say it has said before it goes on with this. */
  put (f.program, "state", 5);
  expect (f.stream, "state", 5);
  g_assert_false (is_readable (f.program, 0));
  stop (&f);
}

/* A program that keeps a copy of the relay's end sees no end of its stream when the relay goes. */
static void
test_left_program (void)
{
  g_autoptr (GError) error = NULL;
  int program[2], stream[2], copy;
  mf_state_relay *relay;

  g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM, 0, program), ==, 0);
  g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM, 0, stream), ==, 0);
  copy = dup (program[1]);
  relay = mf_state_relay_new (program[1], stream[1], MF_STATE_RELAY_RETURN, &error);
  g_assert_no_error (error);
  mf_state_relay_leave_program (relay);
  mf_state_relay_free (relay);
  expect_end (stream[0]);
  g_assert_false (is_readable (program[0], 0));
  put (program[0], "more", 4);
  close (copy);
  close (program[0]);
  close (stream[0]);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/state-relay/forward", test_forward);
  g_test_add_func ("/state-relay/hold", test_hold);
  g_test_add_func ("/state-relay/acknowledgement", test_acknowledgement);
  g_test_add_func ("/state-relay/roll-back", test_roll_back);
  g_test_add_func ("/state-relay/broken-target", test_broken_target);
  g_test_add_func ("/state-relay/released-target", test_released_target);
  g_test_add_func ("/state-relay/broken-source", test_broken_source);
  g_test_add_func ("/state-relay/return-path-ends", test_return_path_ends);
  g_test_add_func ("/state-relay/last-word-is-said", test_last_word_is_said);
  g_test_add_func ("/state-relay/last-word-came", test_last_word_came);
  g_test_add_func ("/state-relay/left-program", test_left_program);
  return g_test_run ();
}
