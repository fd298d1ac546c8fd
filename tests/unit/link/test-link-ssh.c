/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Streams through a real sshd, which this user starts for itself: its own port, host key and keys, nothing of the user's own.
 */
#include "link-fixture.h"
#include "mf-wait.h"

#include <arpa/inet.h>
#include <glib/gstdio.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define SSHD        "/usr/sbin/sshd"
#define LIMIT_USEC  (20 * G_USEC_PER_SEC)
#define BULK_BYTES  (24u << 20)
#define BLOCK_BYTES (64u << 10)

typedef struct {
  char *folder, *config;
  guint16 port;
  GSubprocess *process;
} Sshd;

static char *
file_of (Sshd *sshd, const char *name)
{
  return g_build_filename (sshd->folder, name, NULL);
}

static void
make_key (Sshd *sshd, const char *name)
{
  g_autofree char *path = file_of (sshd, name);
  const char *const command[] = { "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path, NULL };
  g_autoptr (GError) error = NULL;
  int status;

  g_spawn_sync (NULL, (char **) command, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, &status, &error);
  g_assert_no_error (error);
  g_assert_true (g_spawn_check_wait_status (status, NULL));
}

static void
write_file (Sshd *sshd, const char *name, const char *text)
{
  g_autofree char *path = file_of (sshd, name);
  g_autoptr (GError) error = NULL;

  g_file_set_contents_full (path, text, -1, G_FILE_SET_CONTENTS_CONSISTENT, 0600, &error);
  g_assert_no_error (error);
}

static char *
read_file (Sshd *sshd, const char *name)
{
  g_autofree char *path = file_of (sshd, name);
  char *text = NULL;

  g_assert_true (g_file_get_contents (path, &text, NULL, NULL));
  return g_strchomp (text);
}

static guint16
free_port (void)
{
  struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr.s_addr = htonl (INADDR_LOOPBACK) };
  socklen_t size = sizeof name;
  int fd = socket (AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

  g_assert_cmpint (bind (fd, (struct sockaddr *) &name, sizeof name), ==, 0);
  g_assert_cmpint (getsockname (fd, (struct sockaddr *) &name, &size), ==, 0);
  close (fd);
  return ntohs (name.sin_port);
}

static void
await_port (guint16 port)
{
  struct sockaddr_in name = { .sin_family = AF_INET,
                              .sin_addr.s_addr = htonl (INADDR_LOOPBACK),
                              .sin_port = htons (port) };
  gint64 deadline = g_get_monotonic_time () + LIMIT_USEC;

  for (;;) {
    int fd = socket (AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    gboolean there = connect (fd, (struct sockaddr *) &name, sizeof name) == 0;

    close (fd);
    if (there)
      return;
    g_assert_cmpint (g_get_monotonic_time (), <, deadline);
    mf_wait_fd (-1, 0, mf_deadline_after (20000), NULL, NULL);
  }
}

/* What the client is to know: `known` is the host key it expects, `identity` the key it shows. */
static void
configure_client (Sshd *sshd, const char *known, const char *identity)
{
  g_autofree char *key = known != NULL ? read_file (sshd, known) : g_strdup ("");
  g_autofree char *hosts = known != NULL ? g_strdup_printf ("[127.0.0.1]:%u %s\n", sshd->port, key) : g_strdup ("");
  g_autofree char *text =
      g_strdup_printf ("Host ferry\n  HostName 127.0.0.1\n  Port %u\n"
                       "Host *\n  IdentityFile %s/%s\n  UserKnownHostsFile %s/known\n  GlobalKnownHostsFile none\n"
                       "  IdentityAgent none\n",
                       sshd->port, sshd->folder, identity, sshd->folder);

  write_file (sshd, "known", hosts);
  write_file (sshd, "client", text);
}

static void
die_with_parent (gpointer user_data)
{
  prctl (PR_SET_PDEATHSIG, SIGKILL);
}

static Sshd *
sshd_new (void)
{
  Sshd *sshd = g_new0 (Sshd, 1);
  g_autoptr (GSubprocessLauncher) launcher = g_subprocess_launcher_new (G_SUBPROCESS_FLAGS_STDERR_SILENCE);
  g_autofree char *config = NULL, *text = NULL, *public = NULL;
  g_autoptr (GError) error = NULL;

  sshd->folder = g_dir_make_tmp ("mf-ssh-XXXXXX", &error);
  g_assert_no_error (error);
  sshd->port = free_port ();
  make_key (sshd, "host");
  make_key (sshd, "other-host");
  make_key (sshd, "user");
  make_key (sshd, "stranger");
  public = read_file (sshd, "user.pub");
  write_file (sshd, "authorized", public);
  text = g_strdup_printf ("Port %u\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\n"
                          "StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n",
                          sshd->port, sshd->folder, sshd->folder);
  write_file (sshd, "sshd", text);
  config = file_of (sshd, "sshd");
  /* sshd wants it as root. */
  if (geteuid () == 0)
    g_mkdir ("/run/sshd", 0755);
  g_subprocess_launcher_set_child_setup (launcher, die_with_parent, NULL, NULL);
  sshd->process = g_subprocess_launcher_spawn (launcher, &error, SSHD, "-D", "-e", "-f", config, NULL);
  g_assert_no_error (error);
  await_port (sshd->port);
  sshd->config = file_of (sshd, "client");
  g_setenv ("MEMFERRY_SSH_CONFIG", sshd->config, TRUE);
  configure_client (sshd, "host.pub", "user");
  return sshd;
}

static void
sshd_free (Sshd *sshd)
{
  static const char *const names[] = { "host",         "host.pub",   "other-host", "other-host.pub", "user",
                                       "user.pub",     "stranger",   "known",      "client",         "sshd",
                                       "stranger.pub", "authorized", NULL };

  g_subprocess_force_exit (sshd->process);
  g_subprocess_wait (sshd->process, NULL, NULL);
  g_object_unref (sshd->process);
  for (guint i = 0; names[i] != NULL; i++) {
    g_autofree char *path = file_of (sshd, names[i]);

    g_unlink (path);
  }
  g_assert_cmpint (g_rmdir (sshd->folder), ==, 0);
  g_free (sshd->folder);
  g_free (sshd->config);
  g_free (sshd);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC (Sshd, sshd_free)

static gboolean
skip_without_sshd (void)
{
  if (g_file_test (SSHD, G_FILE_TEST_IS_EXECUTABLE))
    return FALSE;
  g_test_skip ("needs sshd (openssh-server)");
  return TRUE;
}

static uint8_t
byte_at (guint seed, size_t at)
{
  return (uint8_t) (seed + at / 251 + at % 253);
}

typedef struct {
  int fd;
  guint seed;
} Sender;

static gpointer
send_bulk (gpointer data)
{
  Sender *sender = data;
  uint8_t block[BLOCK_BYTES];

  for (size_t at = 0; at < BULK_BYTES; at += sizeof block) {
    for (size_t i = 0; i < sizeof block; i++)
      block[i] = byte_at (sender->seed, at + i);
    send_all (sender->fd, block, sizeof block);
  }
  g_assert_cmpint (shutdown (sender->fd, SHUT_WR), ==, 0);
  return NULL;
}

/* All that the other side sent, and then its end. */
static void
receive_bulk (int fd, guint seed)
{
  uint8_t block[BLOCK_BYTES];
  char more;

  for (size_t at = 0; at < BULK_BYTES; at += sizeof block) {
    receive_all (fd, block, sizeof block);
    for (size_t i = 0; i < sizeof block; i++)
      if (block[i] != byte_at (seed, at + i))
        g_error ("byte %zu is wrong", at + i);
  }
  g_assert_cmpint (read (fd, &more, 1), ==, 0);
}

/* Much in both directions at once, every byte compared, and each direction ends by itself. */
static void
test_carries (void)
{
  g_autoptr (Sshd) sshd = NULL;
  g_autoptr (Fixture) f = NULL;
  g_autoptr (mf_peer_address) address = NULL;
  Sender here = { .seed = 1 }, there = { .seed = 7 };
  GThread *threads[2];

  if (skip_without_sshd ())
    return;
  sshd = sshd_new ();
  f = fixture_new ();
  address = parse_address ("ssh://ferry%s", f->path);
  here.fd = dial (address, MF_STREAM_DATA, 1);
  there.fd = fixture_take (f);
  threads[0] = g_thread_new ("here", send_bulk, &here);
  threads[1] = g_thread_new ("there", send_bulk, &there);
  /* One after the other: who waits to be read must not hold up the other direction. */
  receive_bulk (there.fd, here.seed);
  receive_bulk (here.fd, there.seed);
  g_thread_join (threads[0]);
  g_thread_join (threads[1]);
  close (there.fd);
  close (here.fd);
}

/* Whoever goes is missed on the other side. */
static void
test_ends (void)
{
  g_autoptr (Sshd) sshd = NULL;
  g_autoptr (Fixture) f = NULL;
  g_autoptr (mf_peer_address) address = NULL;
  int ours, theirs;

  if (skip_without_sshd ())
    return;
  sshd = sshd_new ();
  f = fixture_new ();
  address = parse_address ("ssh://%s@127.0.0.1:%u%s", g_get_user_name (), sshd->port, f->path);
  ours = dial (address, MF_STREAM_CONTROL, 1);
  theirs = fixture_take (f);
  close (ours);
  await_end (theirs, LIMIT_USEC);
  close (theirs);
  ours = dial (address, MF_STREAM_CONTROL, 2);
  theirs = fixture_take (f);
  close (theirs);
  await_end (ours, LIMIT_USEC);
  close (ours);
}

/* Who does not read makes the other side wait, and nobody's memory fills up with it. */
static void
test_waits_for_reader (void)
{
  g_autoptr (Sshd) sshd = NULL;
  g_autoptr (Fixture) f = NULL;
  g_autoptr (mf_peer_address) address = NULL;
  Sender there = { .seed = 3 };
  GThread *thread;

  if (skip_without_sshd ())
    return;
  sshd = sshd_new ();
  f = fixture_new ();
  address = parse_address ("ssh://ferry%s", f->path);
  Sender here = { .fd = dial (address, MF_STREAM_DATA, 1), .seed = 3 };

  there.fd = fixture_take (f);
  thread = g_thread_new ("there", send_bulk, &there);
  /* Long enough for all of it to arrive if nothing held it back. */
  g_assert_false (mf_wait_fd (-1, 0, mf_deadline_after (G_USEC_PER_SEC), NULL, NULL));
  receive_bulk (here.fd, there.seed);
  g_thread_join (thread);
  close (there.fd);
  close (here.fd);
}

static void
assert_dial_fails (const mf_peer_address *address, int code, const char *part)
{
  g_autofree char *message = dial_error (address, 1, LIMIT_USEC, code);

  g_test_message ("%s", message);
  g_assert_nonnull (strstr (message, part));
  g_assert_null (strchr (message, '\n'));
}

static void
test_refusals (void)
{
  g_autoptr (Sshd) sshd = NULL;
  g_autoptr (Fixture) f = NULL;
  g_autoptr (mf_peer_address) address = NULL, nowhere = NULL, closed = NULL;

  if (skip_without_sshd ())
    return;
  sshd = sshd_new ();
  f = fixture_new ();
  address = parse_address ("ssh://ferry%s", f->path);
  nowhere = parse_address ("ssh://ferry%s.not-there", f->path);
  closed = parse_address ("ssh://127.0.0.1:%u", free_port ());
  assert_dial_fails (nowhere, MF_ERROR_CONNECTION, "nobody answers at");
  assert_dial_fails (closed, MF_ERROR_CONNECTION, "nobody answers at");
  configure_client (sshd, NULL, "user");
  assert_dial_fails (address, MF_ERROR_PERMISSION, "key is not known (SHA256:");
  configure_client (sshd, "other-host.pub", "user");
  assert_dial_fails (address, MF_ERROR_PERMISSION, "somebody else may answer there");
  configure_client (sshd, "host.pub", "stranger");
  assert_dial_fails (address, MF_ERROR_PERMISSION, "does not let this side in");
}

static gpointer
cancel_soon (gpointer cancellable)
{
  mf_wait_fd (-1, 0, mf_deadline_after (100000), NULL, NULL);
  g_cancellable_cancel (cancellable);
  return NULL;
}

/* Something that accepts and says nothing, as an sshd that hangs. */
static void
test_cancel (void)
{
  g_autoptr (Stranger) silent = stranger_new ("", 0, 0, 0, FALSE);
  g_autofree char *text =
      g_strdup_printf ("ssh://%s", mf_peer_address_text (stranger_address (silent)) + strlen ("tcp://"));
  g_autoptr (mf_peer_address) address = parse_address ("%s", text);
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  g_autoptr (GError) cancelled = NULL;
  mf_preface preface = preface_of (MF_STREAM_DATA, 1);
  GThread *thread = g_thread_new ("cancel", cancel_soon, cancellable);

  g_assert_cmpint (mf_link_dial (address, &preface, LIMIT_USEC, cancellable, &cancelled), ==, -1);
  g_assert_error (cancelled, MF_ERROR, MF_ERROR_CANCELLED);
  g_thread_join (thread);
}

static void
test_silent (void)
{
  g_autoptr (Stranger) silent = stranger_new ("", 0, 0, 0, FALSE);
  g_autofree char *text =
      g_strdup_printf ("ssh://%s", mf_peer_address_text (stranger_address (silent)) + strlen ("tcp://"));
  g_autoptr (mf_peer_address) address = parse_address ("%s", text);
  g_autofree char *message = dial_error (address, 1, 300000, MF_ERROR_TIMED_OUT);

  g_assert_nonnull (strstr (message, "logging in at"));
}

static void
test_not_for_listening (void)
{
  g_autoptr (Fixture) f = fixture_new ();
  g_autoptr (mf_peer_address) address = parse_address ("ssh://host");
  g_autoptr (GError) error = NULL;

  g_assert_false (mf_link_listener_add (f->listener, address, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_INVALID);
}

int
main (int argc, char **argv)
{
  signal (SIGPIPE, SIG_IGN);
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/link-ssh/carries", test_carries);
  g_test_add_func ("/link-ssh/ends", test_ends);
  g_test_add_func ("/link-ssh/waits-for-reader", test_waits_for_reader);
  g_test_add_func ("/link-ssh/refusals", test_refusals);
  g_test_add_func ("/link-ssh/cancel", test_cancel);
  g_test_add_func ("/link-ssh/silent", test_silent);
  g_test_add_func ("/link-ssh/not-for-listening", test_not_for_listening);
  return g_test_run ();
}
