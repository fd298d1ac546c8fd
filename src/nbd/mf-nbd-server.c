/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The server: the table of exports, the connections and their threads, the listeners and theirs.
 *
 * `lock` protects the table of exports, the list of connections and each connection's `export` and `waits`. A connection in the
 * list has an open stream, which whoever holds the lock may break; its thread takes it off the list when it has let go
 * of the region, and closes it then.
 *
 * A thread that ends can't join itself. It leaves its handle in `ended` and joins the one that it finds there: so
 * there is never more than one thread that ended and was not joined, and who joins the last has joined all.
 */
#include "mf-schedule.h"
#include "nbd/mf-nbd-address.h"
#include "nbd/mf-nbd-connection.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Connections that listeners accept. Those given by mf_nbd_server_serve_fd() are not limited. */
#define MAX_CONNECTIONS 256

struct _MfNbdServer {
  GMutex lock;
  GCond gone;          /* a connection left the list */
  GHashTable *exports; /* name to mf_nbd_export */
  GPtrArray *connections;
  GThread *ended;
  mf_nbd_counters counters;
  gint refuses_reads; /* atomic */

  /* The thread that accepts clients and watches those for whom somebody waits. Under lock until `stop`. */
  GThread *listener; /* NULL: none yet */
  int wake_fd;
  gboolean stop;
  GArray *listen_fds;
  GPtrArray *sockets; /* of SocketFile */
};

/* A socket's file that is ours to remove. */
typedef struct {
  char *path;
  dev_t device;
  ino_t inode;
} SocketFile;

static void
socket_file_free (gpointer data)
{
  SocketFile *file = data;
  struct stat st;

  /* Somebody may have put another one in its place. */
  if (lstat (file->path, &st) == 0 && st.st_dev == file->device && st.st_ino == file->inode)
    unlink (file->path);
  g_free (file->path);
  g_free (file);
}

MfNbdServer *
mf_nbd_server_new (void)
{
  MfNbdServer *server = g_new0 (MfNbdServer, 1);

  g_mutex_init (&server->lock);
  g_cond_init (&server->gone);
  server->exports = g_hash_table_new_full (g_str_hash, g_str_equal, NULL, (GDestroyNotify) mf_nbd_export_unref);
  server->connections = g_ptr_array_new ();
  server->listen_fds = g_array_new (FALSE, FALSE, sizeof (int));
  server->sockets = g_ptr_array_new_with_free_func (socket_file_free);
  server->wake_fd = -1;
  return server;
}

static void
stop_listening (MfNbdServer *server)
{
  g_mutex_lock (&server->lock);
  server->stop = TRUE;
  g_mutex_unlock (&server->lock);
  if (server->listener) {
    eventfd_write (server->wake_fd, 1);
    g_thread_join (server->listener);
  }
  for (guint i = 0; i < server->listen_fds->len; i++)
    close (g_array_index (server->listen_fds, int, i));
  g_array_unref (server->listen_fds);
  g_ptr_array_unref (server->sockets);
  if (server->wake_fd != -1)
    close (server->wake_fd);
}

/* Breaks the connections to `export` (NULL: all) and waits until none is left. With the lock held. */
static void
end_connections (MfNbdServer *server, const mf_nbd_export *export)
{
  for (;;) {
    gboolean any = FALSE;

    for (guint i = 0; i < server->connections->len; i++) {
      mf_nbd_connection *connection = g_ptr_array_index (server->connections, i);

      if (export && connection->export != export)
        continue;
      mf_nbd_stream_break (&connection->stream);
      g_cancellable_cancel (connection->cancellable);
      any = TRUE;
    }
    if (!any)
      return;
    g_cond_wait (&server->gone, &server->lock);
  }
}

void
mf_nbd_server_free (MfNbdServer *server)
{
  stop_listening (server);
  g_mutex_lock (&server->lock);
  end_connections (server, NULL);
  g_mutex_unlock (&server->lock);
  if (server->ended)
    g_thread_join (server->ended);
  g_ptr_array_unref (server->connections);
  g_hash_table_unref (server->exports);
  g_cond_clear (&server->gone);
  g_mutex_clear (&server->lock);
  g_free (server);
}

gboolean
mf_nbd_server_export (MfNbdServer *server, const char *name, MfRegion *region, const mf_nbd_export_options *options,
                      GError **error)
{
  mf_nbd_export *export;
  gboolean taken;

  if (strlen (name) > MF_NBD_STRING_MAX) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "an export's name has at most %u bytes", MF_NBD_STRING_MAX);
    return FALSE;
  }
  export = mf_nbd_export_new (name, region, options);
  g_mutex_lock (&server->lock);
  taken = g_hash_table_contains (server->exports, name);
  if (!taken)
    g_hash_table_insert (server->exports, export->name, export);
  g_mutex_unlock (&server->lock);
  if (!taken)
    return TRUE;
  mf_nbd_export_unref (export);
  g_set_error (error, MF_ERROR, MF_ERROR_EXISTS, "there is an export '%s' already", name);
  return FALSE;
}

void
mf_nbd_server_unexport (MfNbdServer *server, const char *name)
{
  mf_nbd_export *export;

  g_mutex_lock (&server->lock);
  export = g_hash_table_lookup (server->exports, name);
  if (export) {
    g_hash_table_steal (server->exports, name);
    end_connections (server, export);
  }
  g_mutex_unlock (&server->lock);
  g_clear_pointer (&export, mf_nbd_export_unref);
}

mf_nbd_export *
mf_nbd_server_find (MfNbdServer *server, mf_nbd_string name)
{
  g_autofree char *key = g_strndup (name.text, name.length);
  mf_nbd_export *export;

  g_mutex_lock (&server->lock);
  export = g_hash_table_lookup (server->exports, key);
  if (export)
    mf_nbd_export_ref (export);
  g_mutex_unlock (&server->lock);
  return export;
}

mf_nbd_export *
mf_nbd_server_bind (MfNbdServer *server, mf_nbd_connection *connection, mf_nbd_string name)
{
  g_autofree char *key = g_strndup (name.text, name.length);
  mf_nbd_export *export, *former = NULL;

  g_mutex_lock (&server->lock);
  export = g_hash_table_lookup (server->exports, key);
  if (export) {
    former = connection->export;
    connection->export = mf_nbd_export_ref (export);
  }
  g_mutex_unlock (&server->lock);
  g_clear_pointer (&former, mf_nbd_export_unref);
  return export;
}

static int
compare_names (gconstpointer a, gconstpointer b)
{
  const mf_nbd_export *const *left = a, *const *right = b;

  return strcmp ((*left)->name, (*right)->name);
}

GPtrArray *
mf_nbd_server_list (MfNbdServer *server)
{
  GPtrArray *list = g_ptr_array_new_with_free_func ((GDestroyNotify) mf_nbd_export_unref);
  GHashTableIter iter;
  gpointer export;

  g_mutex_lock (&server->lock);
  g_hash_table_iter_init (&iter, server->exports);
  while (g_hash_table_iter_next (&iter, NULL, &export))
    g_ptr_array_add (list, mf_nbd_export_ref (export));
  g_mutex_unlock (&server->lock);
  g_ptr_array_sort (list, compare_names);
  return list;
}

void
mf_nbd_server_refuse_reads (MfNbdServer *server)
{
  g_atomic_int_set (&server->refuses_reads, TRUE);
}

gboolean
mf_nbd_server_refuses_reads (MfNbdServer *server)
{
  return g_atomic_int_get (&server->refuses_reads);
}

static gpointer
connection_thread (gpointer data)
{
  mf_nbd_connection *connection = data;
  MfNbdServer *server = connection->server;
  GThread *former;

  if (connection->stream.spin)
    mf_schedule_urgent ();
  else
    mf_schedule_bulk ();
  if (mf_nbd_handshake (connection))
    mf_nbd_transmission (connection);
  mf_nbd_connection_let_go (connection);

  g_mutex_lock (&server->lock);
  g_ptr_array_remove_fast (server->connections, connection);
  former = server->ended;
  server->ended = connection->thread;
  /* Never the last reference: the table has one, or who waits for the export's connections to end. */
  g_clear_pointer (&connection->export, mf_nbd_export_unref);
  g_cond_broadcast (&server->gone);
  g_mutex_unlock (&server->lock);
  mf_nbd_connection_free (connection);
  if (former)
    g_thread_join (former);
  return NULL;
}

gboolean
mf_nbd_server_serve_fd (MfNbdServer *server, int fd, gboolean spin, GError **error)
{
  mf_nbd_connection *connection = mf_nbd_connection_new (server, &server->counters, fd, spin);
  g_autoptr (GError) why = NULL;

  g_mutex_lock (&server->lock);
  connection->thread = g_thread_try_new ("mf-nbd", connection_thread, connection, &why);
  if (connection->thread)
    g_ptr_array_add (server->connections, connection);
  g_mutex_unlock (&server->lock);
  if (why) {
    mf_nbd_connection_free (connection);
    g_set_error (error, MF_ERROR, MF_ERROR_FAILED, "no thread for an NBD connection: %s", why->message);
    return FALSE;
  }
  return TRUE;
}

/* A peer that has vanished is noticed after about a minute. */
static void
keep_alive (int fd)
{
  const int on = 1, idle_s = 30, interval_s = 10, count = 3;

  setsockopt (fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt (fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
  setsockopt (fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
  setsockopt (fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
}

/* Takes one client in. FALSE: this process has no room for more just now. */
static gboolean
accept_one (MfNbdServer *server, int listen_fd)
{
  int fd = accept4 (listen_fd, NULL, NULL, SOCK_CLOEXEC);
  guint open;

  if (fd == -1)
    return errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM;
  g_mutex_lock (&server->lock);
  open = server->connections->len;
  g_mutex_unlock (&server->lock);
  if (open >= MAX_CONNECTIONS) {
    close (fd);
    return TRUE;
  }
  keep_alive (fd);
  return mf_nbd_server_serve_fd (server, fd, FALSE, NULL);
}

static void
add_poll (GArray *pfds, int fd, short events)
{
  struct pollfd pfd = { .fd = fd, .events = events };

  g_array_append_val (pfds, pfd);
}

static gboolean
has_hung_up (int fd)
{
  struct pollfd pfd = { .fd = fd, .events = POLLRDHUP };

  return poll (&pfd, 1, 0) > 0;
}

/* Ends the waiting for clients that are gone. With the lock held. */
static void
cancel_waiting (MfNbdServer *server)
{
  for (guint i = 0; i < server->connections->len; i++) {
    mf_nbd_connection *connection = g_ptr_array_index (server->connections, i);

    if (!connection->waits || !has_hung_up (connection->stream.fd))
      continue;
    connection->waits = FALSE;
    g_cancellable_cancel (connection->cancellable);
  }
}

/* What there is to wait for: the wake-up, `n_listen` listening sockets, then connections. FALSE: the end. */
static gboolean
gather (MfNbdServer *server, GArray *pfds, guint *n_listen)
{
  gboolean stop;

  g_array_set_size (pfds, 0);
  add_poll (pfds, server->wake_fd, POLLIN);
  g_mutex_lock (&server->lock);
  stop = server->stop;
  cancel_waiting (server);
  *n_listen = server->listen_fds->len;
  for (guint i = 0; i < *n_listen; i++)
    add_poll (pfds, g_array_index (server->listen_fds, int, i), POLLIN);
  for (guint i = 0; i < server->connections->len; i++) {
    const mf_nbd_connection *connection = g_ptr_array_index (server->connections, i);

    if (connection->waits)
      add_poll (pfds, connection->stream.fd, POLLRDHUP);
  }
  g_mutex_unlock (&server->lock);
  return !stop;
}

static gpointer
listener_thread (gpointer data)
{
  MfNbdServer *server = data;
  g_autoptr (GArray) pfds = g_array_new (FALSE, FALSE, sizeof (struct pollfd));
  guint n_listen;

  while (gather (server, pfds, &n_listen)) {
    struct pollfd *found = (struct pollfd *) (void *) pfds->data;
    gboolean room = TRUE;
    eventfd_t ignored;

    if (poll (found, pfds->len, -1) == -1)
      continue;
    if (found[0].revents)
      eventfd_read (server->wake_fd, &ignored);
    for (guint i = 1; i <= n_listen; i++) {
      if (found[i].revents)
        room &= accept_one (server, found[i].fd);
    }
    /* Clients wait in the kernel's queue until a descriptor is free again; nothing tells when. */
    if (!room)
      poll (found, 1, 100);
  }
  return NULL;
}

/* Has the listener look at what there is to wait for, and starts it if need be. With the lock held. */
static gboolean
wake_listener (MfNbdServer *server, GError **error)
{
  g_autoptr (GError) why = NULL;

  if (server->wake_fd == -1)
    server->wake_fd = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (server->wake_fd == -1)
    return mf_error_from_errno (error, errno, "listening");
  if (!server->listener)
    server->listener = g_thread_try_new ("mf-nbd-listen", listener_thread, server, &why);
  if (!server->listener) {
    g_set_error (error, MF_ERROR, MF_ERROR_FAILED, "no thread to listen: %s", why->message);
    return FALSE;
  }
  eventfd_write (server->wake_fd, 1);
  return TRUE;
}

void
mf_nbd_server_watch (MfNbdServer *server, mf_nbd_connection *connection, gboolean on)
{
  g_mutex_lock (&server->lock);
  connection->waits = on;
  /* Without a thread to watch it, the connection just waits. */
  if (on && !server->stop)
    wake_listener (server, NULL);
  g_mutex_unlock (&server->lock);
}

gboolean
mf_nbd_server_listen (MfNbdServer *server, const char *uri, GError **error)
{
  g_autoptr (mf_nbd_address) address = mf_nbd_address_parse (uri, error);
  g_autoptr (GArray) fds = g_array_new (FALSE, FALSE, sizeof (int));
  struct stat st;
  gboolean ok;

  if (!address || !mf_nbd_address_listen (address, fds, error))
    return FALSE;
  if (address->socket && lstat (address->socket, &st) == 0) {
    SocketFile *file = g_new0 (SocketFile, 1);

    file->path = g_canonicalize_filename (address->socket, NULL);
    file->device = st.st_dev;
    file->inode = st.st_ino;
    g_ptr_array_add (server->sockets, file);
  }
  g_mutex_lock (&server->lock);
  ok = wake_listener (server, error);
  if (ok)
    g_array_append_vals (server->listen_fds, fds->data, fds->len);
  g_mutex_unlock (&server->lock);
  for (guint i = 0; !ok && i < fds->len; i++)
    close (g_array_index (fds, int, i));
  return ok;
}

void
mf_nbd_server_get_stats (MfNbdServer *server, mf_nbd_server_stats *stats)
{
  g_mutex_lock (&server->lock);
  stats->connections = server->connections->len;
  g_mutex_unlock (&server->lock);
  stats->requests = atomic_load_explicit (&server->counters.requests, memory_order_relaxed);
  stats->bytes_read = atomic_load_explicit (&server->counters.bytes_read, memory_order_relaxed);
  stats->bytes_written = atomic_load_explicit (&server->counters.bytes_written, memory_order_relaxed);
  stats->hole_bytes = atomic_load_explicit (&server->counters.hole_bytes, memory_order_relaxed);
}
