/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Thin wrappers of the userfaultfd ioctls. Each returns 0 or an errno value. Any thread.
 */
#include "mf-error.h"
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdint.h>

G_BEGIN_DECLS

/* Linux 6.4 to 6.7; Debian 12's headers are of 6.1. */
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#  define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#  define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

/* What each of the two descriptors of an attachment needs.
 *
 * No event feature is among them. A program's fork(), madvise(), mremap() or munmap() would block until the service has read the event, and so for as
 * long as no service is there; FORK makes a descriptor that dies with the service; REMOVE does not tell madvise(MADV_DONTNEED), which
 * leaves a shared file's bytes alone, from MADV_REMOVE, and says nothing of fallocate(). A discarded page needs no event: it faults although the page
 * map calls it PRESENT. What is unmapped answers ENOENT, and the preload library tells of it. */
#define MF_UFFD_FAULT_FEATURES (UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MISSING_HUGETLBFS)
#define MF_UFFD_TRACK_FEATURES                                                                                         \
  (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_UNPOPULATED |                    \
   UFFD_FEATURE_WP_ASYNC)

/* Opens /dev/userfaultfd. -1 with a clear error when the kernel has none or the right to it is missing. */
int mf_uffd_open_device (GError **error);
/* A new userfaultfd from the device; -1 with errno. */
int mf_uffd_new (int device);
/* What this kernel can do: UFFD_FEATURE_*. */
int mf_uffd_features (int device, uint64_t *features);
/* Whether `fd`, which somebody else made, is a userfaultfd. */
bool mf_uffd_is_one (int fd);

/* Fixes the features. EINVAL also when that was done before. */
int mf_uffd_api (int uffd, uint64_t features);
/* UFFDIO_REGISTER_MODE_*. `ioctls` (may be NULL): 1 << _UFFDIO_* for each one that the memory can do. */
int mf_uffd_register (int uffd, uint64_t address, uint64_t length, uint64_t mode, uint64_t *ioctls);
int mf_uffd_unregister (int uffd, uint64_t address, uint64_t length);
/* Writes to the range, registered for UFFDIO_REGISTER_MODE_WP, wait from here on, until it is unregistered. */
int mf_uffd_protect (int uffd, uint64_t address, uint64_t length);
int mf_uffd_wake (int uffd, uint64_t address, uint64_t length);
/* Puts whole pages down and wakes who waits for them; goes on by itself after EAGAIN. `done`: how many bytes are down, also on an error, which
 * then is that of the next page: EEXIST, it is there; ENOENT, nothing registered is mapped there; ESRCH, the program is gone; ENOMEM or
 * ENOSPC, no room; EFAULT, past the file's end. */
int mf_uffd_copy (int uffd, uint64_t address, const void *bytes, uint64_t length, uint64_t *done);
/* One range of pages that are to be zeroes; as copy. EINVAL on hugetlbfs. */
int mf_uffd_zero (int uffd, uint64_t address, uint64_t length, uint64_t *done);

G_END_DECLS
