/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "migrate/mf-fetch-request.h"

#include <string.h>

static const uint8_t session[MF_SESSION_BYTES] = { 0, 7, 0, 0xff };

static GVariant *
packed (const char *const *regions, mf_mode mode)
{
  mf_fetch_request request = {
    .regions = (char **) regions,
    .options = { .mode = mode,
                 .max_downtime_usec = 50000,
                 .bandwidth = 12 << 20,
                 .max_pause_usec = 7,
                 .max_pauses = 3 },
    .control = (char *) "/run/there.qmp",
    .peer_control = (char *) "/run/here.qmp",
  };

  request.options.live_scans = TRUE;
  memcpy (request.session, session, sizeof session);
  return g_variant_ref_sink (mf_fetch_request_pack (&request));
}

/* All that the user asked for arrives at the source. */
static void
test_whole (void)
{
  const char *const regions[] = { "vm1", "vm1-node1", NULL };
  g_autoptr (GVariant) options = packed (regions, MF_MODE_POSTCOPY);
  g_auto (mf_fetch_request) back = { .regions = NULL };
  g_autoptr (GError) error = NULL;

  g_assert_true (mf_fetch_request_is_session (options));
  g_assert_true (mf_fetch_request_parse (options, &back, &error));
  g_assert_no_error (error);
  g_assert_cmpmem (back.session, MF_SESSION_BYTES, session, MF_SESSION_BYTES);
  g_assert_true (g_strv_equal ((const char *const *) back.regions, regions));
  g_assert_cmpint (back.options.mode, ==, MF_MODE_POSTCOPY);
  g_assert_cmpuint (back.options.max_downtime_usec, ==, 50000);
  g_assert_cmpuint (back.options.bandwidth, ==, 12 << 20);
  g_assert_cmpuint (back.options.max_pause_usec, ==, 7);
  g_assert_cmpuint (back.options.max_pauses, ==, 3);
  g_assert_true (back.options.live_scans);
  g_assert_cmpstr (back.control, ==, "/run/there.qmp");
  g_assert_cmpstr (back.peer_control, ==, "/run/here.qmp");
}

/* A dialler that is back names the session alone. */
static void
test_again (void)
{
  g_autoptr (GVariant) options = packed (NULL, MF_MODE_AUTO);
  g_auto (mf_fetch_request) back = { .regions = NULL };
  g_autoptr (GError) error = NULL;

  g_assert_true (mf_fetch_request_parse (options, &back, &error));
  g_assert_no_error (error);
  g_assert_null (back.regions);
  g_assert_cmpmem (back.session, MF_SESSION_BYTES, session, MF_SESSION_BYTES);
}

/* The form that names a domain of libvirt is another one. */
static void
test_domain (void)
{
  g_autoptr (GVariant) options = g_variant_ref_sink (g_variant_new_parsed ("{'peer': <'tcp://b'>}"));

  g_assert_false (mf_fetch_request_is_session (options));
}

static void
assert_refused (GVariant *taken)
{
  g_autoptr (GVariant) options = g_variant_take_ref (taken);
  g_auto (mf_fetch_request) request = { .regions = NULL };
  g_autoptr (GError) error = NULL;

  g_assert_false (mf_fetch_request_parse (options, &request, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_PROTOCOL);
  g_assert_null (request.regions);
}

/* What a stranger may send. */
static void
test_wrong (void)
{
  const char *const none[] = { NULL }, *const one[] = { "vm", NULL };
  g_autoptr (GPtrArray) many = g_ptr_array_new ();

  assert_refused (g_variant_new_parsed ("{'session': <'text'>}"));
  assert_refused (g_variant_new_parsed ("{'session': <@ay [1, 2, 3]>}"));
  assert_refused (packed (none, MF_MODE_AUTO));
  assert_refused (packed (one, (mf_mode) (MF_MODE_POSTCOPY + 1)));
  for (guint i = 0; i < 65; i++)
    g_ptr_array_add (many, (gpointer) "vm");
  g_ptr_array_add (many, NULL);
  assert_refused (packed ((const char *const *) many->pdata, MF_MODE_AUTO));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/fetch-request/whole", test_whole);
  g_test_add_func ("/fetch-request/again", test_again);
  g_test_add_func ("/fetch-request/domain", test_domain);
  g_test_add_func ("/fetch-request/wrong", test_wrong);
  return g_test_run ();
}
