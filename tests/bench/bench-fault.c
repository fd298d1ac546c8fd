/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench-fault.h"
#include "bench-order.h"
#include "bench-samples.h"
#include "bench-userfault.h"

#include <err.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const char usage[] =
    "usage: bench-fault [--exchange LINK [--only]] [--poll USEC [--yield]] [--place free|near|apart] [--bulk]\n"
    "         [--touches N] [--pages N] [--pause USEC]\n"
    "Times first touches of random pages of a mapping that a userfaultfd handler in another process serves, or, with\n"
    "--only, the exchange alone. Prints one JSON object, times in microseconds.\n";

static bench_fault_place
parse_place (const char *name)
{
  if (strcmp (name, "free") == 0)
    return BENCH_PLACE_FREE;
  if (strcmp (name, "near") == 0)
    return BENCH_PLACE_NEAR;
  if (strcmp (name, "apart") == 0)
    return BENCH_PLACE_APART;
  errx (2, "%s: a place is free, near or apart", name);
}

static void
parse_option (bench_fault_plan *plan, bool *only, int option)
{
  switch (option) {
  case 'x':
    plan->exchange = true;
    plan->link = optarg;
    break;
  case 'o':
    *only = true;
    break;
  case 's':
    plan->wait.poll_nsec = strtoul (optarg, NULL, 10) * 1000;
    break;
  case 'y':
    plan->wait.yield = true;
    break;
  case 'l':
    plan->place = parse_place (optarg);
    break;
  case 'b':
    plan->bulk = true;
    break;
  case 't':
    plan->touches = strtoul (optarg, NULL, 10);
    break;
  case 'n':
    plan->pages = strtoul (optarg, NULL, 10);
    break;
  case 'p':
    plan->pause_usec = (unsigned) strtoul (optarg, NULL, 10);
    break;
  default:
    fputs (usage, stderr);
    exit (2);
  }
}

static bench_fault_plan
parse (int argc, char **argv, bool *only)
{
  static const struct option options[] = {
    { "exchange", 1, NULL, 'x' }, { "only", 0, NULL, 'o' },
    { "poll", 1, NULL, 's' },     { "yield", 0, NULL, 'y' },
    { "place", 1, NULL, 'l' },    { "bulk", 0, NULL, 'b' },
    { "touches", 1, NULL, 't' },  { "pages", 1, NULL, 'n' },
    { "pause", 1, NULL, 'p' },    { 0 },
  };
  bench_fault_plan plan = { .touches = 20000, .pages = 65536 };
  int option;

  while ((option = getopt_long (argc, argv, "", options, NULL)) != -1)
    parse_option (&plan, only, option);
  if (argc != optind || plan.touches == 0 || plan.touches > plan.pages || plan.pages % 256 != 0 ||
      (*only && !plan.exchange)) {
    fputs (usage, stderr);
    exit (2);
  }
  return plan;
}

static void
keep_to (const bench_fault_plan *plan, int processor)
{
  cpu_set_t set;

  if (plan->place == BENCH_PLACE_FREE)
    return;
  CPU_ZERO (&set);
  CPU_SET (processor, &set);
  if (sched_setaffinity (0, sizeof set, &set) < 0)
    err (1, "keeping to processor %d", processor);
}

static uint8_t *
map_store (const bench_fault_plan *plan, int *file)
{
  size_t size_bytes = plan->pages * BENCH_PAGE_BYTES;

  *file = memfd_create ("bench-fault", MFD_CLOEXEC);
  if (*file < 0 || ftruncate (*file, (off_t) size_bytes) < 0)
    err (1, "memfd");
  void *mapping = mmap (NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *file, 0);
  if (mapping == MAP_FAILED)
    err (1, "mmap");
  return mapping;
}

static bench_fault_stage
set_up (const bench_fault_plan *plan)
{
  bench_fault_stage stage = { .plan = plan };
  size_t size_bytes = plan->pages * BENCH_PAGE_BYTES;
  int file;

  stage.source = map_store (plan, &file);
  for (uint64_t page = 0; page < plan->pages; page++)
    bench_pattern_fill (stage.source + page * BENCH_PAGE_BYTES, page);
  stage.touched = map_store (plan, &file);
  stage.bulk = map_store (plan, &stage.bulk_file);
  stage.userfault = bench_userfault_open (0, plan->wait.poll_nsec > 0);
  bench_userfault_register (stage.userfault, stage.touched, size_bytes, UFFDIO_REGISTER_MODE_MISSING);
  bench_userfault_register (stage.userfault, stage.bulk, size_bytes, UFFDIO_REGISTER_MODE_MISSING);
  const char *link = plan->link != NULL ? plan->link : "unix";
  bench_link_pair (link, 0, stage.fault_link);
  bench_link_pair (link, 0, stage.bulk_link);
  return stage;
}

/* A process that goes when this one does. */
static pid_t
part (const bench_fault_stage *stage, void (*run) (const bench_fault_stage *), int processor)
{
  pid_t parent = getpid (), child = fork ();

  if (child < 0)
    err (1, "fork");
  if (child > 0)
    return child;
  prctl (PR_SET_PDEATHSIG, SIGKILL);
  if (getppid () != parent)
    exit (1);
  keep_to (stage->plan, processor);
  /* The page tables of the source, so that no fault of ours is timed. */
  madvise (stage->source, stage->plan->pages * BENCH_PAGE_BYTES, 22 /* MADV_POPULATE_READ */);
  run (stage);
  exit (1);
}

static void
measure_touches (const bench_fault_stage *stage, const uint64_t *order, bench_samples *samples)
{
  for (size_t i = 0; i < stage->plan->touches; i++) {
    const uint8_t *at = stage->touched + order[i] * BENCH_PAGE_BYTES;
    uint64_t start = bench_now_nsec ();
    (void) *(volatile const uint64_t *) (const void *) at;
    bench_samples_add (samples, bench_now_nsec () - start);
    if (!bench_pattern_is (at, order[i]))
      errx (1, "page %ju holds something else", (uintmax_t) order[i]);
    if (stage->plan->pause_usec > 0)
      usleep (stage->plan->pause_usec);
  }
}

static void
measure_exchanges (const bench_fault_stage *stage, const uint64_t *order, bench_samples *samples)
{
  static uint64_t answer[(BENCH_FAULT_HEADER_BYTES + BENCH_PAGE_BYTES) / 8];

  for (size_t i = 0; i < stage->plan->touches; i++) {
    uint64_t start = bench_now_nsec ();
    bench_fault_exchange (stage, order[i], (uint8_t *) answer);
    bench_samples_add (samples, bench_now_nsec () - start);
    if (!bench_pattern_is ((uint8_t *) answer + BENCH_FAULT_HEADER_BYTES, order[i]))
      errx (1, "page %ju holds something else", (uintmax_t) order[i]);
    if (stage->plan->pause_usec > 0)
      usleep (stage->plan->pause_usec);
  }
}

int
main (int argc, char **argv)
{
  bool only = false;
  bench_fault_plan plan = parse (argc, argv, &only);
  bench_fault_stage stage = set_up (&plan);
  uint64_t *order = bench_order_new (plan.pages, plan.touches, 1);
  bench_samples samples;

  bench_samples_init (&samples, plan.touches);
  pid_t server = part (&stage, bench_fault_serve, 1);
  pid_t handler = only ? -1 : part (&stage, bench_fault_handle, plan.place == BENCH_PLACE_NEAR ? 0 : 1);
  keep_to (&plan, 0);
  if (only)
    measure_exchanges (&stage, order, &samples);
  else
    measure_touches (&stage, order, &samples);
  if (handler > 0)
    kill (handler, SIGKILL);
  kill (server, SIGKILL);
  while (wait (NULL) > 0)
    continue;
  bench_samples_print (&samples, "");
  bench_samples_clear (&samples);
  free (order);
  return 0;
}
