/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What dialler and listener share about sockets: for the link's own files.
 */
#include "link/mf-peer-address.h"
#include <netdb.h>

/* The addresses of a tcp peer, `for_listening` or to connect to. A name is looked up in a thread, so that a name server which
 * doesn't answer can neither outlast the deadline nor a cancel. Free with freeaddrinfo(). */
struct addrinfo *mf_link_resolve (const mf_peer_address *address, gboolean for_listening, gint64 deadline_usec,
                                  GCancellable *cancellable, GError **error);

/* Every stream: no delay, and keepalive, so that a silent reader learns within about 10 s that the other host is gone. Harmless on a UNIX socket. */
void mf_link_set_stream_options (int fd);
/* Control streams: also what is written and not acknowledged for 10 s ends the connection. Not for data and state: there the
 * kernel would also count the time in which a live peer doesn't read. */
void mf_link_set_control_options (int fd);
gboolean mf_link_set_blocking (int fd, gboolean blocking, GError **error);

/* Sends `preface` as it is. Doesn't block: 48 bytes always fit into the buffer of a socket that is new. */
gboolean mf_link_send_preface (int fd, const mf_preface *preface, GError **error);
