/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "relay-connection.h"

#include <err.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define SMALL_BYTES   4096u
#define SEND_NSEC_MAX 50000u

typedef struct {
  relay_flow *flow;
  int from, to;
  bool shut;    /* the end was passed on */
  bool blocked; /* `to` takes no more */
  bool ended;   /* `from` gives no more */
} relay_way;

struct relay_connection {
  relay_path *path;
  relay_way ways[2];
};

relay_connection *
relay_connection_new (relay_path *path, int client, int server, uint64_t now_nsec)
{
  relay_connection *connection = calloc (1, sizeof *connection);
  uint64_t delay = path->shape.delay_nsec;

  if (connection == NULL)
    err (1, "connection");
  connection->path = path;
  /* The handshake: the listening side knows of the connection after one delay, the other one after two. */
  connection->ways[0] = (relay_way){ .from = client, .to = server };
  connection->ways[0].flow = relay_flow_new (&path->links[0], path->window_bytes, delay, now_nsec + 2 * delay);
  connection->ways[1] = (relay_way){ .from = server, .to = client };
  connection->ways[1].flow = relay_flow_new (&path->links[1], path->window_bytes, delay, now_nsec + delay);
  path->connections++;
  return connection;
}

void
relay_connection_free (relay_connection *connection)
{
  close (connection->ways[0].from);
  close (connection->ways[0].to);
  relay_flow_free (connection->ways[0].flow);
  relay_flow_free (connection->ways[1].flow);
  free (connection);
}

void
relay_learn (uint64_t *average_nsec, uint64_t nsec, uint64_t most_nsec)
{
  *average_nsec = (15 * *average_nsec + (nsec < most_nsec ? nsec : most_nsec)) / 16;
}

/* What passing it on takes is part of the way, so it begins earlier by that. False: the socket is broken. */
static bool
deliver (relay_connection *connection, relay_way *way, uint64_t now_nsec)
{
  const uint8_t *at;
  size_t due;

  now_nsec += connection->path->send_nsec;
  bool waited = way->blocked;
  way->blocked = false;
  while ((due = relay_flow_due (way->flow, now_nsec, &at)) > 0) {
    uint64_t begin = bench_now_nsec ();
    ssize_t n = send (way->to, at, due, MSG_NOSIGNAL | MSG_DONTWAIT);
    uint64_t end = bench_now_nsec (), wanted = relay_flow_due_nsec (way->flow);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
      return false;
    way->blocked = n < 0;
    if (n < 0)
      return true;
    if (!waited)
      bench_samples_add (&connection->path->late, end > wanted ? end - wanted : 0);
    if (due <= SMALL_BYTES)
      relay_learn (&connection->path->send_nsec, end - begin, SEND_NSEC_MAX);
    connection->path->bytes[way == &connection->ways[1]] += (uint64_t) n;
    relay_flow_pop (way->flow, now_nsec, (size_t) n);
  }
  if (!way->shut && relay_flow_ended (way->flow, now_nsec)) {
    shutdown (way->to, SHUT_WR);
    way->shut = true;
  }
  return true;
}

/* False: the socket is broken. */
static bool
take (relay_way *way, uint64_t now_nsec, uint64_t ago_nsec)
{
  uint8_t *at;
  size_t room = way->ended ? 0 : relay_flow_offer (way->flow, now_nsec, &at);

  if (room == 0)
    return true;
  ssize_t n = recv (way->from, at, room, MSG_DONTWAIT);
  if (n < 0)
    return errno == EAGAIN || errno == EINTR;
  way->ended = n == 0;
  if (n == 0)
    relay_flow_push_end (way->flow, now_nsec - ago_nsec);
  else
    relay_flow_push (way->flow, now_nsec - ago_nsec, (size_t) n);
  return true;
}

bool
relay_connection_turn (relay_connection *connection, uint64_t now_nsec, uint64_t ago_nsec)
{
  for (int i = 0; i < 2; i++) {
    relay_way *way = &connection->ways[i];
    /* What is taken may be due at once. */
    if (!take (way, now_nsec, ago_nsec) || !deliver (connection, way, now_nsec))
      return false;
  }
  return !connection->ways[0].shut || !connection->ways[1].shut;
}

uint64_t
relay_connection_wait (relay_connection *connection, uint64_t now_nsec, struct pollfd polls[2])
{
  uint64_t next = RELAY_NEVER;

  polls[0] = (struct pollfd){ .fd = connection->ways[0].from };
  polls[1] = (struct pollfd){ .fd = connection->ways[0].to };
  for (int i = 0; i < 2; i++) {
    relay_way *way = &connection->ways[i];
    uint8_t *at;
    bool room = !way->ended && relay_flow_offer (way->flow, now_nsec, &at) > 0;

    polls[i].events |= room ? POLLIN : 0;
    polls[1 - i].events |= way->blocked ? POLLOUT : 0;
    if (way->shut)
      continue;
    uint64_t wanted = relay_flow_next (way->flow, now_nsec, way->blocked, !room);
    next = wanted < next ? wanted : next;
  }
  for (int i = 0; i < 2; i++) {
    /* A peer that is gone is always reported, also where nothing is asked: not while nothing can be done about it. */
    if (polls[i].events == 0)
      polls[i].fd = -1;
  }
  return next;
}
