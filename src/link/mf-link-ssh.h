/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * ssh://[USER@]HOST[:PORT][/SOCKET]: a stream to the other service's UNIX socket through an ssh login. For the link's own files. Only this file knows libssh.
 */
#include "link/mf-peer-address.h"

G_BEGIN_DECLS

/* Where the other service listens when the address does not say. */
#define MF_LINK_SSH_SOCKET "/run/memferry/peer.sock"

/* What ~/.ssh/config says of the address's host: where to connect to. Free `host` with g_free(). */
typedef struct {
  char *host;
  guint16 port;
} mf_ssh_place;

typedef struct _mf_ssh mf_ssh;

/* Reads the user's ssh configuration, after the file that MEMFERRY_SSH_CONFIG names in the environment, if it does. */
mf_ssh *mf_ssh_new (const mf_peer_address *address, mf_ssh_place *place, GError **error);
/* Logs in over the connected, non-blocking `fd` (taken over) and connects to the socket on the other side. Blocking until the deadline, cancellable. Returns a
 * non-blocking socket that carries what the other service's does, end of stream included; a thread passes it on until both ends are closed. -1: MF_ERROR_PERMISSION
 * (the host's key is not known, or it lets nobody in), MF_ERROR_CONNECTION, MF_ERROR_TIMED_OUT, MF_ERROR_CANCELLED. Frees `ssh` in any case. */
int mf_ssh_open (mf_ssh *ssh, int fd, gint64 deadline_usec, GCancellable *cancellable, GError **error);
void mf_ssh_free (mf_ssh *ssh);

G_END_DECLS
