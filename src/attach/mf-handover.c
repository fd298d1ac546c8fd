/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One connection a program and region. Its stages:
 *
 *   OFFER        --offer + file-->  the device is sent
 *   DESCRIPTORS  --descriptors + both userfaultfds-->  the owner is told, then the program
 *   ATTACHED     --mappings-->  (any number of times)
 *
 * What does not fit ends the connection, with a refusal where it can be the program's user's mistake. The first two stages have
 * a deadline; in the last one silence is the normal thing, and the end of the connection is the end of the program.
 */
#include "attach/mf-handover.h"
#include "attach/mf-handover-message.h"
#include "track/mf-uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define DEADLINE_SECONDS 10
#define PEERS_MAX        512
#define FDS_MAX          4
/* How long nothing is accepted when descriptors have run out. */
#define PAUSE_MSEC 200

typedef enum {
  STAGE_OFFER,
  STAGE_DESCRIPTORS,
  STAGE_ATTACHED,
} peer_stage;

typedef struct {
  MfHandover *handover;
  int fd;
  pid_t pid;
  GSource *source, *deadline;
  GByteArray *line; /* what has come of the next line */
  int fds[FDS_MAX]; /* what has come with it */
  guint n_fds;
  peer_stage stage;
  mf_handover_message offer;
  MfRegion *region;
  MfUserfault *userfault;
} handover_peer;

struct _MfHandover {
  char *path;
  dev_t device; /* of the socket's file */
  ino_t inode;
  int listen_fd, device_fd;
  GMainContext *context;
  GSource *accept_source, *pause_source;
  mf_handover_callbacks callbacks;
  gpointer user_data;
  GPtrArray *peers;
};

static void
clear_source (GSource **source)
{
  if (!*source)
    return;
  g_source_destroy (*source);
  g_clear_pointer (source, g_source_unref);
}

static void
close_fds (handover_peer *peer)
{
  while (peer->n_fds > 0)
    close (peer->fds[--peer->n_fds]);
}

static void
peer_free (gpointer data)
{
  handover_peer *peer = data;

  clear_source (&peer->source);
  clear_source (&peer->deadline);
  close_fds (peer);
  close (peer->fd);
  g_byte_array_unref (peer->line);
  g_clear_object (&peer->region);
  g_clear_pointer (&peer->userfault, mf_userfault_unref);
  g_free (peer);
}

/* The connection has ended, or is ended. */
static void
drop (handover_peer *peer)
{
  MfHandover *handover = peer->handover;
  g_autoptr (MfUserfault) userfault = g_steal_pointer (&peer->userfault);

  g_ptr_array_remove_fast (handover->peers, peer);
  if (userfault)
    handover->callbacks.detached (userfault, handover->user_data);
}

/* The line is short and the program waits for it, so it fits into the socket's buffer, or the program is not one of ours. */
static gboolean
send_line (handover_peer *peer, const char *line, int fd)
{
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE (sizeof (int))];
  } control = { 0 };
  struct iovec part = { (char *) line, strlen (line) };
  struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

  if (fd >= 0) {
    struct cmsghdr *header = &control.align;

    message.msg_control = control.bytes;
    message.msg_controllen = sizeof (control.bytes);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN (sizeof (int));
    memcpy (CMSG_DATA (header), &fd, sizeof (int));
  }
  return sendmsg (peer->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t) part.iov_len;
}

static gboolean
answer (handover_peer *peer, const char *type, int fd, GError **error)
{
  g_autofree char *line = mf_handover_answer (type);

  if (send_line (peer, line, fd))
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION, "Hand-over: the program does not read the answer");
  return FALSE;
}

static gboolean
expect_fds (handover_peer *peer, guint n_fds, GError **error)
{
  if (peer->n_fds == n_fds)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "Hand-over: %u descriptors came where there must be %u", peer->n_fds,
               n_fds);
  return FALSE;
}

/* A program has a region once; one that hands it over again may do so before the end of its former connection was noticed. */
static gboolean
make_way (handover_peer *peer, GError **error)
{
  MfHandover *handover = peer->handover;

  for (guint i = 0; i < handover->peers->len; i++) {
    handover_peer *other = g_ptr_array_index (handover->peers, i);

    if (other == peer || other->region != peer->region)
      continue;
    if (other->pid != peer->pid) {
      g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "region %s is attached to process %d",
                   mf_region_get_name (peer->region), (int) other->pid);
      return FALSE;
    }
    drop (other);
    return TRUE;
  }
  return TRUE;
}

static gboolean
take_offer (handover_peer *peer, const mf_handover_message *message, GError **error)
{
  MfHandover *handover = peer->handover;
  int flags;

  if (!expect_fds (peer, 1, error))
    return FALSE;
  flags = fcntl (peer->fds[0], F_GETFL);
  if (flags < 0 || (flags & O_PATH) || (flags & O_ACCMODE) != O_RDWR) {
    g_set_error (error, MF_ERROR, MF_ERROR_PERMISSION, "the file is not open for reading and writing");
    return FALSE;
  }
  peer->region = handover->callbacks.find_region (peer->fds[0], peer->pid, error, handover->user_data);
  close_fds (peer);
  if (!peer->region || !make_way (peer, error))
    return FALSE;
  peer->offer = *message;
  peer->stage = STAGE_DESCRIPTORS;
  return answer (peer, "device", handover->device_fd, error);
}

static gboolean
take_descriptors (handover_peer *peer, GError **error)
{
  MfHandover *handover = peer->handover;

  if (!expect_fds (peer, 2, error))
    return FALSE;
  peer->n_fds = 0;
  peer->userfault = mf_userfault_new (peer->region, peer->pid, peer->offer.mappings, peer->offer.n_mappings,
                                      peer->fds[0], peer->fds[1], error);
  if (!peer->userfault)
    return FALSE;
  clear_source (&peer->deadline);
  peer->stage = STAGE_ATTACHED;
  handover->callbacks.attached (mf_userfault_ref (peer->userfault), peer->offer.generation > 0, handover->user_data);
  return answer (peer, "attached", -1, error);
}

static gboolean
take_mappings (handover_peer *peer, const mf_handover_message *message, GError **error)
{
  if (!expect_fds (peer, 0, error) ||
      !mf_userfault_set_mappings (peer->userfault, message->mappings, message->n_mappings, error))
    return FALSE;
  return answer (peer, "mapped", -1, error);
}

static gboolean
take_line (handover_peer *peer, const char *line, gsize length, GError **error)
{
  mf_handover_message message;

  if (!mf_handover_message_parse (line, length, &message, error))
    return FALSE;
  if (peer->stage == STAGE_OFFER && message.type == MF_HANDOVER_OFFER)
    return take_offer (peer, &message, error);
  if (peer->stage == STAGE_DESCRIPTORS && message.type == MF_HANDOVER_DESCRIPTORS)
    return take_descriptors (peer, error);
  if (peer->stage == STAGE_ATTACHED && message.type == MF_HANDOVER_MAPPINGS)
    return take_mappings (peer, &message, error);
  g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "Hand-over: a message out of turn");
  return FALSE;
}

/* Receives what is there. FALSE: the connection has ended, or sent what can't be (then with an error). */
static gboolean
receive (handover_peer *peer, GError **error)
{
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE (FDS_MAX * sizeof (int))];
  } control;
  guint8 bytes[4096];
  struct iovec part = { bytes, sizeof (bytes) };
  struct msghdr message = {
    .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof (control.bytes)
  };
  const ssize_t got = recvmsg (peer->fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  gboolean too_many = (message.msg_flags & MSG_CTRUNC) != 0;

  if (got <= 0)
    return got < 0 && (errno == EAGAIN || errno == EINTR);
  for (struct cmsghdr *header = CMSG_FIRSTHDR (&message); header; header = CMSG_NXTHDR (&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
      continue;
    for (gsize i = 0; i < (header->cmsg_len - CMSG_LEN (0)) / sizeof (int); i++) {
      int fd;

      memcpy (&fd, CMSG_DATA (header) + i * sizeof (int), sizeof (int));
      if (peer->n_fds < FDS_MAX)
        peer->fds[peer->n_fds++] = fd;
      else {
        close (fd);
        too_many = TRUE;
      }
    }
  }
  g_byte_array_append (peer->line, bytes, (guint) got);
  if (!too_many && peer->line->len <= MF_HANDOVER_LINE_MAX)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "Hand-over: a message that is too long");
  return FALSE;
}

static gboolean
peer_readable (gint fd, GIOCondition condition, gpointer user_data)
{
  handover_peer *peer = user_data;
  g_autoptr (GError) error = NULL;
  gboolean is_open = receive (peer, &error);
  const guint8 *newline = NULL;

  while (is_open && (newline = memchr (peer->line->data, '\n', peer->line->len))) {
    const guint length = (guint) (newline - peer->line->data);

    is_open = take_line (peer, (const char *) peer->line->data, length, &error);
    g_byte_array_remove_range (peer->line, 0, length + 1);
    if (!is_open && peer->stage == STAGE_ATTACHED && error->code != MF_ERROR_PROTOCOL &&
        error->code != MF_ERROR_CONNECTION) {
      /* A mapping that can't be looked after does not end what there is. */
      g_autofree char *line = mf_handover_refusal (error->message);

      is_open = send_line (peer, line, -1);
      g_clear_error (&error);
    }
  }
  if (is_open)
    return G_SOURCE_CONTINUE;
  if (error) {
    g_autofree char *line = mf_handover_refusal (error->message);

    send_line (peer, line, -1);
    g_info ("Process %d: %s", (int) peer->pid, error->message);
  }
  drop (peer);
  return G_SOURCE_REMOVE;
}

static gboolean
peer_too_slow (gpointer user_data)
{
  drop (user_data);
  return G_SOURCE_REMOVE;
}

static void
add_peer (MfHandover *handover, int fd)
{
  handover_peer *peer = g_new0 (handover_peer, 1);
  struct ucred credentials = { 0 };
  socklen_t length = sizeof (credentials);

  peer->handover = handover;
  peer->fd = fd;
  peer->line = g_byte_array_new ();
  /* As the service sees the process: it may not even know this number itself, in a pid namespace. */
  if (getsockopt (fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0 || handover->peers->len >= PEERS_MAX) {
    peer_free (peer);
    return;
  }
  peer->pid = credentials.pid;
  peer->source = g_unix_fd_source_new (fd, G_IO_IN | G_IO_HUP | G_IO_ERR);
  g_source_set_callback (peer->source, G_SOURCE_FUNC (peer_readable), peer, NULL);
  g_source_attach (peer->source, handover->context);
  peer->deadline = g_timeout_source_new_seconds (DEADLINE_SECONDS);
  g_source_set_callback (peer->deadline, peer_too_slow, peer, NULL);
  g_source_attach (peer->deadline, handover->context);
  g_ptr_array_add (handover->peers, peer);
}

static void start_accepting (MfHandover *handover);

static gboolean
accept_again (gpointer user_data)
{
  MfHandover *handover = user_data;

  clear_source (&handover->pause_source);
  start_accepting (handover);
  return G_SOURCE_REMOVE;
}

static gboolean
accept_ready (gint listen_fd, GIOCondition condition, gpointer user_data)
{
  MfHandover *handover = user_data;
  const int fd = accept4 (listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

  if (fd >= 0) {
    add_peer (handover, fd);
    return G_SOURCE_CONTINUE;
  }
  if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
    return G_SOURCE_CONTINUE;
  g_warning ("%s: accepting a program: %s", handover->path, g_strerror (errno));
  clear_source (&handover->accept_source);
  handover->pause_source = g_timeout_source_new (PAUSE_MSEC);
  g_source_set_callback (handover->pause_source, accept_again, handover, NULL);
  g_source_attach (handover->pause_source, handover->context);
  return G_SOURCE_REMOVE;
}

static void
start_accepting (MfHandover *handover)
{
  handover->accept_source = g_unix_fd_source_new (handover->listen_fd, G_IO_IN);
  g_source_set_callback (handover->accept_source, G_SOURCE_FUNC (accept_ready), handover, NULL);
  g_source_attach (handover->accept_source, handover->context);
}

/* Whether the socket at `address` is one that nobody listens at any more. */
static gboolean
is_stale (const struct sockaddr_un *address)
{
  struct stat st;
  gboolean stale;
  int fd;

  if (lstat (address->sun_path, &st) < 0 || !S_ISSOCK (st.st_mode))
    return FALSE;
  fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return FALSE;
  stale = connect (fd, (const struct sockaddr *) address, sizeof (*address)) < 0 && errno == ECONNREFUSED;
  close (fd);
  return stale;
}

static gboolean
start_listening (MfHandover *handover, GError **error)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  const struct sockaddr *any = (const struct sockaddr *) &address;
  struct stat st;
  int code;

  if (strlen (handover->path) >= sizeof (address.sun_path))
    return mf_error_from_errno (error, ENAMETOOLONG, "%s", handover->path);
  strcpy (address.sun_path, handover->path);
  handover->listen_fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (handover->listen_fd < 0)
    return mf_error_from_errno (error, errno, "Making a socket");
  code = bind (handover->listen_fd, any, sizeof (address)) < 0 ? errno : 0;
  if (code == EADDRINUSE && is_stale (&address)) {
    unlink (handover->path);
    code = bind (handover->listen_fd, any, sizeof (address)) < 0 ? errno : 0;
  }
  if (code != 0)
    return mf_error_from_errno (error, code, "Listening for programs at %s", handover->path);
  /* Anybody may knock: who may have a region is shown by the descriptor of its file. */
  if (chmod (handover->path, 0666) < 0 || stat (handover->path, &st) < 0 || listen (handover->listen_fd, 64) < 0)
    return mf_error_from_errno (error, errno, "Listening for programs at %s", handover->path);
  handover->device = st.st_dev;
  handover->inode = st.st_ino;
  return TRUE;
}

MfHandover *
mf_handover_new_on (int listen_fd, const char *path, const mf_handover_callbacks *callbacks, gpointer user_data,
                    GError **error)
{
  g_autoptr (MfHandover) handover = g_new0 (MfHandover, 1);

  handover->path = g_strdup (path);
  handover->listen_fd = listen_fd;
  handover->context = g_main_context_ref_thread_default ();
  handover->callbacks = *callbacks;
  handover->user_data = user_data;
  handover->peers = g_ptr_array_new_with_free_func (peer_free);
  handover->device_fd = mf_uffd_open_device (error);
  if (handover->device_fd < 0 || (listen_fd < 0 && !start_listening (handover, error)))
    return NULL;
  start_accepting (handover);
  return g_steal_pointer (&handover);
}

MfHandover *
mf_handover_new (const char *path, const mf_handover_callbacks *callbacks, gpointer user_data, GError **error)
{
  return mf_handover_new_on (-1, path, callbacks, user_data, error);
}

void
mf_handover_free (MfHandover *handover)
{
  struct stat st;

  clear_source (&handover->accept_source);
  clear_source (&handover->pause_source);
  g_ptr_array_unref (handover->peers);
  /* Not a successor's. */
  if (handover->inode != 0 && stat (handover->path, &st) == 0 && st.st_dev == handover->device &&
      st.st_ino == handover->inode)
    unlink (handover->path);
  if (handover->listen_fd >= 0)
    close (handover->listen_fd);
  if (handover->device_fd >= 0)
    close (handover->device_fd);
  g_main_context_unref (handover->context);
  g_free (handover->path);
  g_free (handover);
}
