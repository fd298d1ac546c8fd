/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A UNIX socket is made under another name, given its mode, made to listen and then renamed to its path. So nobody can connect
 * to it before its mode is right, and a stale file is replaced in one step. That the file is stale is found out under a lock on its folder, or two services that start at once
 * could each take the other's new socket for a stale one.
 */
#include "link/mf-link-bind.h"
#include "link/mf-link-socket.h"
#include "mf-wait.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 64
/* How long to wait for another service that is just starting in the same folder. */
#define LOCK_USEC       G_USEC_PER_SEC
#define LOCK_RETRY_USEC 5000
#define RESOLVE_USEC    (10 * G_USEC_PER_SEC)

static void
close_fd (int *fd)
{
  if (*fd >= 0)
    close (*fd);
}
#define AUTO_CLOSE __attribute__ ((cleanup (close_fd)))

static int
steal_fd (int *fd)
{
  int stolen = *fd;

  *fd = -1;
  return stolen;
}

static int
open_socket (int family, GError **error)
{
  int fd = socket (family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

  if (fd < 0)
    mf_error_from_errno (error, errno, "making a socket");
  return fd;
}

/* A descriptor that holds the lock of `path`'s folder until it is closed. */
static int
lock_folder_of (const char *path, GError **error)
{
  g_autofree char *folder = g_path_get_dirname (path);
  gint64 deadline_usec = mf_deadline_after (LOCK_USEC);
  int fd = open (folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

  if (fd < 0) {
    mf_error_from_errno (error, errno, "listening at %s: folder %s", path, folder);
    return -1;
  }
  while (flock (fd, LOCK_EX | LOCK_NB) < 0) {
    if (errno != EINTR && (errno != EWOULDBLOCK || g_get_monotonic_time () >= deadline_usec)) {
      mf_error_from_errno (error, errno == EWOULDBLOCK ? EBUSY : errno, "locking folder %s", folder);
      close (fd);
      return -1;
    }
    mf_wait_fd (-1, 0, mf_deadline_after (LOCK_RETRY_USEC), NULL, NULL);
  }
  return fd;
}

/* Nothing is there, or a socket at which nobody listens. */
static gboolean
path_is_free (const mf_peer_address *address, GError **error)
{
  struct sockaddr_storage name;
  socklen_t name_bytes = mf_peer_address_to_unix (address, &name);
  struct stat st;
  AUTO_CLOSE int fd = -1;

  if (lstat (address->path, &st) < 0)
    return errno == ENOENT || mf_error_from_errno (error, errno, "listening at %s", address->text);
  if (!S_ISSOCK (st.st_mode)) {
    g_set_error (error, MF_ERROR, MF_ERROR_EXISTS, "listening at %s: the file exists and is no socket", address->text);
    return FALSE;
  }
  fd = open_socket (AF_UNIX, error);
  if (fd < 0)
    return FALSE;
  if (connect (fd, (struct sockaddr *) &name, name_bytes) < 0 && errno == ECONNREFUSED)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "listening at %s: another program listens there", address->text);
  return FALSE;
}

/* Binds `fd` at `path`, listens, and lets it appear as `final_path`. Leaves nothing behind when it fails. */
static gboolean
bind_unix_as (int fd, const char *path, const char *final_path, struct stat *st, GError **error)
{
  struct sockaddr_un name = { .sun_family = AF_UNIX };

  g_strlcpy (name.sun_path, path, sizeof name.sun_path);
  if (bind (fd, (struct sockaddr *) &name, sizeof name) < 0)
    return mf_error_from_errno (error, errno, "listening at %s", final_path);
  if (chmod (path, 0660) == 0 && lstat (path, st) == 0 && listen (fd, BACKLOG) == 0 && rename (path, final_path) == 0)
    return TRUE;
  mf_error_from_errno (error, errno, "listening at %s", final_path);
  unlink (path);
  return FALSE;
}

static gboolean
bind_unix (const mf_peer_address *address, mf_bound_socket *out, GError **error)
{
  AUTO_CLOSE int lock_fd = lock_folder_of (address->path, error);
  AUTO_CLOSE int fd = -1;
  /* A name of its own in the same folder. Under the lock nobody else makes one; a file of that name is left over from a crash. It is
   * opened through the folder's descriptor, so that it is never too long for a socket's address. */
  g_autofree char *aside = g_strdup_printf ("/proc/self/fd/%d/.memferry-%d", lock_fd, (int) getpid ());
  struct stat st;

  if (lock_fd < 0 || !path_is_free (address, error))
    return FALSE;
  unlink (aside);
  fd = open_socket (AF_UNIX, error);
  if (fd < 0 || !bind_unix_as (fd, aside, address->path, &st, error))
    return FALSE;
  *out =
      (mf_bound_socket){ .fd = steal_fd (&fd), .path = g_strdup (address->path), .dev = st.st_dev, .ino = st.st_ino };
  return TRUE;
}

static gboolean
take_unix (const mf_peer_address *address, mf_kept_sockets *kept, mf_bound_socket *out)
{
  *out = (mf_bound_socket){ .fd = mf_kept_sockets_take_path (kept, address->path) };
  return out->fd >= 0;
}

static guint16
port_of (int fd)
{
  struct sockaddr_storage name;
  socklen_t size = sizeof name;

  if (getsockname (fd, (struct sockaddr *) &name, &size) < 0)
    return 0;
  /* Both families have it at the same place. */
  return ntohs (((struct sockaddr_in *) &name)->sin_port);
}

static gboolean
bind_tcp (const mf_peer_address *address, const struct addrinfo *name, mf_kept_sockets *kept, mf_bound_socket *out,
          GError **error)
{
  AUTO_CLOSE int fd = mf_kept_sockets_take (kept, name->ai_addr);
  int one = 1;

  if (fd >= 0) {
    *out = (mf_bound_socket){ .port = port_of (fd) };
    out->fd = steal_fd (&fd);
    return TRUE;
  }
  fd = open_socket (name->ai_family, error);
  if (fd < 0)
    return FALSE;
  if (setsockopt (fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
      bind (fd, name->ai_addr, name->ai_addrlen) < 0 || listen (fd, BACKLOG) < 0)
    return mf_error_from_errno (error, errno, "listening at %s", address->text);
  mf_kept_sockets_keep (kept, fd);
  *out = (mf_bound_socket){ .port = port_of (fd) };
  out->fd = steal_fd (&fd);
  return TRUE;
}

guint
mf_link_bind (const mf_peer_address *address, mf_kept_sockets *kept, mf_bound_socket *out, guint max, GError **error)
{
  struct addrinfo *found;
  guint n = 0;
  gboolean ok = TRUE;

  if (address->kind == MF_PEER_SSH) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
                 "%s is to connect to, not to listen at: ssh brings others to the UNIX socket that is there anyway",
                 address->text);
    return 0;
  }
  if (address->kind == MF_PEER_UNIX)
    return take_unix (address, kept, out) || bind_unix (address, out, error) ? 1 : 0;
  found = mf_link_resolve (address, TRUE, mf_deadline_after (RESOLVE_USEC), NULL, error);
  for (const struct addrinfo *a = found; a != NULL && n < max && ok; a = a->ai_next) {
    ok = bind_tcp (address, a, kept, &out[n], error);
    if (ok)
      n++;
  }
  if (found != NULL)
    freeaddrinfo (found);
  while (!ok && n > 0)
    mf_bound_socket_close (&out[--n]);
  return n;
}

void
mf_bound_socket_close (mf_bound_socket *bound)
{
  struct stat st;

  if (bound->path != NULL && lstat (bound->path, &st) == 0 && st.st_dev == bound->dev && st.st_ino == bound->ino)
    unlink (bound->path);
  close (bound->fd);
  g_clear_pointer (&bound->path, g_free);
}
