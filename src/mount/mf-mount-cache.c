/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-mount-cache.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC        "memferry cache 1"
#define HEADER_BYTES 4096
#define NAME_BYTES   1024
#define BOOT_BYTES   40

/* The beginning of the map, in this host's byte order: it is for this host. Then the present bits follow, and the dirty ones, in words of 64 pages. */
typedef struct {
  char magic[16];
  uint64_t size_bytes;
  uint32_t page_bytes;
  uint32_t closed;       /* 1: everything is on the disk */
  char boot[BOOT_BYTES]; /* in which it was used last */
  char name_sum[72];     /* SHA-256 of the backend's name */
  char name[NAME_BYTES]; /* its beginning, for messages */
} Header;

G_STATIC_ASSERT (sizeof (Header) <= HEADER_BYTES);

struct _mf_mount_cache {
  char *path, *map_path;
  MfStore *store;
  int fd; /* of the map; locked */
  uint8_t *map;
  size_t map_bytes;
  Header *header;
  uint64_t n_pages, n_words;
  uint64_t *present, *dirty; /* in the map; atomic */
  mf_bitmap *touched;        /* written since it was taken to be sent */
  mf_bitmap *initial;        /* dirty when it was loaded */
  MfRegion *region;          /* not a reference: it outlives nothing of ours that is used */
};

/* --- Bits --- */

static void
set_bits (uint64_t *words, mf_run run)
{
  while (run.count > 0) {
    mf_run_word word = mf_run_first_word (run);

    __atomic_fetch_or (&words[word.index], word.mask, __ATOMIC_ACQ_REL);
    run = (mf_run){ run.first + word.count, run.count - word.count };
  }
}

static void
clear_bit (uint64_t *words, uint64_t page)
{
  __atomic_fetch_and (&words[page / 64], ~(UINT64_C (1) << page % 64), __ATOMIC_ACQ_REL);
}

static gboolean
has_bit (const uint64_t *words, uint64_t page)
{
  return (__atomic_load_n (&words[page / 64], __ATOMIC_ACQUIRE) >> page % 64 & 1) != 0;
}

/* --- The region's journal, under the stripe's lock --- */

static void
on_writing (gpointer data, mf_run run)
{
  mf_mount_cache *cache = data;

  mf_bitmap_set_run (cache->touched, run);
  set_bits (cache->dirty, run);
}

static void
on_settled (gpointer data, mf_run run)
{
  mf_mount_cache *cache = data;
  mf_run rest = run, present;

  while (rest.count > 0 && mf_page_map_next_run (mf_region_map (cache->region), rest, MF_PAGE_PRESENT, &present)) {
    set_bits (cache->present, present);
    rest = (mf_run){ present.first + present.count, run.first + run.count - present.first - present.count };
  }
}

static const mf_region_journal_ops journal_ops = { .writing = on_writing, .settled = on_settled };

void
mf_mount_cache_taking (mf_mount_cache *cache, mf_run run)
{
  mf_bitmap_clear_run (cache->touched, run);
}

void
mf_mount_cache_sent (mf_mount_cache *cache, mf_run run)
{
  for (uint64_t page = run.first; page < run.first + run.count; page++) {
    if (!mf_bitmap_test (cache->touched, page))
      clear_bit (cache->dirty, page);
  }
}

/* --- Opening --- */

static gboolean
refuse (const mf_mount_cache *cache, GError **error, const char *why)
{
  g_set_error (error, MF_ERROR, MF_ERROR_EXISTS, "%s can't be used as a cache: %s", cache->path, why);
  return FALSE;
}

static void
fill_header (Header *header, const char *name, uint64_t size_bytes, uint32_t page_bytes)
{
  g_autofree char *sum = g_compute_checksum_for_string (G_CHECKSUM_SHA256, name, -1);

  memset (header, 0, sizeof *header);
  memcpy (header->magic, MAGIC, sizeof header->magic);
  header->size_bytes = size_bytes;
  header->page_bytes = page_bytes;
  g_strlcpy (header->name_sum, sum, sizeof header->name_sum);
  g_strlcpy (header->name, name, sizeof header->name);
}

static void
boot_id (char boot[BOOT_BYTES])
{
  g_autofree char *text = NULL;

  memset (boot, 0, BOOT_BYTES);
  if (g_file_get_contents ("/proc/sys/kernel/random/boot_id", &text, NULL, NULL))
    g_strlcpy (boot, g_strchomp (text), BOOT_BYTES);
}

static void
measure (mf_mount_cache *cache, uint64_t size_bytes)
{
  const uint32_t page_bytes = mf_store_page_bytes (cache->store);

  cache->n_pages = size_bytes / page_bytes + (size_bytes % page_bytes != 0);
  cache->n_words = (cache->n_pages + 63) / 64;
  cache->map_bytes = HEADER_BYTES + 2 * cache->n_words * sizeof (uint64_t);
}

static gboolean
map_map (mf_mount_cache *cache, GError **error)
{
  void *map = mmap (NULL, cache->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, cache->fd, 0);

  if (map == MAP_FAILED)
    return mf_error_from_errno (error, errno, "mapping %s", cache->map_path);
  cache->map = map;
  cache->header = map;
  cache->present = (uint64_t *) (void *) (cache->map + HEADER_BYTES);
  cache->dirty = cache->present + cache->n_words;
  return TRUE;
}

/* Fills the new map, and gives it its name at last: until then there is no cache. */
static gboolean
make_map (mf_mount_cache *cache, const char *unfinished, const char *name, uint64_t size_bytes, GError **error)
{
  measure (cache, size_bytes);
  /* All of it is allocated, so that no bit is ever set where there is no room. */
  errno = posix_fallocate (cache->fd, 0, (off_t) cache->map_bytes);
  if (errno != 0 || flock (cache->fd, LOCK_EX | LOCK_NB) < 0)
    return mf_error_from_errno (error, errno, "making %s", unfinished);
  if (!map_map (cache, error))
    return FALSE;
  fill_header (cache->header, name, size_bytes, mf_store_page_bytes (cache->store));
  boot_id (cache->header->boot);
  return (msync (cache->map, cache->map_bytes, MS_SYNC) == 0 && g_rename (unfinished, cache->map_path) == 0) ||
         mf_error_from_errno (error, errno, "making %s", cache->map_path);
}

static gboolean
make (mf_mount_cache *cache, const char *name, uint64_t size_bytes, GError **error)
{
  g_autofree char *unfinished = g_strconcat (cache->map_path, ".new", NULL);

  cache->fd = open (unfinished, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (cache->fd < 0 && errno == EEXIST)
    return refuse (cache, error, "it was never finished; remove it, its .map and its .map.new");
  if (cache->fd < 0)
    return mf_error_from_errno (error, errno, "making %s", unfinished);
  cache->store = mf_store_create (cache->path, size_bytes, error);
  if (cache->store == NULL) {
    g_unlink (unfinished);
    return FALSE;
  }
  measure (cache, size_bytes);
  if (make_map (cache, unfinished, name, size_bytes, error))
    return TRUE;
  g_unlink (unfinished);
  g_unlink (cache->path);
  return FALSE;
}

static gboolean
has_tail (const mf_mount_cache *cache, const uint64_t *words)
{
  return cache->n_pages % 64 != 0 && words[cache->n_words - 1] >> cache->n_pages % 64 != 0;
}

/* Whether what the map says makes sense, and is about this. */
static gboolean
check_map (mf_mount_cache *cache, const char *name, uint64_t size_bytes, GError **error)
{
  const Header *found = cache->header;
  g_autofree Header *expected = g_new0 (Header, 1);

  fill_header (expected, name, size_bytes, mf_store_page_bytes (cache->store));
  if (memcmp (found->magic, expected->magic, sizeof found->magic) != 0)
    return refuse (cache, error, "its .map is no map of memferry's");
  if (memcmp (found->name_sum, expected->name_sum, sizeof found->name_sum) != 0) {
    g_autofree char *other = g_strndup (found->name, NAME_BYTES);
    g_autofree char *text = g_strescape (other, NULL);
    g_autofree char *why = g_strdup_printf ("it is one of %s", text);

    return refuse (cache, error, why);
  }
  if (found->size_bytes != size_bytes || found->page_bytes != expected->page_bytes)
    return refuse (cache, error, "it has another size than what it is a cache of");
  if (found->closed > 1 || has_tail (cache, cache->present) || has_tail (cache, cache->dirty))
    return refuse (cache, error, "its .map is damaged");
  return TRUE;
}

static uint64_t
count_dirty (const mf_mount_cache *cache)
{
  uint64_t n = 0;

  for (uint64_t i = 0; i < cache->n_words; i++)
    n += (uint64_t) __builtin_popcountll (cache->dirty[i]);
  return n;
}

/* The host went down while it was in use. */
static gboolean
check_boot (mf_mount_cache *cache, GError **error)
{
  char boot[BOOT_BYTES];

  boot_id (boot);
  if (cache->header->closed == 0 && memcmp (boot, cache->header->boot, BOOT_BYTES) != 0) {
    if (count_dirty (cache) > 0)
      return refuse (
          cache, error,
          "the host went down while it was in use, and it has bytes that were never sent and may be damaged; "
          "remove it and its .map to begin anew");
    memset (cache->present, 0, cache->n_words * sizeof (uint64_t));
  }
  memcpy (cache->header->boot, boot, BOOT_BYTES);
  cache->header->closed = 0;
  return msync (cache->map, cache->map_bytes, MS_SYNC) == 0 ||
         mf_error_from_errno (error, errno, "writing %s", cache->map_path);
}

static gboolean
open_both (mf_mount_cache *cache, const char *name, uint64_t size_bytes, GError **error)
{
  struct stat st;

  cache->fd = open (cache->map_path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (cache->fd < 0)
    return mf_error_from_errno (error, errno, "opening %s", cache->map_path);
  if (flock (cache->fd, LOCK_EX | LOCK_NB) < 0) {
    g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "the cache %s is in use by another mount", cache->path);
    return FALSE;
  }
  cache->store = mf_store_open (cache->path, FALSE, error);
  if (cache->store == NULL)
    return FALSE;
  if (mf_store_size (cache->store) != size_bytes)
    return refuse (cache, error, "it has another size than what it is a cache of");
  measure (cache, size_bytes);
  if (fstat (cache->fd, &st) < 0 || !S_ISREG (st.st_mode) || (uint64_t) st.st_size != cache->map_bytes)
    return refuse (cache, error, "its .map is of another size, or half written");
  return map_map (cache, error) && check_map (cache, name, size_bytes, error) && check_boot (cache, error);
}

mf_mount_cache *
mf_mount_cache_open (const char *path, const char *name, uint64_t size_bytes, GError **error)
{
  g_autoptr (mf_mount_cache) cache = g_new0 (mf_mount_cache, 1);
  gboolean has_file, has_map, ok;

  cache->fd = -1;
  cache->path = g_canonicalize_filename (path, NULL);
  cache->map_path = g_strconcat (cache->path, ".map", NULL);
  has_file = g_file_test (cache->path, G_FILE_TEST_EXISTS) || g_file_test (cache->path, G_FILE_TEST_IS_SYMLINK);
  has_map = g_file_test (cache->map_path, G_FILE_TEST_EXISTS);
  if (has_file != has_map) {
    refuse (cache, error, has_file ? "it has no .map beside it" : "there is a .map, but not the file itself");
    return NULL;
  }
  ok = has_file ? open_both (cache, name, size_bytes, error) : make (cache, name, size_bytes, error);
  if (!ok)
    return NULL;
  cache->touched = mf_bitmap_new (cache->n_pages);
  cache->initial = mf_bitmap_new (cache->n_pages);
  if (cache->touched == NULL || cache->initial == NULL) {
    mf_error_from_errno (error, ENOMEM, "opening %s", cache->path);
    return NULL;
  }
  return g_steal_pointer (&cache);
}

void
mf_mount_cache_free (mf_mount_cache *cache)
{
  if (cache == NULL)
    return;
  if (cache->map != NULL)
    munmap (cache->map, cache->map_bytes);
  if (cache->fd >= 0)
    close (cache->fd);
  g_clear_pointer (&cache->store, mf_store_unref);
  mf_bitmap_free (cache->touched);
  mf_bitmap_free (cache->initial);
  g_free (cache->path);
  g_free (cache->map_path);
  g_free (cache);
}

/* --- Use --- */

MfStore *
mf_mount_cache_store (mf_mount_cache *cache)
{
  return cache->store;
}

const char *
mf_mount_cache_path (mf_mount_cache *cache)
{
  return cache->path;
}

const mf_bitmap *
mf_mount_cache_dirty (mf_mount_cache *cache)
{
  return cache->initial;
}

gboolean
mf_mount_cache_load (mf_mount_cache *cache, MfRegion *region, GError **error)
{
  mf_bitmap *missing = mf_bitmap_new (cache->n_pages);
  gboolean ok;

  if (missing == NULL)
    return mf_error_from_errno (error, ENOMEM, "opening %s", cache->path);
  for (uint64_t page = 0; page < cache->n_pages; page++) {
    if (!has_bit (cache->present, page)) {
      mf_bitmap_set (missing, page);
      clear_bit (cache->dirty, page);
    } else if (has_bit (cache->dirty, page)) {
      mf_bitmap_set (cache->initial, page);
    }
  }
  /* Punches them, too: what somebody had begun to write or to bring is no page. */
  ok = mf_region_invalidate (region, missing, error);
  mf_bitmap_free (missing);
  cache->region = region;
  mf_region_set_journal (region, &journal_ops, cache);
  return ok;
}

gboolean
mf_mount_cache_sync (mf_mount_cache *cache, GError **error)
{
  /* The bytes first: a page that the map has is there. */
  if (fdatasync (mf_store_fd (cache->store)) < 0)
    return mf_error_from_errno (error, errno, "flushing %s", cache->path);
  return msync (cache->map, cache->map_bytes, MS_SYNC) == 0 ||
         mf_error_from_errno (error, errno, "flushing %s", cache->map_path);
}

gboolean
mf_mount_cache_close (mf_mount_cache *cache, GError **error)
{
  if (!mf_mount_cache_sync (cache, error))
    return FALSE;
  cache->header->closed = 1;
  return mf_mount_cache_sync (cache, error);
}
