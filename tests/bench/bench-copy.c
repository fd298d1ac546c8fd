/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench-copy.h"
#include "bench-samples.h"

#include <err.h>
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONNECTIONS_MAX 16u
/* Slices begin on huge-page bounds, so that no two connections share a page of the store. */
#define SLICE_ALIGN (2u << 20)

static const char *const sender_names[] = {
  [BENCH_SEND_WRITE] = "write",       [BENCH_SEND_FAULTING] = "faulting", [BENCH_SEND_POPULATE] = "populate",
  [BENCH_SEND_PREAD] = "pread",       [BENCH_SEND_SENDFILE] = "sendfile", [BENCH_SEND_SPLICE] = "splice",
  [BENCH_SEND_ZEROCOPY] = "zerocopy",
};
static const char *const receiver_names[] = {
  [BENCH_RECEIVE_NULL] = "null",           [BENCH_RECEIVE_MMAP] = "mmap",     [BENCH_RECEIVE_POPULATE] = "populate",
  [BENCH_RECEIVE_FALLOCATE] = "fallocate", [BENCH_RECEIVE_PWRITE] = "pwrite", [BENCH_RECEIVE_USERFAULT] = "userfault",
  [BENCH_RECEIVE_SPLICE] = "splice",
};

static const char usage[] =
    "usage: bench-copy [--link LINK] [--sender NAME] [--receiver NAME] [--connections N] [--send BYTES]\n"
    "         [--granule BYTES] [--request BYTES [--window N]] [--socket-buffer BYTES] [--apart] FROM TO\n"
    "Copies FROM into the new file TO and prints one JSON object. In seconds: the copy, and the processor time\n"
    "of the sending and of the receiving side.\n";

static int
name_index (const char *const *names, size_t count, const char *name)
{
  for (size_t i = 0; i < count; i++)
    if (strcmp (names[i], name) == 0)
      return (int) i;
  errx (2, "%s: no such way", name);
}

static size_t
parse_number (const char *text)
{
  char *end;
  unsigned long value = strtoul (text, &end, 10);

  if (*text == '\0' || *end != '\0' || value > 1ul << 30)
    errx (2, "%s: not a number up to 2^30", text);
  return value;
}

static void
parse_option (bench_copy_plan *plan, int option)
{
  switch (option) {
  case 'l':
    plan->link = optarg;
    break;
  case 's':
    plan->sender = (bench_sender) name_index (sender_names, sizeof sender_names / sizeof *sender_names, optarg);
    break;
  case 'r':
    plan->receiver =
        (bench_receiver) name_index (receiver_names, sizeof receiver_names / sizeof *receiver_names, optarg);
    break;
  case 'c':
    plan->connections = (unsigned) parse_number (optarg);
    break;
  case 'S':
    plan->send_bytes = parse_number (optarg);
    break;
  case 'g':
    plan->granule_bytes = parse_number (optarg);
    break;
  case 'q':
    plan->request_bytes = parse_number (optarg);
    break;
  case 'w':
    plan->window = (unsigned) parse_number (optarg);
    break;
  case 'a':
    plan->apart = true;
    break;
  case 'b':
    plan->socket_buffer_bytes = (int) parse_number (optarg);
    break;
  default:
    fputs (usage, stderr);
    exit (2);
  }
}

static bench_copy_plan
parse (int argc, char **argv)
{
  static const struct option options[] = {
    { "link", 1, NULL, 'l' },        { "sender", 1, NULL, 's' }, { "receiver", 1, NULL, 'r' },
    { "connections", 1, NULL, 'c' }, { "send", 1, NULL, 'S' },   { "granule", 1, NULL, 'g' },
    { "request", 1, NULL, 'q' },     { "window", 1, NULL, 'w' }, { "socket-buffer", 1, NULL, 'b' },
    { "apart", 0, NULL, 'a' },       { "help", 0, NULL, 'h' },   { 0 },
  };
  bench_copy_plan plan = { .receiver = BENCH_RECEIVE_USERFAULT,
                           .connections = 1,
                           .send_bytes = 256 << 10,
                           .granule_bytes = 256 << 10,
                           .window = 16 };
  struct stat status;
  int option;

  while ((option = getopt_long (argc, argv, "", options, NULL)) != -1)
    parse_option (&plan, option);
  if (argc - optind != 2 || plan.connections < 1 || plan.connections > CONNECTIONS_MAX || plan.send_bytes == 0 ||
      plan.granule_bytes == 0 || plan.granule_bytes % 4096 != 0 || plan.request_bytes % 4096 != 0 || plan.window < 1 ||
      plan.window > 64) {
    fputs (usage, stderr);
    exit (2);
  }
  plan.from = argv[optind];
  plan.to = argv[optind + 1];
  if (stat (plan.from, &status) < 0)
    err (1, "%s", plan.from);
  plan.size_bytes = (uint64_t) status.st_size;
  return plan;
}

static void
run_side (const bench_copy_plan *plan, const bench_copy_slice *side, const int *sockets, void *(*carry) (void *) )
{
  uint64_t step = (plan->size_bytes / plan->connections + SLICE_ALIGN - 1) / SLICE_ALIGN * SLICE_ALIGN;
  bench_copy_slice slices[CONNECTIONS_MAX];
  pthread_t threads[CONNECTIONS_MAX];

  for (unsigned i = 0; i < plan->connections; i++) {
    slices[i] = *side;
    slices[i].socket = sockets[i];
    slices[i].start = step * i < plan->size_bytes ? step * i : plan->size_bytes;
    slices[i].end = step * (i + 1) < plan->size_bytes && i + 1 < plan->connections ? step * (i + 1) : plan->size_bytes;
    if (pthread_create (&threads[i], NULL, carry, &slices[i]) != 0)
      errx (1, "no thread");
  }
  for (unsigned i = 0; i < plan->connections; i++)
    pthread_join (threads[i], NULL);
}

/* Two hosts don't share a processor; on one, the scheduler often puts both ends of a socket on the same, where they take turns. */
static void
keep_apart (const bench_copy_plan *plan, int processor)
{
  cpu_set_t set;

  if (!plan->apart)
    return;
  CPU_ZERO (&set);
  CPU_SET (processor, &set);
  if (sched_setaffinity (0, sizeof set, &set) < 0)
    err (1, "keeping to processor %d", processor);
}

static double
processor_seconds (int who)
{
  struct rusage usage_now;

  getrusage (who, &usage_now);
  return (double) (usage_now.ru_utime.tv_sec + usage_now.ru_stime.tv_sec) +
         (double) (usage_now.ru_utime.tv_usec + usage_now.ru_stime.tv_usec) / 1e6;
}

/* The sending process: says that it is ready, waits for the word, sends, and says what it has used. */
static void
send_side (const bench_copy_plan *plan, const int *sockets, int control)
{
  bench_copy_slice side = { .plan = plan, .file = -1, .userfault = -1 };
  char word = 'r';

  keep_apart (plan, 0);
  bench_copy_sender_open (&side);
  double before = processor_seconds (RUSAGE_SELF);
  bench_link_write (control, &word, 1);
  bench_link_read (control, &word, 1);
  run_side (plan, &side, sockets, bench_copy_send);
  double used = processor_seconds (RUSAGE_SELF) - before;
  bench_link_write (control, &used, sizeof used);
}

static void
receive_side (const bench_copy_plan *plan, const int *sockets, int control)
{
  bench_copy_slice side = { .plan = plan, .file = -1, .userfault = -1 };
  double sender_used;
  char word;

  keep_apart (plan, 1);
  bench_copy_receiver_open (&side);
  bench_link_read (control, &word, 1);
  double before = processor_seconds (RUSAGE_SELF);
  uint64_t start = bench_now_nsec ();
  bench_link_write (control, &word, 1);
  run_side (plan, &side, sockets, bench_copy_receive);
  uint64_t end = bench_now_nsec ();
  double used = processor_seconds (RUSAGE_SELF) - before;
  bench_link_read (control, &sender_used, sizeof sender_used);
  printf ("{\"seconds\": %.6f, \"sender_cpu\": %.3f, \"receiver_cpu\": %.3f}\n", (double) (end - start) / 1e9,
          sender_used, used);
}

int
main (int argc, char **argv)
{
  bench_copy_plan plan = parse (argc, argv);
  int ours[CONNECTIONS_MAX], theirs[CONNECTIONS_MAX], control[2], status;

  for (unsigned i = 0; i < plan.connections; i++) {
    int pair[2];
    bench_link_pair (plan.link, plan.socket_buffer_bytes, pair);
    ours[i] = pair[0];
    theirs[i] = pair[1];
  }
  bench_link_pair ("unix", 0, control);

  pid_t sender = fork ();
  if (sender < 0)
    err (1, "fork");
  for (unsigned i = 0; i < plan.connections; i++)
    close (sender == 0 ? ours[i] : theirs[i]);
  close (control[sender == 0 ? 0 : 1]);
  if (sender == 0) {
    send_side (&plan, theirs, control[1]);
    return 0;
  }
  receive_side (&plan, ours, control[0]);
  if (waitpid (sender, &status, 0) < 0 || status != 0)
    errx (1, "the sending side failed");
  return 0;
}
