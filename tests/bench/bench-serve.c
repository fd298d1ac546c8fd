/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memferry's whole way of a fault, without the service around it: one process exports a file by NBD, a second one serves the faults of a
 * program that maps another file, page by page from the first. bench-touch, under the preload library, is that program.
 *
 * Or its way of pre-copy: all of it is pulled through the program's mapping before the program goes on.
 */
#include "attach/mf-handover.h"
#include "bench-link.h"
#include "nbd/mf-nbd-client.h"
#include "nbd/mf-nbd-server.h"

#include <err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const char usage[] =
    "usage: bench-serve [--precopy] LINK LANES SOURCE REGION SOCKET\n"
    "Serves the faults of one program that maps REGION, which is made, of SOURCE's size, from SOURCE; with LANES over "
    "0 it brings\n"
    "all the rest meanwhile; with --precopy it brings everything before the program goes on. Programs hand over at "
    "SOCKET.\n"
    "Prints \"ready\", and what it measured as a JSON object, and ends with the program.\n";

#define LANES_MAX 8

typedef struct {
  bool precopy;
  unsigned n_lanes;
  int fault_link[2], bulk_links[LANES_MAX][2]; /* [0] here, [1] the source's */
  MfRegion *region;
  GMainLoop *loop;
  mf_puller *puller;
} bench_serve;

static void
fail (const char *what, GError *error)
{
  errx (1, "%s: %s", what, error ? error->message : "failed");
}

/* The source: never returns. */
static void export(const bench_serve *self, const char *path)
{
  GError *error = NULL;
  /* Writable, as a migration's source is: what may only be read is not sent from its mapping. */
  MfStore *store = mf_store_open (path, FALSE, &error);
  MfRegion *region = store ? mf_region_new ("source", store, &error) : NULL;
  MfNbdServer *server = mf_nbd_server_new ();
  const mf_nbd_export_options options = { .read_only = TRUE };

  if (!region || !mf_nbd_server_export (server, "", region, &options, &error) ||
      !mf_nbd_server_serve_fd (server, self->fault_link[1], TRUE, &error))
    fail (path, error);
  for (unsigned i = 0; i < self->n_lanes; i++) {
    if (!mf_nbd_server_serve_fd (server, self->bulk_links[i][1], FALSE, &error))
      fail ("bulk", error);
  }
  for (;;)
    pause ();
}

static MfRegion *
find_region (int fd, pid_t pid, GError **error, gpointer user_data)
{
  return g_object_ref (((bench_serve *) user_data)->region);
}

static mf_lane *
open_lane (int fd, bool for_faults)
{
  const mf_nbd_client_options options = { .structured = !for_faults, .spin = for_faults };
  GError *error = NULL;
  mf_lane *lane = mf_nbd_client_new_fd (fd, "", &options, -1, &error);

  if (!lane)
    fail ("lane", error);
  return lane;
}

static void
make_puller (bench_serve *self, MfPutMode mode)
{
  GError *error = NULL;

  self->puller = mf_puller_new (self->region, NULL, &error);
  if (!self->puller)
    fail ("puller", error);
  mf_puller_set_mode (self->puller, mode);
  for (unsigned i = 0; i < self->n_lanes; i++) {
    if (!mf_puller_add_lane (self->puller, open_lane (self->bulk_links[i][0], false), &error))
      fail ("bulk lane", error);
  }
}

/* All of it, and the time that took. */
static void
precopy (bench_serve *self)
{
  gint64 begun = g_get_monotonic_time ();
  mf_puller_stats stats;
  GError *error = NULL;

  mf_puller_queue (self->puller, (mf_run){ 0, mf_region_n_pages (self->region) }, MF_PULL_LINEAR);
  if (!mf_puller_wait_idle (self->puller, -1, NULL, &error))
    fail ("pre-copy", error);
  begun = g_get_monotonic_time () - begun;
  mf_puller_get_stats (self->puller, &stats);
  printf ("{\"seconds\": %.6f, \"requests\": %ju, \"window_bytes\": %ju}\n", (double) begun / G_USEC_PER_SEC,
          (uintmax_t) stats.requests, (uintmax_t) stats.window_bytes);
}

static void
attached (MfUserfault *userfault, gboolean again, gpointer user_data)
{
  bench_serve *self = user_data;
  GError *error = NULL;

  if (!mf_userfault_serve (userfault, &error))
    fail ("serve", error);
  mf_userfault_set_lane (userfault, open_lane (self->fault_link[0], true));
  if (self->n_lanes == 0)
    return;
  make_puller (self, self->precopy ? MF_PUT_REPLACE : MF_PUT_KEEP);
  mf_userfault_set_puller (userfault, self->puller);
  if (self->precopy)
    precopy (self);
  else
    mf_puller_queue (self->puller, (mf_run){ 0, mf_region_n_pages (self->region) }, MF_PULL_LINEAR);
}

static void
detached (MfUserfault *userfault, gpointer user_data)
{
  bench_serve *self = user_data;
  mf_fault_stats stats;

  mf_userfault_get_stats (userfault, &stats);
  if (!self->precopy)
    printf ("{\"faults\": %ju, \"already_there\": %ju, \"p50\": %u, \"p90\": %u, \"p99\": %u, \"max\": %u}\n",
            (uintmax_t) stats.faults, (uintmax_t) stats.already_there, stats.p50_usec, stats.p90_usec, stats.p99_usec,
            stats.max_usec);
  g_main_loop_quit (self->loop);
}

static void
make_region (bench_serve *self, const char *source, const char *path)
{
  GError *error = NULL;
  MfStore *from = mf_store_open (source, TRUE, &error);
  MfStore *store = from ? mf_store_create (path, mf_store_size (from), &error) : NULL;

  if (store)
    self->region = mf_region_new ("bench", store, &error);
  if (!self->region || !mf_region_reset (self->region, &error))
    fail (path, error);
}

int
main (int argc, char **argv)
{
  static const mf_handover_callbacks callbacks = { find_region, attached, detached };
  bench_serve self = { 0 };
  GError *error = NULL;

  if (argc > 1 && strcmp (argv[1], "--precopy") == 0) {
    self.precopy = true;
    argc--, argv++;
  }
  if (argc != 6) {
    fputs (usage, stderr);
    return 2;
  }
  self.n_lanes = (unsigned) MIN (strtoul (argv[2], NULL, 10), LANES_MAX);
  bench_link_pair (argv[1], 0, self.fault_link);
  for (unsigned i = 0; i < self.n_lanes; i++)
    bench_link_pair (argv[1], 0, self.bulk_links[i]);
  pid_t source = fork ();
  if (source == 0) {
    prctl (PR_SET_PDEATHSIG, SIGKILL);
    export(&self, argv[3]);
  }
  make_region (&self, argv[3], argv[4]);
  self.loop = g_main_loop_new (NULL, FALSE);
  if (!mf_handover_new (argv[5], &callbacks, &self, &error))
    fail (argv[5], error);
  puts ("ready");
  fflush (stdout);
  g_main_loop_run (self.loop);
  fflush (stdout);
  /* Waited for, it counts in what this program is said to have used. */
  kill (source, SIGKILL);
  waitpid (source, NULL, 0);
  return 0;
}
