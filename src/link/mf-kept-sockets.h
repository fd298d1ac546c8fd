/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Listening sockets that outlive the process: the service manager has made them (socket activation), or keeps a copy of those that we have made
 * (systemd's descriptor store) and gives it to the next process. So whoever connects while one service is replaced by the next waits in
 * the socket's queue, and is not refused.
 *
 * A socket is known by where it listens, not by the name that the manager has for it: it is taken by whoever would otherwise make one
 * there, and there is no second list of names that could differ. In one thread at a time.
 */
#include "mf-error.h"
#include <sys/socket.h>

G_BEGIN_DECLS

typedef struct _mf_kept_sockets mf_kept_sockets;

/* Takes what the environment names ($LISTEN_FDS), once: afterwards it names nothing. What is no listening stream socket is closed. */
mf_kept_sockets *mf_kept_sockets_new (void);
/* Closes what nobody has taken. */
void mf_kept_sockets_free (mf_kept_sockets *kept);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_kept_sockets, mf_kept_sockets_free)

/* The socket that listens there: the caller's from now on (close-on-exec, not blocking), and its file, if it has one, is the manager's: not to be removed.
 * -1: none. `kept` may be NULL: none. */
int mf_kept_sockets_take (mf_kept_sockets *kept, const struct sockaddr *address);
int mf_kept_sockets_take_path (mf_kept_sockets *kept, const char *path);

/* All are there that will be: warns of sockets that nobody has taken, and lets the manager forget those that it kept for us. Not when a start has failed: the next may
 * want them. */
void mf_kept_sockets_finish (mf_kept_sockets *kept);

/* Lets the manager keep a copy of `fd`, an internet socket of ours, until it stops the service for good. */
void mf_kept_sockets_keep (mf_kept_sockets *kept, int fd);

G_END_DECLS
