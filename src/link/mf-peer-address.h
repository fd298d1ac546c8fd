/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What a PEER text says: for the link's own files.
 */
#include "link/mf-link.h"
#include <sys/socket.h>

typedef enum {
  MF_PEER_UNIX,
  MF_PEER_TCP,
} mf_peer_kind;

struct _mf_peer_address {
  mf_peer_kind kind;
  char *text; /* as given */
  char *path; /* unix */
  char *host; /* tcp: a name, or a numeric address without brackets */
  guint16 port;
};

/* The socket address of a unix peer; the parser has seen to it that the path fits. */
socklen_t mf_peer_address_to_unix (const mf_peer_address *address, struct sockaddr_storage *out);
