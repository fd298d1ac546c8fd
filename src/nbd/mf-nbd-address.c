/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nbd/mf-nbd-address.h"

#include <errno.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 64

static gboolean
bad (GError **error, const char *uri, const char *why)
{
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
               "'%s': %s; write nbd://HOST[:PORT]/[EXPORT] or nbd+unix:///[EXPORT]?socket=PATH", uri, why);
  return FALSE;
}

static gboolean
parse_unix (mf_nbd_address *address, const char *text, GUri *uri, GError **error)
{
  const char *query = g_uri_get_query (uri);
  g_autoptr (GHashTable) params = NULL;
  struct sockaddr_un sun;

  if (g_uri_get_host (uri) && *g_uri_get_host (uri))
    return bad (error, text, "a UNIX socket has no host");
  if (query)
    params = g_uri_parse_params (query, -1, "&", G_URI_PARAMS_NONE, NULL);
  address->socket = params ? g_strdup (g_hash_table_lookup (params, "socket")) : NULL;
  if (!address->socket || !*address->socket)
    return bad (error, text, "socket=PATH is missing");
  if (strlen (address->socket) >= sizeof sun.sun_path)
    return bad (error, text, "the socket's path is too long for a UNIX socket (107 bytes at most)");
  return TRUE;
}

static gboolean
parse_tcp (mf_nbd_address *address, const char *text, GUri *uri, GError **error)
{
  const char *host = g_uri_get_host (uri);
  int port = g_uri_get_port (uri);

  if (!host || !*host)
    return bad (error, text, "the host is missing (0.0.0.0 or [::] for every address of this one)");
  if (port == 0 || port > G_MAXUINT16)
    return bad (error, text, "there is no such port");
  if (g_uri_get_query (uri))
    return bad (error, text, "it takes no parameters");
  address->host = g_strdup (host);
  address->port = port < 0 ? MF_NBD_DEFAULT_PORT : (guint16) port;
  return TRUE;
}

mf_nbd_address *
mf_nbd_address_parse (const char *text, GError **error)
{
  g_autoptr (mf_nbd_address) address = g_new0 (mf_nbd_address, 1);
  g_autoptr (GUri) uri = NULL;
  g_autoptr (GError) why = NULL;
  const char *scheme, *path;

  uri = g_uri_parse (text, G_URI_FLAGS_ENCODED_QUERY, &why);
  if (!uri) {
    bad (error, text, why->message);
    return NULL;
  }
  scheme = g_uri_get_scheme (uri);
  path = g_uri_get_path (uri);
  address->export = g_strdup (*path == '/' ? path + 1 : path);
  if (g_uri_get_fragment (uri) || g_uri_get_userinfo (uri)) {
    bad (error, text, "it takes no user and no fragment");
    return NULL;
  }
  if (g_str_equal (scheme, "nbd+unix"))
    return parse_unix (address, text, uri, error) ? g_steal_pointer (&address) : NULL;
  if (g_str_equal (scheme, "nbd"))
    return parse_tcp (address, text, uri, error) ? g_steal_pointer (&address) : NULL;
  if (g_str_has_prefix (scheme, "nbd")) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED, "'%s': a server can't listen at %s://", text, scheme);
    return NULL;
  }
  bad (error, text, "not an NBD URI");
  return NULL;
}

void
mf_nbd_address_free (mf_nbd_address *address)
{
  g_free (address->host);
  g_free (address->socket);
  g_free (address->export);
  g_free (address);
}

static gboolean
somebody_listens (const struct sockaddr_un *sun)
{
  int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  gboolean alive;

  if (fd == -1)
    return TRUE;
  /* EAGAIN: the queue of one that is busy. */
  alive = connect (fd, (const struct sockaddr *) sun, sizeof *sun) == 0 || errno == EAGAIN || errno == EPROTOTYPE;
  close (fd);
  return alive;
}

/* Removes a socket that a server has left behind. */
static gboolean
make_way (const struct sockaddr_un *sun, GError **error)
{
  struct stat st;

  if (lstat (sun->sun_path, &st) == -1)
    return errno == ENOENT ? TRUE : mf_error_from_errno (error, errno, "%s", sun->sun_path);
  if (!S_ISSOCK (st.st_mode)) {
    g_set_error (error, MF_ERROR, MF_ERROR_EXISTS, "%s exists and is not a socket", sun->sun_path);
    return FALSE;
  }
  if (somebody_listens (sun)) {
    g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "somebody listens at %s already", sun->sun_path);
    return FALSE;
  }
  if (unlink (sun->sun_path) == -1 && errno != ENOENT)
    return mf_error_from_errno (error, errno, "removing the stale socket %s", sun->sun_path);
  return TRUE;
}

static gboolean
listen_unix (const mf_nbd_address *address, GArray *fds, GError **error)
{
  struct sockaddr_un sun = { .sun_family = AF_UNIX };
  int fd;

  g_strlcpy (sun.sun_path, address->socket, sizeof sun.sun_path);
  if (!make_way (&sun, error))
    return FALSE;
  fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd == -1)
    return mf_error_from_errno (error, errno, "listening at %s", address->socket);
  if (bind (fd, (const struct sockaddr *) &sun, sizeof sun) == -1) {
    mf_error_from_errno (error, errno, "listening at %s", address->socket);
    close (fd);
    return FALSE;
  }
  if (listen (fd, BACKLOG) == -1) {
    mf_error_from_errno (error, errno, "listening at %s", address->socket);
    unlink (address->socket);
    close (fd);
    return FALSE;
  }
  g_array_append_val (fds, fd);
  return TRUE;
}

/* Returns a listening socket, or -1 and errno. */
static int
listen_at (const struct addrinfo *ai)
{
  int fd = socket (ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, ai->ai_protocol);
  const int one = 1;

  if (fd == -1)
    return -1;
  setsockopt (fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  /* "localhost" is an address of each family, and each has its socket. */
  if (ai->ai_family == AF_INET6)
    setsockopt (fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
  if (bind (fd, ai->ai_addr, ai->ai_addrlen) == -1 || listen (fd, BACKLOG) == -1) {
    int errnum = errno;

    close (fd);
    errno = errnum;
    return -1;
  }
  return fd;
}

static gboolean
listen_tcp (const mf_nbd_address *address, GArray *fds, GError **error)
{
  struct addrinfo hints = { .ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM };
  g_autofree char *port = g_strdup_printf ("%u", address->port);
  guint before = fds->len;
  struct addrinfo *all;
  int failed = 0, r;

  r = getaddrinfo (address->host, port, &hints, &all);
  if (r != 0) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "listening at %s: %s", address->host, gai_strerror (r));
    return FALSE;
  }
  for (const struct addrinfo *ai = all; ai; ai = ai->ai_next) {
    int fd = listen_at (ai);

    if (fd != -1)
      g_array_append_val (fds, fd);
    /* A family that the machine hasn't got is no failure when the other one is there; a port in use is. */
    else if (errno != EAFNOSUPPORT && (errno != EADDRNOTAVAIL || !ai->ai_next))
      failed = errno;
  }
  freeaddrinfo (all);
  if (failed == 0 && fds->len > before)
    return TRUE;
  for (guint i = before; i < fds->len; i++)
    close (g_array_index (fds, int, i));
  g_array_set_size (fds, before);
  return mf_error_from_errno (error, failed ? failed : EADDRNOTAVAIL, "listening at %s port %u", address->host,
                              address->port);
}

gboolean
mf_nbd_address_listen (const mf_nbd_address *address, GArray *fds, GError **error)
{
  return address->socket ? listen_unix (address, fds, error) : listen_tcp (address, fds, error);
}
