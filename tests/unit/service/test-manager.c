/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The service as a D-Bus client meets it, without the command: over a host whose migrations move nothing.
 */
#include "cli/mf-cli-service.h"
#include "service/mf-service.h"
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

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

  if (data) {
    /* Programs run on memory only. */
    f->root = g_strdup ("/dev/shm/manager-XXXXXX");
    g_assert_nonnull (g_mkdtemp (f->root));
  } else {
    f->root = g_dir_make_tmp ("manager-XXXXXX", &error);
    g_assert_no_error (error);
  }
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

/* --- Domains --- */

static void
prepare (Fixture *f, const char *domain, guint64 size, const char *text)
{
  g_autoptr (GVariant) options = parse_options (text);
  GVariantBuilder regions;

  g_variant_builder_init (&regions, G_VARIANT_TYPE ("a(st)"));
  g_variant_builder_add (&regions, "(st)", "vm1", size);
  call (f, "PrepareDomain", g_variant_new ("(sa(st)@a{sv})", domain, &regions, options));
}

/* The region's file, or NULL where this machine can't run programs on regions: then the test is skipped. */
static char *
prepared_file (Fixture *f)
{
  g_autofree char **files = NULL;

  if (g_error_matches (f->error, MF_ERROR, MF_ERROR_NOT_SUPPORTED) ||
      g_error_matches (f->error, MF_ERROR, MF_ERROR_PERMISSION)) {
    g_test_skip (f->error->message);
    return NULL;
  }
  g_assert_no_error (f->error);
  g_variant_get (f->answer, "(^a&s)", &files);
  g_assert_cmpuint (g_strv_length (files), ==, 1);
  return g_strdup (files[0]);
}

static void
test_domain_starts_and_ends (Fixture *f, gconstpointer data)
{
  const uid_t owner = geteuid () == 0 ? 65534 : geteuid ();
  g_autofree char *options = g_strdup_printf ("{'owner': <uint32 %u>, 'qmp': <'/run/vm1.qmp'>}", owner);
  g_autofree char *file = NULL;
  GStatBuf st;

  prepare (f, "vm 1", 8192, options);
  file = prepared_file (f);
  if (!file)
    return;
  g_assert_cmpint (g_stat (file, &st), ==, 0);
  g_assert_cmpuint (st.st_uid, ==, owner);
  g_assert_cmpint (st.st_size, ==, 8192);
  call (f, "ReleaseDomain", g_variant_new ("(s)", "another"));
  g_assert_no_error (f->error);
  g_assert_cmpint (g_stat (file, &st), ==, 0);
  call (f, "ReleaseDomain", g_variant_new ("(s)", "vm 1"));
  g_assert_no_error (f->error);
  g_assert_cmpint (g_stat (file, &st), ==, -1);
}

/* What an earlier run has left is not found by the next one; its size may be another one now. */
static void
test_domain_begins_with_zeroes (Fixture *f, gconstpointer data)
{
  static const char old[8192] = "of an earlier run";
  g_autofree char *file = NULL, *bytes = NULL;
  gsize length = 0;

  prepare (f, "vm 1", sizeof old, "{}");
  file = prepared_file (f);
  if (!file)
    return;
  g_assert_true (g_file_set_contents_full (file, old, sizeof old, G_FILE_SET_CONTENTS_NONE, 0600, NULL));
  prepare (f, "vm 1", 16384, "{}");
  g_assert_no_error (f->error);
  g_assert_true (g_file_get_contents (file, &bytes, &length, NULL));
  g_assert_cmpuint (length, ==, 16384);
  for (gsize i = 0; i < length; i++)
    g_assert_cmpint (bytes[i], ==, 0);
}

/* A region that is somebody else's is not emptied for a domain. */
static void
test_domain_takes_nobodys_region (Fixture *f, gconstpointer data)
{
  g_autofree char *file = NULL;

  prepare (f, "vm 1", 8192, "{}");
  file = prepared_file (f);
  if (!file)
    return;
  prepare (f, "vm_1", 8192, "{}");
  g_assert_error (f->error, MF_ERROR, MF_ERROR_EXISTS);
  call (f, "ReleaseDomain", g_variant_new ("(s)", "vm 1"));
  g_assert_no_error (f->error);
  create (f, "{}");
  g_assert_no_error (f->error);
  prepare (f, "vm 1", 8192, "{}");
  g_assert_error (f->error, MF_ERROR, MF_ERROR_EXISTS);
  call (f, "ReleaseDomain", g_variant_new ("(s)", "vm 1"));
  g_assert_true (g_file_test (file, G_FILE_TEST_EXISTS));
  prepare (f, "vm 1", 8192, "{'user': <'root'>}");
  g_assert_error (f->error, MF_ERROR, MF_ERROR_INVALID);
}

/* A domain whose end nobody has told is not remembered by the next service for ever: see tests/libvirt; one that has just been prepared is. */
static void
test_domain_is_remembered (Fixture *f, gconstpointer data)
{
  g_autofree char *file = NULL;
  g_autoptr (GError) error = NULL;

  prepare (f, "vm 1", 8192, "{}");
  file = prepared_file (f);
  if (!file)
    return;
  g_clear_object (&f->connection);
  g_clear_pointer (&f->service, mf_service_free);
  f->service = mf_service_new (&f->config, NULL, &error);
  g_assert_no_error (error);
  connect_client (f);
  g_assert_true (g_file_test (file, G_FILE_TEST_EXISTS));
  call (f, "ReleaseDomain", g_variant_new ("(s)", "vm 1"));
  g_assert_no_error (f->error);
  g_assert_false (g_file_test (file, G_FILE_TEST_EXISTS));
}

/* A service that ends in the middle of a job ends. */
static void
test_end_with_a_job (Fixture *f, gconstpointer data)
{
  create (f, "{}");
  migrate (f, "{}");
  g_assert_no_error (f->error);
}

#define add_on_memory(name, function) g_test_add ("/manager/" name, Fixture, "on memory", set_up, function, tear_down)
#define add(name, function)           g_test_add ("/manager/" name, Fixture, NULL, set_up, function, tear_down)

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
  add_on_memory ("domain-starts-and-ends", test_domain_starts_and_ends);
  add_on_memory ("domain-begins-with-zeroes", test_domain_begins_with_zeroes);
  add_on_memory ("domain-takes-nobodys-region", test_domain_takes_nobodys_region);
  add_on_memory ("domain-is-remembered", test_domain_is_remembered);
  return g_test_run ();
}
