/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening backends by name, and the in-tree ones: file, memory, dir. */
#include "backend/mf-backend.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096u

static void
count_done (mf_request *request, gpointer user_data)
{
  (*(guint *) user_data)++;
}

/* Does one request. Returns its error. */
static int
ask (mf_lane *lane, mf_request_operation operation, uint64_t offset, uint32_t length, void *buffer)
{
  guint done = 0;
  mf_request request = {
    .operation = operation, .offset = offset, .length = length, .buffer = buffer, .done = count_done, .user_data = &done
  };

  mf_lane_submit (lane, &request);
  g_assert_cmpuint (done, ==, 1);
  return request.error;
}

static mf_lane *
open_with_lane (const char *name, MfBackend **backend)
{
  g_autoptr (GError) error = NULL;
  mf_lane *lane;

  *backend = mf_backend_open (name, FALSE, &error);
  g_assert_no_error (error);
  lane = mf_backend_open_lane (*backend, 1, -1, &error);
  g_assert_no_error (error);
  return lane;
}

static void
assert_refused (const char *name, MfError code, const char *part)
{
  g_autoptr (GError) error = NULL;

  g_assert_null (mf_backend_open (name, FALSE, &error));
  g_assert_error (error, MF_ERROR, (int) code);
  if (strstr (error->message, part) == NULL)
    g_error ("\"%s\" does not say \"%s\"", error->message, part);
  g_assert_null (strchr (error->message, '\n'));
}

static void
test_names (void)
{
  assert_refused ("disk.img", MF_ERROR_INVALID, "disk.img is no backend");
  assert_refused (":x", MF_ERROR_INVALID, "is no backend");
  assert_refused ("tape:/dev/st0", MF_ERROR_INVALID, "no plugin tape");
  assert_refused ("../evil:x", MF_ERROR_INVALID, "is no backend");
  assert_refused ("memory:", MF_ERROR_INVALID, "size is missing");
  assert_refused ("memory:0", MF_ERROR_INVALID, "it is a size");
  assert_refused ("memory:1Q", MF_ERROR_INVALID, "it is a size");
  assert_refused ("memory:1M,1M", MF_ERROR_INVALID, "no option 1M");
  assert_refused ("memory:1M,size=1M", MF_ERROR_INVALID, "given twice");
  assert_refused ("memory:99999999999999999999", MF_ERROR_INVALID, "it is a size");
  assert_refused ("file:", MF_ERROR_INVALID, "path is missing");
  assert_refused ("file:/nonexistent", MF_ERROR_NOT_FOUND, "/nonexistent");
  assert_refused ("file:/dev/null", MF_ERROR_INVALID, "neither a regular file nor");
  assert_refused ("dir:/nonexistent", MF_ERROR_NOT_FOUND, "size=SIZE");
}

/* Writes, zeroes and reads at random, compared with a model byte for byte. */
static void
compare_at_random (mf_lane *lane, uint64_t size, guint32 seed)
{
  g_autoptr (GRand) dice = g_rand_new_with_seed (seed);
  g_autofree uint8_t *model = g_malloc0 (size), *buffer = g_malloc (size);

  for (guint i = 0; i < 400; i++) {
    uint32_t offset = (uint32_t) g_rand_int_range (dice, 0, (gint32) size);
    uint32_t length = (uint32_t) g_rand_int_range (dice, 1, (gint32) MIN (size - offset, 300000) + 1);

    switch (g_rand_int_range (dice, 0, 3)) {
    case 0:
      for (uint32_t n = 0; n < length; n++)
        buffer[n] = (uint8_t) g_rand_int (dice);
      g_assert_cmpint (ask (lane, MF_REQUEST_WRITE, offset, length, buffer), ==, 0);
      memcpy (model + offset, buffer, length);
      break;
    case 1:
      g_assert_cmpint (ask (lane, MF_REQUEST_ZERO, offset, length, NULL), ==, 0);
      memset (model + offset, 0, length);
      break;
    default:
      memset (buffer, 0xee, length);
      g_assert_cmpint (ask (lane, MF_REQUEST_READ, offset, length, buffer), ==, 0);
      g_assert_cmpmem (buffer, length, model + offset, length);
      break;
    }
  }
  g_assert_true (mf_lane_flush (lane, NULL));
  g_assert_cmpint (ask (lane, MF_REQUEST_READ, 0, (uint32_t) size, buffer), ==, 0);
  g_assert_cmpmem (buffer, size, model, size);
}

static void
test_memory (void)
{
  g_autoptr (MfBackend) backend = NULL;
  g_autoptr (mf_lane) lane = open_with_lane ("memory:1M", &backend);

  g_assert_cmpuint (mf_backend_get_limits (backend)->size_bytes, ==, 1 << 20);
  compare_at_random (lane, 1 << 20, 1);
}

typedef struct {
  char *path;
} Folder;

static void
folder_set_up (Folder *folder, gconstpointer data)
{
  folder->path = g_dir_make_tmp ("memferry-backend-XXXXXX", NULL);
  g_assert_nonnull (folder->path);
}

static void
remove_files (const char *path)
{
  g_autoptr (GDir) dir = g_dir_open (path, 0, NULL);
  const char *name;

  while (dir != NULL && (name = g_dir_read_name (dir)) != NULL) {
    g_autofree char *file = g_build_filename (path, name, NULL);

    if (g_file_test (file, G_FILE_TEST_IS_DIR))
      remove_files (file);
    else
      g_unlink (file);
  }
  g_rmdir (path);
}

static void
folder_tear_down (Folder *folder, gconstpointer data)
{
  remove_files (folder->path);
  g_free (folder->path);
}

static void
test_file (Folder *folder, gconstpointer data)
{
  const uint64_t size = (1 << 20) + 123;
  g_autofree char *name = g_strdup_printf ("file:%s/a,,b=c", folder->path);
  g_autofree char *path = g_build_filename (folder->path, "a,b=c", NULL);
  g_autoptr (MfBackend) backend = NULL, read_only = NULL;
  g_autoptr (mf_lane) lane = NULL, read_only_lane = NULL;
  uint8_t byte = 1;

  g_assert_true (g_file_set_contents (path, "", 0, NULL));
  g_assert_cmpint (truncate (path, (off_t) size), ==, 0);
  lane = open_with_lane (name, &backend);
  compare_at_random (lane, size, 2);

  read_only = mf_backend_open (name, TRUE, NULL);
  g_assert_nonnull (read_only);
  g_assert_true (mf_backend_get_limits (read_only)->read_only);
  read_only_lane = mf_backend_open_lane (read_only, 1, -1, NULL);
  g_assert_cmpint (ask (read_only_lane, MF_REQUEST_WRITE, 0, 1, &byte), ==, EROFS);
  g_assert_cmpint (ask (read_only_lane, MF_REQUEST_READ, 0, 1, &byte), ==, 0);

  /* What somebody has cut off is an error, and no zeroes. */
  g_assert_cmpint (truncate (path, 1000), ==, 0);
  g_assert_cmpint (ask (lane, MF_REQUEST_READ, 5000, 1, &byte), ==, EIO);
}

/* Holes of whole pages are told, and zeroes where the request isn't one of pages. */
static void
test_holes (void)
{
  g_autoptr (MfBackend) backend = NULL;
  g_autoptr (mf_lane) lane = open_with_lane ("memory:64K", &backend);
  uint8_t buffer[2 * PAGE];
  guint done = 0;
  mf_request request = {
    .offset = 8 * PAGE, .length = 2 * PAGE, .page_bytes = PAGE, .buffer = buffer, .done = count_done, .user_data = &done
  };

  mf_lane_submit (lane, &request);
  g_assert_cmpint (request.error, ==, 0);
  g_assert_cmpuint (request.holes[0], ==, 3);
  memset (buffer, 0xee, sizeof buffer);
  g_assert_cmpint (ask (lane, MF_REQUEST_READ, 8 * PAGE, PAGE + 1, buffer), ==, 0);
  for (guint i = 0; i <= PAGE; i++)
    g_assert_cmpuint (buffer[i], ==, 0);
  g_assert_cmpuint (buffer[PAGE + 1], ==, 0xee);
}

static void
test_outside (void)
{
  static const struct {
    uint64_t offset;
    uint32_t length;
  } cases[] = { { 0, 0 }, { 65536, 1 }, { 65535, 2 }, { UINT64_MAX, 1 }, { UINT64_MAX - 10, 100 }, { 0, 65537 } };
  g_autoptr (MfBackend) backend = NULL;
  g_autoptr (mf_lane) lane = open_with_lane ("memory:64K", &backend);

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    for (mf_request_operation operation = MF_REQUEST_READ; operation <= MF_REQUEST_ZERO; operation++)
      g_assert_cmpint (ask (lane, operation, cases[i].offset, cases[i].length, NULL), ==, EINVAL);
  }
}

static guint
count_files (const char *path)
{
  g_autoptr (GDir) dir = g_dir_open (path, 0, NULL);
  guint n = 0;

  while (g_dir_read_name (dir) != NULL)
    n++;
  return n;
}

static void
test_dir (Folder *folder, gconstpointer data)
{
  const uint64_t size = (1 << 20) + 123;
  g_autofree char *path = g_build_filename (folder->path, "d", NULL);
  g_autofree char *name = g_strdup_printf ("dir:%s,size=%" G_GUINT64_FORMAT ",chunk=16K", path, size);
  g_autofree char *again = g_strdup_printf ("dir:%s", path);
  g_autofree char *larger = g_strdup_printf ("dir:%s,size=2M", path);
  g_autofree uint8_t *before = g_malloc (size), *after = g_malloc (size);
  g_autoptr (MfBackend) backend = NULL, second = NULL;
  g_autoptr (mf_lane) lane = open_with_lane (name, &backend), second_lane = NULL;

  g_assert_cmpuint (count_files (path), ==, 1);
  compare_at_random (lane, size, 3);
  g_assert_cmpint (ask (lane, MF_REQUEST_READ, 0, (uint32_t) size, before), ==, 0);
  second_lane = open_with_lane (again, &second);
  g_assert_cmpuint (mf_backend_get_limits (second)->size_bytes, ==, size);
  g_assert_cmpint (ask (second_lane, MF_REQUEST_READ, 0, (uint32_t) size, after), ==, 0);
  g_assert_cmpmem (before, size, after, size);
  assert_refused (larger, MF_ERROR_INVALID, "not 2097152");

  g_assert_cmpint (ask (lane, MF_REQUEST_ZERO, 0, (uint32_t) size, NULL), ==, 0);
  g_assert_cmpuint (count_files (path), ==, 1);
}

static void
test_dir_refused (Folder *folder, gconstpointer data)
{
  g_autofree char *about = g_build_filename (folder->path, "memferry-dir", NULL);
  g_autofree char *stranger = g_build_filename (folder->path, "letter.txt", NULL);
  g_autofree char *fresh = g_strdup_printf ("dir:%s,size=1M", folder->path);
  g_autofree char *old = g_strdup_printf ("dir:%s", folder->path);
  g_autofree char *odd = g_strdup_printf ("dir:%s/new,size=1M,chunk=5000", folder->path);
  const char *broken[] = { "",
                           "memferry dir 1\n",
                           "memferry dir 1\nsize 5",
                           "memferry dir 2\nsize 4096\nchunk 4096\n",
                           "memferry dir 1\nsize -4\nchunk 4096\n",
                           "memferry dir 1\nsize 0\nchunk 4096\n",
                           "memferry dir 1\nsize 4096\nchunk 3\n",
                           "memferry dir 1\nsize 99999999999999999999999\nchunk 4096\n",
                           "memferry dir 1\nsize 4096\nchunk 4096\nmore\n" };

  assert_refused (odd, MF_ERROR_INVALID, "power of two");
  g_assert_true (g_file_set_contents (stranger, "Dear", -1, NULL));
  assert_refused (fresh, MF_ERROR_NOT_FOUND, "no memferry-dir");
  assert_refused (old, MF_ERROR_NOT_FOUND, "no memferry-dir");
  for (guint i = 0; i < G_N_ELEMENTS (broken); i++) {
    g_assert_true (g_file_set_contents (about, broken[i], -1, NULL));
    assert_refused (old, MF_ERROR_INVALID, old);
  }
  g_assert_true (g_file_test (stranger, G_FILE_TEST_EXISTS));
}

/* Not a plugin, one for another version, one that calls itself something else. */
static void
test_bad_plugins (Folder *folder, gconstpointer data)
{
  g_autofree char *path = g_build_filename (folder->path, "memferry-backend-tape.so", NULL);
  const memferry_backend future = { .struct_size = sizeof future, .api = MEMFERRY_BACKEND_API + 1, .name = "x" };
  const memferry_backend small = { .struct_size = 16, .api = MEMFERRY_BACKEND_API, .name = "x" };
  const memferry_backend empty = { .struct_size = sizeof empty, .api = MEMFERRY_BACKEND_API, .name = "x" };
  const memferry_backend *bad[] = { NULL, &future, &small, &empty };

  g_assert_true (g_file_set_contents (path, "no shared object", -1, NULL));
  g_setenv ("MEMFERRY_BACKENDS", folder->path, TRUE);
  assert_refused ("tape:x", MF_ERROR_INVALID, "can't be loaded");
  g_unsetenv ("MEMFERRY_BACKENDS");
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++) {
    g_autoptr (GError) error = NULL;

    g_assert_false (mf_backend_check_plugin (bad[i], "x.so", &error));
    g_assert_error (error, MF_ERROR, MF_ERROR_VERSION);
  }
}

#define ADD(name, test) g_test_add (name, Folder, NULL, folder_set_up, test, folder_tear_down)

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/backend/names", test_names);
  g_test_add_func ("/backend/memory", test_memory);
  ADD ("/backend/file", test_file);
  g_test_add_func ("/backend/holes", test_holes);
  g_test_add_func ("/backend/outside", test_outside);
  ADD ("/backend/dir", test_dir);
  ADD ("/backend/dir-refused", test_dir_refused);
  ADD ("/backend/bad-plugins", test_bad_plugins);
  return g_test_run ();
}
