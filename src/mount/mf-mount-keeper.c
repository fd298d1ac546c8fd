/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-mount-private.h"

#include <string.h>

#define CONNECT_USEC (10 * G_USEC_PER_SEC)
/* Connections for the puller: a pipelined one fills a link by itself, and a second one another processor. */
#define PULL_LANES_PIPELINED 2

static guint
pull_lanes (mf_mount *mount)
{
  const mf_backend_limits *limits = mf_backend_get_limits (mount->backend);

  return limits->pipelined ? MIN (limits->lanes, PULL_LANES_PIPELINED) : limits->lanes;
}

static void
tell (mf_mount *mount, const char *what, const GError *why)
{
  g_autofree char *line = NULL;

  if (mount->tell == NULL)
    return;
  line = g_strdup_printf ("%s %s%s%s", mf_backend_name (mount->backend), what, why != NULL ? ": " : "",
                          why != NULL ? why->message : "");
  mount->tell (line, mount->user_data);
}

void
mf_mount_lane_lost (mf_mount *mount, const GError *why)
{
  gboolean is_new;

  g_mutex_lock (&mount->lock);
  is_new = !mount->is_lost && !mount->stopping;
  mount->is_lost = TRUE;
  g_cond_broadcast (&mount->changed);
  g_mutex_unlock (&mount->lock);
  if (is_new)
    tell (mount, "was lost; trying to reach it again", why);
}

void
mf_mount_refused (mf_mount *mount, const GError *why)
{
  gboolean is_new;

  g_mutex_lock (&mount->lock);
  is_new = !mount->is_complaining && !mount->stopping;
  mount->is_complaining = TRUE;
  g_mutex_unlock (&mount->lock);
  if (is_new)
    tell (mount, "refuses; trying again", why);
}

void
mf_mount_requeued (mf_mount *mount)
{
  g_mutex_lock (&mount->lock);
  mount->requeued++;
  g_cond_broadcast (&mount->changed);
  g_mutex_unlock (&mount->lock);
}

static gboolean
needs_lane (mf_mount *mount)
{
  return mf_puller_n_lanes (mount->puller) < pull_lanes (mount) ||
         (mount->pusher != NULL && !mf_pusher_has_lane (mount->pusher));
}

static gboolean
add_lane (mf_mount *mount, GError **error)
{
  mf_lane *lane = mf_backend_open_lane (mount->backend, mf_region_page_bytes (mount->region), CONNECT_USEC, error);

  if (lane == NULL)
    return FALSE;
  if (mf_puller_n_lanes (mount->puller) == 0 || mount->pusher == NULL || mf_pusher_has_lane (mount->pusher))
    return mf_puller_add_lane (mount->puller, lane, error);
  mf_pusher_set_lane (mount->pusher, lane);
  return TRUE;
}

/* Adds what lanes are missing. FALSE: the backend can't be reached now. */
static gboolean
add_lanes (mf_mount *mount, GError **error)
{
  gboolean stopping = FALSE, was_lost;

  while (!stopping && needs_lane (mount)) {
    if (!add_lane (mount, error))
      return FALSE;
    g_mutex_lock (&mount->lock);
    stopping = mount->stopping;
    g_mutex_unlock (&mount->lock);
  }
  g_mutex_lock (&mount->lock);
  was_lost = mount->is_lost && !mount->stopping;
  mount->is_lost = FALSE;
  g_cond_broadcast (&mount->changed);
  g_mutex_unlock (&mount->lock);
  if (was_lost)
    tell (mount, "is back", NULL);
  return TRUE;
}

static gpointer
keep_lanes (gpointer data)
{
  mf_mount *mount = data;
  gint64 backoff_usec = MF_BACKOFF_MIN_USEC;

  for (;;) {
    g_autoptr (GError) why = NULL;
    gboolean ok = add_lanes (mount, &why);
    gint64 until = g_get_monotonic_time () + backoff_usec;

    if (!ok)
      mf_mount_lane_lost (mount, why);
    g_mutex_lock (&mount->lock);
    if (ok) {
      while (!mount->stopping && !mount->is_lost)
        g_cond_wait (&mount->changed, &mount->lock);
      /* A server that hangs up again and again isn't asked without a pause. */
      until = g_get_monotonic_time () + MF_BACKOFF_MIN_USEC / 2;
    }
    while (!mount->stopping && g_cond_wait_until (&mount->changed, &mount->lock, until))
      ;
    backoff_usec = ok ? MF_BACKOFF_MIN_USEC : MIN (backoff_usec * 2, MF_BACKOFF_MAX_USEC);
    if (mount->stopping) {
      g_mutex_unlock (&mount->lock);
      return NULL;
    }
    g_mutex_unlock (&mount->lock);
  }
}

/* --- What the puller comes upon --- */

/* Waits after the puller has stopped with an error, or has nothing to do. */
static void
wait_a_while (mf_mount *mount, guint requeued, const GError *why, gint64 backoff_usec)
{
  gint64 until = g_get_monotonic_time () + backoff_usec;

  g_mutex_lock (&mount->lock);
  if (why == NULL) {
    while (!mount->stopping && mount->requeued == requeued)
      g_cond_wait (&mount->changed, &mount->lock);
  } else {
    while (!mount->stopping && g_cond_wait_until (&mount->changed, &mount->lock, until))
      ;
  }
  g_mutex_unlock (&mount->lock);
}

static gpointer
wait_for_puller (gpointer data)
{
  mf_mount *mount = data;
  gint64 backoff_usec = MF_BACKOFF_MIN_USEC;

  while (!g_cancellable_is_cancelled (mount->waiter_ends)) {
    g_autoptr (GError) why = NULL;
    guint requeued;
    gboolean idle;

    g_mutex_lock (&mount->lock);
    requeued = mount->requeued;
    g_mutex_unlock (&mount->lock);
    idle = mf_puller_wait_idle (mount->puller, -1, mount->waiter_ends, &why);
    if (idle) {
      g_mutex_lock (&mount->lock);
      mount->is_complaining = FALSE;
      g_mutex_unlock (&mount->lock);
    }
    if (!idle && !g_error_matches (why, MF_ERROR, MF_ERROR_CONNECTION) &&
        !g_error_matches (why, MF_ERROR, MF_ERROR_CANCELLED))
      mf_mount_refused (mount, why);
    wait_a_while (mount, requeued, why, backoff_usec);
    backoff_usec = idle ? MF_BACKOFF_MIN_USEC : MIN (backoff_usec * 2, MF_BACKOFF_MAX_USEC);
  }
  return NULL;
}

void
mf_mount_keeper_start (mf_mount *mount)
{
  mount->waiter_ends = g_cancellable_new ();
  mount->keeper = g_thread_new ("mf-keep", keep_lanes, mount);
  mount->waiter = g_thread_new ("mf-wait", wait_for_puller, mount);
}

void
mf_mount_keeper_stop (mf_mount *mount)
{
  if (mount->keeper == NULL)
    return;
  g_mutex_lock (&mount->lock);
  mount->stopping = TRUE;
  g_cond_broadcast (&mount->changed);
  g_mutex_unlock (&mount->lock);
  g_cancellable_cancel (mount->waiter_ends);
  g_thread_join (g_steal_pointer (&mount->keeper));
  g_thread_join (g_steal_pointer (&mount->waiter));
  g_clear_object (&mount->waiter_ends);
}
