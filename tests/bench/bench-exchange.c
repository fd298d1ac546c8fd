/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a link does: both ends of connections over it, in two processes. Small messages go there and back, or bytes go one way; all are compared.
 */
#include "bench-pattern.h"
#include "bench-samples.h"
#include "relay/relay-address.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char usage[] =
    "usage: bench-exchange [--messages N] [--pause USEC] [--stream BYTES [--connections N]] LISTEN CONNECT\n"
    "Connects to CONNECT, which leads to LISTEN. Sends N messages of 64 bytes there and back, --pause between them, "
    "or\n"
    "--stream BYTES one way over each of --connections. Prints one JSON object: times there and back in microseconds; "
    "or\n"
    "seconds, from the first byte sent to the answer to the last.\n";

#define MESSAGE_BYTES   64u
#define BUFFER_BYTES    (256u << 10)
#define CONNECTIONS_MAX 16u

typedef struct {
  size_t messages;
  unsigned pause_usec, connections;
  uint64_t stream_bytes;
} exchange_plan;

static void
write_whole (int fd, const void *bytes, size_t length)
{
  for (size_t done = 0; done < length;) {
    ssize_t n = write (fd, (const char *) bytes + done, length - done);
    if (n < 0)
      err (1, "write");
    done += (size_t) n;
  }
}

/* False: the end came before the first byte. */
static bool
read_whole (int fd, void *bytes, size_t length)
{
  for (size_t done = 0; done < length;) {
    ssize_t n = read (fd, (char *) bytes + done, length - done);
    if (n < 0)
      err (1, "read");
    if (n == 0 && done == 0)
      return false;
    if (n == 0)
      errx (1, "the end came too early");
    done += (size_t) n;
  }
  return true;
}

/* Sends `bytes` in pages of the pattern, from page `seed` on. */
static void
send_stream (int fd, uint64_t bytes, uint64_t seed)
{
  uint8_t *buffer = malloc (BUFFER_BYTES);

  if (buffer == NULL)
    err (1, "buffer");
  for (uint64_t page = seed; page < seed + bytes / BENCH_PAGE_BYTES;) {
    size_t filled = 0;
    for (; filled < BUFFER_BYTES && page < seed + bytes / BENCH_PAGE_BYTES; page++, filled += BENCH_PAGE_BYTES)
      bench_pattern_fill (buffer + filled, page);
    write_whole (fd, buffer, filled);
  }
  free (buffer);
}

static void
check_stream (int fd, uint64_t bytes, uint64_t seed)
{
  uint8_t *buffer = malloc (BUFFER_BYTES);

  if (buffer == NULL)
    err (1, "buffer");
  for (uint64_t done = 0; done < bytes;) {
    size_t length = bytes - done < BUFFER_BYTES ? (size_t) (bytes - done) : BUFFER_BYTES;
    if (!read_whole (fd, buffer, length))
      errx (1, "the end came too early");
    for (size_t at = 0; at < length; at += BENCH_PAGE_BYTES) {
      if (!bench_pattern_is (buffer + at, seed + (done + at) / BENCH_PAGE_BYTES))
        errx (1, "other bytes came than were sent");
    }
    done += length;
  }
  free (buffer);
}

/* Answers every message with itself, until the end. */
static void
echo (int fd)
{
  uint8_t message[MESSAGE_BYTES];

  while (read_whole (fd, message, sizeof message))
    write_whole (fd, message, sizeof message);
}

/* The listening end; one process a connection. */
static void
serve (const exchange_plan *plan, int listener)
{
  for (unsigned i = 0; i < plan->connections; i++) {
    uint64_t seed;
    struct pollfd wait = { .fd = listener, .events = POLLIN };
    poll (&wait, 1, -1);
    int fd = accept4 (listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
      err (1, "accept");
    relay_address_prepare (fd);
    fcntl (fd, F_SETFL, 0);
    if (fork () > 0) {
      close (fd);
      continue;
    }
    prctl (PR_SET_PDEATHSIG, SIGKILL);
    if (plan->stream_bytes == 0) {
      echo (fd);
    } else {
      read_whole (fd, &seed, sizeof seed);
      check_stream (fd, plan->stream_bytes, seed);
      write_whole (fd, &seed, sizeof seed);
    }
    exit (0);
  }
  for (int status; wait (&status) > 0;) {
    if (status != 0)
      exit (1);
  }
  exit (0);
}

static int
connect_to (const relay_address *address)
{
  int fd = relay_address_connect (address, 0);

  if (fd < 0)
    err (1, "connecting to %s", address->text);
  fcntl (fd, F_SETFL, 0);
  return fd;
}

static void
exchange (const exchange_plan *plan, const relay_address *to)
{
  uint64_t message[MESSAGE_BYTES / 8], answer[MESSAGE_BYTES / 8];
  bench_samples samples;
  int fd = connect_to (to);

  bench_samples_init (&samples, plan->messages);
  for (size_t i = 0; i <= plan->messages; i++) {
    for (size_t word = 0; word < MESSAGE_BYTES / 8; word++)
      message[word] = bench_pattern_word (i, word);
    uint64_t begin = bench_now_nsec ();
    write_whole (fd, message, sizeof message);
    if (!read_whole (fd, answer, sizeof answer))
      errx (1, "the end came too early");
    /* The first one waits for the connection. */
    if (i > 0)
      bench_samples_add (&samples, bench_now_nsec () - begin);
    if (memcmp (message, answer, sizeof message) != 0)
      errx (1, "another answer than what was sent");
    if (plan->pause_usec > 0)
      usleep (plan->pause_usec);
  }
  close (fd);
  bench_samples_print (&samples, "");
}

static void
stream_one (const exchange_plan *plan, const relay_address *to, uint64_t seed)
{
  uint64_t answer;
  int fd = connect_to (to);

  write_whole (fd, &seed, sizeof seed);
  send_stream (fd, plan->stream_bytes, seed);
  if (!read_whole (fd, &answer, sizeof answer) || answer != seed)
    errx (1, "no answer to the stream");
}

static void
stream (const exchange_plan *plan, const relay_address *to)
{
  uint64_t begin = bench_now_nsec ();
  pid_t clients[CONNECTIONS_MAX];

  for (unsigned i = 1; i < plan->connections; i++) {
    clients[i] = fork ();
    if (clients[i] < 0)
      err (1, "fork");
    if (clients[i] > 0)
      continue;
    prctl (PR_SET_PDEATHSIG, SIGKILL);
    stream_one (plan, to, (uint64_t) i << 40);
    exit (0);
  }
  stream_one (plan, to, 0);
  for (unsigned i = 1; i < plan->connections; i++) {
    int status;
    if (waitpid (clients[i], &status, 0) < 0 || status != 0)
      errx (1, "a stream failed");
  }
  printf ("{\"seconds\": %.6f}\n", (double) (bench_now_nsec () - begin) / 1e9);
}

static exchange_plan
parse (int argc, char **argv)
{
  static const struct option options[] = {
    { "messages", 1, NULL, 'm' },
    { "pause", 1, NULL, 'p' },
    { "stream", 1, NULL, 's' },
    { "connections", 1, NULL, 'c' },
    { 0 },
  };
  exchange_plan plan = { .messages = 1000, .connections = 1 };
  int option;

  while ((option = getopt_long (argc, argv, "", options, NULL)) != -1) {
    unsigned long value = option == '?' ? 0 : strtoul (optarg, NULL, 10);
    if (option == 'm')
      plan.messages = value;
    else if (option == 'p')
      plan.pause_usec = (unsigned) value;
    else if (option == 's')
      plan.stream_bytes = value;
    else if (option == 'c')
      plan.connections = (unsigned) value;
    else
      plan.connections = 0;
  }
  if (argc - optind != 2 || plan.messages == 0 || plan.connections == 0 || plan.connections > CONNECTIONS_MAX ||
      plan.stream_bytes % BENCH_PAGE_BYTES != 0) {
    fputs (usage, stderr);
    exit (2);
  }
  return plan;
}

int
main (int argc, char **argv)
{
  exchange_plan plan = parse (argc, argv);
  relay_address here = relay_address_parse (argv[optind]), there = relay_address_parse (argv[optind + 1]);
  int listener = relay_address_listen (&here, 0), status;
  pid_t server = fork ();

  if (server < 0)
    err (1, "fork");
  if (server == 0) {
    prctl (PR_SET_PDEATHSIG, SIGKILL);
    serve (&plan, listener);
  }
  close (listener);
  if (plan.stream_bytes == 0)
    exchange (&plan, &there);
  else
    stream (&plan, &there);
  fflush (stdout);
  if (waitpid (server, &status, 0) < 0 || status != 0)
    errx (1, "the other end failed");
  return 0;
}
