/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Two hosts in one process, of which only the source listens. No memory moves, for no program is there whose memory it could be: this is about who hears what. */
#include "link/mf-link.h"
#include "migrate/mf-fetch-request.h"
#include "migrate/mf-host.h"
#include "migrate/mf-migration-private.h"
#include "migrate/mf-peer.h"

#include <glib/gstdio.h>
#include <string.h>

#define REGION_BYTES (64 * 1024)
#define DEADLINE_SEC 20

typedef struct {
  char *dir, *address;
  MfRegion *region;
  MfHost *source, *target;
  MfLinkListener *listener;
  MfMigration *outgoing; /* the source's, once it has appeared */

  GMutex lock; /* the fields below */
  GCond cond;
  gboolean holds; /* the source's thread is to wait where it looks for the program */
  gboolean is_held;
} Fixture;

/* --- the two hosts --- */

static MfRegion *
find_region (const char *name, GError **error, gpointer user_data)
{
  Fixture *f = user_data;

  if (g_str_equal (name, "vm1"))
    return g_object_ref (f->region);
  g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "there is no region %s", name);
  return NULL;
}

/* Of the target: it has one more. */
static MfRegion *
find_any_region (const char *name, GError **error, gpointer user_data)
{
  return g_object_ref (((Fixture *) user_data)->region);
}

static MfUserfault *
find_attachment (MfRegion *region, GError **error, gpointer user_data)
{
  Fixture *f = user_data;

  g_mutex_lock (&f->lock);
  f->is_held = TRUE;
  g_cond_broadcast (&f->cond);
  while (f->holds)
    g_cond_wait (&f->cond, &f->lock);
  g_mutex_unlock (&f->lock);
  g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "no program has it mapped");
  return NULL;
}

static gboolean
roll_back (mf_program *program, GError **error)
{
  return TRUE;
}

static void
clean_up (mf_program *program)
{
}

static void
program_free (mf_program *program)
{
  g_free (program);
}

static mf_program *
new_program (MfRegion *const *regions, guint n_regions, const mf_program_choice *choice, GError **error,
             gpointer user_data)
{
  static const mf_program_ops ops = { .roll_back = roll_back, .clean_up = clean_up, .free = program_free };
  mf_program *program = g_new0 (mf_program, 1);

  g_assert_cmpstr (choice->control, ==, "/run/there.qmp");
  program->ops = &ops;
  return program;
}

static void
appeared (MfMigration *migration, gpointer user_data)
{
  g_set_object (&((Fixture *) user_data)->outgoing, migration);
}

static MfHost *
new_host (Fixture *f, const char *name, const mf_host_callbacks *callbacks)
{
  g_autofree char *dir = g_build_filename (f->dir, name, NULL);

  g_assert_cmpint (g_mkdir (dir, 0700), ==, 0);
  return mf_host_new (dir, dir, callbacks, f);
}

static void
set_up (Fixture *f, gconstpointer unused)
{
  static const mf_host_callbacks source = {
    .find_region = find_region, .find_attachment = find_attachment, .new_program = new_program, .appeared = appeared
  };
  static const mf_host_callbacks target = { .find_region = find_any_region };
  g_autoptr (mf_peer_address) address = NULL;
  g_autoptr (MfStore) store = NULL;
  g_autoptr (GError) error = NULL;

  g_mutex_init (&f->lock);
  g_cond_init (&f->cond);
  f->dir = g_dir_make_tmp ("mf-fetch-XXXXXX", NULL);
  store = mf_store_memfd ("vm1", REGION_BYTES, &error);
  g_assert_no_error (error);
  f->region = mf_region_new ("vm1", store, &error);
  g_assert_no_error (error);
  f->source = new_host (f, "source", &source);
  f->target = new_host (f, "target", &target);
  f->address = g_strdup_printf ("unix:%s/peer.sock", f->dir);
  address = mf_peer_address_parse (f->address, &error);
  g_assert_no_error (error);
  f->listener = mf_link_listener_new (mf_host_accept, f->source);
  g_assert_true (mf_link_listener_add (f->listener, address, &error));
  g_assert_no_error (error);
}

static void
remove_folder (const char *dir, const char *name)
{
  g_autofree char *path = g_build_filename (dir, name, NULL);

  g_assert_cmpint (g_rmdir (path), ==, 0); /* no record is left */
}

static void
tear_down (Fixture *f, gconstpointer unused)
{
  mf_link_listener_free (f->listener);
  mf_host_free (f->target);
  mf_host_free (f->source);
  g_clear_object (&f->outgoing);
  g_object_unref (f->region);
  remove_folder (f->dir, "source");
  remove_folder (f->dir, "target");
  g_assert_cmpint (g_rmdir (f->dir), ==, 0);
  g_free (f->dir);
  g_free (f->address);
  g_mutex_clear (&f->lock);
  g_cond_clear (&f->cond);
}

/* --- --- */

static void
on_finished (MfMigration *migration, gpointer user_data)
{
  *(gboolean *) user_data = TRUE;
}

static gboolean
on_deadline (gpointer unused)
{
  g_assert_not_reached (); /* the deadline has passed */
  return G_SOURCE_REMOVE;
}

/* Runs the main context until `flag` or a deadline. */
static void
run_until (const gboolean *flag)
{
  guint deadline = g_timeout_add_seconds (DEADLINE_SEC, on_deadline, NULL);

  while (!*flag)
    g_main_context_iteration (NULL, TRUE);
  g_source_remove (deadline);
}

static MfMigration *
fetch (Fixture *f, const char *region, const char *address, gboolean *is_over)
{
  const char *const regions[] = { region, NULL };
  const mf_program_choice here = { .control = "/run/here.qmp" }, there = { .control = "/run/there.qmp" };
  const mf_migrate_options options = { .mode = MF_MODE_PRECOPY };
  g_autoptr (GError) error = NULL;
  MfMigration *migration = mf_host_fetch (f->target, regions, address, &here, &there, &options, &error);

  g_assert_no_error (error);
  g_signal_connect (migration, "finished", G_CALLBACK (on_finished), is_over);
  return migration;
}

static void
assert_fails (Fixture *f, const char *region, const char *address, MfError code, const char *words)
{
  gboolean is_over = FALSE;
  g_autoptr (MfMigration) migration = fetch (f, region, address, &is_over);
  g_autoptr (GError) error = NULL;
  mf_migration_status status;

  run_until (&is_over);
  mf_migration_get_status (migration, &status);
  error = mf_migration_get_error (migration);
  g_assert_false (status.is_source);
  g_assert_cmpint (status.state, ==, MF_MIGRATION_FAILED);
  g_assert_error (error, MF_ERROR, (int) code);
  g_assert_nonnull (strstr (error->message, words));
}

static void
test_nobody_there (Fixture *f, gconstpointer unused)
{
  g_autofree char *nobody = g_strconcat (f->address, "-not", NULL);

  assert_fails (f, "vm1", nobody, MF_ERROR_CONNECTION, "nobody answers");
  g_assert_null (f->outgoing);
}

/* The source refuses at once. */
static void
test_no_region_there (Fixture *f, gconstpointer unused)
{
  assert_fails (f, "vm2", f->address, MF_ERROR_NOT_FOUND, "on the source: there is no region vm2");
  g_assert_null (f->outgoing);
}

/* The source has begun, and fails before it has asked for anything: its reason is the one that is told here. */
static void
test_source_fails (Fixture *f, gconstpointer unused)
{
  assert_fails (f, "vm1", f->address, MF_ERROR_NOT_FOUND, "on the source: no program has it mapped");
  g_assert_nonnull (f->outgoing);
  g_assert_cmpint (mf_migration_get_mode (f->outgoing), ==, MF_MODE_PRECOPY);
}

/* Who cancels here cancels there; it is over here when it is over there. */
static void
test_cancel (Fixture *f, gconstpointer unused)
{
  gboolean is_over = FALSE;
  g_autoptr (MfMigration) migration = NULL;
  g_autoptr (GError) error = NULL;
  mf_migration_status status;

  f->holds = TRUE;
  migration = fetch (f, "vm1", f->address, &is_over);
  while (f->outgoing == NULL)
    g_main_context_iteration (NULL, TRUE);
  g_mutex_lock (&f->lock);
  while (!f->is_held)
    g_cond_wait (&f->cond, &f->lock);
  g_mutex_unlock (&f->lock);
  g_assert_true (mf_migration_cancel (migration, &error));
  g_assert_no_error (error);
  while (!g_cancellable_is_cancelled (mf_migration_cancellable (f->outgoing)))
    g_main_context_iteration (NULL, TRUE);
  g_assert_false (is_over);
  g_mutex_lock (&f->lock);
  f->holds = FALSE;
  g_cond_broadcast (&f->cond);
  g_mutex_unlock (&f->lock);
  run_until (&is_over);
  mf_migration_get_status (migration, &status);
  g_assert_cmpint (status.state, ==, MF_MIGRATION_CANCELLED);
  mf_migration_get_status (f->outgoing, &status);
  g_assert_cmpint (status.state, !=, MF_MIGRATION_RUNNING);
}

typedef struct {
  Fixture *f;
  mf_fetch_request request;
  GError *error;
  gboolean is_over;
} asking;

static gpointer
ask (gpointer data)
{
  asking *self = data;
  g_autoptr (mf_peer) peer = mf_peer_dial (self->f->address, -1, NULL, &self->error);

  if (peer != NULL)
    mf_peer_request (peer, "", mf_fetch_request_pack (&self->request), NULL, &self->error);
  self->is_over = TRUE;
  g_main_context_wakeup (NULL);
  return NULL;
}

/* A session that nobody knows is not begun by who says that he is back. */
static void
test_unknown_session (Fixture *f, gconstpointer unused)
{
  asking self = { .f = f, .request = { .session = { 1, 2, 3 } } };
  GThread *thread = g_thread_new ("ask", ask, &self);

  run_until (&self.is_over);
  g_thread_join (thread);
  g_assert_error (self.error, MF_ERROR, MF_ERROR_NOT_FOUND);
  g_assert_null (f->outgoing);
  g_error_free (self.error);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define ADD(name, function) g_test_add ("/fetch/" name, Fixture, NULL, set_up, function, tear_down)
  ADD ("nobody-there", test_nobody_there);
  ADD ("no-region-there", test_no_region_there);
  ADD ("source-fails", test_source_fails);
  ADD ("cancel", test_cancel);
  ADD ("unknown-session", test_unknown_session);
  return g_test_run ();
}
