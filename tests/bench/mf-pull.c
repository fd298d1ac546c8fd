/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mf-pull URI STORE CONNECTIONS: pulls an NBD export into a fresh store as pre-copy does, and prints how long it took.
 *
 * One line of JSON on standard output: seconds from the first request to the last page down and acknowledged, bytes carried, and
 * what the puller found the link to be.
 */
#include "nbd/mf-nbd-client.h"
#include "region/mf-puller.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#define CONNECT_USEC (10 * G_USEC_PER_SEC)

static void
on_failed (mf_puller *puller, const GError *error, gpointer user_data)
{
  fprintf (stderr, "mf-pull: %s\n", error->message);
}

static mf_lane *
connect_lane (const char *uri, GError **error)
{
  const mf_nbd_client_options options = { .structured = TRUE };

  return mf_nbd_client_new_uri (uri, &options, CONNECT_USEC, error);
}

static MfRegion *
fresh_region (const char *path, uint64_t size_bytes, GError **error)
{
  g_autoptr (MfStore) store = mf_store_create (path, size_bytes, error);
  g_autoptr (MfRegion) region = NULL;

  if (store == NULL)
    return NULL;
  region = mf_region_new ("pull", store, error);
  if (region == NULL || !mf_store_reserve (store, error) || !mf_region_reset (region, error))
    return NULL;
  return g_steal_pointer (&region);
}

static double
processor_seconds (void)
{
  struct rusage usage;

  getrusage (RUSAGE_SELF, &usage);
  return (double) (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         (double) (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / G_USEC_PER_SEC;
}

static void
print_result (mf_puller *puller, gint64 usec, double cpu)
{
  mf_puller_stats stats;
  struct rusage usage;

  getrusage (RUSAGE_SELF, &usage);
  mf_puller_get_stats (puller, &stats);
  printf ("{\"seconds\": %.6f, \"bytes\": %" G_GUINT64_FORMAT ", \"pages\": %" G_GUINT64_FORMAT
          ", \"hole_pages\": %" G_GUINT64_FORMAT ", \"requests\": %" G_GUINT64_FORMAT ", \"cpu\": %.3f"
          ", \"window_bytes\": %" G_GUINT64_FORMAT ", \"min_delay_usec\": %" G_GINT64_FORMAT
          ", \"delay_usec\": %" G_GINT64_FORMAT ", \"peak_kib\": %ld}\n",
          (double) usec / G_USEC_PER_SEC, stats.bytes, stats.pages, stats.hole_pages, stats.requests, cpu,
          stats.window_bytes, stats.min_delay_usec, stats.delay_usec, usage.ru_maxrss);
}

static gboolean
run (const char *uri, const char *path, guint connections, GError **error)
{
  const mf_puller_callbacks callbacks = { on_failed, NULL };
  g_autoptr (mf_lane) lane = connect_lane (uri, error);
  g_autoptr (MfRegion) region = NULL;
  g_autoptr (mf_puller) puller = NULL;
  gint64 begun;
  double cpu;

  if (lane == NULL || (region = fresh_region (path, mf_lane_size (lane), error)) == NULL ||
      (puller = mf_puller_new (region, &callbacks, error)) == NULL)
    return FALSE;
  mf_puller_set_mode (puller, MF_PUT_REPLACE);
  for (guint i = 0; i < connections; i++) {
    if (lane == NULL && (lane = connect_lane (uri, error)) == NULL)
      return FALSE;
    if (!mf_puller_add_lane (puller, g_steal_pointer (&lane), error))
      return FALSE;
  }

  begun = g_get_monotonic_time ();
  cpu = processor_seconds ();
  mf_puller_queue (puller, (mf_run){ 0, mf_region_n_pages (region) }, MF_PULL_LINEAR);
  if (!mf_puller_wait_idle (puller, -1, NULL, error))
    return FALSE;
  print_result (puller, g_get_monotonic_time () - begun, processor_seconds () - cpu);
  return TRUE;
}

int
main (int argc, char **argv)
{
  g_autoptr (GError) error = NULL;
  int connections = argc == 4 ? atoi (argv[3]) : 0;

  if (connections < 1) {
    fprintf (stderr, "usage: mf-pull URI STORE CONNECTIONS\n");
    return 2;
  }
  if (run (argv[1], argv[2], (guint) connections, &error))
    return 0;
  fprintf (stderr, "mf-pull: %s\n", error->message);
  return 1;
}
