/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * As a migration's source uses them: the region's dirty log with one session, and the tracker of a userfault attachment, here to this process.
 */
#include "attach/mf-userfault.h"
#include "bench-scanner.h"
#include "track/mf-uffd.h"

#include <err.h>
#include <unistd.h>

static MfRegion *region;
static MfUserfault *userfault;
static mf_dirty_session *session;
static mf_dirty_reader *reader;

static void
fail (const char *what, GError *error)
{
  errx (1, "%s: %s", what, error ? error->message : "failed");
}

static void
start (const bench_scan_target *target)
{
  const mf_mapping mapping = { (uintptr_t) target->mapping, target->pages * BENCH_SCAN_PAGE_BYTES, 0 };
  GError *error = NULL;
  MfStore *store = mf_store_open (target->path, FALSE, &error);
  int device;

  region = store ? mf_region_new ("scan", store, &error) : NULL;
  if (region == NULL)
    fail (target->path, error);
  device = mf_uffd_open_device (&error);
  if (device < 0)
    fail ("device", error);
  userfault = mf_userfault_new (region, getpid (), &mapping, 1, mf_uffd_new (device), mf_uffd_new (device), &error);
  if (userfault == NULL)
    fail ("attaching", error);
  if (!mf_dirty_log_set_tracker (mf_region_dirty_log (region), mf_userfault_new_tracker (userfault), &error))
    fail ("tracker", error);
  session = mf_dirty_session_open (mf_region_dirty_log (region), NULL, NULL, &error);
  reader = session ? mf_dirty_reader_new (session) : NULL;
  if (reader == NULL)
    fail ("session", error);
}

static uint64_t
scan (const bench_scan_target *target)
{
  GError *error = NULL;
  uint64_t found;

  if (!mf_dirty_log_collect (mf_region_dirty_log (region), &found, &error))
    fail ("scan", error);
  return found;
}

/* The session reads what is dirty. */
static void
consume (const bench_scan_target *target)
{
  mf_dirty_reader_take (reader, (mf_run){ 0, target->pages });
  mf_dirty_reader_acknowledge (reader);
}

const bench_scanner bench_scanner_memferry = { start, scan, consume };
