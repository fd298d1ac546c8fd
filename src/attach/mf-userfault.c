/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "attach/mf-userfault.h"
#include "attach/mf-fault-thread.h"
#include "attach/mf-placement.h"
#include "track/mf-pagemap.h"
#include "track/mf-uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <unistd.h>

typedef enum {
  STATE_IDLE,
  STATE_SERVING,
  STATE_TRACKING,
  STATE_FROZEN,
} attachment_state;

struct _MfUserfault {
  _Atomic int refs;
  MfRegion *region;
  pid_t pid;
  int uffd_fault, uffd_track;
  int pagemap_fd;    /* belongs to the program's address space, not to its pid; -1: could not be opened, */
  int pagemap_error; /* for this reason */
  mf_placement *placement;
  mf_fault_thread *thread;

  GMutex lock; /* of what follows; held through the changes of state */
  attachment_state state;
  mf_pagemap *pagemap;  /* while tracking */
  gboolean all_written; /* the next collect reports every page */

  GMutex lost_lock; /* of what follows */
  void (*lost) (MfUserfault *, const GError *, gpointer);
  gpointer lost_data;
};

static gboolean
put (gpointer attachment, mf_run run, const void *bytes, mf_bitmap *kept, GError **error)
{
  MfUserfault *userfault = attachment;

  return mf_placement_put (userfault->placement, run, bytes, kept, error);
}

static void
present (gpointer attachment, mf_run run)
{
  MfUserfault *userfault = attachment;

  mf_placement_wake (userfault->placement, run);
}

static const mf_attachment_ops attachment_ops = { .put = put, .present = present };

static void
lane_lost (const GError *error, gpointer user_data)
{
  MfUserfault *userfault = user_data;
  void (*lost) (MfUserfault *, const GError *, gpointer);
  gpointer lost_data;

  g_mutex_lock (&userfault->lost_lock);
  lost = userfault->lost;
  lost_data = userfault->lost_data;
  g_mutex_unlock (&userfault->lost_lock);
  if (lost)
    lost (userfault, error, lost_data);
}

/* A descriptor that came from another program: what it must be before anything is asked of it. */
static gboolean
prepare_uffd (int uffd, uint64_t features, GError **error)
{
  const int flags = fcntl (uffd, F_GETFL);
  int code;

  if (flags < 0 || !mf_uffd_is_one (uffd)) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "A descriptor that was handed over is not a userfaultfd");
    return FALSE;
  }
  if (!(flags & O_NONBLOCK) && fcntl (uffd, F_SETFL, flags | O_NONBLOCK) < 0)
    return mf_error_from_errno (error, errno, "Making a userfaultfd non-blocking");
  code = mf_uffd_api (uffd, features);
  /* EINVAL: a predecessor has done it. Where it means that the kernel can't, registering will say so. */
  if (code != 0 && code != EINVAL)
    return mf_error_from_errno (error, code, "Agreeing on userfaultfd features");
  return TRUE;
}

static int
open_pagemap (pid_t pid)
{
  g_autofree char *path = g_strdup_printf ("/proc/%d/pagemap", (int) pid);

  return open (path, O_RDONLY | O_CLOEXEC);
}

MfUserfault *
mf_userfault_new (MfRegion *region, pid_t pid, const mf_mapping *mappings, guint n_mappings, int uffd_fault,
                  int uffd_track, GError **error)
{
  g_autoptr (MfUserfault) userfault = g_new0 (MfUserfault, 1);
  const mf_fault_thread_callbacks callbacks = { .lost = lane_lost, .user_data = userfault };
  mf_mapping_set *set;

  atomic_init (&userfault->refs, 1);
  g_mutex_init (&userfault->lock);
  g_mutex_init (&userfault->lost_lock);
  userfault->region = g_object_ref (region);
  userfault->pid = pid;
  userfault->uffd_fault = uffd_fault;
  userfault->uffd_track = uffd_track;
  userfault->pagemap_fd = open_pagemap (pid);
  userfault->pagemap_error = errno;
  if (!prepare_uffd (uffd_fault, MF_UFFD_FAULT_FEATURES, error) ||
      !prepare_uffd (uffd_track, MF_UFFD_TRACK_FEATURES, error))
    return NULL;
  set = mf_mapping_set_new (mappings, n_mappings, mf_region_get_size (region), mf_region_page_bytes (region), error);
  if (!set)
    return NULL;
  userfault->placement = mf_placement_new (region, uffd_fault, set, error);
  if (!userfault->placement)
    return NULL;
  /* What a predecessor was tracking. */
  for (guint i = 0; i < set->count; i++)
    mf_uffd_unregister (uffd_track, set->items[i].address, set->items[i].length);
  userfault->thread = mf_fault_thread_new (region, uffd_fault, userfault->placement, &callbacks, error);
  return userfault->thread ? g_steal_pointer (&userfault) : NULL;
}

MfUserfault *
mf_userfault_ref (MfUserfault *userfault)
{
  atomic_fetch_add (&userfault->refs, 1);
  return userfault;
}

void
mf_userfault_unref (MfUserfault *userfault)
{
  if (atomic_fetch_sub (&userfault->refs, 1) > 1)
    return;
  if (userfault->state == STATE_SERVING)
    mf_region_detach (userfault->region, userfault);
  g_clear_pointer (&userfault->thread, mf_fault_thread_free);
  g_clear_pointer (&userfault->placement, mf_placement_free);
  if (userfault->pagemap_fd >= 0)
    close (userfault->pagemap_fd);
  close (userfault->uffd_fault);
  close (userfault->uffd_track);
  g_mutex_clear (&userfault->lock);
  g_mutex_clear (&userfault->lost_lock);
  g_object_unref (userfault->region);
  g_free (userfault);
}

pid_t
mf_userfault_pid (MfUserfault *userfault)
{
  return userfault->pid;
}

MfRegion *
mf_userfault_region (MfUserfault *userfault)
{
  return userfault->region;
}

static gboolean
busy (MfUserfault *userfault, const char *why, GError **error)
{
  g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "Region %s: %s", mf_region_get_name (userfault->region), why);
  return FALSE;
}

static gboolean
is_complete (MfUserfault *userfault)
{
  return mf_page_map_count (mf_region_map (userfault->region), MF_PAGE_PRESENT) ==
         mf_region_n_pages (userfault->region);
}

static mf_pagemap *
start_tracking (MfUserfault *userfault, GError **error)
{
  g_autoptr (mf_pagemap) pagemap = NULL;

  if (userfault->pagemap_fd < 0) {
    mf_error_from_errno (error, userfault->pagemap_error, "Opening /proc/%d/pagemap", (int) userfault->pid);
    return NULL;
  }
  pagemap = mf_pagemap_new (userfault->uffd_track, userfault->pagemap_fd, mf_placement_mappings (userfault->placement));
  return mf_pagemap_start (pagemap, error) ? g_steal_pointer (&pagemap) : NULL;
}

gboolean
mf_userfault_set_mappings (MfUserfault *userfault, const mf_mapping *mappings, guint n_mappings, GError **error)
{
  g_autoptr (GMutexLocker) locker = NULL;
  mf_mapping_set *set = mf_mapping_set_new (mappings, n_mappings, mf_region_get_size (userfault->region),
                                            mf_region_page_bytes (userfault->region), error);

  if (!set)
    return FALSE;
  locker = g_mutex_locker_new (&userfault->lock);
  if (!mf_placement_set_mappings (userfault->placement, set, error))
    return FALSE;
  if (userfault->state != STATE_TRACKING)
    return TRUE;
  userfault->all_written = TRUE;
  g_clear_pointer (&userfault->pagemap, mf_pagemap_free);
  userfault->pagemap = start_tracking (userfault, error);
  return userfault->pagemap != NULL;
}

gboolean
mf_userfault_serve (MfUserfault *userfault, GError **error)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&userfault->lock);

  if (userfault->state != STATE_IDLE)
    return busy (userfault, userfault->state == STATE_SERVING ? "faults are served already" : "writes are tracked",
                 error);
  if (!mf_placement_register (userfault->placement, error))
    return FALSE;
  if (!mf_region_attach (userfault->region, &attachment_ops, userfault, error)) {
    /* It stays registered: going on without would be reading zeroes. */
    return FALSE;
  }
  userfault->state = STATE_SERVING;
  mf_fault_thread_start (userfault->thread);
  /* What a predecessor read and did not answer is reported only when the thread that waits has looked again. */
  mf_placement_wake (userfault->placement, (mf_run){ 0, mf_region_n_pages (userfault->region) });
  return TRUE;
}

/* With the lock held: whatever serves, here or in a predecessor, ends, and who waits goes on. */
static void
stop_serving (MfUserfault *userfault)
{
  if (userfault->state == STATE_SERVING) {
    mf_region_detach (userfault->region, userfault);
    mf_fault_thread_stop (userfault->thread);
  }
  userfault->state = STATE_IDLE;
  mf_placement_unregister (userfault->placement);
}

gboolean
mf_userfault_finish (MfUserfault *userfault, GError **error)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&userfault->lock);

  if (userfault->state == STATE_TRACKING)
    return busy (userfault, "writes are tracked", error);
  /* A page is put down first and marked afterwards. */
  if (!is_complete (userfault))
    mf_fault_thread_settle (userfault->thread);
  if (!is_complete (userfault))
    return busy (userfault, "pages are still missing", error);
  stop_serving (userfault);
  return TRUE;
}

void
mf_userfault_abandon (MfUserfault *userfault)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&userfault->lock);

  if (userfault->state != STATE_TRACKING)
    stop_serving (userfault);
}

gboolean
mf_userfault_freeze (MfUserfault *userfault, GError **error)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&userfault->lock);

  if (userfault->state == STATE_FROZEN)
    return TRUE;
  if (userfault->state == STATE_SERVING)
    return busy (userfault, "faults are served", error);
  g_clear_pointer (&userfault->pagemap, mf_pagemap_free);
  userfault->state = STATE_FROZEN;
  return mf_placement_protect (userfault->placement, error);
}

void
mf_userfault_thaw (MfUserfault *userfault)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&userfault->lock);

  if (userfault->state != STATE_FROZEN && userfault->state != STATE_IDLE)
    return;
  stop_serving (userfault);
  /* The kernel lets those go on that wait for a page when it unregisters, and forgets those that wait to write. */
  mf_placement_wake (userfault->placement, (mf_run){ 0, mf_region_n_pages (userfault->region) });
}

void
mf_userfault_set_puller (MfUserfault *userfault, mf_puller *puller)
{
  mf_fault_thread_set_puller (userfault->thread, puller);
}

void
mf_userfault_set_lane (MfUserfault *userfault, mf_lane *lane)
{
  mf_fault_thread_set_lane (userfault->thread, lane);
}

void
mf_userfault_set_lost (MfUserfault *userfault, void (*lost) (MfUserfault *, const GError *, gpointer),
                       gpointer user_data)
{
  g_mutex_lock (&userfault->lost_lock);
  userfault->lost = lost;
  userfault->lost_data = user_data;
  g_mutex_unlock (&userfault->lost_lock);
}

void
mf_userfault_get_stats (MfUserfault *userfault, mf_fault_stats *stats)
{
  mf_fault_thread_get_stats (userfault->thread, stats);
}

/* The tracker: the attachment in its state "tracking". */
typedef struct {
  mf_tracker tracker;
  MfUserfault *userfault; /* a reference */
} userfault_tracker;

static gboolean
tracker_start (mf_tracker *tracker, GError **error)
{
  MfUserfault *userfault = ((userfault_tracker *) tracker)->userfault;
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&userfault->lock);

  if (userfault->state != STATE_IDLE)
    return busy (userfault, userfault->state == STATE_SERVING ? "faults are served" : "writes are tracked already",
                 error);
  if (!is_complete (userfault))
    return busy (userfault, "pages are still missing", error);
  stop_serving (userfault);
  userfault->pagemap = start_tracking (userfault, error);
  if (!userfault->pagemap)
    return FALSE;
  userfault->all_written = FALSE;
  userfault->state = STATE_TRACKING;
  return TRUE;
}

static gboolean
tracker_collect (mf_tracker *tracker, mf_bitmap *written, GError **error)
{
  MfUserfault *userfault = ((userfault_tracker *) tracker)->userfault;
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&userfault->lock);

  if (!userfault->pagemap) {
    g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM, "Region %s: its program's writes are not tracked",
                 mf_region_get_name (userfault->region));
    return FALSE;
  }
  if (!mf_pagemap_collect (userfault->pagemap, written, error))
    return FALSE;
  if (userfault->all_written)
    mf_bitmap_set_run (written, (mf_run){ 0, mf_bitmap_size (written) });
  userfault->all_written = FALSE;
  return TRUE;
}

static void
tracker_stop (mf_tracker *tracker)
{
  MfUserfault *userfault = ((userfault_tracker *) tracker)->userfault;
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&userfault->lock);

  if (userfault->state != STATE_TRACKING)
    return;
  g_clear_pointer (&userfault->pagemap, mf_pagemap_free);
  userfault->state = STATE_IDLE;
}

static void
tracker_free (mf_tracker *tracker)
{
  tracker_stop (tracker);
  mf_userfault_unref (((userfault_tracker *) tracker)->userfault);
  g_free (tracker);
}

static const mf_tracker_ops tracker_ops = {
  .start = tracker_start,
  .collect = tracker_collect,
  .stop = tracker_stop,
  .free = tracker_free,
};

mf_tracker *
mf_userfault_new_tracker (MfUserfault *userfault)
{
  userfault_tracker *made = g_new0 (userfault_tracker, 1);

  made->tracker.ops = &tracker_ops;
  made->userfault = mf_userfault_ref (userfault);
  return &made->tracker;
}

static gboolean
check_features (int device, GError **error)
{
  static const struct {
    uint64_t flag;
    const char *name, *since;
  } wanted[] = {
    { UFFD_FEATURE_MISSING_SHMEM, "UFFD_FEATURE_MISSING_SHMEM", "4.11" },
    { UFFD_FEATURE_MISSING_HUGETLBFS, "UFFD_FEATURE_MISSING_HUGETLBFS", "4.11" },
    { UFFD_FEATURE_WP_HUGETLBFS_SHMEM, "UFFD_FEATURE_WP_HUGETLBFS_SHMEM", "5.19" },
    { UFFD_FEATURE_WP_UNPOPULATED, "UFFD_FEATURE_WP_UNPOPULATED", "6.4" },
    { UFFD_FEATURE_WP_ASYNC, "UFFD_FEATURE_WP_ASYNC", "6.7" },
  };
  uint64_t features;
  const int code = mf_uffd_features (device, &features);

  if (code != 0)
    return mf_error_from_errno (error, code, "Asking /dev/userfaultfd what it can do");
  for (guint i = 0; i < G_N_ELEMENTS (wanted); i++) {
    if (features & wanted[i].flag)
      continue;
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED, "The kernel has no %s: Linux %s or later is needed",
                 wanted[i].name, wanted[i].since);
    return FALSE;
  }
  return TRUE;
}

gboolean
mf_userfault_check (MfStore *store, GError **error)
{
  const int device = mf_uffd_open_device (error);
  gboolean is_able;

  if (device < 0)
    return FALSE;
  is_able = check_features (device, error) && mf_pagemap_check (error);
  close (device);
  if (!is_able || !store || mf_store_kind (store) != MF_STORE_FILE)
    return is_able;
  g_set_error (
      error, MF_ERROR, MF_ERROR_NOT_SUPPORTED,
      "%s is on a disk: page faults and writes can only be seen of memory, so it must be on tmpfs or hugetlbfs",
      mf_store_path (store));
  return FALSE;
}
