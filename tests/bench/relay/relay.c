/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bench-relay: a link of a chosen delay, bandwidth, jitter and loss between sockets of this machine.
 */
#include "relay-address.h"
#include "relay-connection.h"

#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static const char usage[] =
    "usage: bench-relay [--delay MS] [--rate MBIT] [--jitter MS] [--loss PART] [--stall MS] [--window BYTES]\n"
    "         [--queue MS] [--seed N] LISTEN TARGET [LISTEN TARGET]...\n"
    "Passes what connects to LISTEN on to TARGET, both tcp:HOST:PORT or unix:PATH, all over one link. Each way: what "
    "is\n"
    "sent comes --delay later, give or take --jitter; all connections share --rate (10^6 bits a second); that --loss\n"
    "of all segments stalls its connection for --stall (default: two delays and a millisecond). A connection\n"
    "has at most --window bytes (default: 16 MiB) under way, and --queue (default: 5) waits for the link.\n"
    "Prints \"ready\" when it listens, and a JSON object at SIGTERM.\n";

#define ENDS_MAX        8u
#define CONNECTIONS_MAX 256u
#define LATE_SAMPLES    (1u << 18)
#define NSEC_PER_MSEC   1e6
#define WAKE_NSEC_MAX   150000u

typedef struct {
  relay_address listen, target;
  int fd;
} relay_end;

typedef struct {
  relay_path path;
  uint64_t seed;
  relay_end ends[ENDS_MAX];
  unsigned n_ends;
  relay_connection *connections[CONNECTIONS_MAX];
  unsigned n_connections;
  int buffer_bytes;
  uint64_t ago_nsec; /* what is found now came so long ago */
} relay;

static volatile sig_atomic_t stopped;

static void
stop (int number)
{
  stopped = 1;
}

static double
number (const char *text, double most)
{
  char *end = NULL;
  double value = strtod (text, &end);

  if (end == text || *end != '\0' || !(value >= 0) || value > most)
    errx (2, "%s: not a number from 0 to %g", text, most);
  return value;
}

static uint64_t
milliseconds (const char *text)
{
  return (uint64_t) (number (text, 1e6) * NSEC_PER_MSEC);
}

static void
parse_option (relay *self, int option)
{
  relay_shape *shape = &self->path.shape;

  switch (option) {
  case 'd':
    shape->delay_nsec = milliseconds (optarg);
    break;
  case 'r':
    shape->bytes_per_sec = (uint64_t) (number (optarg, 1e6) * 1e6 / 8);
    break;
  case 'j':
    shape->jitter_nsec = milliseconds (optarg);
    break;
  case 'l':
    shape->loss = number (optarg, 1);
    break;
  case 's':
    shape->stall_nsec = milliseconds (optarg);
    break;
  case 'w':
    self->path.window_bytes = (size_t) number (optarg, 1e10);
    break;
  case 'q':
    shape->queue_nsec = milliseconds (optarg);
    break;
  case 'n':
    self->seed = (uint64_t) number (optarg, 1e15);
    break;
  default:
    fputs (usage, stderr);
    exit (2);
  }
}

static void
parse (relay *self, int argc, char **argv)
{
  static const struct option options[] = {
    { "delay", 1, NULL, 'd' }, { "rate", 1, NULL, 'r' },  { "jitter", 1, NULL, 'j' },
    { "loss", 1, NULL, 'l' },  { "stall", 1, NULL, 's' }, { "window", 1, NULL, 'w' },
    { "queue", 1, NULL, 'q' }, { "seed", 1, NULL, 'n' },  { 0 },
  };
  int option;

  while ((option = getopt_long (argc, argv, "", options, NULL)) != -1)
    parse_option (self, option);
  if (argc == optind || (argc - optind) % 2 != 0 || (unsigned) (argc - optind) / 2 > ENDS_MAX ||
      self->path.window_bytes == 0) {
    fputs (usage, stderr);
    exit (2);
  }
  for (; optind < argc; optind += 2) {
    relay_end *end = &self->ends[self->n_ends++];
    end->listen = relay_address_parse (argv[optind]);
    end->target = relay_address_parse (argv[optind + 1]);
  }
}

/* What waits in sockets waits for the link as well: no more of it than the link's own queue holds. */
static int
buffer_for (const relay_shape *shape)
{
  double queued = (double) shape->bytes_per_sec * (double) shape->queue_nsec / 1e9;

  if (shape->bytes_per_sec == 0)
    return 0;
  return queued < 65536 ? 65536 : queued > (4 << 20) ? 4 << 20 : (int) queued;
}

static void
set_up (relay *self)
{
  relay_path *path = &self->path;

  if (path->shape.stall_nsec == 0)
    path->shape.stall_nsec = 2 * path->shape.delay_nsec + 1000000;
  relay_link_init (&path->links[0], &path->shape, self->seed);
  relay_link_init (&path->links[1], &path->shape, self->seed + 1);
  bench_samples_init (&path->late, LATE_SAMPLES);
  self->buffer_bytes = buffer_for (&path->shape);
  for (unsigned i = 0; i < self->n_ends; i++)
    self->ends[i].fd = relay_address_listen (&self->ends[i].listen, self->buffer_bytes);
}

static void
accept_all (relay *self, const relay_end *end)
{
  int client;

  while (self->n_connections < CONNECTIONS_MAX && (client = accept4 (end->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
    int server = relay_address_connect (&end->target, self->buffer_bytes);

    if (server < 0) {
      warn ("connecting to %s", end->target.text);
      close (client);
      continue;
    }
    relay_address_prepare (client);
    self->connections[self->n_connections++] = relay_connection_new (&self->path, client, server, bench_now_nsec ());
  }
}

/* Each connection once, another one first each time. */
static void
turn (relay *self, unsigned round)
{
  for (unsigned i = 0; i < self->n_connections; i++) {
    relay_connection **slot = &self->connections[(round + i) % self->n_connections];

    if (relay_connection_turn (*slot, bench_now_nsec (), self->ago_nsec))
      continue;
    relay_connection_free (*slot);
    *slot = self->connections[--self->n_connections];
  }
}

/* A wake-up takes its time, which is the same mostly: by a clock, it is asked for earlier by that, and what is left is spent looking; what wakes it up
 * came earlier by that. */
static void
wait_for_more (relay *self, const sigset_t *signals)
{
  struct pollfd polls[ENDS_MAX + 2 * CONNECTIONS_MAX];
  uint64_t now = bench_now_nsec (), next = RELAY_NEVER;
  nfds_t count = 0;

  for (unsigned i = 0; i < self->n_ends; i++)
    polls[count++] = (struct pollfd){ .fd = self->ends[i].fd, .events = POLLIN };
  for (unsigned i = 0; i < self->n_connections; i++, count += 2) {
    uint64_t wanted = relay_connection_wait (self->connections[i], now, polls + count);
    next = wanted < next ? wanted : next;
  }
  uint64_t lead = self->path.wake_nsec + self->path.send_nsec, wake = next > lead ? next - lead : 0;
  uint64_t wait = wake > now ? wake - now : 0;
  struct timespec timeout = { .tv_sec = (time_t) (wait / 1000000000), .tv_nsec = (long) (wait % 1000000000) };
  int ready = ppoll (polls, count, next == RELAY_NEVER ? NULL : &timeout, signals);
  if (ready < 0 && errno != EINTR)
    err (1, "ppoll");
  uint64_t slept = bench_now_nsec () - now;
  if (ready == 0 && wait > 0)
    relay_learn (&self->path.wake_nsec, slept - wait, WAKE_NSEC_MAX);
  self->ago_nsec = ready > 0 && slept > 2 * self->path.wake_nsec ? self->path.wake_nsec : 0;
  for (unsigned i = 0; i < self->n_ends; i++) {
    if (polls[i].revents & POLLIN)
      accept_all (self, &self->ends[i]);
  }
}

static void
report (relay *self)
{
  const relay_path *path = &self->path;
  char more[256];

  snprintf (more, sizeof more, ", \"connections\": %u, \"bytes_there\": %ju, \"bytes_back\": %ju, \"stalls\": %ju",
            path->connections, (uintmax_t) path->bytes[0], (uintmax_t) path->bytes[1],
            (uintmax_t) (path->links[0].stalls + path->links[1].stalls));
  /* A link that nobody used has nothing to tell, but that. */
  if (path->late.count == 0)
    bench_samples_add (&self->path.late, 0);
  bench_samples_print (&self->path.late, more);
}

int
main (int argc, char **argv)
{
  static relay self = { .path = { .window_bytes = 16u << 20, .shape = { .queue_nsec = 5000000 } } };
  struct sigaction action = { .sa_handler = stop };
  struct sched_param priority = { .sched_priority = 1 };
  sigset_t blocked, open;

  parse (&self, argc, argv);
  set_up (&self);
  sigemptyset (&blocked);
  sigaddset (&blocked, SIGTERM);
  sigprocmask (SIG_BLOCK, &blocked, &open);
  sigdelset (&open, SIGTERM);
  sigaction (SIGTERM, &action, NULL);
  /* A link never waits for a processor. Who may not have this has a link that is late now and then, and is told so. */
  sched_setscheduler (0, SCHED_RR, &priority);
  prctl (PR_SET_TIMERSLACK, 1);
  puts ("ready");
  fflush (stdout);
  for (unsigned round = 0; !stopped; round++) {
    turn (&self, round);
    wait_for_more (&self, &open);
  }
  report (&self);
  return 0;
}
