/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-notify.h"

#include <glib.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* A service manager's socket; `name` begins with '/' or '@'. */
static int
listen_at (const char *name)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  socklen_t length = (socklen_t) (offsetof (struct sockaddr_un, sun_path) + strlen (name));
  struct timeval limit = { .tv_sec = 10 };
  int fd = socket (AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

  memcpy (address.sun_path, name, strlen (name));
  if (name[0] == '@')
    address.sun_path[0] = 0;
  g_assert_cmpint (bind (fd, (struct sockaddr *) &address, length), ==, 0);
  g_assert_cmpint (setsockopt (fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), ==, 0);
  return fd;
}

static void
assert_hears (const char *name)
{
  char text[64] = "";
  int fd = listen_at (name);

  g_setenv ("NOTIFY_SOCKET", name, TRUE);
  mf_notify ("READY=1");
  g_assert_cmpint (recv (fd, text, sizeof text - 1, 0), ==, strlen ("READY=1"));
  g_assert_cmpstr (text, ==, "READY=1");
  close (fd);
}

static void
test_path (void)
{
  g_autofree char *folder = g_dir_make_tmp ("notify-XXXXXX", NULL);
  g_autofree char *path = g_build_filename (folder, "socket", NULL);

  assert_hears (path);
  unlink (path);
  rmdir (folder);
}

static void
test_abstract_name (void)
{
  g_autofree char *name = g_strdup_printf ("@memferry-test-notify-%d", (int) getpid ());

  assert_hears (name);
}

/* Started by hand, or by something that says nonsense: no harm. */
static void
test_nobody_wants_to_know (void)
{
  g_autofree char *longer = g_strnfill (200, 'x');

  longer[0] = '/';
  g_unsetenv ("NOTIFY_SOCKET");
  mf_notify ("READY=1");
  g_setenv ("NOTIFY_SOCKET", "", TRUE);
  mf_notify ("READY=1");
  g_setenv ("NOTIFY_SOCKET", "relative", TRUE);
  mf_notify ("READY=1");
  g_setenv ("NOTIFY_SOCKET", longer, TRUE);
  mf_notify ("READY=1");

  g_setenv ("NOTIFY_SOCKET", "/nonexistent/socket", TRUE);
  g_test_expect_message ("memferry", G_LOG_LEVEL_WARNING, "*/nonexistent/socket*");
  mf_notify ("READY=1");
  g_test_assert_expected_messages ();
}

/* A descriptor goes with the text. */
static void
test_descriptor (void)
{
  g_autofree char *name = g_strdup_printf ("@memferry-test-notify-fd-%d", (int) getpid ());
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE (sizeof (int))];
  } control;
  char text[64] = "";
  struct iovec part = { text, sizeof text - 1 };
  struct msghdr message = {
    .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes
  };
  int manager = listen_at (name);
  int ends[2], got;

  g_assert_cmpint (pipe (ends), ==, 0);
  g_setenv ("NOTIFY_SOCKET", name, TRUE);
  mf_notify_fd ("FDSTORE=1\nFDNAME=x", ends[1]);
  close (ends[1]);
  g_assert_cmpint (recvmsg (manager, &message, 0), ==, strlen ("FDSTORE=1\nFDNAME=x"));
  g_assert_cmpstr (text, ==, "FDSTORE=1\nFDNAME=x");
  g_assert_cmpint (control.align.cmsg_type, ==, SCM_RIGHTS);
  memcpy (&got, CMSG_DATA (&control.align), sizeof got);
  g_assert_cmpint (write (got, "!", 1), ==, 1);
  g_assert_cmpint (read (ends[0], text, 1), ==, 1);
  g_assert_cmpint (text[0], ==, '!');
  close (got);
  close (ends[0]);
  close (manager);
}

static void
test_watchdog (void)
{
  g_autofree char *own = g_strdup_printf ("%d", (int) getpid ());

  g_unsetenv ("WATCHDOG_USEC");
  g_unsetenv ("WATCHDOG_PID");
  g_assert_cmpuint (mf_notify_watchdog_usec (), ==, 0);
  g_setenv ("WATCHDOG_USEC", "30000000", TRUE);
  g_assert_cmpuint (mf_notify_watchdog_usec (), ==, 30000000);
  g_setenv ("WATCHDOG_PID", own, TRUE);
  g_assert_cmpuint (mf_notify_watchdog_usec (), ==, 30000000);
  /* Somebody else's. */
  g_setenv ("WATCHDOG_PID", "1", TRUE);
  g_assert_cmpuint (mf_notify_watchdog_usec (), ==, 0);
  g_unsetenv ("WATCHDOG_PID");
  g_setenv ("WATCHDOG_USEC", "0", TRUE);
  g_assert_cmpuint (mf_notify_watchdog_usec (), ==, 0);
  g_setenv ("WATCHDOG_USEC", "soon", TRUE);
  g_assert_cmpuint (mf_notify_watchdog_usec (), ==, 0);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/notify/path", test_path);
  g_test_add_func ("/notify/abstract-name", test_abstract_name);
  g_test_add_func ("/notify/nobody-wants-to-know", test_nobody_wants_to_know);
  g_test_add_func ("/notify/descriptor", test_descriptor);
  g_test_add_func ("/notify/watchdog", test_watchdog);
  return g_test_run ();
}
