/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "link/mf-peer-address.h"

#include <string.h>

static void
test_good (void)
{
  static const struct {
    const char *text, *path, *host;
    guint16 port;
  } good[] = {
    { "unix:/run/memferry/link", "/run/memferry/link", NULL, 0 }, { "unix:link", "link", NULL, 0 },
    { "tcp://host", NULL, "host", MF_LINK_DEFAULT_PORT },         { "tcp://host.example:1", NULL, "host.example", 1 },
    { "tcp://192.0.2.1:65535", NULL, "192.0.2.1", 65535 },        { "tcp://[::1]", NULL, "::1", MF_LINK_DEFAULT_PORT },
    { "tcp://[fe80::1%eth0]:22", NULL, "fe80::1%eth0", 22 },      { "tcp://0.0.0.0:0", NULL, "0.0.0.0", 0 },
  };

  for (guint i = 0; i < G_N_ELEMENTS (good); i++) {
    g_autoptr (GError) error = NULL;
    g_autoptr (mf_peer_address) address = mf_peer_address_parse (good[i].text, &error);

    g_assert_no_error (error);
    g_assert_cmpstr (mf_peer_address_text (address), ==, good[i].text);
    g_assert_cmpstr (address->path, ==, good[i].path);
    g_assert_cmpstr (address->host, ==, good[i].host);
    g_assert_cmpuint (address->port, ==, good[i].port);
  }
}

static void
assert_refused (const char *text, int code, const char *part)
{
  g_autoptr (GError) error = NULL;

  g_assert_null (mf_peer_address_parse (text, &error));
  g_assert_error (error, MF_ERROR, code);
  g_test_message ("%s", error->message);
  g_assert_nonnull (strstr (error->message, part));
  g_assert_null (strchr (error->message, '\n'));
}

static void
test_bad (void)
{
  static const char *const bad[] = {
    "",
    "host",
    "host:1",
    "unix:",
    "unix",
    "tcp:host",
    "tcp://",
    "tcp://:1",
    "tcp://host:",
    "tcp://host:0x10",
    "tcp://host:65536",
    "tcp://host:-1",
    "tcp://host:1/path",
    "tcp://host/",
    "tcp://::1",
    "tcp://[::1",
    "tcp://[::1]x",
    "tcp://[]:1",
    "tcp://user@host",
    "tcp://ho st",
    "http://host",
    "TCP://host",
    "ssh://",
    "ssh://@host",
    "ssh://-oProxyCommand@host",
    "ssh://a@b@host",
    "ssh://host:0x1",
    "ssh://host:/socket",
    "ssh:///socket",
  };

  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    assert_refused (bad[i], MF_ERROR_INVALID, "tcp://HOST[:PORT] or unix:PATH");
  assert_refused ("\xff\xfe", MF_ERROR_INVALID, "unix:PATH");
  assert_refused ("tls://host", MF_ERROR_NOT_SUPPORTED, "no tls");
}

static void
test_ssh (void)
{
  static const struct {
    const char *text, *user, *host, *path;
    guint16 port;
  } good[] = {
    { "ssh://host", NULL, "host", "/run/memferry/peer.sock", 0 },
    { "ssh://host/", NULL, "host", "/run/memferry/peer.sock", 0 },
    { "ssh://root@host.example:2222/run/other.sock", "root", "host.example", "/run/other.sock", 2222 },
    { "ssh://[::1]:22", NULL, "::1", "/run/memferry/peer.sock", 22 },
  };

  for (guint i = 0; i < G_N_ELEMENTS (good); i++) {
    g_autoptr (GError) error = NULL;
    g_autoptr (mf_peer_address) address = mf_peer_address_parse (good[i].text, &error);

    g_assert_no_error (error);
    g_assert_cmpint (address->kind, ==, MF_PEER_SSH);
    g_assert_cmpstr (address->user, ==, good[i].user);
    g_assert_cmpstr (address->host, ==, good[i].host);
    g_assert_cmpstr (address->path, ==, good[i].path);
    g_assert_cmpuint (address->port, ==, good[i].port);
  }
}

/* A socket's path may have 107 bytes. */
static void
test_long_path (void)
{
  g_autofree char *rest = g_strnfill (107, 'x');
  g_autofree char *fits = g_strconcat ("unix:", rest, NULL);
  g_autofree char *too_long = g_strconcat (fits, "x", NULL);
  g_autoptr (GError) error = NULL;
  g_autoptr (mf_peer_address) address = mf_peer_address_parse (fits, &error);

  g_assert_no_error (error);
  g_assert_cmpstr (address->path, ==, rest);
  assert_refused (too_long, MF_ERROR_INVALID, "107 bytes");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/peer-address/good", test_good);
  g_test_add_func ("/peer-address/bad", test_bad);
  g_test_add_func ("/peer-address/ssh", test_ssh);
  g_test_add_func ("/peer-address/long-path", test_long_path);
  return g_test_run ();
}
