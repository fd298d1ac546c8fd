/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What tests of lanes share: connections, requests, and waiting for them with a deadline.
 */
#include "nbd/mf-nbd-client.h"

#define LANE_TIMEOUT (20 * G_USEC_PER_SEC)
#define LANE_PAGE    4096u

extern const mf_nbd_client_options lane_structured, lane_simple, lane_tracking;

/* Two ends of a stream; the server's is returned. */
int lane_stream_pair (int *client);

/* A `done` that counts: user_data is a guint. */
void lane_count_done (mf_request *request, gpointer user_data);
/* A request with a buffer of its own, for lane_request_free(). */
mf_request *lane_request_new (uint64_t offset, uint32_t length, guint *done);
void lane_request_free (mf_request *request);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_request, lane_request_free)

/* Polls until `done` is `n`. */
void lane_poll_until (mf_lane *lane, const guint *done, guint n);
void lane_assert_extent (GArray *extents, guint index, uint64_t length, uint32_t flags);
/* The lane has failed: what is in flight, what comes later and poll() all say so. */
void lane_assert_lost (mf_lane *lane, mf_request **requests, guint n, const guint *done);
