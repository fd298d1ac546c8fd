/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Where sockets listen and connect: "tcp:HOST:PORT" (numeric, IPv4) or "unix:PATH". What fails ends the program with a line on standard error.
 */
#include <sys/socket.h>

typedef struct {
  struct sockaddr_storage socket;
  socklen_t length;
  const char *text; /* as it was given, by reference */
} relay_address;

relay_address relay_address_parse (const char *text);

/* A listening socket, not blocking; a UNIX socket that is there already is replaced. `buffer_bytes` is the receive buffer of what
 * will be accepted, 0: the system's. */
int relay_address_listen (const relay_address *address, int buffer_bytes);

/* A connected socket that doesn't block, or -1 and errno. */
int relay_address_connect (const relay_address *address, int buffer_bytes);

/* Small writes go out at once, and nothing blocks. */
void relay_address_prepare (int fd);
