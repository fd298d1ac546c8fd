/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A connection through the link: two sockets and a flow each way.
 */
#include "../bench-samples.h"
#include "relay-flow.h"

#include <poll.h>

/* [0] from who connects to who listens, [1] back. */
typedef struct {
  relay_shape shape;
  relay_link links[2];
  size_t window_bytes;
  uint64_t bytes[2];
  unsigned connections;
  bench_samples late; /* how much after its time a piece was passed on */
  uint64_t wake_nsec; /* how much later than asked for a wake-up is, on the average */
  uint64_t send_nsec; /* how long passing on a small piece takes, on the average */
} relay_path;

typedef struct relay_connection relay_connection;

/* Takes both sockets, which don't block; `client` was accepted at `now_nsec`. */
relay_connection *relay_connection_new (relay_path *path, int client, int server, uint64_t now_nsec);
void relay_connection_free (relay_connection *connection);

/* Moves what can be moved, once each way; what is found now came `ago_nsec` ago. False: the connection is over. */
bool relay_connection_turn (relay_connection *connection, uint64_t now_nsec, uint64_t ago_nsec);

/* Takes a new value into the average of one that is the same mostly; what is far off counts as `most_nsec`. */
void relay_learn (uint64_t *average_nsec, uint64_t nsec, uint64_t most_nsec);

/* Fills in what to wait for on both sockets; returns when to look again even without it. */
uint64_t relay_connection_wait (relay_connection *connection, uint64_t now_nsec, struct pollfd polls[2]);
