/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The NBD client: a lane over libnbd. Only this room knows libnbd.
 */
#include "backend/mf-lane.h"

G_BEGIN_DECLS

typedef struct {
  /* Negotiate structured replies and base:allocation. FALSE: simple replies, the least work a reply (the fault lane);
   * holes come as zeroes. */
  gboolean structured;
  /* Negotiate memferry:dirty, and not base:allocation: block status answers for every context that was negotiated, and to find the
   * holes of 512 MiB takes ten times as long as to find its dirty pages. MF_ERROR_NOT_SUPPORTED when the server has not got it. */
  gboolean dirty;
  /* poll() may look for a while before it sleeps, where that helps (core/mf-spin.h). */
  gboolean spin;
} mf_nbd_client_options;

/* A lane over the connected socket `fd`, taken over in any case. Blocks until the handshake is done or `timeout_usec`
 * is over (-1 no limit). */
mf_lane *mf_nbd_client_new_fd (int fd, const char *export_name, const mf_nbd_client_options *options,
                               gint64 timeout_usec, GError **error);
/* The same, to any NBD URI that libnbd knows. */
mf_lane *mf_nbd_client_new_uri (const char *uri, const mf_nbd_client_options *options, gint64 timeout_usec,
                                GError **error);

/* What the server said of its export. */
typedef struct {
  gboolean read_only;
  gboolean can_zero;
  gboolean can_flush;
  gboolean multi_conn;    /* what was written on one connection is there, and is flushed, on every other one */
  uint32_t block_bytes;   /* offset and length are multiples of it: a power of two */
  uint32_t request_bytes; /* in one request at most */
} mf_nbd_export_facts;
/* `lane` is one of this client's, and connected. */
void mf_nbd_client_get_facts (mf_lane *lane, mf_nbd_export_facts *facts);

/* libnbd's last error of this thread as a GError, after "`what`: ". Returns FALSE. */
gboolean mf_error_from_nbd (GError **error, const char *what, ...) G_GNUC_PRINTF (2, 3);

G_END_DECLS
