/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-store.h"
#include "mf-store-fill.h"
#include "mf-store-guard.h"
#include "mf-store-ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/*
 * What the file systems differ in:
 *
 *              holes found by      written by              room checked by
 *   tmpfs      SEEK_DATA           pwrite; holes by        statfs, MemAvailable
 *   memfd      SEEK_DATA           UFFDIO_COPY             MemAvailable (its file system has no limit)
 *   disk       SEEK_DATA           pwrite                  statfs
 *   hugetlbfs  nothing: all data   fallocate + a mapping   the kernel, when the mapping is made
 *
 * hugetlbfs has no write(2). A page is allocated by fallocate() before it is touched, so that a pool that has run out is an
 * error here and no SIGBUS. Its read(2) reads holes as zeroes and allocates nothing, as everywhere.
 */
struct _MfStore {
  gatomicrefcount refs;
  char *path;
  MfStoreKind kind;
  uint64_t size_bytes;
  uint32_t page_bytes;
  gboolean read_only;
  int fd;
  dev_t device;
  ino_t inode;

  GMutex map_lock;         /* protects making the mappings; once made they stay */
  uint8_t *map;            /* PROT_READ; atomic */
  uint8_t *write_map;      /* hugetlbfs only; atomic */
  mf_store_filler *filler; /* atomic */
  gboolean no_filler;      /* it was tried and can't be had */
  gint is_cut; /* atomic: a mapping was touched where the file had been cut off; it is of no use from then on */
};

static uint64_t
round_up (uint64_t bytes, uint32_t page_bytes)
{
  return (bytes + page_bytes - 1) / page_bytes * page_bytes;
}

static const char *
display_name (MfStore *store)
{
  return store->path != NULL ? store->path : "memfd";
}

/* Completes a store around `fd`, which is taken over in any case. */
static MfStore *
store_new (int fd, const char *path, gboolean is_memfd, gboolean read_only, GError **error)
{
  MfStore *store = g_new0 (MfStore, 1);
  struct statfs fs;
  struct stat st;

  g_atomic_ref_count_init (&store->refs);
  g_mutex_init (&store->map_lock);
  store->fd = fd;
  store->path = path != NULL ? g_canonicalize_filename (path, NULL) : NULL;
  store->read_only = read_only;
  store->page_bytes = (uint32_t) sysconf (_SC_PAGESIZE);
  if (fstat (fd, &st) < 0 || fstatfs (fd, &fs) < 0) {
    mf_error_from_errno (error, errno, "looking at %s", display_name (store));
    mf_store_unref (store);
    return NULL;
  }
  if (!S_ISREG (st.st_mode)) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s is not a regular file", display_name (store));
    mf_store_unref (store);
    return NULL;
  }
  store->size_bytes = (uint64_t) st.st_size;
  store->device = st.st_dev;
  store->inode = st.st_ino;

  if (fs.f_type == HUGETLBFS_MAGIC) {
    store->kind = MF_STORE_HUGETLBFS;
    store->page_bytes = (uint32_t) fs.f_bsize;
  } else if (is_memfd) {
    store->kind = MF_STORE_MEMFD;
  } else {
    store->kind = fs.f_type == TMPFS_MAGIC ? MF_STORE_TMPFS : MF_STORE_FILE;
  }
  return store;
}

/* A new file can be a store when it takes the size and its file system can make holes. */
static gboolean
store_prepare_new (MfStore *store, uint64_t size_bytes, GError **error)
{
  g_autofree char *size_text = g_format_size_full (size_bytes, G_FORMAT_SIZE_IEC_UNITS);

  if (store->kind == MF_STORE_HUGETLBFS && size_bytes % store->page_bytes != 0) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
                 "creating %s: a size of %" G_GUINT64_FORMAT " bytes is not a multiple of its huge page of %u bytes",
                 display_name (store), size_bytes, store->page_bytes);
    return FALSE;
  }
  if (size_bytes > G_MAXINT64 || ftruncate (store->fd, (off_t) size_bytes) < 0) {
    if (size_bytes <= G_MAXINT64 && errno != EFBIG)
      return mf_error_from_errno (error, errno, "giving %s a size of %s", display_name (store), size_text);
    g_set_error (error, MF_ERROR, MF_ERROR_NO_SPACE, "creating %s: its file system has no files of %s",
                 display_name (store), size_text);
    return FALSE;
  }
  store->size_bytes = size_bytes;

  /* tmpfs and hugetlbfs are known to have them. */
  if (store->kind == MF_STORE_FILE &&
      fallocate (store->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, store->page_bytes) < 0)
    return mf_error_from_errno (error, errno, "creating %s: its file system can't make holes", display_name (store));
  return TRUE;
}

MfStore *
mf_store_create (const char *path, uint64_t size_bytes, GError **error)
{
  g_autoptr (MfStore) store = NULL;
  int fd;

  g_return_val_if_fail (path != NULL, NULL);

  if (size_bytes == 0) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "creating %s: a size of 0 bytes is not possible", path);
    return NULL;
  }
  fd = open (path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) {
    mf_error_from_errno (error, errno, "creating %s", path);
    return NULL;
  }
  store = store_new (fd, path, FALSE, FALSE, error);
  if (store == NULL || !store_prepare_new (store, size_bytes, error)) {
    unlink (path);
    return NULL;
  }
  return g_steal_pointer (&store);
}

MfStore *
mf_store_open (const char *path, gboolean read_only, GError **error)
{
  g_autoptr (MfStore) store = NULL;
  int fd;

  g_return_val_if_fail (path != NULL, NULL);

  /* O_NONBLOCK: a FIFO must be refused, not waited for. It means nothing to a regular file. */
  fd = open (path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    mf_error_from_errno (error, errno, "opening %s", path);
    return NULL;
  }
  store = store_new (fd, path, FALSE, read_only, error);
  if (store == NULL)
    return NULL;
  if (store->size_bytes == 0) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "opening %s: it is empty", path);
    return NULL;
  }
  return g_steal_pointer (&store);
}

MfStore *
mf_store_memfd (const char *name, uint64_t size_bytes, GError **error)
{
  g_autoptr (MfStore) store = NULL;
  int fd;

  g_return_val_if_fail (name != NULL, NULL);

  if (size_bytes == 0) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "creating the memfd %s: a size of 0 bytes is not possible", name);
    return NULL;
  }
  fd = memfd_create (name, MFD_CLOEXEC);
  if (fd < 0) {
    mf_error_from_errno (error, errno, "creating the memfd %s", name);
    return NULL;
  }
  store = store_new (fd, NULL, TRUE, FALSE, error);
  if (store == NULL || !store_prepare_new (store, size_bytes, error))
    return NULL;
  return g_steal_pointer (&store);
}

MfStore *
mf_store_ref (MfStore *store)
{
  g_atomic_ref_count_inc (&store->refs);
  return store;
}

void
mf_store_unref (MfStore *store)
{
  if (!g_atomic_ref_count_dec (&store->refs))
    return;
  mf_store_ledger_remove (store);
  mf_store_guard_remove (store->map);
  mf_store_guard_remove (store->write_map);
  if (store->map != NULL)
    munmap (store->map, round_up (store->size_bytes, store->page_bytes));
  if (store->write_map != NULL)
    munmap (store->write_map, round_up (store->size_bytes, store->page_bytes));
  mf_store_filler_free (store->filler);
  close (store->fd);
  g_mutex_clear (&store->map_lock);
  g_free (store->path);
  g_free (store);
}

const char *
mf_store_path (MfStore *store)
{
  return store->path;
}

MfStoreKind
mf_store_kind (MfStore *store)
{
  return store->kind;
}

uint64_t
mf_store_size (MfStore *store)
{
  return store->size_bytes;
}

uint32_t
mf_store_page_bytes (MfStore *store)
{
  return store->page_bytes;
}

gboolean
mf_store_read_only (MfStore *store)
{
  return store->read_only;
}

int
mf_store_fd (MfStore *store)
{
  return store->fd;
}

gboolean
mf_store_is_fd (MfStore *store, int fd)
{
  struct stat st;

  return fstat (fd, &st) == 0 && st.st_dev == store->device && st.st_ino == store->inode;
}

/* No data from `offset` on: but what was cut off is no hole. Its bytes are gone, and who reads them is told. -1: all of it is hole. */
static off_t
lost_from (MfStore *store, uint64_t offset)
{
  struct stat st;

  if (fstat (store->fd, &st) < 0 || (uint64_t) st.st_size >= store->size_bytes)
    return -1;
  return MAX ((off_t) offset, st.st_size);
}

gboolean
mf_store_next_data (MfStore *store, uint64_t offset, uint64_t *data, uint64_t *end)
{
  off_t first, hole;

  if (offset >= store->size_bytes)
    return FALSE;

  /* What can't be looked at may be data: an error other than ENXIO ("no data from here on") must not make bytes disappear. */
  first = store->kind == MF_STORE_HUGETLBFS ? (off_t) offset : lseek (store->fd, (off_t) offset, SEEK_DATA);
  if (first < 0 && errno == ENXIO) {
    first = lost_from (store, offset);
    if (first < 0)
      return FALSE;
  }
  if (first < 0)
    first = (off_t) offset;
  hole = store->kind == MF_STORE_HUGETLBFS ? -1 : lseek (store->fd, first, SEEK_HOLE);
  /* The data can have been punched between the two calls: then it is one page of nothing, which does no harm. */
  if (hole == first)
    hole = first + 1;

  *data = (uint64_t) first / store->page_bytes * store->page_bytes;
  *end = hole < 0 ? store->size_bytes : MIN (round_up ((uint64_t) hole, store->page_bytes), store->size_bytes);
  return *data < store->size_bytes;
}

uint64_t
mf_store_data_from (MfStore *store, uint64_t offset)
{
  off_t data;

  if (offset >= store->size_bytes)
    return store->size_bytes;
  data = store->kind == MF_STORE_HUGETLBFS ? (off_t) offset : lseek (store->fd, (off_t) offset, SEEK_DATA);
  if (data < 0 && errno == ENXIO) {
    data = lost_from (store, offset);
    return data < 0 ? store->size_bytes : (uint64_t) data;
  }
  if (data < 0)
    return offset;
  return MIN ((uint64_t) data, store->size_bytes);
}

uint64_t
mf_store_allocated (MfStore *store)
{
  struct stat st;

  return fstat (store->fd, &st) < 0 ? 0 : (uint64_t) st.st_blocks * 512;
}

static gboolean
check_range (MfStore *store, const char *what, uint64_t offset, uint64_t length, GError **error)
{
  if (offset <= store->size_bytes && length <= store->size_bytes - offset)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
               "%s %" G_GUINT64_FORMAT " bytes at %" G_GUINT64_FORMAT " passes the end of %s at %" G_GUINT64_FORMAT,
               what, length, offset, display_name (store), store->size_bytes);
  return FALSE;
}

static gboolean
cut_short (MfStore *store, const char *what, uint64_t offset, GError **error)
{
  g_set_error (error, MF_ERROR, MF_ERROR_IO, "%s %s at %" G_GUINT64_FORMAT ": somebody has cut the file short", what,
               display_name (store), offset);
  return FALSE;
}

gboolean
mf_store_is_cut (MfStore *store)
{
  struct stat st;

  /* The rest of the page in which the file ends now reads as zeroes, and nobody is told. */
  return g_atomic_int_get (&store->is_cut) || fstat (store->fd, &st) < 0 || (uint64_t) st.st_size < store->size_bytes;
}

gboolean
mf_store_read (MfStore *store, uint64_t offset, void *buffer, size_t length, GError **error)
{
  uint8_t *to = buffer;

  if (!check_range (store, "reading", offset, length, error))
    return FALSE;
  while (length > 0) {
    ssize_t n = pread (store->fd, to, length, (off_t) offset);

    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return mf_error_from_errno (error, errno, "reading %s at %" G_GUINT64_FORMAT, display_name (store), offset);
    if (n == 0)
      return cut_short (store, "reading", offset, error);
    to += n;
    offset += (uint64_t) n;
    length -= (size_t) n;
  }
  return TRUE;
}

/* Makes the mapping at `*slot` when it is not there yet. */
static uint8_t *
ensure_map (MfStore *store, uint8_t **slot, int protection, GError **error)
{
  size_t length = round_up (store->size_bytes, store->page_bytes);
  uint8_t *map = g_atomic_pointer_get (slot);
  void *made;

  if (map != NULL)
    return map;

  g_mutex_lock (&store->map_lock);
  map = *slot;
  if (map == NULL) {
    made = mmap (NULL, length, protection, MAP_SHARED, store->fd, 0);
    if (made == MAP_FAILED) {
      int reason = errno;

      g_mutex_unlock (&store->map_lock);
      if (reason == ENOMEM && store->kind == MF_STORE_HUGETLBFS)
        g_set_error (error, MF_ERROR, MF_ERROR_NO_SPACE,
                     "mapping %s: %" G_GUINT64_FORMAT
                     " huge pages of %u KiB are needed and not free (see vm.nr_hugepages)",
                     display_name (store), (uint64_t) length / store->page_bytes, store->page_bytes / 1024);
      else
        mf_error_from_errno (error, reason, "mapping %s", display_name (store));
      return NULL;
    }
    /* A guest's memory has no place in the service's core dump, nor in a child. */
    madvise (made, length, MADV_DONTDUMP);
    madvise (made, length, MADV_DONTFORK);
    /* To read through it and to forget it says nothing of how the file's own user treats its pages; without this the kernel marks each as used
     * again when it is forgotten, a tenth of what it costs to send them. */
    madvise (made, length, MADV_SEQUENTIAL);
    map = made;
    mf_store_guard_add (map, length, &store->is_cut);
    g_atomic_pointer_set (slot, map);
  }
  g_mutex_unlock (&store->map_lock);
  return map;
}

static gboolean
write_hugetlbfs (MfStore *store, uint64_t offset, const void *buffer, size_t length, GError **error)
{
  uint64_t first = offset / store->page_bytes * store->page_bytes;
  uint64_t end = round_up (offset + length, store->page_bytes);
  uint8_t *map = ensure_map (store, &store->write_map, PROT_READ | PROT_WRITE, error);

  if (map == NULL)
    return FALSE;
  while (fallocate (store->fd, 0, (off_t) first, (off_t) (end - first)) < 0) {
    if (errno != EINTR)
      return mf_error_from_errno (error, errno, "allocating huge pages of %s at %" G_GUINT64_FORMAT,
                                  display_name (store), first);
  }
  memcpy (map + offset, buffer, length);
  return !mf_store_is_cut (store) || cut_short (store, "writing", offset, error);
}

gboolean
mf_store_write (MfStore *store, uint64_t offset, const void *buffer, size_t length, GError **error)
{
  const uint8_t *from = buffer;

  if (!check_range (store, "writing", offset, length, error))
    return FALSE;
  if (store->read_only)
    return mf_error_from_errno (error, EROFS, "writing %s", display_name (store));
  if (length > 0 && store->kind == MF_STORE_HUGETLBFS)
    return write_hugetlbfs (store, offset, buffer, length, error);

  while (length > 0) {
    ssize_t n = pwrite (store->fd, from, length, (off_t) offset);

    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return mf_error_from_errno (error, errno, "writing %s at %" G_GUINT64_FORMAT, display_name (store), offset);
    from += n;
    offset += (uint64_t) n;
    length -= (size_t) n;
  }
  return TRUE;
}

/* Made at first use: a store that is only served has none. */
static mf_store_filler *
ensure_filler (MfStore *store)
{
  mf_store_filler *filler = g_atomic_pointer_get (&store->filler);

  if (filler != NULL || store->read_only || (store->kind != MF_STORE_TMPFS && store->kind != MF_STORE_MEMFD))
    return filler;
  g_mutex_lock (&store->map_lock);
  filler = store->filler;
  if (filler == NULL && !store->no_filler) {
    filler = mf_store_filler_new (store->fd, store->size_bytes, store->page_bytes);
    store->no_filler = filler == NULL;
    g_atomic_pointer_set (&store->filler, filler);
  }
  g_mutex_unlock (&store->map_lock);
  return filler;
}

gboolean
mf_store_write_fresh (MfStore *store, uint64_t offset, const void *buffer, size_t length, GError **error)
{
  mf_store_filler *filler = ensure_filler (store);
  const uint8_t *from = buffer;

  if (!check_range (store, "writing", offset, length, error))
    return FALSE;
  while (filler != NULL && offset % store->page_bytes == 0 && length >= store->page_bytes) {
    int64_t n = mf_store_filler_copy (filler, offset, from, length / store->page_bytes * store->page_bytes);

    /* What it can't do, pwrite can, or says better why not. */
    if (n < 0)
      break;
    if (n == 0) {
      n = store->page_bytes;
      if (!mf_store_write (store, offset, from, (size_t) n, error))
        return FALSE;
    }
    from += n;
    offset += (uint64_t) n;
    length -= (size_t) n;
  }
  return length == 0 || mf_store_write (store, offset, from, length, error);
}

gboolean
mf_store_punch (MfStore *store, uint64_t offset, uint64_t length, GError **error)
{
  uint64_t end;

  if (!check_range (store, "punching", offset, length, error))
    return FALSE;
  if (store->read_only)
    return mf_error_from_errno (error, EROFS, "punching a hole into %s", display_name (store));
  end = offset + length;
  if (offset % store->page_bytes != 0 || (end % store->page_bytes != 0 && end != store->size_bytes)) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
                 "punching %" G_GUINT64_FORMAT " bytes at %" G_GUINT64_FORMAT " of %s: not whole pages of %u", length,
                 offset, display_name (store), store->page_bytes);
    return FALSE;
  }
  if (length == 0)
    return TRUE;

  /* A page that is punched in part is cleared and stays allocated: so the tail goes up to its page's end, past the file's. */
  end = round_up (end, store->page_bytes);
  while (fallocate (store->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t) offset, (off_t) (end - offset)) <
         0) {
    if (errno != EINTR)
      return mf_error_from_errno (error, errno, "punching a hole into %s at %" G_GUINT64_FORMAT, display_name (store),
                                  offset);
  }
  return TRUE;
}

const uint8_t *
mf_store_map (MfStore *store, GError **error)
{
  /* Zeroes are in it where bytes were, also when the file is as long again as before. */
  if (g_atomic_int_get (&store->is_cut)) {
    cut_short (store, "mapping", 0, error);
    return NULL;
  }
  return ensure_map (store, &store->map, PROT_READ, error);
}

void
mf_store_map_forget (MfStore *store, uint64_t offset, uint64_t length)
{
  uint8_t *map = g_atomic_pointer_get (&store->map);
  uint64_t first = offset / store->page_bytes * store->page_bytes;

  if (map == NULL || length == 0 || offset >= store->size_bytes || length > store->size_bytes - offset)
    return;
  /* Of a shared mapping this drops the page table entries only. When it fails, the memory is counted twice: no more than that. */
  madvise (map + first, round_up (offset + length, store->page_bytes) - first, MADV_DONTNEED);
}

gboolean
mf_store_reserve (MfStore *store, GError **error)
{
  /* The kernel reserves the huge pages of a shared mapping when it is made. */
  if (store->kind == MF_STORE_HUGETLBFS)
    return ensure_map (store, &store->write_map, PROT_READ | PROT_WRITE, error) != NULL;
  return mf_store_ledger_add (store, store->device, store->inode, error);
}

void
mf_store_release (MfStore *store)
{
  mf_store_ledger_remove (store);
}
