/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Waiting for a lane's socket, and letting libnbd work on it.
 */
#include "mf-schedule.h"
#include "nbd/mf-nbd-lane.h"

#include <errno.h>
#include <sched.h>
#include <time.h>

/* How long a lane looks before it sleeps, where that helps. */
#define SPIN_NSEC 75000

gboolean
mf_nbd_lane_drive (mf_nbd_lane *lane, short revents, GError **error)
{
  unsigned direction = nbd_aio_get_direction (lane->nbd);
  gboolean broken = (revents & (POLLERR | POLLHUP | POLLNVAL)) != 0;
  int r = 0;

  /* A socket that broke tells libnbd when it is read or written, whichever it wants to do. */
  if ((direction & LIBNBD_AIO_DIRECTION_READ) && ((revents & POLLIN) || broken))
    r = nbd_aio_notify_read (lane->nbd);
  else if ((direction & LIBNBD_AIO_DIRECTION_WRITE) && ((revents & POLLOUT) || broken))
    r = nbd_aio_notify_write (lane->nbd);
  if (r == -1 || nbd_aio_is_dead (lane->nbd))
    return mf_error_from_nbd (error, "NBD connection lost");
  if (nbd_aio_is_closed (lane->nbd)) {
    g_set_error_literal (error, MF_ERROR, MF_ERROR_CONNECTION, "NBD connection lost: the server has hung up");
    return FALSE;
  }
  return TRUE;
}

short
mf_nbd_lane_events (mf_nbd_lane *lane)
{
  unsigned direction = nbd_aio_get_direction (lane->nbd);

  return (direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) | (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0);
}

int
mf_nbd_wait (struct pollfd *pfds, nfds_t n, gint64 deadline_usec)
{
  for (;;) {
    gint64 left = deadline_usec < 0 ? 0 : MAX (deadline_usec - g_get_monotonic_time (), 0);
    struct timespec timeout = { left / G_USEC_PER_SEC, left % G_USEC_PER_SEC * 1000 };
    int r = ppoll (pfds, n, deadline_usec < 0 ? NULL : &timeout, NULL);

    if (r != -1 || errno != EINTR)
      return r;
  }
}

int
mf_nbd_lane_wait_soon (mf_nbd_lane *lane, struct pollfd *pfds, nfds_t n, gint64 deadline_usec)
{
  gboolean for_reply = lane->in_flight > 0;
  mf_spin *waiting = &lane->waiting[for_reply];
  uint64_t start = mf_schedule_now_nsec ();
  struct timespec at_once = { 0, 0 };
  int r = 0;

  if (mf_spin_begin (waiting, !mf_schedule_is_carrying (start))) {
    while ((r = ppoll (pfds, n, &at_once, NULL)) == 0 && mf_schedule_now_nsec () - start < SPIN_NSEC)
      /* Who is waited for may need this very processor. */
      sched_yield ();
  }
  if (r == 0)
    r = mf_nbd_wait (pfds, n, deadline_usec);
  if (r > 0 && (for_reply ? pfds[0].revents != 0 : pfds[1].revents == 0))
    mf_spin_end (waiting, mf_schedule_now_nsec () - start);
  return r;
}
