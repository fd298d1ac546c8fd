/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "service/mf-service-folder.h"

#include <glib/gstdio.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
  char *root;
  char *folder; /* not there yet */
} Fixture;

static void
set_up (Fixture *f, gconstpointer data)
{
  g_autoptr (GError) error = NULL;

  f->root = g_dir_make_tmp ("folder-XXXXXX", &error);
  g_assert_no_error (error);
  f->folder = g_build_filename (f->root, "a", "b", NULL);
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  g_autofree char *parent = g_build_filename (f->root, "a", NULL);

  g_rmdir (f->folder);
  g_rmdir (parent);
  g_assert_cmpint (g_rmdir (f->root), ==, 0); /* nothing is left behind */
  g_free (f->folder);
  g_free (f->root);
}

static void
assert_mode (const char *path, mode_t mode)
{
  struct stat st;

  g_assert_cmpint (stat (path, &st), ==, 0);
  g_assert_cmphex (st.st_mode & 07777, ==, mode);
}

static void
test_is_made_with_its_mode (Fixture *f, gconstpointer data)
{
  mode_t former = umask (0077);
  g_autoptr (GError) error = NULL;
  g_autoptr (mf_service_folder) taken = mf_service_folder_take (f->folder, 0711, "--store-dir", &error);

  umask (former);
  g_assert_no_error (error);
  g_assert_nonnull (taken);
  assert_mode (f->folder, 0711);
}

/* As by somebody who is not ready to have it changed. */
static void
test_mode_of_what_is_there_stays (Fixture *f, gconstpointer data)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (mf_service_folder) taken = NULL;

  g_assert_cmpint (g_mkdir_with_parents (f->folder, 0700), ==, 0);
  taken = mf_service_folder_take (f->folder, 0755, "--runtime-dir", &error);
  g_assert_no_error (error);
  assert_mode (f->folder, 0700);
}

static void
test_one_at_a_time (Fixture *f, gconstpointer data)
{
  g_autofree char *pid = g_strdup_printf ("pid %d", (int) getpid ());
  g_autoptr (GError) error = NULL;
  mf_service_folder *first = mf_service_folder_take (f->folder, 0700, "--store-dir", &error);
  mf_service_folder *second;

  g_assert_no_error (error);
  g_assert_null (mf_service_folder_take (f->folder, 0700, "--store-dir", &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_BUSY);
  /* Who has it, and what to do. */
  g_assert_nonnull (g_strstr_len (error->message, -1, pid));
  g_assert_nonnull (g_strstr_len (error->message, -1, "--store-dir"));
  g_clear_error (&error);

  mf_service_folder_free (first);
  second = mf_service_folder_take (f->folder, 0700, "--store-dir", &error);
  g_assert_no_error (error);
  g_assert_nonnull (second);
  mf_service_folder_free (second);
}

/* The lock is of the process, not of the file: what a killed service left is no obstacle. */
static void
test_stale_lock_is_no_obstacle (Fixture *f, gconstpointer data)
{
  g_autofree char *lock = g_build_filename (f->folder, ".memferryd.lock", NULL);
  g_autoptr (GError) error = NULL;
  g_autoptr (mf_service_folder) taken = NULL;

  g_assert_cmpint (g_mkdir_with_parents (f->folder, 0700), ==, 0);
  g_assert_true (g_file_set_contents (lock, "1\n", -1, NULL));
  taken = mf_service_folder_take (f->folder, 0700, "--store-dir", &error);
  g_assert_no_error (error);
  g_assert_nonnull (taken);
}

static void
test_writable_for_all_is_refused (Fixture *f, gconstpointer data)
{
  g_autoptr (GError) error = NULL;

  g_assert_cmpint (g_mkdir_with_parents (f->folder, 0700), ==, 0);
  g_assert_cmpint (g_chmod (f->folder, 0777), ==, 0);
  g_assert_null (mf_service_folder_take (f->folder, 0700, "--store-dir", &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_PERMISSION);
}

static void
test_of_another_user_is_refused (Fixture *f, gconstpointer data)
{
  g_autoptr (GError) error = NULL;

  g_assert_cmpint (g_mkdir_with_parents (f->folder, 0700), ==, 0);
  if (chown (f->folder, 65534, (gid_t) -1) != 0) {
    g_test_skip ("giving a folder away takes root");
    return;
  }
  g_assert_null (mf_service_folder_take (f->folder, 0700, "--store-dir", &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_PERMISSION);
}

static void
test_file_in_the_way (Fixture *f, gconstpointer data)
{
  g_autofree char *parent = g_path_get_dirname (f->folder);
  g_autoptr (GError) error = NULL;

  g_assert_cmpint (g_mkdir_with_parents (parent, 0700), ==, 0);
  g_assert_true (g_file_set_contents (f->folder, "x", -1, NULL));
  g_assert_null (mf_service_folder_take (f->folder, 0700, "--store-dir", &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_INVALID);
  g_unlink (f->folder);
}

#define add(name, function) g_test_add ("/service-folder/" name, Fixture, NULL, set_up, function, tear_down)

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  add ("is-made-with-its-mode", test_is_made_with_its_mode);
  add ("mode-of-what-is-there-stays", test_mode_of_what_is_there_stays);
  add ("one-at-a-time", test_one_at_a_time);
  add ("stale-lock-is-no-obstacle", test_stale_lock_is_no_obstacle);
  add ("writable-for-all-is-refused", test_writable_for_all_is_refused);
  add ("of-another-user-is-refused", test_of_another_user_is_refused);
  add ("file-in-the-way", test_file_in_the_way);
  return g_test_run ();
}
