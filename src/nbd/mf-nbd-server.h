/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The NBD server: exports regions over any stream socket. A thread a connection; fixed newstyle, structured replies,
 * block status `base:allocation` and `memferry:dirty`. docs/protocol.md says which parts of the specification it
 * speaks.
 *
 * Threads: mf_nbd_server_listen() and _free() belong to who made the server, one call at a time; the others may be
 * called from any thread, but not from a callback of an exported region (a fetcher).
 */
#include "region/mf-region.h"

G_BEGIN_DECLS

typedef struct _MfNbdServer MfNbdServer;

typedef struct {
  gboolean read_only;
  /* The session that every connection to this export shares (a migration); NULL: a connection that negotiates
   * memferry:dirty has one of its own. */
  mf_dirty_session *session;
  const char *description; /* may be NULL */
} mf_nbd_export_options;

MfNbdServer *mf_nbd_server_new (void);
/* Closes listeners and connections and joins their threads. */
void mf_nbd_server_free (MfNbdServer *server);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (MfNbdServer, mf_nbd_server_free)

/* Exports `region` as `name` ("" is the default export). MF_ERROR_EXISTS. */
gboolean mf_nbd_server_export (MfNbdServer *server, const char *name, MfRegion *region,
                               const mf_nbd_export_options *options, GError **error);
/* Takes the export away: its connections are shut down, and none of them touches the region when this returns. */
void mf_nbd_server_unexport (MfNbdServer *server, const char *name);

/* Serves one connected stream socket, `fd` taken over, in a thread of its own. `spin`: the connection carries faults:
 * the thread may look for a while before it sleeps, where that helps. */
gboolean mf_nbd_server_serve_fd (MfNbdServer *server, int fd, gboolean spin, GError **error);

/* Listens at an NBD URI: nbd://HOST[:PORT]/, nbd+unix:///?socket=PATH. Accepts in a thread. A stale socket file
 * (nobody listens) is replaced. */
gboolean mf_nbd_server_listen (MfNbdServer *server, const char *uri, GError **error);

/* From here on every READ is answered with an error: somebody has changed what must not change while it is read. */
void mf_nbd_server_refuse_reads (MfNbdServer *server);

typedef struct {
  guint connections; /* open now */
  uint64_t requests;
  uint64_t bytes_read; /* payload sent to clients */
  uint64_t bytes_written;
  uint64_t hole_bytes; /* answered as holes */
} mf_nbd_server_stats;
void mf_nbd_server_get_stats (MfNbdServer *server, mf_nbd_server_stats *stats);

G_END_DECLS
