/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-config.h"
#include "service/mf-service-config.h"

#include <glib/gstdio.h>
#include <unistd.h>

static char *
write_file (const char *text)
{
  g_autoptr (GError) error = NULL;
  char *path = NULL;
  int fd = g_file_open_tmp ("conf-XXXXXX", &path, &error);

  g_assert_no_error (error);
  close (fd);
  g_assert_true (g_file_set_contents (path, text, -1, &error));
  g_assert_no_error (error);
  return path;
}

static gboolean
read_text (const char *text, mf_service_config *config, GError **error)
{
  g_autofree char *path = write_file (text);
  gboolean good = mf_service_config_read (config, path, TRUE, error);

  g_unlink (path);
  return good;
}

static void
test_everything_is_read (void)
{
  g_auto (mf_service_config) config = { NULL };
  g_autoptr (GError) error = NULL;

  g_assert_true (read_text ("# a comment\n[listen]\naddresses=tcp://10.9.0.1;unix:/a b\n"
                            "[store]\ndir=/mnt/huge\n[service]\nruntime-dir=/run/x\ngroup=kvm\n",
                            &config, &error));
  g_assert_no_error (error);
  g_assert_cmpuint (g_strv_length (config.listen), ==, 2);
  g_assert_cmpstr (config.listen[0], ==, "tcp://10.9.0.1");
  g_assert_cmpstr (config.listen[1], ==, "unix:/a b");
  g_assert_cmpstr (config.store_dir, ==, "/mnt/huge");
  g_assert_cmpstr (config.runtime_dir, ==, "/run/x");
  g_assert_cmpstr (config.group, ==, "kvm");
}

static void
test_options_go_before (void)
{
  g_auto (mf_service_config) config = { NULL };
  g_autoptr (GError) error = NULL;

  config.store_dir = g_strdup ("/from/option");
  config.listen = g_strsplit ("unix:/o", ";", -1);
  g_assert_true (read_text ("[listen]\naddresses=tcp://1.2.3.4\n[store]\ndir=/from/file\n", &config, &error));
  g_assert_cmpstr (config.store_dir, ==, "/from/option");
  g_assert_cmpuint (g_strv_length (config.listen), ==, 1);
  g_assert_cmpstr (config.listen[0], ==, "unix:/o");
}

static void
test_defaults (void)
{
  g_auto (mf_service_config) config = { NULL };
  g_autoptr (GError) error = NULL;

  g_assert_true (read_text ("", &config, &error));
  mf_service_config_complete (&config);
  g_assert_cmpstr (config.runtime_dir, ==, MF_RUNTIME_DIR);
  g_assert_cmpstr (config.store_dir, ==, MF_STORE_DIR);
  g_assert_null (config.group);
  /* Nobody listens on TCP who was not told to. */
  g_assert_cmpuint (g_strv_length (config.listen), ==, 0);
}

static void
test_paths_become_absolute (void)
{
  g_auto (mf_service_config) config = { NULL };
  g_autofree char *here = g_get_current_dir ();
  g_autofree char *expected = g_build_filename (here, "run", NULL);

  config.runtime_dir = g_strdup ("run/../run");
  mf_service_config_complete (&config);
  g_assert_cmpstr (config.runtime_dir, ==, expected);
}

static void
assert_refused (const char *text, const char *about)
{
  g_auto (mf_service_config) config = { NULL };
  g_autoptr (GError) error = NULL;

  g_assert_false (read_text (text, &config, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_INVALID);
  g_assert_nonnull (g_strstr_len (error->message, -1, about));
}

static void
test_what_is_misspelt_is_refused (void)
{
  assert_refused ("[listen]\naddress=tcp://1.2.3.4\n", "address in [listen]");
  assert_refused ("[lissten]\naddresses=tcp://1.2.3.4\n", "[lissten]");
  assert_refused ("[store]\ngroup=x\n", "group in [store]");
  assert_refused ("addresses=tcp://1.2.3.4\n", "group");
  assert_refused ("[listen\n", "[listen");
}

static void
test_missing_file (void)
{
  g_auto (mf_service_config) config = { NULL };
  g_autoptr (GError) error = NULL;

  g_assert_true (mf_service_config_read (&config, "/nonexistent/memferry.conf", FALSE, &error));
  g_assert_no_error (error);
  g_assert_false (mf_service_config_read (&config, "/nonexistent/memferry.conf", TRUE, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_INVALID);
  g_assert_nonnull (g_strstr_len (error->message, -1, "/nonexistent/memferry.conf"));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/service-config/everything-is-read", test_everything_is_read);
  g_test_add_func ("/service-config/options-go-before", test_options_go_before);
  g_test_add_func ("/service-config/defaults", test_defaults);
  g_test_add_func ("/service-config/paths-become-absolute", test_paths_become_absolute);
  g_test_add_func ("/service-config/what-is-misspelt-is-refused", test_what_is_misspelt_is_refused);
  g_test_add_func ("/service-config/missing-file", test_missing_file);
  return g_test_run ();
}
