/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "link-fixture.h"
#include "mf-wait.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* "At once" on a machine with other work to do; the time-outs that it must not be mistaken for are longer. */
#define AT_ONCE_USEC (2 * G_USEC_PER_SEC)

static void
assert_connected (int a, int b)
{
  char got[4];

  send_all (a, "ping", 4);
  receive_all (b, got, 4);
  g_assert_cmpmem (got, 4, "ping", 4);
  send_all (b, "pong", 4);
  receive_all (a, got, 4);
  g_assert_cmpmem (got, 4, "pong", 4);
}

static int
option_of (int fd, int level, int option)
{
  int value = -1;
  socklen_t size = sizeof value;

  g_assert_cmpint (getsockopt (fd, level, option, &value, &size), ==, 0);
  return value;
}

static void
assert_stream_options (int fd)
{
  g_assert_cmpint (fcntl (fd, F_GETFD) & FD_CLOEXEC, !=, 0);
  g_assert_cmpint (fcntl (fd, F_GETFL) & O_NONBLOCK, ==, 0);
}

static void
test_preface_arrives (void)
{
  g_autoptr (Fixture) f = fixture_new ();
  g_autoptr (GError) error = NULL;
  mf_preface preface = preface_of (MF_STREAM_DATA, 0x11);
  int ours, theirs;

  preface.index = 7;
  preface.lane = MF_LANE_FAULT;
  ours = mf_link_dial (f->address, &preface, AT_ONCE_USEC, NULL, &error);
  g_assert_no_error (error);
  theirs = fixture_take (f);
  g_assert_cmpuint (f->last.version, ==, MF_PREFACE_VERSION);
  g_assert_cmpuint (f->last.compat_version, ==, MF_PREFACE_COMPAT);
  g_assert_cmpint (f->last.kind, ==, MF_STREAM_DATA);
  g_assert_cmpmem (f->last.session, MF_SESSION_BYTES, preface.session, MF_SESSION_BYTES);
  g_assert_cmpuint (f->last.index, ==, 7);
  g_assert_cmpuint (f->last.lane, ==, MF_LANE_FAULT);
  assert_connected (ours, theirs);
  assert_stream_options (ours);
  assert_stream_options (theirs);
  close (ours);
  close (theirs);
}

static void
test_tcp (void)
{
  g_autoptr (Fixture) f = fixture_new ();
  g_autoptr (mf_peer_address) address = fixture_add_tcp (f);
  int ours = dial (address, MF_STREAM_STATE, 1);
  int theirs = fixture_take (f);
  const int both[] = { ours, theirs };

  assert_connected (ours, theirs);
  for (guint i = 0; i < 2; i++) {
    assert_stream_options (both[i]);
    g_assert_cmpint (option_of (both[i], IPPROTO_TCP, TCP_NODELAY), !=, 0);
    g_assert_cmpint (option_of (both[i], SOL_SOCKET, SO_KEEPALIVE), !=, 0);
    g_assert_cmpint (option_of (both[i], IPPROTO_TCP, TCP_KEEPIDLE) +
                         option_of (both[i], IPPROTO_TCP, TCP_KEEPCNT) *
                             option_of (both[i], IPPROTO_TCP, TCP_KEEPINTVL),
                     <=, 10);
    close (both[i]);
  }
}

static void
test_host_name (void)
{
  g_autoptr (Fixture) f = fixture_new ();
  g_autoptr (mf_peer_address) numeric = fixture_add_tcp (f);
  g_autoptr (mf_peer_address) named = parse_address ("tcp://localhost:%u", mf_link_listener_port (f->listener));
  g_autoptr (mf_peer_address) unknown = parse_address ("tcp://no-such-host.invalid:1");
  g_autofree char *message = dial_error (unknown, 1, -1, MF_ERROR_CONNECTION);
  /* Whether localhost is also ::1, at which nobody listens, must not matter. */
  int fd = dial (named, MF_STREAM_DATA, 1);

  g_assert_nonnull (strstr (message, "no-such-host.invalid"));
  close (fd);
}

static void
test_socket_file (void)
{
  g_autoptr (Fixture) f = fixture_new ();
  MfLinkListener *second = mf_link_listener_new (NULL, NULL);
  g_autofree char *plain = g_build_filename (f->folder, "plain", NULL);
  g_autoptr (mf_peer_address) at_plain = parse_address ("unix:%s", plain);
  g_autoptr (mf_peer_address) nowhere = parse_address ("unix:%s/missing/link", f->folder);
  g_autoptr (GError) error = NULL;
  struct stat st;

  g_assert_cmpint (stat (f->path, &st), ==, 0);
  g_assert_cmpint (st.st_mode & 07777, ==, 0660);

  g_assert_false (mf_link_listener_add (second, f->address, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_BUSY);
  g_clear_error (&error);
  g_assert_true (g_file_set_contents (plain, "precious", -1, NULL));
  g_assert_false (mf_link_listener_add (second, at_plain, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_EXISTS);
  g_assert_cmpint (unlink (plain), ==, 0);
  g_clear_error (&error);
  g_assert_false (mf_link_listener_add (second, nowhere, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_NOT_FOUND);
  mf_link_listener_free (second);

  close (dial (f->address, MF_STREAM_DATA, 1));
}

/* What a service that was killed leaves behind is replaced, and what a service leaves that ends in order is nothing. */
static void
test_stale_socket (void)
{
  g_autoptr (Fixture) f = fixture_new ();
  g_autofree char *stale = g_build_filename (f->folder, "stale", NULL);
  g_autoptr (mf_peer_address) address = parse_address ("unix:%s", stale);
  MfLinkListener *listener = mf_link_listener_new (NULL, NULL);
  g_autoptr (GError) error = NULL;
  struct sockaddr_storage name;
  int fd = socket (AF_UNIX, SOCK_STREAM, 0);

  memset (&name, 0, sizeof name);
  name.ss_family = AF_UNIX;
  g_strlcpy (((char *) &name) + sizeof (sa_family_t), stale, 100);
  g_assert_cmpint (bind (fd, (struct sockaddr *) &name, sizeof (sa_family_t) + strlen (stale) + 1), ==, 0);
  close (fd);

  g_assert_true (mf_link_listener_add (listener, address, &error));
  g_assert_no_error (error);
  mf_link_listener_free (listener);
  g_assert_false (g_file_test (stale, G_FILE_TEST_EXISTS));
}

/* A listener that ends late must not take away the socket of the one that has replaced it. */
static void
test_successor_keeps_its_socket (void)
{
  g_autoptr (Fixture) f = fixture_new ();
  g_autofree char *moved = g_strconcat (f->path, ".moved", NULL);
  MfLinkListener *first = f->listener;
  g_autoptr (GError) error = NULL;

  g_assert_cmpint (rename (f->path, moved), ==, 0);
  f->listener = mf_link_listener_new (NULL, NULL);
  mf_link_listener_add (f->listener, f->address, &error);
  g_assert_no_error (error);
  mf_link_listener_free (first);
  g_assert_true (g_file_test (f->path, G_FILE_TEST_EXISTS));
  g_assert_cmpint (unlink (moved), ==, 0);
}

static void
test_port_in_use (void)
{
  g_autoptr (Fixture) f = fixture_new ();
  g_autoptr (mf_peer_address) address = fixture_add_tcp (f);
  g_autoptr (GError) error = NULL;

  g_assert_false (mf_link_listener_add (f->listener, address, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_BUSY);
}

static void
test_nobody_there (void)
{
  g_autoptr (Fixture) f = fixture_new ();
  g_autoptr (mf_peer_address) missing = parse_address ("unix:%s/nobody", f->folder);
  g_autoptr (mf_peer_address) tcp = fixture_add_tcp (f);
  g_autofree char *first = dial_error (missing, 1, -1, MF_ERROR_CONNECTION);
  g_autofree char *second = NULL;

  g_assert_nonnull (strstr (first, "nobody answers at unix:"));
  g_clear_pointer (&f->listener, mf_link_listener_free);
  second = dial_error (tcp, 1, -1, MF_ERROR_CONNECTION);
  g_assert_nonnull (strstr (second, "nobody answers at tcp://127.0.0.1"));
}

static void
test_refusals (void)
{
  g_autoptr (Fixture) f = fixture_new ();

  g_free (dial_error (f->address, SESSION_BYTE_UNKNOWN, -1, MF_ERROR_NOT_FOUND));
  g_free (dial_error (f->address, SESSION_BYTE_BUSY, -1, MF_ERROR_BUSY));
  g_free (dial_error (f->address, SESSION_BYTE_FAILING, -1, MF_ERROR_FAILED));
  close (dial (f->address, MF_STREAM_DATA, 1));
}

/* --- Something else answers --- */

static void
assert_stranger_refused (Stranger *stranger, gint64 timeout_usec, int code, const char *part)
{
  gint64 begin = g_get_monotonic_time ();
  g_autofree char *message = dial_error (stranger_address (stranger), 1, timeout_usec, code);

  g_assert_nonnull (strstr (message, part));
  g_assert_cmpint (g_get_monotonic_time () - begin, <, AT_ONCE_USEC);
}

static void
test_not_memferry (void)
{
  static const char http[] = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
  static const char ssh[] = "SSH-2.0-OpenSSH_9.2\r\n";
  g_autoptr (Stranger) http_server = stranger_new (http, sizeof http - 1, MF_PREFACE_BYTES, 0, TRUE);
  g_autoptr (Stranger) ssh_server = stranger_new (ssh, sizeof ssh - 1, 0, 0, FALSE);
  g_autoptr (Stranger) one_byte = stranger_new ("\1", 1, 0, 0, FALSE);
  g_autoptr (Stranger) nearly = stranger_new ("MEMFERRX", 8, 0, 0, FALSE);
  g_autoptr (Stranger) closes = stranger_new ("", 0, 0, 0, TRUE);
  g_autoptr (Stranger) closes_later = stranger_new ("MEMFERRY", 8, MF_PREFACE_BYTES, 0, TRUE);

  assert_stranger_refused (http_server, -1, MF_ERROR_PROTOCOL, "HTTP/1.1 400");
  assert_stranger_refused (ssh_server, -1, MF_ERROR_PROTOCOL, "SSH-2.0");
  assert_stranger_refused (one_byte, -1, MF_ERROR_PROTOCOL, "\".\"");
  assert_stranger_refused (nearly, -1, MF_ERROR_PROTOCOL, "not memferry");
  assert_stranger_refused (closes, -1, MF_ERROR_CONNECTION, "without an answer");
  assert_stranger_refused (closes_later, -1, MF_ERROR_CONNECTION, "without an answer");
}

static void
test_silent_or_slow (void)
{
  g_autoptr (Stranger) silent = stranger_new ("", 0, 0, 0, FALSE);
  g_autoptr (Stranger) slow = stranger_new ("MEMFERRY\0\0\0\1\0\0\0\1", 16, 0, 50 * 1000, FALSE);

  assert_stranger_refused (silent, 300 * 1000, MF_ERROR_TIMED_OUT, "is it memferryd?");
  assert_stranger_refused (slow, 300 * 1000, MF_ERROR_TIMED_OUT, "is it memferryd?");
}

/* A caller without a limit of its own doesn't wait for ever. */
static void
test_handshake_limit (void)
{
  g_autoptr (Stranger) silent = stranger_new ("", 0, 0, 0, FALSE);
  gint64 begin = g_get_monotonic_time ();

  g_free (dial_error (stranger_address (silent), 1, -1, MF_ERROR_TIMED_OUT));
  g_assert_cmpint (g_get_monotonic_time () - begin, >=, MF_LINK_HANDSHAKE_USEC);
  g_assert_cmpint (g_get_monotonic_time () - begin, <, MF_LINK_HANDSHAKE_USEC + AT_ONCE_USEC);
}

static void *
cancel_thread (void *cancellable)
{
  mf_wait_fd (-1, 0, mf_deadline_after (50 * 1000), NULL, NULL);
  g_cancellable_cancel (cancellable);
  return NULL;
}

static void
test_cancel (void)
{
  g_autoptr (Stranger) silent = stranger_new ("", 0, 0, 0, FALSE);
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  g_autoptr (GError) error = NULL;
  mf_preface preface = preface_of (MF_STREAM_DATA, 1);
  gint64 begin = g_get_monotonic_time ();
  pthread_t thread;

  g_assert_cmpint (pthread_create (&thread, NULL, cancel_thread, cancellable), ==, 0);
  g_assert_cmpint (mf_link_dial (stranger_address (silent), &preface, -1, cancellable, &error), ==, -1);
  g_assert_error (error, MF_ERROR, MF_ERROR_CANCELLED);
  g_assert_cmpint (g_get_monotonic_time () - begin, <, AT_ONCE_USEC);
  pthread_join (thread, NULL);
}

static void
answer_of (guint8 out[MF_PREFACE_BYTES], guint32 version, guint32 compat, mf_preface_status status)
{
  mf_preface answer = preface_of (MF_STREAM_DATA, 1);

  answer.version = version;
  answer.compat_version = compat;
  answer.flags = status;
  mf_preface_encode (&answer, out);
}

static void
test_answers (void)
{
  static const struct {
    guint32 version, compat, status;
    guint8 session_byte; /* of the dialler; the answer has 1 */
    MfError code;
    const char *part;
  } answers[] = {
    { MF_PREFACE_VERSION + 2, MF_PREFACE_VERSION + 1, MF_STATUS_VERSION, 1, MF_ERROR_VERSION, "update memferry here" },
    { MF_PREFACE_COMPAT - 1, MF_PREFACE_COMPAT - 1, MF_STATUS_TAKEN, 1, MF_ERROR_VERSION, "update memferry there" },
    { MF_PREFACE_VERSION, MF_PREFACE_COMPAT, MF_STATUS_LAST + 1, 1, MF_ERROR_PROTOCOL, "doesn't exist" },
    { MF_PREFACE_VERSION, MF_PREFACE_COMPAT, MF_STATUS_TAKEN, 2, MF_ERROR_PROTOCOL, "another stream" },
    /* A newer peer that can still talk to us, but doesn't know the session. */
    { MF_PREFACE_VERSION + 2, MF_PREFACE_VERSION, MF_STATUS_NO_SESSION, 1, MF_ERROR_NOT_FOUND, "no such session" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (answers); i++) {
    guint8 bytes[MF_PREFACE_BYTES];
    g_autoptr (Stranger) stranger = NULL;
    g_autofree char *message = NULL;

    answer_of (bytes, answers[i].version, answers[i].compat, answers[i].status);
    stranger = stranger_new (bytes, sizeof bytes, MF_PREFACE_BYTES, 0, FALSE);
    message = dial_error (stranger_address (stranger), answers[i].session_byte, -1, answers[i].code);
    g_assert_nonnull (strstr (message, answers[i].part));
  }
}

/* --- Something else dials --- */

static void
test_garbage_is_closed_at_once (void)
{
  static const char *const garbage[] = { "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\1", "MEMFERRX", "MEM\n" };
  g_autoptr (Fixture) f = fixture_new ();

  for (guint i = 0; i < G_N_ELEMENTS (garbage); i++) {
    int fd = connect_raw (f);

    send_all (fd, garbage[i], strlen (garbage[i]));
    await_end (fd, AT_ONCE_USEC);
    close (fd);
  }
  close (dial (f->address, MF_STREAM_DATA, 1));
}

static void
test_refused_prefaces (void)
{
  static const struct {
    guint32 version, compat, kind, flags, lane;
    mf_preface_status status;
  } prefaces[] = {
    { MF_PREFACE_VERSION + 1, MF_PREFACE_VERSION + 1, 1, 0, 0, MF_STATUS_VERSION },
    { MF_PREFACE_COMPAT - 1, 0, 1, 0, 0, MF_STATUS_VERSION },
    { MF_PREFACE_VERSION, MF_PREFACE_COMPAT, 4, 0, 0, MF_STATUS_FAILED },
    { MF_PREFACE_VERSION, MF_PREFACE_COMPAT, 0, 0, 0, MF_STATUS_FAILED },
    { MF_PREFACE_VERSION, MF_PREFACE_COMPAT, 2, 0, 2, MF_STATUS_FAILED },
    { MF_PREFACE_VERSION, MF_PREFACE_COMPAT, 2, 1, 0, MF_STATUS_FAILED },
  };
  g_autoptr (Fixture) f = fixture_new ();

  for (guint i = 0; i < G_N_ELEMENTS (prefaces); i++) {
    mf_preface preface = { .version = prefaces[i].version,
                           .compat_version = prefaces[i].compat,
                           .kind = prefaces[i].kind,
                           .flags = prefaces[i].flags,
                           .lane = prefaces[i].lane };
    guint8 bytes[MF_PREFACE_BYTES];
    mf_preface answer;
    int fd = connect_raw (f);

    mf_preface_encode (&preface, bytes);
    send_all (fd, bytes, sizeof bytes);
    receive_all (fd, bytes, sizeof bytes);
    mf_preface_decode (bytes, &answer);
    g_assert_cmpuint (answer.version, ==, MF_PREFACE_VERSION);
    g_assert_cmpuint (answer.flags, ==, prefaces[i].status);
    await_end (fd, AT_ONCE_USEC);
    close (fd);
  }
}

/* Whoever is silent, or sends a byte now and then, is in nobody's way and is let go. */
static void
test_silent_dialler (void)
{
  g_autoptr (Fixture) f = fixture_new ();
  int silent = connect_raw (f);
  int slow = connect_raw (f);
  gint64 begin = g_get_monotonic_time ();

  send_all (slow, "MEMFER", 6);
  close (dial (f->address, MF_STREAM_DATA, 1));
  g_assert_cmpint (g_get_monotonic_time () - begin, <, AT_ONCE_USEC);
  mf_wait_fd (-1, 0, begin + MF_LINK_HANDSHAKE_USEC / 2, NULL, NULL);
  send_all (slow, "RY", 2);
  await_end (silent, MF_LINK_HANDSHAKE_USEC + AT_ONCE_USEC);
  await_end (slow, AT_ONCE_USEC);
  g_assert_cmpint (g_get_monotonic_time () - begin, <, MF_LINK_HANDSHAKE_USEC + AT_ONCE_USEC);
  close (silent);
  close (slow);
}

static void
test_crowd_of_silent_diallers (void)
{
  g_autoptr (Fixture) f = fixture_new ();
  int silent[MF_LINK_MAX_HANDSHAKES + 1];

  for (guint i = 0; i < G_N_ELEMENTS (silent); i++)
    silent[i] = connect_raw (f);
  close (dial (f->address, MF_STREAM_DATA, 1));
  /* The oldest had to make room. */
  await_end (silent[0], AT_ONCE_USEC);
  for (guint i = 0; i < G_N_ELEMENTS (silent); i++)
    close (silent[i]);
}

static void *
dial_thread (void *address)
{
  int fd = dial (address, MF_STREAM_DATA, SESSION_BYTE_BLOCKS);

  close (fd);
  return NULL;
}

/* `accept` may block; others are told at once that the service is busy, and are taken when it is not any more. */
static void
test_accepts_are_bounded (void)
{
  g_autoptr (Fixture) f = fixture_new ();
  pthread_t threads[MF_LINK_MAX_ACCEPTS];

  for (guint i = 0; i < G_N_ELEMENTS (threads); i++)
    g_assert_cmpint (pthread_create (&threads[i], NULL, dial_thread, f->address), ==, 0);
  fixture_await_blocked (f, G_N_ELEMENTS (threads));
  g_free (dial_error (f->address, 1, -1, MF_ERROR_BUSY));
  fixture_unblock (f);
  for (guint i = 0; i < G_N_ELEMENTS (threads); i++)
    pthread_join (threads[i], NULL);
  for (guint i = 0; i < G_N_ELEMENTS (threads); i++)
    close (fixture_take (f));
  close (dial (f->address, MF_STREAM_DATA, 1));
}

static void *
dial_many_thread (void *address)
{
  for (guint i = 0; i < 50; i++) {
    mf_preface preface = preface_of (MF_STREAM_DATA, 1);
    g_autoptr (GError) error = NULL;
    int fd = mf_link_dial (address, &preface, -1, NULL, &error);

    if (fd >= 0)
      close (fd);
    else
      g_assert_error (error, MF_ERROR, MF_ERROR_BUSY);
  }
  return NULL;
}

static void
test_many_at_once (void)
{
  g_autoptr (Fixture) f = fixture_new ();
  pthread_t threads[8];

  for (guint i = 0; i < G_N_ELEMENTS (threads); i++)
    g_assert_cmpint (pthread_create (&threads[i], NULL, dial_many_thread, f->address), ==, 0);
  for (guint i = 0; i < G_N_ELEMENTS (threads); i++)
    pthread_join (threads[i], NULL);
}

/* Ending the listener ends what is in the middle of its handshake. */
static void
test_free_with_handshakes (void)
{
  g_autoptr (Fixture) f = fixture_new ();
  int fd = connect_raw (f);

  close (dial (f->address, MF_STREAM_DATA, 1));
  g_clear_pointer (&f->listener, mf_link_listener_free);
  await_end (fd, AT_ONCE_USEC);
  close (fd);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/link/preface-arrives", test_preface_arrives);
  g_test_add_func ("/link/tcp", test_tcp);
  g_test_add_func ("/link/host-name", test_host_name);
  g_test_add_func ("/link/socket-file", test_socket_file);
  g_test_add_func ("/link/stale-socket", test_stale_socket);
  g_test_add_func ("/link/successor-keeps-its-socket", test_successor_keeps_its_socket);
  g_test_add_func ("/link/port-in-use", test_port_in_use);
  g_test_add_func ("/link/nobody-there", test_nobody_there);
  g_test_add_func ("/link/refusals", test_refusals);
  g_test_add_func ("/link/not-memferry", test_not_memferry);
  g_test_add_func ("/link/silent-or-slow", test_silent_or_slow);
  g_test_add_func ("/link/handshake-limit", test_handshake_limit);
  g_test_add_func ("/link/cancel", test_cancel);
  g_test_add_func ("/link/answers", test_answers);
  g_test_add_func ("/link/garbage-is-closed-at-once", test_garbage_is_closed_at_once);
  g_test_add_func ("/link/refused-prefaces", test_refused_prefaces);
  g_test_add_func ("/link/silent-dialler", test_silent_dialler);
  g_test_add_func ("/link/crowd-of-silent-diallers", test_crowd_of_silent_diallers);
  g_test_add_func ("/link/accepts-are-bounded", test_accepts_are_bounded);
  g_test_add_func ("/link/many-at-once", test_many_at_once);
  g_test_add_func ("/link/free-with-handshakes", test_free_with_handshakes);
  return g_test_run ();
}
