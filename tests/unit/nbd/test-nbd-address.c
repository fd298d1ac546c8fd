/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nbd/mf-nbd-address.h"

/* Where a server listens, as people write it. */

static void
test_good (void)
{
  static const struct {
    const char *uri, *host, *socket, *export;
    guint16 port;
  } cases[] = {
    { "nbd://127.0.0.1/", "127.0.0.1", NULL, "", 10809 },
    { "nbd://127.0.0.1", "127.0.0.1", NULL, "", 10809 },
    { "nbd://localhost:1234/a%20b", "localhost", NULL, "a b", 1234 },
    { "nbd://[::1]:65535/x/y", "::1", NULL, "x/y", 65535 },
    { "nbd+unix:///?socket=/run/a.sock", NULL, "/run/a.sock", "", 0 },
    { "nbd+unix:///disk?socket=/run/a%26b", NULL, "/run/a&b", "disk", 0 },
  };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    g_autoptr (GError) error = NULL;
    g_autoptr (mf_nbd_address) address = mf_nbd_address_parse (cases[i].uri, &error);

    g_assert_no_error (error);
    g_assert_cmpstr (address->host, ==, cases[i].host);
    g_assert_cmpstr (address->socket, ==, cases[i].socket);
    g_assert_cmpstr (address->export, ==, cases[i].export);
    g_assert_cmpuint (address->port, ==, cases[i].port);
  }
}

static void
test_bad (void)
{
  static const struct {
    const char *uri;
    MfError code;
  } cases[] = {
    { "", MF_ERROR_INVALID },
    { "nbd", MF_ERROR_INVALID },
    { "nbd:///", MF_ERROR_INVALID },
    { "nbd://h:0/", MF_ERROR_INVALID },
    { "nbd://h:65536/", MF_ERROR_INVALID },
    { "nbd://u@h/", MF_ERROR_INVALID },
    { "nbd://h/#f", MF_ERROR_INVALID },
    { "nbd://h/?socket=/x", MF_ERROR_INVALID },
    { "nbd+unix:///", MF_ERROR_INVALID },
    { "nbd+unix:///?socket=", MF_ERROR_INVALID },
    { "nbd+unix://h/?socket=/x", MF_ERROR_INVALID },
    { "http://h/", MF_ERROR_INVALID },
    { "nbds://h/", MF_ERROR_NOT_SUPPORTED },
    { "nbd+vsock://1/", MF_ERROR_NOT_SUPPORTED },
  };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    g_autoptr (GError) error = NULL;

    g_assert_null (mf_nbd_address_parse (cases[i].uri, &error));
    g_assert_error (error, MF_ERROR, (int) cases[i].code);
  }
}

/* 107 bytes are a UNIX socket's limit. */
static void
test_long_path (void)
{
  g_autofree char *fits = g_strnfill (106, 'x'), *too_long = g_strnfill (107, 'x');
  g_autofree char *good = g_strdup_printf ("nbd+unix:///?socket=/%s", fits);
  g_autofree char *bad = g_strdup_printf ("nbd+unix:///?socket=/%s", too_long);
  g_autoptr (GError) none = NULL, error = NULL;
  g_autoptr (mf_nbd_address) address = mf_nbd_address_parse (good, &none);

  g_assert_no_error (none);
  g_assert_null (mf_nbd_address_parse (bad, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_INVALID);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/nbd-address/good", test_good);
  g_test_add_func ("/nbd-address/bad", test_bad);
  g_test_add_func ("/nbd-address/long-path", test_long_path);
  return g_test_run ();
}
