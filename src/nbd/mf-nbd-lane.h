/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the files of the lane over libnbd share. Private to src/nbd.
 */
#include "core/mf-spin.h"
#include "nbd/mf-nbd-client.h"
#include <libnbd.h>

G_BEGIN_DECLS

typedef struct _mf_nbd_lane mf_nbd_lane;
typedef struct _mf_nbd_slot mf_nbd_slot;

/* A request that libnbd has, or whose `done` is due. */
struct _mf_nbd_slot {
  mf_nbd_lane *lane;
  mf_request *request;
  uint32_t seen_bytes;      /* of a structured reply */
  mf_nbd_slot *next, *prev; /* in flight */
};

struct _mf_nbd_lane {
  mf_lane base;
  struct nbd_handle *nbd; /* NULL: lost */
  int fd;      /* a duplicate of libnbd's socket, which stays open until close: other threads may shut it down */
  int kick_fd; /* eventfd */
  gboolean structured;
  gboolean spin;
  mf_spin waiting[2]; /* for what the owner watches besides, for replies */
  gboolean delivering;
  uint64_t size_bytes;
  guint in_flight;
  mf_nbd_slot *flying;           /* list of those that libnbd has */
  mf_nbd_slot *finished, **tail; /* list of those whose `done` is due; by `next` */
  mf_nbd_slot *free;             /* by `next` */
  GError *lost;                  /* why the lane failed */
};

/* A lane with a handle that is not connected yet; NULL with an error. */
mf_nbd_lane *mf_nbd_lane_new (const mf_nbd_client_options *options, GError **error);
/* The lane is over: takes `why` over. Everything in flight completes with an error. */
void mf_nbd_lane_lose (mf_nbd_lane *lane, GError *why);
/* The error of a lane that is lost. Returns FALSE. */
gboolean mf_nbd_lane_fail_again (mf_nbd_lane *lane, GError **error);

/* What libnbd waits for at its socket, for poll(2). */
short mf_nbd_lane_events (mf_nbd_lane *lane);
/* Lets libnbd do what the socket is ready for. FALSE: it failed, or the other side has hung up; the lane is then to be
 * lost. */
gboolean mf_nbd_lane_drive (mf_nbd_lane *lane, short revents, GError **error);
/* poll(2) until `deadline_usec` (monotonic, -1 none). Returns what poll(2) does. */
int mf_nbd_wait (struct pollfd *pfds, nfds_t n, gint64 deadline_usec);
/* The same; looks for a while before it sleeps, if that has been found to help. pfds[0] is the socket, pfds[1] the
 * kick. */
int mf_nbd_lane_wait_soon (mf_nbd_lane *lane, struct pollfd *pfds, nfds_t n, gint64 deadline_usec);

gboolean mf_nbd_lane_flush (mf_lane *base, GError **error);
gboolean mf_nbd_lane_extents (mf_lane *base, const char *context, uint64_t offset, uint64_t length, GArray *extents,
                              GError **error);

G_END_DECLS
