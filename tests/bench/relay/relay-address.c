/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "relay-address.h"

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

static relay_address
parse_tcp (const char *text, const char *rest)
{
  relay_address address = { .text = text, .length = sizeof (struct sockaddr_in) };
  struct sockaddr_in *socket = (struct sockaddr_in *) &address.socket;
  const char *colon = strrchr (rest, ':');
  char host[64], *end = NULL;

  if (colon == NULL || (size_t) (colon - rest) >= sizeof host)
    errx (2, "%s: not tcp:HOST:PORT", text);
  memcpy (host, rest, (size_t) (colon - rest));
  host[colon - rest] = '\0';
  unsigned long port = strtoul (colon + 1, &end, 10);
  socket->sin_family = AF_INET;
  socket->sin_port = htons ((uint16_t) port);
  if (port > UINT16_MAX || end == colon + 1 || *end != '\0' || inet_pton (AF_INET, host, &socket->sin_addr) != 1)
    errx (2, "%s: not tcp:HOST:PORT, both numbers", text);
  return address;
}

relay_address
relay_address_parse (const char *text)
{
  if (strncmp (text, "tcp:", 4) == 0)
    return parse_tcp (text, text + 4);
  relay_address address = { .text = text, .length = sizeof (struct sockaddr_un) };
  struct sockaddr_un *socket = (struct sockaddr_un *) &address.socket;
  if (strncmp (text, "unix:", 5) != 0 || strlen (text + 5) >= sizeof socket->sun_path)
    errx (2, "%s: not tcp:HOST:PORT, not unix:PATH of at most %zu bytes", text, sizeof socket->sun_path - 1);
  socket->sun_family = AF_UNIX;
  strcpy (socket->sun_path, text + 5);
  return address;
}

/* Before the connection: TCP's window scale is fixed by the handshake. */
static int
open_socket (const relay_address *address, int buffer_bytes)
{
  int fd = socket (address->socket.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

  if (fd < 0)
    err (1, "socket");
  if (buffer_bytes > 0 && setsockopt (fd, SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof buffer_bytes) < 0)
    err (1, "SO_RCVBUF");
  return fd;
}

int
relay_address_listen (const relay_address *address, int buffer_bytes)
{
  int fd = open_socket (address, buffer_bytes), one = 1;

  if (address->socket.ss_family == AF_UNIX)
    unlink (((const struct sockaddr_un *) &address->socket)->sun_path);
  else
    setsockopt (fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind (fd, (const struct sockaddr *) &address->socket, address->length) < 0 || listen (fd, 64) < 0)
    err (1, "listening at %s", address->text);
  fcntl (fd, F_SETFL, O_NONBLOCK);
  return fd;
}

int
relay_address_connect (const relay_address *address, int buffer_bytes)
{
  int fd = open_socket (address, buffer_bytes);

  if (connect (fd, (const struct sockaddr *) &address->socket, address->length) < 0) {
    int error = errno;
    close (fd);
    errno = error;
    return -1;
  }
  relay_address_prepare (fd);
  return fd;
}

void
relay_address_prepare (int fd)
{
  int one = 1;

  fcntl (fd, F_SETFL, O_NONBLOCK);
  /* A UNIX socket refuses this, and needs it not. */
  setsockopt (fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}
