/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "link/mf-kept-sockets.h"

#include "mf-notify.h"
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

/* Where the manager's descriptors begin. */
#define FIRST_FD 3
#define MAX_FDS  64
/* What we call those that it keeps for us begins with this. */
#define OUR_NAME "memferry-"

typedef struct {
  int fd;
  char *name;
  struct sockaddr_storage address;
} kept_socket;

struct _mf_kept_sockets {
  GArray *sockets; /* of kept_socket: those that nobody has taken yet */
};

static void
kept_socket_clear (gpointer data)
{
  kept_socket *kept = data;

  if (kept->fd >= 0)
    close (kept->fd);
  g_free (kept->name);
}

static guint
number_of (const char *variable, guint max)
{
  const char *text = g_getenv (variable);
  guint64 number = 0;

  return text && g_ascii_string_to_unsigned (text, 10, 0, max, &number, NULL) ? (guint) number : 0;
}

static gboolean
is_listening (int fd)
{
  int type = 0, listening = 0;
  socklen_t length = sizeof (int);

  return getsockopt (fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_STREAM &&
         getsockopt (fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) == 0 && listening;
}

/* As the manager's rules for names want it: no colon. */
static char *
dup_name (const struct sockaddr_storage *address)
{
  char host[NI_MAXHOST], service[NI_MAXSERV];
  char *name;

  if (address->ss_family == AF_UNIX)
    return g_strdup (((const struct sockaddr_un *) address)->sun_path);
  if (getnameinfo ((const struct sockaddr *) address, sizeof *address, host, sizeof host, service, sizeof service,
                   NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return NULL;
  name = g_strdup_printf (OUR_NAME "%s-%s", host, service);
  return g_strdelimit (name, ":", '_');
}

static void
adopt (mf_kept_sockets *kept, int fd, const char *name)
{
  kept_socket found = { .fd = fd };
  socklen_t length = sizeof found.address - 1; /* a zero byte stays after the longest path */
  int flags = fcntl (fd, F_GETFL);

  if (flags < 0) {
    g_warning ("the service manager has announced descriptor %d (%s), which isn't there", fd, name);
    return;
  }
  if (!is_listening (fd) || fcntl (fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl (fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
      getsockname (fd, (struct sockaddr *) &found.address, &length) < 0) {
    g_warning ("descriptor %d (%s) of the service manager is no listening stream socket: closed", fd, name);
    close (fd);
    return;
  }
  found.name = g_strdup (name);
  g_array_append_val (kept->sockets, found);
}

mf_kept_sockets *
mf_kept_sockets_new (void)
{
  mf_kept_sockets *kept = g_new0 (mf_kept_sockets, 1);
  const char *text = g_getenv ("LISTEN_FDNAMES");
  g_auto (GStrv) names = g_strsplit (text ? text : "", ":", -1);
  guint n_names = g_strv_length (names);
  /* Meant for a parent of ours otherwise. */
  guint n = number_of ("LISTEN_PID", G_MAXINT) == (guint) getpid () ? number_of ("LISTEN_FDS", MAX_FDS) : 0;

  kept->sockets = g_array_new (FALSE, TRUE, sizeof (kept_socket));
  g_array_set_clear_func (kept->sockets, kept_socket_clear);
  for (guint i = 0; i < n; i++)
    adopt (kept, FIRST_FD + (int) i, i < n_names ? names[i] : "unknown");
  g_unsetenv ("LISTEN_PID");
  g_unsetenv ("LISTEN_FDS");
  g_unsetenv ("LISTEN_FDNAMES");
  return kept;
}

void
mf_kept_sockets_free (mf_kept_sockets *kept)
{
  g_array_unref (kept->sockets);
  g_free (kept);
}

void
mf_kept_sockets_finish (mf_kept_sockets *kept)
{
  for (guint i = 0; i < kept->sockets->len; i++) {
    const kept_socket *left = &g_array_index (kept->sockets, kept_socket, i);
    g_autofree char *where = dup_name (&left->address);

    if (g_str_has_prefix (left->name, OUR_NAME)) {
      /* The configuration has changed since. */
      g_autofree char *state = g_strdup_printf ("FDSTOREREMOVE=1\nFDNAME=%s", left->name);

      mf_notify (state);
    } else {
      g_warning ("nobody is served at %s, a socket that the service manager has made (%s): "
                 "memferry.conf names other folders than the .socket unit",
                 where, left->name);
    }
  }
  g_array_set_size (kept->sockets, 0);
}

static gboolean
is_same (const struct sockaddr *a, const struct sockaddr *b)
{
  if (a->sa_family != b->sa_family)
    return FALSE;
  if (a->sa_family == AF_UNIX) {
    return strcmp (((const struct sockaddr_un *) a)->sun_path, ((const struct sockaddr_un *) b)->sun_path) == 0;
  }
  if (a->sa_family == AF_INET) {
    const struct sockaddr_in *in_a = (const struct sockaddr_in *) a, *in_b = (const struct sockaddr_in *) b;

    return in_a->sin_port == in_b->sin_port && in_a->sin_addr.s_addr == in_b->sin_addr.s_addr;
  }
  if (a->sa_family == AF_INET6) {
    const struct sockaddr_in6 *in_a = (const struct sockaddr_in6 *) a, *in_b = (const struct sockaddr_in6 *) b;

    return in_a->sin6_port == in_b->sin6_port && in_a->sin6_scope_id == in_b->sin6_scope_id &&
           memcmp (&in_a->sin6_addr, &in_b->sin6_addr, sizeof in_a->sin6_addr) == 0;
  }
  return FALSE;
}

int
mf_kept_sockets_take (mf_kept_sockets *kept, const struct sockaddr *address)
{
  for (guint i = 0; kept && i < kept->sockets->len; i++) {
    kept_socket *candidate = &g_array_index (kept->sockets, kept_socket, i);

    if (is_same ((struct sockaddr *) &candidate->address, address)) {
      int fd = candidate->fd;

      candidate->fd = -1;
      g_array_remove_index_fast (kept->sockets, i);
      return fd;
    }
  }
  return -1;
}

int
mf_kept_sockets_take_path (mf_kept_sockets *kept, const char *path)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };

  if (strlen (path) >= sizeof address.sun_path)
    return -1;
  g_strlcpy (address.sun_path, path, sizeof address.sun_path);
  return mf_kept_sockets_take (kept, (struct sockaddr *) &address);
}

void
mf_kept_sockets_keep (mf_kept_sockets *kept, int fd)
{
  struct sockaddr_storage address;
  socklen_t length = sizeof address;
  g_autofree char *name = NULL;
  g_autofree char *state = NULL;

  if (!kept || getsockname (fd, (struct sockaddr *) &address, &length) < 0 || address.ss_family == AF_UNIX)
    return;
  name = dup_name (&address);
  if (!name)
    return;
  state = g_strdup_printf ("FDSTORE=1\nFDNAME=%s", name);
  mf_notify_fd (state, fd);
}
