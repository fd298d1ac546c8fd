/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The streams of a source, whoever dials them.
 *
 * Where the target dials, the host's listener hands in what came for the session: control streams and others. A stream is asked for on the control stream, one after the other,
 * and taken when it is there; what is left of an earlier attempt is thrown away before. A control stream that comes in replaces the one before, which its dialler has given up:
 * closing it wakes the thread, which may not have noticed yet that the link is lost.
 */
#include "migrate/mf-source-private.h"

#include <string.h>
#include <unistd.h>

/* The dialler has said that it was taken: it is on its way through the listener. */
#define ARRIVAL_USEC (5 * G_USEC_PER_SEC)

static void
stream_clear (gpointer data)
{
  mf_source_stream_in *stream = data;

  if (stream->fd >= 0)
    close (stream->fd);
}

void
mf_source_init_link (mf_source *source)
{
  g_mutex_init (&source->link_lock);
  g_cond_init (&source->link_cond);
  source->streams = g_array_new (FALSE, FALSE, sizeof (mf_source_stream_in));
  g_array_set_clear_func (source->streams, stream_clear);
}

void
mf_source_clear_link (mf_source *source)
{
  g_clear_pointer (&source->latest_peer, mf_peer_unref);
  g_array_unref (source->streams);
  g_mutex_clear (&source->link_lock);
  g_cond_clear (&source->link_cond);
}

/* --- from the host --- */

const uint8_t *
mf_source_session (mf_source *source)
{
  return source->record->session;
}

MfMigration *
mf_source_migration (mf_source *source)
{
  return source->migration;
}

gboolean
mf_source_is_dialled (mf_source *source)
{
  return source->record->target_dials;
}

void
mf_source_take_peer (mf_source *source, mf_peer *peer)
{
  mf_peer *former;

  g_mutex_lock (&source->link_lock);
  former = source->latest_peer;
  source->latest_peer = mf_peer_ref (peer);
  source->peer_is_new = TRUE;
  g_cond_broadcast (&source->link_cond);
  g_mutex_unlock (&source->link_lock);
  /* The same one may say twice that it is back. */
  if (former != NULL && former != peer)
    mf_peer_close (former);
  g_clear_pointer (&former, mf_peer_unref);
}

void
mf_source_take_stream (mf_source *source, int fd, const mf_preface *preface)
{
  mf_source_stream_in stream = { .fd = fd, .preface = *preface };

  g_mutex_lock (&source->link_lock);
  g_array_append_val (source->streams, stream);
  g_cond_broadcast (&source->link_cond);
  g_mutex_unlock (&source->link_lock);
}

/* --- from the thread --- */

static void
on_cancelled (GCancellable *cancellable, gpointer user_data)
{
  mf_source *source = user_data;

  g_mutex_lock (&source->link_lock);
  g_cond_broadcast (&source->link_cond);
  g_mutex_unlock (&source->link_lock);
}

static mf_peer *
await_peer (mf_source *source, GCancellable *cancellable, GError **error)
{
  gulong handler = g_cancellable_connect (cancellable, G_CALLBACK (on_cancelled), source, NULL);
  mf_peer *peer = NULL;

  g_mutex_lock (&source->link_lock);
  while (!source->peer_is_new && !g_cancellable_is_cancelled (cancellable))
    g_cond_wait (&source->link_cond, &source->link_lock);
  if (source->peer_is_new)
    peer = mf_peer_ref (source->latest_peer);
  source->peer_is_new = FALSE;
  g_mutex_unlock (&source->link_lock);
  g_cancellable_disconnect (cancellable, handler);
  if (peer == NULL)
    g_set_error (error, MF_ERROR, MF_ERROR_CANCELLED, "cancelled");
  return peer;
}

mf_peer *
mf_source_reach_peer (mf_source *source, gint64 timeout_usec, GCancellable *cancellable, GError **error)
{
  if (mf_source_is_dialled (source))
    return await_peer (source, cancellable, error);
  return mf_peer_dial (mf_migration_get_peer (source->migration), timeout_usec, cancellable, error);
}

void
mf_source_leave_peer (mf_source *source)
{
  /* One that came in has other owners. */
  if (source->peer != NULL && mf_source_is_dialled (source))
    mf_peer_close (source->peer);
  g_clear_pointer (&source->peer, mf_peer_unref);
}

static gboolean
is_same (const mf_preface *a, const mf_preface *b)
{
  return a->kind == b->kind && a->index == b->index && a->lane == b->lane;
}

/* With the lock held: the stream that was asked for, or -1. */
static int
take_stream (mf_source *source, const mf_preface *preface)
{
  for (guint i = 0; i < source->streams->len; i++) {
    mf_source_stream_in *stream = &g_array_index (source->streams, mf_source_stream_in, i);

    if (is_same (&stream->preface, preface)) {
      int fd = stream->fd;

      stream->fd = -1;
      g_array_remove_index (source->streams, i);
      return fd;
    }
  }
  return -1;
}

static int
await_stream (mf_source *source, const mf_preface *preface, GCancellable *cancellable, GError **error)
{
  gint64 deadline;
  int fd;

  g_mutex_lock (&source->link_lock);
  g_array_set_size (source->streams, 0);
  g_mutex_unlock (&source->link_lock);
  if (!mf_peer_call_for_stream (source->peer, preface, cancellable, error))
    return -1;
  deadline = g_get_monotonic_time () + ARRIVAL_USEC;
  g_mutex_lock (&source->link_lock);
  while ((fd = take_stream (source, preface)) < 0 &&
         g_cond_wait_until (&source->link_cond, &source->link_lock, deadline))
    ;
  g_mutex_unlock (&source->link_lock);
  if (fd < 0)
    g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "the target says that it has dialled, and nothing has come");
  return fd;
}

int
mf_source_open_stream (mf_source *source, mf_stream_kind kind, guint index, mf_lane_kind lane, GError **error)
{
  GCancellable *cancellable = source->record->phase == MF_PHASE_HANDED ? mf_host_stopping (source->host)
                                                                       : mf_migration_cancellable (source->migration);
  mf_preface preface = { .kind = kind, .index = index, .lane = lane };

  memcpy (preface.session, source->record->session, MF_SESSION_BYTES);
  if (mf_source_is_dialled (source))
    return await_stream (source, &preface, cancellable, error);
  return mf_peer_open_stream (source->peer, &preface, cancellable, error);
}
