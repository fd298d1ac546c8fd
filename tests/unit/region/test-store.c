/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "region/mf-store.h"
#include "own-tmpfs.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#define PAGE 4096u
#define MIB  (1024u * 1024u)

typedef struct {
  char *folder;
  char *path;
} Fixture;

/* `where` is the parent folder: a tmpfs or a disk. */
static void
set_up (Fixture *f, gconstpointer where)
{
  f->folder = g_build_filename (where, "mf-test-store-XXXXXX", NULL);
  g_assert_nonnull (g_mkdtemp (f->folder));
  f->path = g_build_filename (f->folder, "store", NULL);
}

static void
tear_down (Fixture *f, gconstpointer where)
{
  g_unlink (f->path);
  g_assert_cmpint (g_rmdir (f->folder), ==, 0);
  g_free (f->path);
  g_free (f->folder);
}

static void
fill (MfStore *store, uint64_t offset, uint64_t length, int byte)
{
  g_autofree uint8_t *bytes = g_malloc (length);
  g_autoptr (GError) error = NULL;

  memset (bytes, byte, length);
  g_assert_true (mf_store_write (store, offset, bytes, length, &error));
  g_assert_no_error (error);
}

static void
assert_bytes (MfStore *store, uint64_t offset, uint64_t length, int byte)
{
  g_autofree uint8_t *bytes = g_malloc (length);
  g_autoptr (GError) error = NULL;

  memset (bytes, 0x5a, length);
  g_assert_true (mf_store_read (store, offset, bytes, length, &error));
  g_assert_no_error (error);
  for (uint64_t i = 0; i < length; i++)
    g_assert_cmpint (bytes[i], ==, byte);
}

static void
assert_next (MfStore *store, uint64_t from, uint64_t data, uint64_t end)
{
  uint64_t got_data = 0, got_end = 0;

  g_assert_true (mf_store_next_data (store, from, &got_data, &got_end));
  g_assert_cmpuint (got_data, ==, data);
  g_assert_cmpuint (got_end, ==, end);
}

static void
test_holes (Fixture *f, gconstpointer where)
{
  /* Ten pages and a bit: the tail is a page like any other. */
  const uint64_t size = 10 * PAGE + 100;
  g_autoptr (GError) error = NULL;
  g_autoptr (MfStore) store = mf_store_create (f->path, size, &error);
  uint64_t data, end;

  g_assert_no_error (error);
  g_assert_cmpuint (mf_store_size (store), ==, size);
  g_assert_cmpuint (mf_store_page_bytes (store), ==, PAGE);
  g_assert_false (mf_store_next_data (store, 0, &data, &end));
  assert_bytes (store, 0, size, 0);
  g_assert_false (mf_store_next_data (store, 0, &data, &end));
  g_assert_cmpuint (mf_store_allocated (store), ==, 0);

  fill (store, 3 * PAGE + 7, 1, 'a');
  fill (store, 6 * PAGE, 2 * PAGE, 'b');
  fill (store, 10 * PAGE + 99, 1, 'c');
  assert_next (store, 0, 3 * PAGE, 4 * PAGE);
  assert_next (store, 3 * PAGE + 100, 3 * PAGE, 4 * PAGE);
  assert_next (store, 4 * PAGE, 6 * PAGE, 8 * PAGE);
  assert_next (store, 7 * PAGE, 7 * PAGE, 8 * PAGE);
  assert_next (store, 8 * PAGE, 10 * PAGE, size);
  g_assert_false (mf_store_next_data (store, size, &data, &end));
  g_assert_false (mf_store_next_data (store, UINT64_MAX, &data, &end));

  g_assert_true (mf_store_punch (store, 3 * PAGE, PAGE, &error));
  g_assert_true (mf_store_punch (store, 10 * PAGE, 100, &error));
  g_assert_no_error (error);
  assert_next (store, 0, 6 * PAGE, 8 * PAGE);
  g_assert_false (mf_store_next_data (store, 8 * PAGE, &data, &end));
  assert_bytes (store, 3 * PAGE, PAGE, 0);
  assert_bytes (store, 6 * PAGE, 2 * PAGE, 'b');
  assert_bytes (store, 10 * PAGE, 100, 0);
  g_assert_true (mf_store_punch (store, 0, size, &error));
  g_assert_false (mf_store_next_data (store, 0, &data, &end));
  g_assert_cmpuint (mf_store_allocated (store), ==, 0);
}

/* A write that takes the pages for holes, which some are and some are not. */
static void
test_write_fresh (Fixture *f, gconstpointer where)
{
  const uint64_t size = 100 * PAGE + 77;
  g_autofree uint8_t *model = g_malloc0 (size);
  g_autofree uint8_t *got = g_malloc (size);
  g_autoptr (GRand) dice = g_rand_new_with_seed (5);
  g_autoptr (GError) error = NULL;
  g_autoptr (MfStore) store = mf_store_create (f->path, size, NULL);

  for (guint i = 0; i < 100; i++) {
    uint64_t offset = (uint64_t) g_rand_int_range (dice, 0, (int) size);
    uint64_t length = (uint64_t) g_rand_int_range (dice, 0, 20 * PAGE);

    if (i % 3 != 0)
      offset = offset / PAGE * PAGE;
    length = MIN (length, size - offset);
    for (uint64_t at = offset; at < offset + length; at++)
      model[at] = (uint8_t) g_rand_int (dice);
    g_assert_true (mf_store_write_fresh (store, offset, model + offset, length, &error));
    g_assert_no_error (error);
    if (i % 10 == 9) {
      memset (model + i / 10 * PAGE, 0, 3 * PAGE);
      g_assert_true (mf_store_punch (store, i / 10 * PAGE, 3 * PAGE, NULL));
    }
  }
  g_assert_true (mf_store_write_fresh (store, 100 * PAGE, model + 100 * PAGE, 77, &error));
  g_assert_true (mf_store_read (store, 0, got, size, &error));
  g_assert_cmpmem (got, size, model, size);

  g_assert_false (mf_store_write_fresh (store, size, "x", 1, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_INVALID);
}

static void
test_mapping (Fixture *f, gconstpointer where)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (MfStore) store = mf_store_create (f->path, 5 * PAGE + 1, &error);
  const uint8_t *map;
  unsigned char resident[6];

  fill (store, PAGE, 2 * PAGE, 'm');
  map = mf_store_map (store, &error);
  g_assert_no_error (error);
  g_assert_true (map == mf_store_map (store, NULL));
  g_assert_cmpint (map[PAGE], ==, 'm');
  g_assert_cmpint (map[3 * PAGE - 1], ==, 'm');
  fill (store, PAGE, 1, 'n');
  g_assert_cmpint (map[PAGE], ==, 'n');

  /* Forgetting takes nothing away from the store. */
  mf_store_map_forget (store, PAGE, 2 * PAGE);
  mf_store_map_forget (store, 0, 5 * PAGE + 1);
  mf_store_map_forget (store, 5 * PAGE, 100);
  g_assert_cmpint (mincore ((void *) map, 6 * PAGE, resident), ==, 0);
  g_assert_cmpint (map[PAGE], ==, 'n');
  g_assert_cmpint (map[2 * PAGE], ==, 'm');
  assert_next (store, 0, PAGE, 3 * PAGE);
}

static void
test_open (Fixture *f, gconstpointer where)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (MfStore) made = mf_store_create (f->path, 3 * PAGE, &error);
  g_autoptr (MfStore) again = NULL;
  g_autoptr (MfStore) reader = NULL;
  g_autoptr (MfStore) none = NULL;
  struct stat st;

  g_assert_cmpint (stat (f->path, &st), ==, 0);
  g_assert_cmpint (st.st_mode & 07777, ==, 0600);
  g_assert_cmpstr (mf_store_path (made), ==, f->path);

  none = mf_store_create (f->path, PAGE, &error);
  g_assert_error (error, MF_ERROR, MF_ERROR_EXISTS);
  g_assert_null (none);
  g_clear_error (&error);
  g_assert_cmpint (stat (f->path, &st), ==, 0);
  g_assert_cmpint (st.st_size, ==, 3 * PAGE);

  again = mf_store_open (f->path, FALSE, &error);
  g_assert_no_error (error);
  g_assert_true (mf_store_is_fd (again, mf_store_fd (made)));
  g_assert_false (mf_store_is_fd (again, 0));
  fill (made, PAGE, PAGE, 'x');
  assert_bytes (again, PAGE, PAGE, 'x');

  reader = mf_store_open (f->path, TRUE, &error);
  g_assert_no_error (error);
  g_assert_true (mf_store_read_only (reader));
  assert_bytes (reader, PAGE, PAGE, 'x');
  g_assert_false (mf_store_write (reader, 0, "y", 1, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_PERMISSION);
  g_clear_error (&error);
  g_assert_false (mf_store_punch (reader, PAGE, PAGE, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_PERMISSION);
  assert_bytes (made, PAGE, PAGE, 'x');
}

static void
assert_open_fails (const char *path, MfError code)
{
  g_autoptr (GError) error = NULL;

  g_assert_null (mf_store_open (path, TRUE, &error));
  g_assert_error (error, MF_ERROR, (int) code);
  g_assert_nonnull (strstr (error->message, path));
}

static void
assert_create_fails (const char *path, uint64_t size, MfError code)
{
  g_autoptr (GError) error = NULL;

  g_assert_null (mf_store_create (path, size, &error));
  g_assert_error (error, MF_ERROR, (int) code);
}

static void
test_bad_files (Fixture *f, gconstpointer where)
{
  g_autoptr (MfStore) store = NULL;
  g_autoptr (GError) error = NULL;

  assert_open_fails (f->path, MF_ERROR_NOT_FOUND);
  assert_open_fails (f->folder, MF_ERROR_INVALID);
  assert_open_fails ("/dev/zero", MF_ERROR_INVALID);
  g_assert_cmpint (mkfifo (f->path, 0600), ==, 0);
  assert_open_fails (f->path, MF_ERROR_INVALID);
  g_unlink (f->path);
  g_assert_true (g_file_set_contents (f->path, "", 0, NULL));
  assert_open_fails (f->path, MF_ERROR_INVALID);
  g_unlink (f->path);

  /* A file that could not be made is not left behind. */
  assert_create_fails (f->path, 0, MF_ERROR_INVALID);
  assert_create_fails (f->path, UINT64_C (1) << 63, MF_ERROR_NO_SPACE);
  assert_create_fails (f->path, UINT64_MAX, MF_ERROR_NO_SPACE);
  g_assert_false (g_file_test (f->path, G_FILE_TEST_EXISTS));

  /* A symbolic link is not followed to make a file elsewhere. */
  g_assert_cmpint (symlink ("/nonexistent/elsewhere", f->path), ==, 0);
  assert_create_fails (f->path, PAGE, MF_ERROR_EXISTS);

  g_assert_null (mf_store_memfd ("m", 0, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_INVALID);
}

static void
test_bounds (Fixture *f, gconstpointer where)
{
  const uint64_t size = 2 * PAGE + 10;
  g_autoptr (MfStore) store = mf_store_create (f->path, size, NULL);
  const struct {
    uint64_t offset, length;
  } past[] = { { size, 1 }, { size + 1, 0 }, { 0, size + 1 }, { UINT64_MAX, 2 }, { 1, UINT64_MAX }, { size - 1, 2 } };
  uint8_t byte = 0;

  for (guint i = 0; i < G_N_ELEMENTS (past); i++) {
    g_autoptr (GError) read = NULL, written = NULL, punched = NULL;

    g_assert_false (mf_store_read (store, past[i].offset, &byte, past[i].length, &read));
    g_assert_error (read, MF_ERROR, MF_ERROR_INVALID);
    g_assert_false (mf_store_write (store, past[i].offset, &byte, past[i].length, &written));
    g_assert_error (written, MF_ERROR, MF_ERROR_INVALID);
    g_assert_false (mf_store_punch (store, past[i].offset, past[i].length, &punched));
    g_assert_error (punched, MF_ERROR, MF_ERROR_INVALID);
  }
  g_assert_true (mf_store_read (store, size, &byte, 0, NULL));
  g_assert_true (mf_store_write (store, size, &byte, 0, NULL));
  g_assert_true (mf_store_punch (store, PAGE, 0, NULL));
  g_assert_false (mf_store_punch (store, 1, PAGE - 1, NULL));
  g_assert_false (mf_store_punch (store, PAGE, PAGE - 1, NULL));
  g_assert_false (mf_store_punch (store, 2 * PAGE, 9, NULL));
}

/* A file that somebody cuts short under a store is an error, not zeroes. */
static void
test_cut_short (Fixture *f, gconstpointer where)
{
  g_autoptr (MfStore) store = mf_store_create (f->path, 4 * PAGE, NULL);
  g_autoptr (GError) error = NULL;
  uint8_t bytes[2 * PAGE];

  fill (store, 0, 4 * PAGE, 'z');
  g_assert_cmpint (truncate (f->path, PAGE), ==, 0);
  g_assert_false (mf_store_read (store, 0, bytes, sizeof bytes, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_IO);
  g_assert_true (mf_store_is_cut (store));
  /* What is gone is data that can't be read: a hole would be zeroes. */
  assert_next (store, PAGE, PAGE, 4 * PAGE);
  g_assert_cmpuint (mf_store_data_from (store, 2 * PAGE), ==, 2 * PAGE);
}

/* Who reads a mapping where the file has been cut off lives, and is told; also when the file has its length again. */
static void
test_cut_mapping (Fixture *f, gconstpointer where)
{
  g_autoptr (MfStore) store = mf_store_create (f->path, 4 * PAGE, NULL);
  g_autoptr (GError) error = NULL;
  const uint8_t *map;

  fill (store, 0, 4 * PAGE, 'm');
  map = mf_store_map (store, &error);
  g_assert_no_error (error);
  g_assert_cmpint (map[3 * PAGE], ==, 'm');
  g_assert_false (mf_store_is_cut (store));
  g_assert_cmpint (truncate (f->path, 2 * PAGE), ==, 0);
  g_assert_cmpint (map[PAGE], ==, 'm');
  g_assert_cmpint (((const volatile uint8_t *) map)[3 * PAGE + 5], ==, 0);
  g_assert_cmpint (truncate (f->path, 4 * PAGE), ==, 0);
  g_assert_true (mf_store_is_cut (store));
  g_assert_null (mf_store_map (store, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_IO);
}

/* No mapping of a store: that ends the process as ever. */
static void
test_other_sigbus (void)
{
  if (g_test_subprocess ()) {
    g_autoptr (MfStore) store = mf_store_memfd ("test", PAGE, NULL);
    int fd = memfd_create ("other", MFD_CLOEXEC);
    const volatile uint8_t *map = mmap (NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);

    g_assert_nonnull (mf_store_map (store, NULL));
    signal (SIGALRM, SIG_DFL);
    alarm (20);
    g_assert_cmpint (map[0], ==, 0);
    return;
  }
  g_test_trap_subprocess (NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
  g_test_trap_assert_failed ();
}

static void
test_memfd (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (MfStore) store = mf_store_memfd ("test", 3 * PAGE, &error);

  g_assert_no_error (error);
  g_assert_cmpint (mf_store_kind (store), ==, MF_STORE_MEMFD);
  g_assert_null (mf_store_path (store));
  fill (store, PAGE, PAGE, 'q');
  assert_next (store, 0, PAGE, 2 * PAGE);
  assert_bytes (store, PAGE, PAGE, 'q');
  g_assert_true (mf_store_reserve (store, &error));
}

static MfStore *
new_in (const char *folder, const char *name, uint64_t size)
{
  g_autofree char *path = g_build_filename (folder, name, NULL);
  g_autoptr (GError) error = NULL;
  MfStore *store = mf_store_create (path, size, &error);

  g_assert_no_error (error);
  return store;
}

/* Two stores of 40 MiB in a tmpfs of 64: each fits, both don't, until the first one lets go. */
static void
test_reserve (gconstpointer folder)
{
  const char *own = folder;
  g_autoptr (GError) error = NULL;
  g_autoptr (MfStore) first = new_in (own, "first", 40 * MIB);
  g_autoptr (MfStore) same = mf_store_open (mf_store_path (first), FALSE, NULL);
  g_autoptr (MfStore) second = new_in (own, "second", 40 * MIB - 1);
  MfStore *third;

  g_assert_true (mf_store_reserve (first, &error));
  g_assert_no_error (error);
  g_assert_true (mf_store_reserve (first, &error));
  g_assert_true (mf_store_reserve (same, &error));
  g_assert_false (mf_store_reserve (second, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_NO_SPACE);
  g_test_message ("%s", error->message);
  g_assert_nonnull (strstr (error->message, "second needs 40.0"));
  g_assert_nonnull (strstr (error->message, "64.0"));
  g_assert_nonnull (strstr (error->message, "16.0"));
  g_clear_error (&error);

  /* The file is promised its room as long as one of its stores has it. */
  mf_store_release (first);
  g_assert_false (mf_store_reserve (second, NULL));
  mf_store_release (same);
  mf_store_release (same);
  g_assert_true (mf_store_reserve (second, &error));
  g_assert_false (mf_store_reserve (first, NULL));
  mf_store_release (second);

  /* A store that is freed takes its reservation along. */
  third = mf_store_open (mf_store_path (first), FALSE, NULL);
  g_assert_true (mf_store_reserve (third, &error));
  g_assert_false (mf_store_reserve (second, NULL));
  mf_store_unref (third);
  g_assert_true (mf_store_reserve (second, &error));
  g_assert_no_error (error);
  g_unlink (mf_store_path (first));
  g_unlink (mf_store_path (second));
}

/* What a store has allocated is not counted twice: once by the file system, once as its promise. */
static void
test_reserve_counts_once (gconstpointer folder)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (MfStore) first = new_in (folder, "first", 40 * MIB);
  g_autoptr (MfStore) rest = new_in (folder, "rest", 24 * MIB);
  g_autoptr (MfStore) more = new_in (folder, "more", 24 * MIB + 1);
  const uint8_t page[PAGE] = { 1 };

  g_assert_true (mf_store_reserve (first, &error));
  fill (first, 0, 30 * MIB, 'r');
  g_assert_false (mf_store_reserve (more, NULL));
  g_assert_true (mf_store_reserve (rest, &error));
  g_assert_no_error (error);
  fill (first, 0, 40 * MIB, 's');
  fill (rest, 0, 24 * MIB, 't');
  mf_store_release (rest);
  g_assert_true (mf_store_reserve (rest, &error));

  /* Full: one byte more is an error that says so. */
  g_assert_false (mf_store_write (more, 0, "u", 1, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_NO_SPACE);
  g_clear_error (&error);
  g_assert_false (mf_store_write_fresh (more, 0, page, PAGE, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_NO_SPACE);
  g_unlink (mf_store_path (first));
  g_unlink (mf_store_path (rest));
  g_unlink (mf_store_path (more));
}

/* A hugetlbfs without a mount: a memfd with huge pages, opened through /proc. */
static void
test_hugetlbfs (void)
{
  int fd = memfd_create ("huge", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
  g_autofree char *path = g_strdup_printf ("/proc/self/fd/%d", fd);
  const uint32_t huge = 2 * MIB;
  g_autoptr (MfStore) store = NULL;
  g_autoptr (GError) error = NULL;

  if (fd < 0 || ftruncate (fd, 3 * huge) < 0) {
    g_test_skip ("this kernel has no 2 MiB huge pages");
    return;
  }
  store = mf_store_open (path, FALSE, &error);
  g_assert_no_error (error);
  close (fd);
  g_assert_cmpint (mf_store_kind (store), ==, MF_STORE_HUGETLBFS);
  g_assert_cmpuint (mf_store_page_bytes (store), ==, huge);
  assert_bytes (store, huge - 1, 2, 0);
  g_assert_cmpuint (mf_store_allocated (store), ==, 0);

  if (!mf_store_reserve (store, &error)) {
    /* The pool is empty: that is an error that says so, in writing too. */
    g_assert_error (error, MF_ERROR, MF_ERROR_NO_SPACE);
    g_assert_nonnull (strstr (error->message, "nr_hugepages"));
    g_assert_false (mf_store_write (store, 0, "x", 1, NULL));
    g_test_skip ("3 free huge pages are needed (vm.nr_hugepages)");
    return;
  }
  fill (store, huge + 5, 100, 'h');
  fill (store, 2 * huge - 1, 2, 'i');
  assert_bytes (store, huge + 5, 100, 'h');
  assert_bytes (store, 2 * huge, 1, 'i');
  assert_bytes (store, 0, huge, 0);
  g_assert_cmpuint (mf_store_allocated (store), ==, 2 * huge);
  assert_next (store, 0, 0, 3 * huge);
  g_assert_false (mf_store_punch (store, huge, PAGE, NULL));
  g_assert_true (mf_store_punch (store, huge, huge, &error));
  g_assert_no_error (error);
  assert_bytes (store, huge, huge, 0);
  fill (store, huge, 1, 'j');
  assert_bytes (store, huge, 1, 'j');
}

/* The kinds, and the parent folders of both file systems. */
static void
test_kinds (Fixture *f, gconstpointer where)
{
  g_autoptr (MfStore) store = mf_store_create (f->path, PAGE, NULL);
  struct statfs fs;

  g_assert_cmpint (statfs (f->folder, &fs), ==, 0);
  g_assert_cmpint (mf_store_kind (store), ==, fs.f_type == TMPFS_MAGIC ? MF_STORE_TMPFS : MF_STORE_FILE);
}

static void
skip_reserve (void)
{
  g_test_skip ("a file system of one's own needs root or user namespaces");
}

int
main (int argc, char **argv)
{
  const char *places[] = { "/dev/shm", g_get_tmp_dir () };
  const struct {
    const char *name;
    void (*test) (Fixture *f, gconstpointer where);
  } tests[] = {
    { "kinds", test_kinds },     { "holes", test_holes },         { "write-fresh", test_write_fresh },
    { "mapping", test_mapping }, { "open", test_open },           { "bad-files", test_bad_files },
    { "bounds", test_bounds },   { "cut-short", test_cut_short }, { "cut-mapping", test_cut_mapping },
  };
  g_autofree char *own = g_dir_make_tmp ("mf-test-store-XXXXXX", NULL);
  int result;

  g_test_init (&argc, &argv, NULL);
  for (guint p = 0; p < G_N_ELEMENTS (places); p++) {
    for (guint i = 0; i < G_N_ELEMENTS (tests); i++) {
      g_autofree char *path = g_strdup_printf ("/store/%s/%s", p == 0 ? "tmpfs" : "disk", tests[i].name);

      g_test_add (path, Fixture, places[p], set_up, tests[i].test, tear_down);
    }
  }
  g_test_add_func ("/store/memfd", test_memfd);
  g_test_add_func ("/store/other-sigbus", test_other_sigbus);
  g_test_add_func ("/store/hugetlbfs", test_hugetlbfs);
  if (mount_own_tmpfs (own, "size=64m")) {
    g_test_add_data_func ("/store/reserve", own, test_reserve);
    g_test_add_data_func ("/store/reserve-counts-once", own, test_reserve_counts_once);
  } else {
    g_test_add_func ("/store/reserve", skip_reserve);
  }
  result = g_test_run ();
  umount2 (own, MNT_DETACH);
  g_rmdir (own);
  return result;
}
