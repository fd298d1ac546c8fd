/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Filling the holes of a RAM file: UFFDIO_COPY into a mapping of our own that is registered with a userfaultfd and that nobody
 * touches. It allocates, copies and enters a page in one go, without the file's lock, which makes writers of fresh pages
 * wait for each other in pwrite(2).
 */
#include "mf-store.h"

typedef struct _mf_store_filler mf_store_filler;

/* NULL when the kernel or the file can't do it: then there is pwrite(2). */
mf_store_filler *mf_store_filler_new (int fd, uint64_t size_bytes, uint32_t page_bytes);
void mf_store_filler_free (mf_store_filler *filler);

/* Copies whole pages from the first of [offset, offset + length) on, as far as there are holes. Returns how many bytes; -1 with
 * errno (ENOMEM: no room), 0 when the first page is there already. Any thread. */
int64_t mf_store_filler_copy (mf_store_filler *filler, uint64_t offset, const void *buffer, uint64_t length);
