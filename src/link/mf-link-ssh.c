/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One login a stream: libssh's sessions are one thread's, and so each stream has a processor of its own for its cipher.
 *
 * The connection is made by the link, as for tcp, so that it can be cancelled; libssh works on it without blocking. Then a thread shuttles between the
 * channel and one end of a socket pair, whose other end is the stream. Each direction has one buffer, which is filled when it is empty, so that who
 * does not read makes the other side wait, as a socket would.
 */
#include "link/mf-link-ssh.h"
#include "link/mf-link-socket.h"
#include "mf-schedule.h"
#include "mf-wait.h"

#include <errno.h>
#include <fcntl.h>
#include <libssh/libssh.h>
#include <unistd.h>

#define BUFFER_BYTES (256u << 10)

struct _mf_ssh {
  ssh_session session;
  ssh_channel channel;
  char *text; /* the address, for people */
  char *path; /* the socket there */
  int fd;     /* below the session; its own once it is connected */
};

/* What is on its way in one direction. */
typedef struct {
  uint8_t *bytes;
  size_t start, end;
  gboolean ended;  /* nothing more comes in */
  gboolean passed; /* ... and the other end was told */
} Flow;

typedef struct {
  mf_ssh *ssh;
  int local; /* our end of the pair */
  Flow out, in;
} Pump;

/* --- logging in --- */

static gboolean
ssh_failed (mf_ssh *ssh, MfError code, const char *what, GError **error)
{
  const char *why = ssh_get_error (ssh->session);

  g_set_error (error, MF_ERROR, code, "%s: %s%s%s", ssh->text, what, *why != '\0' ? ": " : "", why);
  return FALSE;
}

void
mf_ssh_free (mf_ssh *ssh)
{
  if (ssh == NULL)
    return;
  if (ssh->channel != NULL)
    ssh_channel_free (ssh->channel);
  ssh_disconnect (ssh->session);
  ssh_free (ssh->session);
  if (ssh->fd >= 0)
    close (ssh->fd);
  g_free (ssh->text);
  g_free (ssh->path);
  g_free (ssh);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_ssh, mf_ssh_free)

mf_ssh *
mf_ssh_new (const mf_peer_address *address, mf_ssh_place *place, GError **error)
{
  g_autoptr (mf_ssh) ssh = g_new0 (mf_ssh, 1);
  const char *config = g_getenv ("MEMFERRY_SSH_CONFIG");
  unsigned int port = 22;
  char *host = NULL;

  ssh->fd = -1;
  ssh->text = g_strdup (address->text);
  ssh->path = g_strdup (address->path);
  ssh->session = ssh_new ();
  if (ssh->session == NULL)
    g_error ("out of memory");
  /* What the address says goes before what the configuration says. */
  if (ssh_options_set (ssh->session, SSH_OPTIONS_HOST, address->host) < 0 ||
      (address->user != NULL && ssh_options_set (ssh->session, SSH_OPTIONS_USER, address->user) < 0) ||
      (config != NULL && ssh_options_parse_config (ssh->session, config) < 0) ||
      ssh_options_parse_config (ssh->session, NULL) < 0) {
    ssh_failed (ssh, MF_ERROR_INVALID, "the ssh configuration", error);
    return NULL;
  }
  if (address->port != 0) {
    port = address->port;
    ssh_options_set (ssh->session, SSH_OPTIONS_PORT, &port);
  }
  ssh_options_get_port (ssh->session, &port);
  if (ssh_options_get (ssh->session, SSH_OPTIONS_HOST, &host) < 0) {
    ssh_failed (ssh, MF_ERROR_INVALID, "the ssh configuration", error);
    return NULL;
  }
  place->host = g_strdup (host);
  place->port = (guint16) port;
  ssh_string_free_char (host);
  return g_steal_pointer (&ssh);
}

/* libssh has to wait for the other side. */
static gboolean
wait_session (mf_ssh *ssh, gint64 deadline_usec, GCancellable *cancellable, GError **error)
{
  short events = POLLIN | ((ssh_get_poll_flags (ssh->session) & SSH_WRITE_PENDING) != 0 ? POLLOUT : 0);

  if (mf_wait_fd (ssh->fd, events, deadline_usec, cancellable, error))
    return TRUE;
  g_prefix_error (error, "logging in at %s: ", ssh->text);
  return FALSE;
}

static gboolean
connect_session (mf_ssh *ssh, gint64 deadline_usec, GCancellable *cancellable, GError **error)
{
  int result;

  while ((result = ssh_connect (ssh->session)) == SSH_AGAIN) {
    if (!wait_session (ssh, deadline_usec, cancellable, error))
      return FALSE;
  }
  return result == SSH_OK || ssh_failed (ssh, MF_ERROR_CONNECTION, "no ssh connection", error);
}

static char *
fingerprint (mf_ssh *ssh)
{
  ssh_key key = NULL;
  unsigned char *hash = NULL;
  size_t length = 0;
  char *text = NULL;

  if (ssh_get_server_publickey (ssh->session, &key) == SSH_OK &&
      ssh_get_publickey_hash (key, SSH_PUBLICKEY_HASH_SHA256, &hash, &length) == 0) {
    char *printed = ssh_get_fingerprint_hash (SSH_PUBLICKEY_HASH_SHA256, hash, length);

    text = g_strdup (printed);
    ssh_string_free_char (printed);
    ssh_clean_pubkey_hash (&hash);
  }
  if (key != NULL)
    ssh_key_free (key);
  return text;
}

static gboolean
check_host_key (mf_ssh *ssh, GError **error)
{
  enum ssh_known_hosts_e known = ssh_session_is_known_server (ssh->session);
  g_autofree char *key = known != SSH_KNOWN_HOSTS_OK ? fingerprint (ssh) : NULL;

  switch (known) {
  case SSH_KNOWN_HOSTS_OK:
    return TRUE;
  case SSH_KNOWN_HOSTS_CHANGED:
  case SSH_KNOWN_HOSTS_OTHER:
    g_set_error (error, MF_ERROR, MF_ERROR_PERMISSION,
                 "%s: its key is not the one that is known of that host: somebody else may answer there (%s)",
                 ssh->text, key);
    return FALSE;
  case SSH_KNOWN_HOSTS_NOT_FOUND:
  case SSH_KNOWN_HOSTS_UNKNOWN:
    g_set_error (error, MF_ERROR, MF_ERROR_PERMISSION,
                 "%s: the host's key is not known (%s): log in there once with ssh, as the user that memferryd runs as",
                 ssh->text, key);
    return FALSE;
  case SSH_KNOWN_HOSTS_ERROR:
  default:
    return ssh_failed (ssh, MF_ERROR_PERMISSION, "its key can't be checked", error);
  }
}

static gboolean
authenticate (mf_ssh *ssh, gint64 deadline_usec, GCancellable *cancellable, GError **error)
{
  int result;

  while ((result = ssh_userauth_publickey_auto (ssh->session, NULL, NULL)) == SSH_AUTH_AGAIN) {
    if (!wait_session (ssh, deadline_usec, cancellable, error))
      return FALSE;
  }
  if (result == SSH_AUTH_SUCCESS)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_PERMISSION,
               "%s does not let this side in with any of the keys of the user that memferryd runs as", ssh->text);
  return FALSE;
}

static gboolean
open_channel (mf_ssh *ssh, gint64 deadline_usec, GCancellable *cancellable, GError **error)
{
  int result;

  ssh->channel = ssh_channel_new (ssh->session);
  if (ssh->channel == NULL)
    return ssh_failed (ssh, MF_ERROR_CONNECTION, "no ssh channel", error);
  while ((result = ssh_channel_open_forward_unix (ssh->channel, ssh->path, "localhost", 0)) == SSH_AGAIN) {
    if (!wait_session (ssh, deadline_usec, cancellable, error))
      return FALSE;
  }
  if (result == SSH_OK)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION,
               "%s: nobody answers at %s there, or this user may not connect to it, or sshd does not forward it (%s)",
               ssh->text, ssh->path, ssh_get_error (ssh->session));
  return FALSE;
}

/* --- passing on --- */

static gboolean
is_empty (const Flow *flow)
{
  return flow->start == flow->end;
}

static void
fill (Flow *flow, ssize_t n)
{
  flow->start = 0;
  flow->end = (size_t) n;
}

/* From the stream to the channel. FALSE: it is broken. */
static gboolean
pass_out (Pump *pump)
{
  Flow *flow = &pump->out;
  ssize_t n;

  if (is_empty (flow) && !flow->ended) {
    n = recv (pump->local, flow->bytes, BUFFER_BYTES, MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
      return FALSE;
    if (n == 0)
      flow->ended = TRUE;
    if (n > 0)
      fill (flow, n);
  }
  if (!is_empty (flow)) {
    n = ssh_channel_write (pump->ssh->channel, flow->bytes + flow->start, (uint32_t) (flow->end - flow->start));
    if (n == SSH_ERROR)
      return FALSE;
    flow->start += n > 0 ? (size_t) n : 0;
  }
  if (is_empty (flow) && flow->ended && !flow->passed) {
    ssh_channel_send_eof (pump->ssh->channel);
    flow->passed = TRUE;
  }
  return TRUE;
}

/* From the channel to the stream. FALSE: it is broken. */
static gboolean
pass_in (Pump *pump)
{
  Flow *flow = &pump->in;
  ssize_t n;

  if (is_empty (flow) && !flow->ended) {
    n = ssh_channel_read_nonblocking (pump->ssh->channel, flow->bytes, BUFFER_BYTES, 0);
    if (n == SSH_ERROR)
      return FALSE;
    if (n == SSH_EOF || (n == 0 && ssh_channel_is_eof (pump->ssh->channel)))
      flow->ended = TRUE;
    if (n > 0)
      fill (flow, n);
  }
  if (!is_empty (flow)) {
    n = send (pump->local, flow->bytes + flow->start, flow->end - flow->start, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
      return FALSE;
    flow->start += n > 0 ? (size_t) n : 0;
  }
  if (is_empty (flow) && flow->ended && !flow->passed) {
    shutdown (pump->local, SHUT_WR);
    flow->passed = TRUE;
  }
  return TRUE;
}

/* Sleeps until there may be something to do. FALSE: the stream's user has gone. */
static gboolean
wait_both (Pump *pump)
{
  ssh_channel channel = pump->ssh->channel;
  struct pollfd fds[2] = { { .fd = pump->local }, { .fd = pump->ssh->fd, .events = POLLIN } };
  /* Bytes, the end, or an error. */
  gboolean more_in = is_empty (&pump->in) && !pump->in.ended && ssh_channel_poll (channel, 0) != 0;
  gboolean more_out = !is_empty (&pump->out) && ssh_channel_window_size (channel) > 0;

  if (is_empty (&pump->out) && !pump->out.ended)
    fds[0].events |= POLLIN;
  /* A stream that its user has closed says so without end while it waits for the other side to take what is left. */
  if (!is_empty (&pump->out) && is_empty (&pump->in))
    fds[0].fd = -1;
  if (!is_empty (&pump->in)) {
    fds[0].events |= POLLOUT;
    /* Who does not read must not be read for, unless the other direction waits for a larger window, of which the same connection tells: then libssh keeps
     * what comes besides, no more than the window that it has given. */
    if (is_empty (&pump->out))
      fds[1].events = 0;
  }
  if ((ssh_get_poll_flags (pump->ssh->session) & SSH_WRITE_PENDING) != 0)
    fds[1].events |= POLLOUT;
  if (more_in || more_out)
    return TRUE;
  while (poll (fds, G_N_ELEMENTS (fds), -1) < 0) {
    if (errno != EINTR)
      return FALSE;
  }
  /* Both directions of the stream are closed, and nothing is left in it. */
  return (fds[0].revents & (POLLHUP | POLLERR)) == 0 || (fds[0].revents & POLLIN) != 0 || !pump->out.passed;
}

static gpointer
run_pump (gpointer data)
{
  Pump *pump = data;

  mf_schedule_bulk ();
  while (!(pump->out.passed && pump->in.passed) && pass_in (pump) && pass_out (pump) && wait_both (pump))
    continue;
  g_debug ("%s: a stream ends (%s)", pump->ssh->text, ssh_get_error (pump->ssh->session));
  /* What is still in libssh's buffers goes out before the goodbye. */
  ssh_set_blocking (pump->ssh->session, 1);
  ssh_blocking_flush (pump->ssh->session, 1000);
  close (pump->local);
  mf_ssh_free (pump->ssh);
  g_free (pump->out.bytes);
  g_free (pump->in.bytes);
  g_free (pump);
  return NULL;
}

static int
start_pump (mf_ssh *ssh, GError **error)
{
  Pump *pump;
  int ends[2];

  if (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) {
    mf_error_from_errno (error, errno, "making a socket for %s", ssh->text);
    mf_ssh_free (ssh);
    return -1;
  }
  pump = g_new0 (Pump, 1);
  pump->ssh = ssh;
  pump->local = ends[0];
  pump->out.bytes = g_malloc (BUFFER_BYTES);
  pump->in.bytes = g_malloc (BUFFER_BYTES);
  g_thread_unref (g_thread_new ("mf-ssh", run_pump, pump));
  return ends[1];
}

int
mf_ssh_open (mf_ssh *owned, int fd, gint64 deadline_usec, GCancellable *cancellable, GError **error)
{
  g_autoptr (mf_ssh) ssh = owned;
  socket_t given;

  mf_link_set_stream_options (fd);
  /* libssh closes what it was given; the other one is for waiting, and outlives it. */
  ssh->fd = fd;
  given = fcntl (fd, F_DUPFD_CLOEXEC, 0);
  if (given < 0) {
    mf_error_from_errno (error, errno, "duplicating a socket");
    return -1;
  }
  ssh_options_set (ssh->session, SSH_OPTIONS_FD, &given);
  ssh_set_blocking (ssh->session, 0);
  if (!connect_session (ssh, deadline_usec, cancellable, error) || !check_host_key (ssh, error) ||
      !authenticate (ssh, deadline_usec, cancellable, error) || !open_channel (ssh, deadline_usec, cancellable, error))
    return -1;
  return start_pump (g_steal_pointer (&ssh), error);
}
