/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "attach/mf-handover-message.h"

#include <string.h>

static void
assert_refused (const char *line, MfError code)
{
  g_autoptr (GError) error = NULL;
  mf_handover_message message;

  g_assert_false (mf_handover_message_parse (line, strlen (line), &message, &error));
  g_assert_error (error, MF_ERROR, (gint) code);
}

static void
test_offer (void)
{
  static const char line[] = "{\"memferry\":1,\"type\":\"offer\",\"generation\":7,\"mappings\":["
                             "{\"address\":140737488351232,\"length\":8192,\"offset\":4096},"
                             "{\"address\":4096,\"length\":4096,\"offset\":0,\"later\":\"ignored\"}]}";
  mf_handover_message message;

  g_assert_true (mf_handover_message_parse (line, strlen (line), &message, NULL));
  g_assert_cmpint (message.type, ==, MF_HANDOVER_OFFER);
  g_assert_cmpuint (message.generation, ==, 7);
  g_assert_cmpuint (message.n_mappings, ==, 2);
  g_assert_cmpuint (message.mappings[0].address, ==, 140737488351232);
  g_assert_cmpuint (message.mappings[0].length, ==, 8192);
  g_assert_cmpuint (message.mappings[0].offset, ==, 4096);
  g_assert_cmpuint (message.mappings[1].address, ==, 4096);
}

static void
test_the_others (void)
{
  static const char descriptors[] = "{\"memferry\":1,\"type\":\"descriptors\"}";
  static const char mappings[] = "{\"memferry\":1,\"type\":\"mappings\",\"mappings\":[]}";
  mf_handover_message message;

  g_assert_true (mf_handover_message_parse (descriptors, strlen (descriptors), &message, NULL));
  g_assert_cmpint (message.type, ==, MF_HANDOVER_DESCRIPTORS);
  g_assert_true (mf_handover_message_parse (mappings, strlen (mappings), &message, NULL));
  g_assert_cmpint (message.type, ==, MF_HANDOVER_MAPPINGS);
  g_assert_cmpuint (message.n_mappings, ==, 0);
}

static void
test_what_cannot_be_is_refused (void)
{
  static const char *const lines[] = {
    "",
    "\n",
    "{",
    "hello",
    "[]",
    "1",
    "null",
    "\xff\xfe",
    "{\"type\":\"offer\"}",
    "{\"memferry\":\"1\",\"type\":\"offer\"}",
    "{\"memferry\":-1,\"type\":\"offer\"}",
    "{\"memferry\":1}",
    "{\"memferry\":1,\"type\":7}",
    "{\"memferry\":1,\"type\":\"bogus\"}",
    "{\"memferry\":1,\"type\":\"offer\",\"mappings\":[]}",
    "{\"memferry\":1,\"type\":\"offer\",\"generation\":-1,\"mappings\":[]}",
    "{\"memferry\":1,\"type\":\"offer\",\"generation\":4294967296,\"mappings\":[]}",
    "{\"memferry\":1,\"type\":\"offer\",\"generation\":0}",
    "{\"memferry\":1,\"type\":\"offer\",\"generation\":0,\"mappings\":{}}",
    "{\"memferry\":1,\"type\":\"offer\",\"generation\":0,\"mappings\":[1]}",
    "{\"memferry\":1,\"type\":\"mappings\",\"mappings\":[{\"address\":1,\"length\":1}]}",
    "{\"memferry\":1,\"type\":\"mappings\",\"mappings\":[{\"address\":1.5,\"length\":1,\"offset\":1}]}",
    "{\"memferry\":1,\"type\":\"mappings\",\"mappings\":[{\"address\":-1,\"length\":1,\"offset\":1}]}",
    "{\"memferry\":1,\"type\":\"mappings\",\"mappings\":[[[[[[]]]]]]}",
  };

  for (guint i = 0; i < G_N_ELEMENTS (lines); i++)
    assert_refused (lines[i], MF_ERROR_PROTOCOL);
  assert_refused ("{\"memferry\":2,\"type\":\"offer\"}", MF_ERROR_VERSION);
}

static void
test_too_many_and_too_long (void)
{
  g_autoptr (GString) many = g_string_new ("{\"memferry\":1,\"type\":\"mappings\",\"mappings\":[");
  g_autofree char *deep = g_strnfill (10000, '[');
  g_autofree char *wide = g_strnfill (MF_HANDOVER_LINE_MAX + 1, ' ');

  for (guint i = 0; i <= MF_MAPPINGS_MAX; i++)
    g_string_append_printf (many, "%s{\"address\":0,\"length\":1,\"offset\":0}", i > 0 ? "," : "");
  g_string_append (many, "]}");
  assert_refused (many->str, MF_ERROR_PROTOCOL);
  assert_refused (deep, MF_ERROR_PROTOCOL);
  assert_refused (wide, MF_ERROR_PROTOCOL);
}

static void
test_answers (void)
{
  g_autofree char *device = mf_handover_answer ("device");
  g_autofree char *refused = mf_handover_refusal ("no \"such\" region\n");

  g_assert_cmpstr (device, ==, "{\"memferry\":1,\"type\":\"device\"}\n");
  g_assert_cmpstr (refused, ==, "{\"memferry\":1,\"type\":\"refused\",\"error\":\"no \\\"such\\\" region\\n\"}\n");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/handover-message/offer", test_offer);
  g_test_add_func ("/handover-message/the-others", test_the_others);
  g_test_add_func ("/handover-message/what-cannot-be-is-refused", test_what_cannot_be_is_refused);
  g_test_add_func ("/handover-message/too-many-and-too-long", test_too_many_and_too_long);
  g_test_add_func ("/handover-message/answers", test_answers);
  return g_test_run ();
}
