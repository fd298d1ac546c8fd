/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "attach-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MIB   UINT64_C (0x100000)
#define PAGES 256

static void
assert_stderr (attach_fixture *f, const char *part)
{
  g_autofree char *text = attach_fixture_stderr (f);

  if (!strstr (text, part))
    g_error ("\"%s\" is not in \"%s\"", part, text);
}

/* Waits until it is said. */
static void
wait_for_stderr (attach_fixture *f, const char *part)
{
  const gint64 deadline = g_get_monotonic_time () + 60 * G_USEC_PER_SEC;

  for (;;) {
    g_autofree char *text = attach_fixture_stderr (f);

    if (strstr (text, part))
      return;
    g_assert_cmpint (g_get_monotonic_time (), <, deadline);
    g_thread_yield ();
  }
}

static void
test_a_mapping_is_handed_over (void)
{
  g_autoptr (attach_fixture) f = attach_fixture_new (NULL, MIB);
  g_autoptr (MfUserfault) userfault = NULL;

  if (!f)
    return;
  attach_fixture_start_service (f);
  attach_fixture_start_program (f, PROGRAM_PLAIN);
  attach_fixture_ask (f, "ok", "map 0 %d", PAGES);
  /* The program goes on only when the service knows. */
  userfault = attach_fixture_userfault (f);
  g_assert_cmpint (mf_userfault_pid (userfault), ==, f->pid);
  g_assert_true (mf_userfault_region (userfault) == f->region);
  g_assert_cmpuint (attach_fixture_count (f, &f->again), ==, 0);

  attach_fixture_ask (f, "ok", "write 0 %d 1", PAGES);
  attach_fixture_assert_store (f, 0, PAGES, 1);
  attach_fixture_end_program (f);
  attach_fixture_wait (f, &f->detached, 1);
}

static void
test_a_program_without_rights (void)
{
  g_autoptr (attach_fixture) f = attach_fixture_new (NULL, MIB);

  if (!f)
    return;
  if (getuid () != 0) {
    g_test_skip ("Only root can start a program as somebody else");
    return;
  }
  attach_fixture_start_service (f);
  attach_fixture_start_program (f, PROGRAM_AS_NOBODY);
  attach_fixture_ask (f, "1", "exec cat /dev/userfaultfd 2>&1 | grep -c 'Permission denied'");
  attach_fixture_ask (f, "ok", "map 0 %d", PAGES);
  attach_fixture_wait (f, &f->attached, 1);
  attach_fixture_ask (f, "ok", "write 0 %d 1", PAGES);
  attach_fixture_assert_store (f, 0, PAGES, 1);
  attach_fixture_end_program (f);
}

static void
test_the_program_waits_for_the_service (void)
{
  g_autoptr (attach_fixture) f = attach_fixture_new (NULL, MIB);
  struct pollfd answer;

  if (!f)
    return;
  attach_fixture_start_program (f, PROGRAM_PLAIN);
  attach_fixture_send (f, "map 0 %d", PAGES);
  answer = (struct pollfd){ .fd = f->from_program, .events = POLLIN };
  g_assert_cmpint (poll (&answer, 1, 1000), ==, 0);
  wait_for_stderr (f, "waiting for the service");
  attach_fixture_start_service (f);
  attach_fixture_expect (f, "ok");
  g_assert_cmpuint (attach_fixture_count (f, &f->attached), ==, 1);
  wait_for_stderr (f, "is there");
}

static void
test_a_service_that_comes_back_gets_it_again (void)
{
  g_autoptr (attach_fixture) f = attach_fixture_new (NULL, MIB);

  if (!f)
    return;
  attach_fixture_start_service (f);
  attach_fixture_start_program (f, PROGRAM_PLAIN);
  attach_fixture_ask (f, "ok", "map 0 %d", PAGES);
  for (guint i = 1; i <= 3; i++) {
    attach_fixture_stop_service (f);
    attach_fixture_ask (f, "ok", "write 0 %d %u", PAGES, i);
    attach_fixture_start_service (f);
    attach_fixture_wait (f, &f->again, i);
    attach_fixture_assert_store (f, 0, PAGES, i);
  }
  g_assert_cmpuint (attach_fixture_count (f, &f->detached), ==, 0);
}

static void
test_a_refusal_is_said_and_survived (void)
{
  g_autoptr (attach_fixture) f = attach_fixture_new (NULL, MIB);
  g_autoptr (MfStore) other = NULL;

  if (!f)
    return;
  /* The service has another file. */
  other = g_steal_pointer (&f->store);
  f->store = mf_store_memfd ("other", MIB, NULL);
  attach_fixture_start_service (f);
  attach_fixture_start_program (f, PROGRAM_PLAIN);
  attach_fixture_ask (f, "ok", "map 0 %d", PAGES);
  assert_stderr (f, "it is the file of no region; going on without it");
  attach_fixture_ask (f, "ok", "write 0 %d 1", PAGES);
  attach_fixture_ask (f, "exit", "child 0");
  g_assert_cmpuint (attach_fixture_count (f, &f->attached), ==, 0);
  attach_fixture_end_program (f);
}

static void
test_a_second_program_is_refused (void)
{
  g_autoptr (attach_fixture) f = attach_fixture_new (NULL, MIB);
  GPid first;
  int to, from;

  if (!f)
    return;
  attach_fixture_start_service (f);
  attach_fixture_start_program (f, PROGRAM_PLAIN);
  attach_fixture_ask (f, "ok", "map 0 %d", PAGES);
  first = f->pid;
  to = f->to_program;
  from = f->from_program;
  attach_fixture_start_program (f, PROGRAM_PLAIN);
  attach_fixture_ask (f, "ok", "map 0 %d", PAGES);
  assert_stderr (f, "is attached to process");
  g_assert_cmpuint (attach_fixture_count (f, &f->attached), ==, 1);
  attach_fixture_end_program (f);

  f->pid = first;
  f->to_program = to;
  f->from_program = from;
  attach_fixture_end_program (f);
  attach_fixture_wait (f, &f->detached, 1);
}

static void
test_without_the_library_nothing_happens (void)
{
  g_autoptr (attach_fixture) f = attach_fixture_new (NULL, MIB);

  if (!f)
    return;
  attach_fixture_start_service (f);
  attach_fixture_start_program (f, PROGRAM_ALONE);
  attach_fixture_ask (f, "ok", "map 0 %d", PAGES);
  g_assert_cmpuint (attach_fixture_count (f, &f->attached), ==, 0);
  attach_fixture_end_program (f);
}

/* The program blocks them in all its threads; the library's must not be the one that takes them, and dies. */
static void
test_signals_do_not_reach_the_library (void)
{
  g_autoptr (attach_fixture) f = attach_fixture_new (NULL, MIB);

  if (!f)
    return;
  attach_fixture_start_service (f);
  attach_fixture_start_program (f, PROGRAM_PLAIN);
  attach_fixture_ask (f, "ok", "map 0 %d", PAGES);
  attach_fixture_ask (f, "2", "exec ls /proc/%d/task | wc -l", f->pid);
  g_assert_cmpint (kill (f->pid, SIGALRM), ==, 0);
  g_assert_cmpint (kill (f->pid, SIGIO), ==, 0);
  attach_fixture_ask (f, "ok", "write 0 %d 1", PAGES);
  attach_fixture_end_program (f);
}

static void
test_children_inherit_nothing (void)
{
  g_autoptr (attach_fixture) f = attach_fixture_new (NULL, MIB);

  if (!f)
    return;
  attach_fixture_start_service (f);
  attach_fixture_start_program (f, PROGRAM_PLAIN);
  attach_fixture_ask (f, "ok", "map 0 %d", PAGES);
  attach_fixture_ask (f, "2", "exec ls -l /proc/%d/fd | grep -c userfaultfd", f->pid);
  attach_fixture_ask (f, "0", "exec ls -l /proc/self/fd | grep -c -e userfaultfd -e socket -e eventfd -e region");
  /* In a child the mapping would show zeroes where pages are missing: it is not there. */
  attach_fixture_ask (f, "signal 11", "child 0");
  attach_fixture_ask (f, "ok", "write 0 %d 1", PAGES);
  attach_fixture_end_program (f);
  attach_fixture_wait (f, &f->detached, 1);
}

static void
test_unmapping_all_lets_go (void)
{
  g_autoptr (attach_fixture) f = attach_fixture_new (NULL, MIB);

  if (!f)
    return;
  attach_fixture_start_service (f);
  attach_fixture_start_program (f, PROGRAM_PLAIN);
  for (guint i = 1; i <= 3; i++) {
    attach_fixture_ask (f, "ok", "map 0 %d", PAGES);
    attach_fixture_wait (f, &f->attached, i);
    attach_fixture_ask (f, "refused", "move");
    attach_fixture_ask (f, "ok", "unmap 0 %d", PAGES);
    attach_fixture_wait (f, &f->detached, i);
  }
  g_assert_cmpuint (attach_fixture_count (f, &f->again), ==, 0);
  attach_fixture_end_program (f);
}

static void
test_stale_and_foreign_sockets (void)
{
  g_autoptr (attach_fixture) f = attach_fixture_new (NULL, MIB);
  static const mf_handover_callbacks callbacks = { 0 };
  g_autoptr (GError) error = NULL;
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  int stale;

  if (!f)
    return;
  stale = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  strcpy (address.sun_path, f->socket_path);
  g_assert_cmpint (bind (stale, (struct sockaddr *) &address, sizeof (address)), ==, 0);
  close (stale);
  attach_fixture_start_service (f);
  attach_fixture_start_program (f, PROGRAM_PLAIN);
  attach_fixture_ask (f, "ok", "map 0 %d", PAGES);

  g_assert_null (mf_handover_new (f->socket_path, &callbacks, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_BUSY);
  g_clear_error (&error);
  g_assert_null (mf_handover_new (f->region_path, &callbacks, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_BUSY);
  g_clear_error (&error);
  g_assert_null (mf_handover_new ("/nonexistent/handover", &callbacks, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_NOT_FOUND);
  attach_fixture_end_program (f);
}

/* Sends `line` with `n_fds` copies of `fd` and returns the answer. */
static char *
talk (int socket, const char *line, int fd, guint n_fds)
{
  struct iovec part = { (char *) line, strlen (line) };
  struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE (8 * sizeof (int))];
  } control = { 0 };
  char answer[1024] = "";

  if (n_fds > 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE (n_fds * sizeof (int));
    control.align.cmsg_level = SOL_SOCKET;
    control.align.cmsg_type = SCM_RIGHTS;
    control.align.cmsg_len = CMSG_LEN (n_fds * sizeof (int));
    for (guint i = 0; i < n_fds; i++)
      memcpy (CMSG_DATA (&control.align) + i * sizeof (int), &fd, sizeof (int));
  }
  g_assert_cmpint (sendmsg (socket, &message, MSG_NOSIGNAL), ==, strlen (line));
  g_assert_cmpint (recv (socket, answer, sizeof (answer) - 1, 0), >=, 0);
  return g_strdup (answer);
}

static void
assert_talk (attach_fixture *f, const char *line, int fd, guint n_fds, const char *expected)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  const int client = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  g_autofree char *got = NULL;

  strcpy (address.sun_path, f->socket_path);
  g_assert_cmpint (connect (client, (struct sockaddr *) &address, sizeof (address)), ==, 0);
  got = talk (client, line, fd, n_fds);
  if (!strstr (got, expected))
    g_error ("\"%s\" was answered by \"%s\", not \"%s\"", line, got, expected);
  close (client);
}

#define OFFER                                                                                                          \
  "{\"memferry\":1,\"type\":\"offer\",\"generation\":0,\"mappings\":[{\"address\":4096,\"length\":4096,\"offset\":0}]" \
  "}\n"

static void
test_what_strangers_send (void)
{
  g_autoptr (attach_fixture) f = attach_fixture_new (NULL, MIB);
  g_autofree char *long_line = g_strnfill (MF_MAPPINGS_MAX * 1024, 'x');
  g_autofree char *answer = NULL;
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  int region, read_only, client;

  if (!f)
    return;
  attach_fixture_start_service (f);
  attach_fixture_start_program (f, PROGRAM_PLAIN);
  attach_fixture_ask (f, "ok", "check 0 0 0");
  while (access (f->socket_path, F_OK) < 0)
    g_thread_yield ();
  region = open (f->region_path, O_RDWR | O_CLOEXEC);
  read_only = open (f->region_path, O_RDONLY | O_CLOEXEC);

  assert_talk (f, "hello\n", -1, 0, "not JSON");
  assert_talk (f, "[{\"base_host_virt_addr\":0}]\n", -1, 0, "Firecracker");
  assert_talk (f, "{\"memferry\":9,\"type\":\"offer\"}\n", -1, 0, "version 9");
  assert_talk (f, "{\"memferry\":1,\"type\":\"descriptors\"}\n", -1, 0, "out of turn");
  assert_talk (f, OFFER, -1, 0, "descriptors came");
  assert_talk (f, OFFER, region, 3, "descriptors came");
  assert_talk (f, OFFER, region, 8, "too long");
  assert_talk (f, OFFER, read_only, 1, "not open for reading and writing");
  assert_talk (f, OFFER, f->to_program, 1, "not open for reading and writing");
  assert_talk (f, long_line, -1, 0, "too long");
  assert_talk (f, OFFER OFFER, region, 1, "\"type\":\"device\"");

  /* Descriptors that are none. */
  client = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  strcpy (address.sun_path, f->socket_path);
  g_assert_cmpint (connect (client, (struct sockaddr *) &address, sizeof (address)), ==, 0);
  answer = talk (client, OFFER, region, 1);
  g_assert_nonnull (strstr (answer, "\"type\":\"device\""));
  g_free (answer);
  answer = talk (client, "{\"memferry\":1,\"type\":\"descriptors\"}\n", region, 2);
  g_assert_nonnull (strstr (answer, "not a userfaultfd"));
  close (client);
  close (region);
  close (read_only);

  /* None of it did any harm. */
  g_assert_cmpuint (attach_fixture_count (f, &f->attached), ==, 0);
  attach_fixture_ask (f, "ok", "map 0 %d", PAGES);
  attach_fixture_wait (f, &f->attached, 1);
  attach_fixture_end_program (f);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/handover/a-mapping-is-handed-over", test_a_mapping_is_handed_over);
  g_test_add_func ("/handover/a-program-without-rights", test_a_program_without_rights);
  g_test_add_func ("/handover/the-program-waits-for-the-service", test_the_program_waits_for_the_service);
  g_test_add_func ("/handover/a-service-that-comes-back", test_a_service_that_comes_back_gets_it_again);
  g_test_add_func ("/handover/a-refusal-is-said-and-survived", test_a_refusal_is_said_and_survived);
  g_test_add_func ("/handover/a-second-program-is-refused", test_a_second_program_is_refused);
  g_test_add_func ("/handover/without-the-library", test_without_the_library_nothing_happens);
  g_test_add_func ("/handover/signals-do-not-reach-the-library", test_signals_do_not_reach_the_library);
  g_test_add_func ("/handover/children-inherit-nothing", test_children_inherit_nothing);
  g_test_add_func ("/handover/unmapping-all-lets-go", test_unmapping_all_lets_go);
  g_test_add_func ("/handover/stale-and-foreign-sockets", test_stale_and_foreign_sockets);
  g_test_add_func ("/handover/what-strangers-send", test_what_strangers_send);
  return g_test_run ();
}
