/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-wait.h"

#include <errno.h>

gint64
mf_deadline_after (gint64 timeout_usec)
{
  gint64 now = g_get_monotonic_time ();

  if (timeout_usec < 0 || timeout_usec > G_MAXINT64 - now)
    return -1;
  return now + timeout_usec;
}

static int
poll_until (struct pollfd *fds, nfds_t n_fds, gint64 deadline_usec)
{
  for (;;) {
    gint64 left = deadline_usec < 0 ? -1 : MAX (0, deadline_usec - g_get_monotonic_time ());
    struct timespec limit = { .tv_sec = left / G_USEC_PER_SEC, .tv_nsec = left % G_USEC_PER_SEC * 1000 };
    int n = ppoll (fds, n_fds, left < 0 ? NULL : &limit, NULL);

    if (n >= 0 || errno != EINTR)
      return n;
  }
}

gboolean
mf_wait_fd (int fd, short events, gint64 deadline_usec, GCancellable *cancellable, GError **error)
{
  struct pollfd fds[2] = { { .fd = fd, .events = events }, { .fd = -1 } };
  GPollFD cancel = { .fd = -1 };
  gboolean has_cancel = cancellable != NULL && g_cancellable_make_pollfd (cancellable, &cancel);
  int n, saved_errno;

  if (has_cancel)
    fds[1] = (struct pollfd){ .fd = cancel.fd, .events = POLLIN };
  n = poll_until (fds, G_N_ELEMENTS (fds), deadline_usec);
  saved_errno = errno;
  if (has_cancel)
    g_cancellable_release_fd (cancellable);

  if (g_cancellable_is_cancelled (cancellable)) {
    g_set_error_literal (error, MF_ERROR, MF_ERROR_CANCELLED, "cancelled");
    return FALSE;
  }
  if (n < 0)
    return mf_error_from_errno (error, saved_errno, "poll");
  if (fds[0].revents == 0) {
    g_set_error_literal (error, MF_ERROR, MF_ERROR_TIMED_OUT, "timed out");
    return FALSE;
  }
  return TRUE;
}
