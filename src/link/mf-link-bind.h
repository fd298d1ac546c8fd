/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The sockets at which a listener listens: for the link's own files.
 */
#include "link/mf-kept-sockets.h"
#include "link/mf-peer-address.h"

typedef struct {
  int fd;       /* listening, not blocking */
  guint16 port; /* tcp */
  char *path;   /* unix: the file, removed at close if it is still this socket's; NULL: it is somebody else's */
  dev_t dev;
  ino_t ino;
} mf_bound_socket;

/* Listens at all of the address: takes what is in `kept` (may be NULL) already, and binds the rest. Returns how many sockets that took, at most `max`, or 0
 * with error. */
guint mf_link_bind (const mf_peer_address *address, mf_kept_sockets *kept, mf_bound_socket *out, guint max,
                    GError **error);
void mf_bound_socket_close (mf_bound_socket *bound);
