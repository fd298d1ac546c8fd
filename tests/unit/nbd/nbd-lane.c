/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nbd-lane.h"

#include <string.h>
#include <sys/socket.h>

const mf_nbd_client_options lane_structured = { .structured = TRUE }, lane_simple = { .spin = TRUE },
                            lane_tracking = { .structured = TRUE, .dirty = TRUE };

int
lane_stream_pair (int *client)
{
  int fds[2];

  g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
  *client = fds[0];
  return fds[1];
}

void
lane_count_done (mf_request *request, gpointer user_data)
{
  (*(guint *) user_data)++;
}

mf_request *
lane_request_new (uint64_t offset, uint32_t length, guint *done)
{
  mf_request *request = g_new0 (mf_request, 1);

  *request = (mf_request){
    .offset = offset, .length = length, .page_bytes = LANE_PAGE, .buffer = g_malloc (length), .done = lane_count_done
  };
  request->user_data = done;
  memset (request->buffer, 0xee, length);
  return request;
}

void
lane_request_free (mf_request *request)
{
  g_free (request->buffer);
  g_free (request);
}

void
lane_poll_until (mf_lane *lane, const guint *done, guint n)
{
  g_autoptr (GError) error = NULL;
  gint64 deadline = g_get_monotonic_time () + LANE_TIMEOUT;

  while (*done < n) {
    g_assert_cmpint (g_get_monotonic_time (), <, deadline);
    mf_lane_poll (lane, NULL, 0, LANE_TIMEOUT, &error);
    g_assert_no_error (error);
  }
}

void
lane_assert_extent (GArray *extents, guint index, uint64_t length, uint32_t flags)
{
  g_assert_cmpuint (index, <, extents->len);
  g_assert_cmpuint (g_array_index (extents, mf_extent, index).length, ==, length);
  g_assert_cmpuint (g_array_index (extents, mf_extent, index).flags, ==, flags);
}

void
lane_assert_lost (mf_lane *lane, mf_request **requests, guint n, const guint *done)
{
  g_autoptr (GError) error = NULL, flush_error = NULL;
  gint64 deadline = g_get_monotonic_time () + LANE_TIMEOUT;
  guint late_done = 0;
  g_autoptr (mf_request) late = lane_request_new (0, LANE_PAGE, &late_done);

  while (mf_lane_poll (lane, NULL, 0, LANE_TIMEOUT, &error))
    g_assert_cmpint (g_get_monotonic_time (), <, deadline);
  g_assert_nonnull (error);
  g_assert_true (error->domain == MF_ERROR);
  g_assert_cmpuint (*done, ==, n);
  g_assert_cmpuint (mf_lane_in_flight (lane), ==, 0);
  for (guint i = 0; i < n; i++)
    g_assert_cmpint (requests[i]->error, !=, 0);
  mf_lane_submit (lane, late);
  g_assert_cmpuint (late_done, ==, 1);
  g_assert_cmpint (late->error, !=, 0);
  g_assert_false (mf_lane_flush (lane, &flush_error));
  g_assert_nonnull (flush_error);
  mf_lane_kick (lane);
  mf_lane_shutdown (lane);
}
