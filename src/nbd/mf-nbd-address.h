/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Where an NBD server listens: nbd://HOST[:PORT]/[EXPORT] and nbd+unix:///[EXPORT]?socket=PATH.
 */
#include "mf-error.h"

G_BEGIN_DECLS

#define MF_NBD_DEFAULT_PORT 10809

typedef struct {
  char *host; /* TCP: a name or an address, without brackets; else NULL */
  guint16 port;
  char *socket; /* UNIX: the path; else NULL */
  char *export; /* "" when the URI names none */
} mf_nbd_address;

/* MF_ERROR_INVALID says what is wrong with `uri`; MF_ERROR_NOT_SUPPORTED: TLS and other transports. */
mf_nbd_address *mf_nbd_address_parse (const char *uri, GError **error);
void mf_nbd_address_free (mf_nbd_address *address);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_nbd_address, mf_nbd_address_free)

/* Opens listening sockets (non-blocking, close-on-exec) for all that the address stands for: appended to `fds` (GArray
 * of int). A socket file that nobody listens at is replaced. MF_ERROR_BUSY: somebody listens there; MF_ERROR_EXISTS: a
 * file that is no socket is in the way; MF_ERROR_NOT_FOUND: no such host or folder; MF_ERROR_PERMISSION. */
gboolean mf_nbd_address_listen (const mf_nbd_address *address, GArray *fds, GError **error);

G_END_DECLS
