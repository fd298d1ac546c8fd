/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Mounts without an attachment: readers, writers, syncs, puller and pusher all at once. */
#include "mount/mf-mount.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#define SIZE    ((1u << 20) + 777)
#define WORKERS 4
#define STEPS   150
/* Each worker has its own part of every page and knows what is in it. */
#define PART (4096u / WORKERS)

typedef struct {
  char *folder, *image, *backend, *cache;
  uint8_t *bytes; /* what has to be there */
} Fixture;

static void
set_up (Fixture *f, gconstpointer data)
{
  g_autoptr (GRand) dice = g_rand_new_with_seed (1);

  f->folder = g_dir_make_tmp ("memferry-mount-XXXXXX", NULL);
  f->image = g_build_filename (f->folder, "image", NULL);
  f->cache = g_build_filename (f->folder, "cache", NULL);
  f->backend = g_strconcat ("file:", f->image, NULL);
  f->bytes = g_malloc (SIZE);
  for (guint i = 0; i < SIZE; i++)
    f->bytes[i] = (uint8_t) g_rand_int (dice);
  g_assert_true (g_file_set_contents (f->image, (char *) f->bytes, SIZE, NULL));
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  g_autofree char *map = g_strconcat (f->cache, ".map", NULL);

  g_unlink (f->image);
  g_unlink (f->cache);
  g_unlink (map);
  g_rmdir (f->folder);
  g_free (f->folder);
  g_free (f->image);
  g_free (f->cache);
  g_free (f->backend);
  g_free (f->bytes);
}

static void
assert_image (Fixture *f)
{
  g_autofree char *found = NULL;
  gsize length;

  g_assert_true (g_file_get_contents (f->image, &found, &length, NULL));
  g_assert_cmpmem (found, length, f->bytes, SIZE);
}

typedef struct {
  Fixture *f;
  mf_mount *mount;
  guint number;
} Worker;

static void
step (Worker *w, GRand *dice)
{
  uint64_t page = (uint64_t) g_rand_int_range (dice, 0, SIZE / 4096);
  uint64_t offset = page * 4096 + w->number * PART + (uint64_t) g_rand_int_range (dice, 0, PART);
  size_t length = (size_t) g_rand_int_range (dice, 1, (gint32) ((w->number + 1) * PART + page * 4096 - offset) + 1);
  g_autoptr (GError) error = NULL;
  uint8_t buffer[PART];

  switch (g_rand_int_range (dice, 0, 10)) {
  case 0:
    g_assert_true (mf_mount_sync (w->mount, NULL, &error));
    break;
  case 1:
    g_assert_true (mf_mount_zero (w->mount, offset, length, TRUE, NULL, &error));
    memset (w->f->bytes + offset, 0, length);
    break;
  case 2:
  case 3:
  case 4:
  case 5:
    memset (buffer, (int) g_rand_int (dice), length);
    g_assert_true (mf_mount_write (w->mount, offset, buffer, length, NULL, &error));
    memcpy (w->f->bytes + offset, buffer, length);
    break;
  default:
    g_assert_true (mf_mount_read (w->mount, offset, buffer, length, NULL, &error));
    g_assert_cmpmem (buffer, length, w->f->bytes + offset, length);
    break;
  }
  g_assert_no_error (error);
}

static gpointer
work (gpointer data)
{
  Worker *w = data;
  g_autoptr (GRand) dice = g_rand_new_with_seed (w->number + 10);

  for (guint i = 0; i < STEPS; i++)
    step (w, dice);
  return NULL;
}

static void
run_workers (Fixture *f, const mf_mount_options *options)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (mf_mount) mount = mf_mount_new (f->backend, options, &error);
  GThread *threads[WORKERS];
  Worker workers[WORKERS];
  mf_mount_status status;

  g_assert_no_error (error);
  g_assert_cmpuint (mf_mount_size (mount), ==, SIZE);
  for (guint i = 0; i < WORKERS; i++) {
    workers[i] = (Worker){ f, mount, i };
    threads[i] = g_thread_new ("worker", work, &workers[i]);
  }
  for (guint i = 0; i < WORKERS; i++)
    g_thread_join (threads[i]);
  mf_mount_get_status (mount, &status);
  g_assert_cmpuint (status.local_bytes, <=, SIZE);
  g_assert_true (mf_mount_close (mount, NULL, &error));
  g_assert_no_error (error);
  assert_image (f);
}

static void
test_managed (Fixture *f, gconstpointer data)
{
  const mf_mount_options options = { .push_interval_usec = 1000, .limit_usec = 60 * G_USEC_PER_SEC };

  run_workers (f, &options);
}

static void
test_cache (Fixture *f, gconstpointer data)
{
  const mf_mount_options options = { .push_interval_usec = 1000, .limit_usec = 60 * G_USEC_PER_SEC, .cache = f->cache };

  run_workers (f, &options);
  run_workers (f, &options);
}

/* Parts of pages are written where the backend takes any offset; so nobody's neighbour is touched. */
static void
test_direct (Fixture *f, gconstpointer data)
{
  const mf_mount_options options = { .direct = TRUE, .limit_usec = 60 * G_USEC_PER_SEC };

  run_workers (f, &options);
}

static void
test_refused (Fixture *f, gconstpointer data)
{
  const mf_byte_range bad[] = { { 0, 0 }, { SIZE, 1 }, { 0, SIZE + 1 }, { UINT64_MAX, 2 }, { 5, UINT64_MAX } };
  const mf_mount_options read_only = { .read_only = TRUE, .limit_usec = -1 };
  g_autoptr (mf_mount) mount = mf_mount_new (f->backend, &read_only, NULL);
  g_autoptr (GError) error = NULL;
  uint8_t byte = 0;

  g_assert_false (mf_mount_write (mount, 0, &byte, 1, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_PERMISSION);
  g_clear_error (&error);
  g_assert_false (mf_mount_read (mount, SIZE, &byte, 1, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_INVALID);
  g_clear_error (&error);
  g_assert_false (mf_mount_read (mount, UINT64_MAX, &byte, 1, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_INVALID);
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++) {
    const mf_mount_options options = { .pull_first = &bad[i], .n_pull_first = 1, .limit_usec = -1 };

    g_clear_error (&error);
    g_assert_null (mf_mount_new (f->backend, &options, &error));
    g_assert_error (error, MF_ERROR, MF_ERROR_INVALID);
  }
}

#define ADD(name, test) g_test_add ("/mount/" name, Fixture, NULL, set_up, test, tear_down)

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  ADD ("managed", test_managed);
  ADD ("cache", test_cache);
  ADD ("direct", test_direct);
  ADD ("refused", test_refused);
  return g_test_run ();
}
