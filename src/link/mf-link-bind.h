/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The sockets at which a listener listens: for the link's own files.
 */
#include "link/mf-peer-address.h"

typedef struct {
  int fd;       /* listening, not blocking */
  guint16 port; /* tcp */
  char *path;   /* unix: the file, removed at close if it is still this socket's */
  dev_t dev;
  ino_t ino;
} mf_bound_socket;

/* Binds and listens at all of the address. Returns how many sockets that took, at most `max`, or 0 with error. */
guint mf_link_bind (const mf_peer_address *address, mf_bound_socket *out, guint max, GError **error);
void mf_bound_socket_close (mf_bound_socket *bound);
