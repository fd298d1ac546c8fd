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
  MF_PEER_SSH,
} mf_peer_kind;

struct _mf_peer_address {
  mf_peer_kind kind;
  char *text;   /* as given */
  char *path;   /* unix; ssh: on the other host */
  char *user;   /* ssh; NULL: not said */
  char *host;   /* tcp, ssh: a name, or a numeric address without brackets */
  guint16 port; /* ssh: 0 when not said */
};

/* The socket address of a unix peer; the parser has seen to it that the path fits. */
socklen_t mf_peer_address_to_unix (const mf_peer_address *address, struct sockaddr_storage *out);
