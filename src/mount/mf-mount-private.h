/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the files of the mount share.
 *
 * Of a managed mount there are: the puller with its lanes, for all that is pulled in the background; `io`, whose lanes are for what somebody waits for, each
 * in the waiting thread itself; and the pusher with one lane. The page map keeps them apart: who claims a page brings it.
 *
 * The keeper is a thread that gives puller and pusher new lanes when they have lost theirs. Another one waits for the puller, so that a read that
 * failed is tried again.
 */
#include "backend/mf-backend-io.h"
#include "mf-mount-cache.h"
#include "mf-mount.h"
#include "region/mf-puller.h"
#include "region/mf-pusher.h"

struct _mf_mount {
  MfBackend *backend;
  gboolean read_only;
  gint64 limit_usec;
  void (*tell) (const char *line, gpointer user_data);
  gpointer user_data;
  mf_backend_io *io;

  /* Managed only. */
  mf_mount_cache *cache; /* NULL: the store is memory */
  MfRegion *region;
  mf_puller *puller;
  mf_pusher *pusher; /* NULL: read-only */
  GThread *keeper, *waiter;
  GCancellable *waiter_ends;

  GMutex lock; /* protects all that follows */
  GCond changed;
  gboolean stopping;
  gboolean is_lost;        /* the user was told */
  gboolean is_complaining; /* the backend refuses, and the user was told */
  guint requeued;          /* how often pages were queued again */
};

/* Starts the threads; the puller's queue is filled. */
void mf_mount_keeper_start (mf_mount *mount);
void mf_mount_keeper_stop (mf_mount *mount);
/* Callbacks of the puller and the pusher. */
void mf_mount_lane_lost (mf_mount *mount, const GError *why);
void mf_mount_refused (mf_mount *mount, const GError *why);
/* Pages that somebody had claimed are in the puller's queue again. */
void mf_mount_requeued (mf_mount *mount);
