/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The service as a D-Bus client meets it, without the command: over a host whose migrations move nothing.
 */
#include "cli/mf-cli-service.h"
#include "service/mf-service.h"
#include <glib/gstdio.h>
#include <string.h>

typedef struct {
  char *root;
  mf_service_config config;
  MfService *service;
  GDBusConnection *connection;
  /* Of the call that was made last. */
  GVariant *answer;
  GError *error;
  gboolean answered;
} Fixture;

static void
connect_client (Fixture *f)
{
  g_autofree char *socket = g_build_filename (f->config.runtime_dir, "memferry.sock", NULL);
  g_autoptr (GError) error = NULL;

  f->connection = mf_cli_connect (socket, &error);
  g_assert_no_error (error);
}

static void
set_up (Fixture *f, gconstpointer data)
{
  g_autoptr (GError) error = NULL;

  f->root = g_dir_make_tmp ("manager-XXXXXX", &error);
  g_assert_no_error (error);
  f->config.runtime_dir = g_build_filename (f->root, "run", NULL);
  f->config.store_dir = g_build_filename (f->root, "stores", NULL);
  mf_service_config_complete (&f->config);
  f->service = mf_service_new (&f->config, NULL, &error);
  g_assert_no_error (error);
  connect_client (f);
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  g_autofree char *region = g_build_filename (f->config.store_dir, "vm1", NULL);
  g_autofree char *record = g_strconcat (region, ".region", NULL);

  g_clear_pointer (&f->answer, g_variant_unref);
  g_clear_error (&f->error);
  g_clear_object (&f->connection);
  g_clear_pointer (&f->service, mf_service_free);
  g_unlink (region);
  g_unlink (record);
  g_assert_cmpint (g_rmdir (f->config.runtime_dir), ==, 0); /* nothing is left behind */
  g_assert_cmpint (g_rmdir (f->config.store_dir), ==, 0);
  g_assert_cmpint (g_rmdir (f->root), ==, 0);
  mf_service_config_clear (&f->config);
  g_free (f->root);
}

static void
call_answered (GObject *source, GAsyncResult *result, gpointer user_data)
{
  Fixture *f = user_data;

  f->answer = g_dbus_connection_call_finish (G_DBUS_CONNECTION (source), result, &f->error);
  f->answered = TRUE;
}

/* Service and client share a main context: no blocking call. */
static void
call (Fixture *f, const char *method, GVariant *arguments)
{
  g_clear_pointer (&f->answer, g_variant_unref);
  g_clear_error (&f->error);
  f->answered = FALSE;
  g_dbus_connection_call (f->connection, NULL, "/org/memferry/manager", "org.memferry.Manager1", method, arguments,
                          NULL, G_DBUS_CALL_FLAGS_NONE, 10000, NULL, call_answered, f);
  while (!f->answered)
    g_main_context_iteration (NULL, TRUE);
}

/* (transfer full) */
static GVariant *
parse_options (const char *text)
{
  g_autoptr (GError) error = NULL;
  GVariant *options = g_variant_parse (G_VARIANT_TYPE_VARDICT, text, NULL, NULL, &error);

  g_assert_no_error (error);
  return options;
}

static void
create (Fixture *f, const char *text)
{
  g_autoptr (GVariant) options = parse_options (text);

  call (f, "CreateRegion", g_variant_new ("(st@a{sv})", "vm1", (guint64) 8192, options));
}

static void
migrate (Fixture *f, const char *text)
{
  const char *const regions[] = { "vm1", NULL };
  g_autoptr (GVariant) options = parse_options (text);

  call (f, "Migrate", g_variant_new ("(^ass@a{sv})", regions, "tcp://stays", options));
}

static void
test_region_is_made_with_options (Fixture *f, gconstpointer data)
{
  const char *path = NULL;

  create (f, "{'qmp': <'/run/vm1.qmp'>}");
  g_assert_no_error (f->error);
  g_variant_get (f->answer, "(&o)", &path);
  g_assert_cmpstr (path, ==, "/org/memferry/region/vm1");
}

/* Who misspells an option must not believe that it was heeded. */
static void
test_unknown_options_are_refused (Fixture *f, gconstpointer data)
{
  create (f, "{'qpm': <'/run/vm1.qmp'>}");
  g_assert_error (f->error, MF_ERROR, MF_ERROR_INVALID);
  g_assert_nonnull (strstr (f->error->message, "qpm"));

  create (f, "{}");
  g_assert_no_error (f->error);
  migrate (f, "{'max_downtime': <uint64 5>}");
  g_assert_error (f->error, MF_ERROR, MF_ERROR_INVALID);
}

static void
test_options_of_another_type_are_refused (Fixture *f, gconstpointer data)
{
  create (f, "{'qmp': <uint32 1>}");
  g_assert_error (f->error, MF_ERROR, MF_ERROR_INVALID);
  create (f, "{}");
  g_assert_no_error (f->error);
  migrate (f, "{'max-downtime': <20>}");
  g_assert_error (f->error, MF_ERROR, MF_ERROR_INVALID);
  g_assert_nonnull (strstr (f->error->message, "max-downtime"));
  migrate (f, "{'mode': <'fast'>}");
  g_assert_error (f->error, MF_ERROR, MF_ERROR_INVALID);
}

static void
test_relative_qmp_socket_is_refused (Fixture *f, gconstpointer data)
{
  create (f, "{'qmp': <'vm1.qmp'>}");
  g_assert_error (f->error, MF_ERROR, MF_ERROR_INVALID);
  /* And no region is left of it. */
  create (f, "{}");
  g_assert_no_error (f->error);
}

static void
test_all_migrate_options (Fixture *f, gconstpointer data)
{
  const char *path = NULL;

  create (f, "{}");
  migrate (f, "{'qmp': <'/a'>, 'peer-qmp': <'/b'>, 'mode': <'postcopy'>, 'max-downtime': <uint64 1>,"
              " 'bandwidth': <uint64 2>, 'max-pause': <uint64 3>, 'max-pauses': <uint32 4>, 'live-scans': <true>,"
              " 'detach': <true>}");
  g_assert_no_error (f->error);
  g_variant_get (f->answer, "(&o)", &path);
  g_assert_cmpstr (path, ==, "/org/memferry/job/1");
}

static void
test_unknown_method (Fixture *f, gconstpointer data)
{
  call (f, "Frobnicate", NULL);
  g_assert_error (f->error, G_DBUS_ERROR, G_DBUS_ERROR_UNKNOWN_METHOD);
}

/* A service that ends in the middle of a job ends. */
static void
test_end_with_a_job (Fixture *f, gconstpointer data)
{
  create (f, "{}");
  migrate (f, "{}");
  g_assert_no_error (f->error);
}

#define add(name, function) g_test_add ("/manager/" name, Fixture, NULL, set_up, function, tear_down)

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  add ("region-is-made-with-options", test_region_is_made_with_options);
  add ("unknown-options-are-refused", test_unknown_options_are_refused);
  add ("options-of-another-type-are-refused", test_options_of_another_type_are_refused);
  add ("relative-qmp-socket-is-refused", test_relative_qmp_socket_is_refused);
  add ("all-migrate-options", test_all_migrate_options);
  add ("unknown-method", test_unknown_method);
  add ("end-with-a-job", test_end_with_a_job);
  return g_test_run ();
}
