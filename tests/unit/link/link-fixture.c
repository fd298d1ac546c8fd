/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "link-fixture.h"
#include "link/mf-peer-address.h"
#include "mf-wait.h"

#include <arpa/inet.h>
#include <errno.h>
#include <glib/gstdio.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

#define PATIENCE_USEC (10 * G_USEC_PER_SEC)

/* Waits on `changed`, with `lock` held; fails the test when it takes too long. */
static void
wait_changed (Fixture *fixture)
{
  struct timespec limit;

  clock_gettime (CLOCK_REALTIME, &limit);
  limit.tv_sec += PATIENCE_USEC / G_USEC_PER_SEC;
  g_assert_cmpint (pthread_cond_timedwait (&fixture->changed, &fixture->lock, &limit), ==, 0);
}

static gboolean
refuse_with (MfError code, GError **error)
{
  g_set_error (error, MF_ERROR, code, "the test refuses this one");
  return FALSE;
}

static gboolean
on_accept (int fd, const mf_preface *preface, gpointer user_data, GError **error)
{
  Fixture *fixture = user_data;

  switch (preface->session[0]) {
  case SESSION_BYTE_UNKNOWN:
    return refuse_with (MF_ERROR_NOT_FOUND, error);
  case SESSION_BYTE_BUSY:
    return refuse_with (MF_ERROR_BUSY, error);
  case SESSION_BYTE_FAILING:
    return refuse_with (MF_ERROR_NO_SPACE, error);
  default:
    break;
  }
  pthread_mutex_lock (&fixture->lock);
  if (preface->session[0] == SESSION_BYTE_BLOCKS) {
    fixture->n_blocked++;
    pthread_cond_broadcast (&fixture->changed);
    while (!fixture->unblocked)
      wait_changed (fixture);
  }
  pthread_mutex_unlock (&fixture->lock);
  /* Before anybody has it who may close it. */
  mf_link_answer (fd, preface, NULL);
  pthread_mutex_lock (&fixture->lock);
  fixture->last = *preface;
  g_array_append_val (fixture->taken, fd);
  pthread_cond_broadcast (&fixture->changed);
  pthread_mutex_unlock (&fixture->lock);
  return TRUE;
}

Fixture *
fixture_new (void)
{
  Fixture *fixture = g_new0 (Fixture, 1);
  g_autoptr (GError) error = NULL;

  fixture->folder = g_dir_make_tmp ("memferry-link-XXXXXX", &error);
  g_assert_no_error (error);
  fixture->path = g_build_filename (fixture->folder, "link", NULL);
  fixture->address = parse_address ("unix:%s", fixture->path);
  fixture->taken = g_array_new (FALSE, FALSE, sizeof (int));
  pthread_mutex_init (&fixture->lock, NULL);
  pthread_cond_init (&fixture->changed, NULL);
  fixture->listener = mf_link_listener_new (on_accept, fixture);
  mf_link_listener_add (fixture->listener, fixture->address, &error);
  g_assert_no_error (error);
  return fixture;
}

void
fixture_free (Fixture *fixture)
{
  fixture_unblock (fixture);
  mf_link_listener_free (fixture->listener);
  for (guint i = 0; i < fixture->taken->len; i++)
    close (g_array_index (fixture->taken, int, i));
  g_array_unref (fixture->taken);
  g_unlink (fixture->path);
  g_assert_cmpint (g_rmdir (fixture->folder), ==, 0);
  mf_peer_address_free (fixture->address);
  pthread_cond_destroy (&fixture->changed);
  pthread_mutex_destroy (&fixture->lock);
  g_free (fixture->path);
  g_free (fixture->folder);
  g_free (fixture);
}

int
fixture_take (Fixture *fixture)
{
  int fd;

  pthread_mutex_lock (&fixture->lock);
  while (fixture->taken->len == 0)
    wait_changed (fixture);
  fd = g_array_index (fixture->taken, int, 0);
  g_array_remove_index (fixture->taken, 0);
  pthread_mutex_unlock (&fixture->lock);
  return fd;
}

void
fixture_unblock (Fixture *fixture)
{
  pthread_mutex_lock (&fixture->lock);
  fixture->unblocked = TRUE;
  pthread_cond_broadcast (&fixture->changed);
  pthread_mutex_unlock (&fixture->lock);
}

void
fixture_await_blocked (Fixture *fixture, guint n)
{
  pthread_mutex_lock (&fixture->lock);
  while (fixture->n_blocked < n)
    wait_changed (fixture);
  pthread_mutex_unlock (&fixture->lock);
}

mf_peer_address *
fixture_add_tcp (Fixture *fixture)
{
  g_autoptr (mf_peer_address) any = parse_address ("tcp://127.0.0.1:0");
  g_autoptr (GError) error = NULL;

  mf_link_listener_add (fixture->listener, any, &error);
  g_assert_no_error (error);
  return parse_address ("tcp://127.0.0.1:%u", mf_link_listener_port (fixture->listener));
}

mf_preface
preface_of (mf_stream_kind kind, guint8 session_byte)
{
  mf_preface preface = { .kind = kind };

  memset (preface.session, session_byte, sizeof preface.session);
  return preface;
}

mf_peer_address *
parse_address (const char *format, ...)
{
  g_autofree char *text = NULL;
  g_autoptr (GError) error = NULL;
  mf_peer_address *address;
  va_list args;

  va_start (args, format);
  text = g_strdup_vprintf (format, args);
  va_end (args);
  address = mf_peer_address_parse (text, &error);
  g_assert_no_error (error);
  return address;
}

int
dial (const mf_peer_address *address, mf_stream_kind kind, guint8 session_byte)
{
  mf_preface preface = preface_of (kind, session_byte);
  g_autoptr (GError) error = NULL;
  int fd = mf_link_dial (address, &preface, PATIENCE_USEC, NULL, &error);

  g_assert_no_error (error);
  g_assert_cmpint (fd, >=, 0);
  return fd;
}

char *
dial_error (const mf_peer_address *address, guint8 session_byte, gint64 timeout_usec, int code)
{
  mf_preface preface = preface_of (MF_STREAM_DATA, session_byte);
  g_autoptr (GError) error = NULL;

  g_assert_cmpint (mf_link_dial (address, &preface, timeout_usec, NULL, &error), ==, -1);
  g_assert_error (error, MF_ERROR, code);
  g_assert_null (strchr (error->message, '\n'));
  g_test_message ("%s", error->message);
  return g_strdup (error->message);
}

int
connect_raw (Fixture *fixture)
{
  struct sockaddr_storage name;
  socklen_t name_bytes = mf_peer_address_to_unix (fixture->address, &name);
  int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

  g_assert_cmpint (connect (fd, (struct sockaddr *) &name, name_bytes), ==, 0);
  return fd;
}

void
send_all (int fd, const void *bytes, size_t n)
{
  g_assert_cmpint (send (fd, bytes, n, MSG_NOSIGNAL), ==, n);
}

void
receive_all (int fd, void *bytes, size_t n)
{
  gint64 deadline_usec = mf_deadline_after (PATIENCE_USEC);

  for (size_t have = 0; have < n;) {
    g_autoptr (GError) error = NULL;
    ssize_t got;

    mf_wait_fd (fd, POLLIN, deadline_usec, NULL, &error);
    g_assert_no_error (error);
    got = read (fd, (char *) bytes + have, n - have);
    g_assert_cmpint (got, >, 0);
    have += got;
  }
}

void
await_end (int fd, gint64 timeout_usec)
{
  gint64 deadline_usec = mf_deadline_after (timeout_usec);
  char ignored[64];
  ssize_t got;

  do {
    g_autoptr (GError) error = NULL;

    mf_wait_fd (fd, POLLIN, deadline_usec, NULL, &error);
    g_assert_no_error (error);
    got = read (fd, ignored, sizeof ignored);
  } while (got > 0);
  if (got < 0)
    g_assert_cmpint (errno, ==, ECONNRESET);
}

struct _Stranger {
  const char *bytes;
  size_t n_bytes, reads_first;
  gint64 pause_usec;
  gboolean closes;
  int listen_fd;
  GCancellable *stop;
  mf_peer_address *address;
  pthread_t thread;
};

static void
stranger_talk (Stranger *stranger, int fd)
{
  size_t at_once = stranger->pause_usec == 0 ? stranger->n_bytes : 1;
  char ignored[64];

  if (stranger->reads_first > 0)
    receive_all (fd, ignored, stranger->reads_first);
  for (size_t sent = 0; sent < stranger->n_bytes; sent += at_once) {
    if (sent > 0)
      mf_wait_fd (-1, 0, mf_deadline_after (stranger->pause_usec), stranger->stop, NULL);
    if (send (fd, stranger->bytes + sent, at_once, MSG_NOSIGNAL) < 0)
      return;
  }
  if (!stranger->closes)
    mf_wait_fd (-1, 0, -1, stranger->stop, NULL);
}

static void *
stranger_thread (void *data)
{
  Stranger *stranger = data;
  int fd;

  if (!mf_wait_fd (stranger->listen_fd, POLLIN, -1, stranger->stop, NULL))
    return NULL;
  fd = accept (stranger->listen_fd, NULL, NULL);
  stranger_talk (stranger, fd);
  close (fd);
  return NULL;
}

Stranger *
stranger_new (const void *bytes, size_t n_bytes, size_t reads_first, gint64 pause_usec, gboolean closes)
{
  Stranger *stranger = g_new0 (Stranger, 1);
  struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr.s_addr = htonl (INADDR_LOOPBACK) };
  socklen_t size = sizeof name;

  stranger->bytes = bytes;
  stranger->n_bytes = n_bytes;
  stranger->reads_first = reads_first;
  stranger->pause_usec = pause_usec;
  stranger->closes = closes;
  stranger->stop = g_cancellable_new ();
  stranger->listen_fd = socket (AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  g_assert_cmpint (bind (stranger->listen_fd, (struct sockaddr *) &name, size), ==, 0);
  g_assert_cmpint (listen (stranger->listen_fd, 1), ==, 0);
  g_assert_cmpint (getsockname (stranger->listen_fd, (struct sockaddr *) &name, &size), ==, 0);
  stranger->address = parse_address ("tcp://127.0.0.1:%u", ntohs (name.sin_port));
  g_assert_cmpint (pthread_create (&stranger->thread, NULL, stranger_thread, stranger), ==, 0);
  return stranger;
}

const mf_peer_address *
stranger_address (Stranger *stranger)
{
  return stranger->address;
}

void
stranger_free (Stranger *stranger)
{
  g_cancellable_cancel (stranger->stop);
  pthread_join (stranger->thread, NULL);
  close (stranger->listen_fd);
  g_object_unref (stranger->stop);
  mf_peer_address_free (stranger->address);
  g_free (stranger);
}
