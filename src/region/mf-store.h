/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A store: where a region's local bytes are. A file on tmpfs or hugetlbfs (RAM), a file on disk, or a memfd.
 *
 * A hole of the store reads as zeroes and takes no room. Holes are never touched through a mapping (reading a hole of a tmpfs file through a mapping allocates it). All functions may be called
 * from any thread; they block on the file system only.
 */
#include "core/mf-run.h"
#include "mf-error.h"

G_BEGIN_DECLS

typedef struct _MfStore MfStore;

typedef enum {
  MF_STORE_TMPFS,
  MF_STORE_HUGETLBFS,
  MF_STORE_FILE,
  MF_STORE_MEMFD,
} MfStoreKind;

/* Creates `path` (mode 0600, O_EXCL) with `size_bytes` bytes, all hole. Errors: MF_ERROR_EXISTS, _NO_SPACE, _INVALID
 * (size 0, or on hugetlbfs not a multiple of the huge page), _PERMISSION, _NOT_SUPPORTED (the file system has no holes). */
MfStore *mf_store_create (const char *path, uint64_t size_bytes, GError **error);
/* Opens an existing regular file; its size is the store's. */
MfStore *mf_store_open (const char *path, gboolean read_only, GError **error);
MfStore *mf_store_memfd (const char *name, uint64_t size_bytes, GError **error);
MfStore *mf_store_ref (MfStore *store);
void mf_store_unref (MfStore *store);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (MfStore, mf_store_unref)

const char *mf_store_path (MfStore *store); /* NULL for a memfd */
MfStoreKind mf_store_kind (MfStore *store);
uint64_t mf_store_size (MfStore *store);       /* bytes */
uint32_t mf_store_page_bytes (MfStore *store); /* the machine's page, or the huge page */
gboolean mf_store_read_only (MfStore *store);
int mf_store_fd (MfStore *store); /* stays the store's */
/* TRUE when `fd` is the same file. */
gboolean mf_store_is_fd (MfStore *store, int fd);

/* The next extent with data at or after `offset`, in bytes, page-aligned outward and cut at the size; FALSE when there is none.
 * Data that is being written meanwhile may be seen or not. Where holes can't be found (hugetlbfs) everything is data. */
gboolean mf_store_next_data (MfStore *store, uint64_t offset, uint64_t *data, uint64_t *end);
/* Where the first data at or after `offset` begins, not aligned; the size when there is none. Cheap, while next_data() walks every page up to the data's
 * end (7 ms for a full GiB of tmpfs, with the file locked). */
uint64_t mf_store_data_from (MfStore *store, uint64_t offset);
/* Bytes allocated now. On some file systems a little more than what is data. */
uint64_t mf_store_allocated (MfStore *store);

/* Ranges past the end are MF_ERROR_INVALID. A write that fails may have put down its first bytes. */
gboolean mf_store_read (MfStore *store, uint64_t offset, void *buffer, size_t length, GError **error);
gboolean mf_store_write (MfStore *store, uint64_t offset, const void *buffer, size_t length, GError **error);
/* The same, quicker where the whole pages of the range are holes, as the caller believes. */
gboolean mf_store_write_fresh (MfStore *store, uint64_t offset, const void *buffer, size_t length, GError **error);
/* Makes [offset, offset + length) a hole: whole pages only, and the tail of the store. */
gboolean mf_store_punch (MfStore *store, uint64_t offset, uint64_t length, GError **error);

/* A shared mapping of the whole store for reading, made at first use; stays the store's. NULL with error. Read only what next_data() showed
 * as data, and ask mf_store_is_cut() afterwards: where somebody has cut the file short, zeroes are read. */
const uint8_t *mf_store_map (MfStore *store, GError **error);
/* Whether the file is shorter than the store, or was when its mapping was read. */
gboolean mf_store_is_cut (MfStore *store);
/* Lets the service's page tables forget [offset, offset + length) of that mapping, so that what was served does not count as its memory. */
void mf_store_map_forget (MfStore *store, uint64_t offset, uint64_t length);

/* Room for the rest of the region: checks that its file system (and, for tmpfs, the machine's memory) could hold all of the store beyond what is
 * allocated now, on top of what other stores of this process have reserved there, and reserves it until release or unref.
 * MF_ERROR_NO_SPACE says how much is missing where. */
gboolean mf_store_reserve (MfStore *store, GError **error);
void mf_store_release (MfStore *store);

G_END_DECLS
