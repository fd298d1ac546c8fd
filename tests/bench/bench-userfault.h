/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * userfaultfd for the measuring programs. What fails ends the program.
 */
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Not in Debian 12's headers. */
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#  define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#  define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

/* A descriptor from /dev/userfaultfd with the API agreed on. */
int bench_userfault_open (uint64_t features, bool nonblock);

/* `mode`: UFFDIO_REGISTER_MODE_*. */
void bench_userfault_register (int fd, void *start, size_t length_bytes, uint64_t mode);

/* Puts `length_bytes` at `to`, pages that are there already skipped and their waiters woken. */
void bench_userfault_copy (int fd, void *to, const void *from, size_t length_bytes, bool wake);
