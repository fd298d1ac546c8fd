/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The userfault attachment: a program's own mapping of a region, handed over by the preload library.
 *
 * Two userfaultfds belong to it, since features are fixed at UFFDIO_API: `fault` (MISSING: post-copy) and `track` (WP_ASYNC: the
 * pagemap tracker). A VMA takes one at a time, so the attachment is in one of four states:
 *
 *   idle      nothing registered: the program runs at full speed
 *   serving   `fault` is registered for MISSING and the fault thread answers; the region's puts go down by UFFDIO_COPY
 *   tracking  `track` is registered for write protection
 *   frozen    `fault` is registered for write protection: whoever of the program writes waits. Nobody answers
 *
 * The store's holes are what is missing. A successor of a service that died needs no other knowledge: after the hand-over it wakes the whole
 * range, so that every waiting thread faults again and is reported to it.
 *
 * Threads: every function from any thread that may block, not the main loop. The fault thread is the attachment's own and owns the fault lane.
 */
#include "backend/mf-lane.h"
#include "region/mf-puller.h"
#include "region/mf-region.h"
#include "track/mf-mapping.h"

G_BEGIN_DECLS

typedef struct _MfUserfault MfUserfault;

/* Latencies in microseconds, from the event read to the answer given. */
typedef struct {
  uint64_t faults;        /* answered */
  uint64_t already_there; /* of these, answered by a wake: the page had come meanwhile */
  uint64_t zero;          /* of these, answered with zeroes that are known here */
  uint32_t p50_usec, p90_usec, p99_usec, max_usec;
  guint waiting; /* not answered yet */
} mf_fault_stats;

/* Takes both descriptors over, in any case. `uffd_fault` and `uffd_track` are fresh from USERFAULTFD_IOC_NEW or have been used by a
 * predecessor. Does UFFDIO_API on both. What a predecessor left registered for faults stays so until serve(), finish(), abandon() or a tracker's start. */
MfUserfault *mf_userfault_new (MfRegion *region, pid_t pid, const mf_mapping *mappings, guint n_mappings,
                               int uffd_fault, int uffd_track, GError **error);
MfUserfault *mf_userfault_ref (MfUserfault *userfault);
/* The last one: stops the thread, detaches from the region, closes the descriptors. While serving it does not unregister: the program has its own
 * copies of the descriptors, and its faults wait for the next service. */
void mf_userfault_unref (MfUserfault *userfault);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (MfUserfault, mf_userfault_unref)

pid_t mf_userfault_pid (MfUserfault *userfault);
MfRegion *mf_userfault_region (MfUserfault *userfault);
/* The program maps the region elsewhere now. While tracking, everything counts as written once: what was written through a mapping that has
 * gone is not known. */
gboolean mf_userfault_set_mappings (MfUserfault *userfault, const mf_mapping *mappings, guint n_mappings,
                                    GError **error);

/* idle -> serving: registers for MISSING, wakes the range, attaches to the region (puts go down by UFFDIO_COPY from here on) and starts the fault
 * thread. Faults on pages that are PRESENT in the page map are answered at once (zeroes, or a wake); the others wait for a lane. `puller` (may be NULL) is
 * told of faults, for their neighbourhood. */
gboolean mf_userfault_serve (MfUserfault *userfault, GError **error);
void mf_userfault_set_puller (MfUserfault *userfault, mf_puller *puller);
/* The connection on which faults are asked for; taken over; replaces one that was lost. Faults that wait are asked for on it. */
void mf_userfault_set_lane (MfUserfault *userfault, mf_lane *lane);
/* `lost` is called once a lane, from the fault thread, with no lock held: the faults wait for the next lane. */
void mf_userfault_set_lost (MfUserfault *userfault, void (*lost) (MfUserfault *, const GError *, gpointer),
                            gpointer user_data);
/* serving -> idle, also when it was a predecessor that served. Every page must be PRESENT, or the rest would read as zeroes: MF_ERROR_BUSY otherwise. */
gboolean mf_userfault_finish (MfUserfault *userfault, GError **error);
/* serving -> idle whatever is missing: for a migration that is undone before the program ran. */
void mf_userfault_abandon (MfUserfault *userfault);

/* idle or tracking -> frozen: the program's memory does not change any more, whatever lets the program run. It outlives the service. */
gboolean mf_userfault_freeze (MfUserfault *userfault, GError **error);
/* frozen -> idle, also when it was a predecessor that froze it: who waits goes on. */
void mf_userfault_thaw (MfUserfault *userfault);

void mf_userfault_get_stats (MfUserfault *userfault, mf_fault_stats *stats);

/* A pagemap tracker over the same mappings (src/track/mf-pagemap.h), holding a reference. Its start is idle -> tracking (MF_ERROR_BUSY while serving, or while pages are missing), its stop -> idle. */
mf_tracker *mf_userfault_new_tracker (MfUserfault *userfault);

/* What this kernel lacks for it, as one clear error: /dev/userfaultfd, UFFD_FEATURE_MISSING_SHMEM, WP_ASYNC, PAGEMAP_SCAN; and, when `store` is not NULL, what its
 * file system lacks. */
gboolean mf_userfault_check (MfStore *store, GError **error);

G_END_DECLS
