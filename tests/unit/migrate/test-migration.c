/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "migrate/mf-migration-private.h"

static const char *const regions[] = { "vm1", NULL };

typedef struct {
  MfMigration *migration;
  GMainLoop *loop;
  guint progress;
  guint finished;
  gint samples;
} Fixture;

static void
on_progress (MfMigration *migration, Fixture *f)
{
  f->progress++;
  g_assert_cmpuint (f->finished, ==, 0); /* nothing comes after the last word */
}

static void
on_finished (MfMigration *migration, Fixture *f)
{
  f->finished++;
  g_main_loop_quit (f->loop);
}

static void
set_up (Fixture *f, gconstpointer unused)
{
  f->loop = g_main_loop_new (NULL, FALSE);
  f->migration = mf_migration_new (NULL, regions, "unix:/peer", MF_MODE_AUTO, TRUE);
  g_signal_connect (f->migration, "progress", G_CALLBACK (on_progress), f);
  g_signal_connect (f->migration, "finished", G_CALLBACK (on_finished), f);
}

static void
tear_down (Fixture *f, gconstpointer unused)
{
  /* It has let go of its sources: nobody but us holds it. */
  g_assert_finalize_object (f->migration);
  g_main_loop_unref (f->loop);
}

static void
drain (void)
{
  while (g_main_context_iteration (NULL, FALSE))
    ;
}

static void
count_samples (mf_migration_status *status, gpointer user_data)
{
  Fixture *f = user_data;

  g_atomic_int_inc (&f->samples);
  status->bytes = 4096;
  status->remaining = 8192;
}

/* A migration's thread reports while the main context looks: one "finished", and the last numbers stay. */
static gpointer
report (gpointer data)
{
  Fixture *f = data;

  mf_migration_set_sampler (f->migration, count_samples, f);
  for (guint i = 1; i <= 1000; i++) {
    mf_migration_set_round (f->migration, i);
    mf_migration_add_pause (f->migration, i);
  }
  g_assert_true (mf_migration_commit (f->migration));
  mf_migration_set_downtime (f->migration, 5000);
  mf_migration_finish (f->migration, NULL);
  return NULL;
}

static void
test_done (Fixture *f, gconstpointer unused)
{
  GThread *thread = g_thread_new ("report", report, f);
  mf_migration_status status;

  for (guint i = 0; i < 100; i++)
    mf_migration_get_status (f->migration, &status);
  g_main_loop_run (f->loop);
  g_thread_join (thread);
  drain ();
  g_assert_cmpuint (f->finished, ==, 1);
  g_assert_cmpint (f->samples, >, 0);
  mf_migration_get_status (f->migration, &status);
  g_assert_cmpint (status.state, ==, MF_MIGRATION_DONE);
  g_assert_cmpuint (status.round, ==, 1000);
  g_assert_cmpuint (status.pauses, ==, 1000);
  g_assert_cmpuint (status.longest_pause_usec, ==, 1000);
  g_assert_cmpuint (status.bytes, ==, 4096);
  g_assert_cmpuint (status.remaining, ==, 8192);
  g_assert_cmpuint (status.downtime_usec, ==, 5000);
  g_assert_null (mf_migration_get_error (f->migration));
}

static void
test_cancel (Fixture *f, gconstpointer unused)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GError) reported = NULL;
  mf_migration_status status;

  g_assert_true (mf_migration_cancel (f->migration, &error));
  g_assert_true (g_cancellable_is_cancelled (mf_migration_cancellable (f->migration)));
  g_assert_false (mf_migration_commit (f->migration)); /* too late to hand over */
  error = g_error_new (MF_ERROR, MF_ERROR_CANCELLED, "cancelled");
  mf_migration_finish (f->migration, error);
  g_main_loop_run (f->loop);
  drain ();
  mf_migration_get_status (f->migration, &status);
  g_assert_cmpint (status.state, ==, MF_MIGRATION_CANCELLED);
  reported = mf_migration_get_error (f->migration);
  g_assert_error (reported, MF_ERROR, MF_ERROR_CANCELLED);
}

/* Past the switchover there is no way back, and the user is told so. */
static void
test_cancel_too_late (Fixture *f, gconstpointer unused)
{
  g_autoptr (GError) error = NULL;

  g_assert_true (mf_migration_commit (f->migration));
  g_assert_false (mf_migration_cancel (f->migration, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_BUSY);
  g_assert_false (g_cancellable_is_cancelled (mf_migration_cancellable (f->migration)));
  mf_migration_finish (f->migration, NULL);
  g_main_loop_run (f->loop);
  drain ();
  g_clear_error (&error);
  g_assert_false (mf_migration_cancel (f->migration, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_NOT_FOUND);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add ("/migration/done", Fixture, NULL, set_up, test_done, tear_down);
  g_test_add ("/migration/cancel", Fixture, NULL, set_up, test_cancel, tear_down);
  g_test_add ("/migration/cancel-too-late", Fixture, NULL, set_up, test_cancel_too_late, tear_down);
  return g_test_run ();
}
