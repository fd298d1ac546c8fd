/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "core/mf-preface.h"

#include <glib.h>
#include <string.h>

static const mf_preface example = {
  .version = MF_PREFACE_VERSION,
  .compat_version = MF_PREFACE_COMPAT,
  .kind = MF_STREAM_DATA,
  .flags = MF_STATUS_BUSY,
  .session = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255 },
  .index = 0x01020304,
  .lane = MF_LANE_FAULT,
};

static const uint8_t example_bytes[MF_PREFACE_BYTES] = {
  'M', 'E', 'M', 'F', 'E', 'R', 'R', 'Y', 0, 0, 0,  1,  0,  0,  0,  1,   0, 0, 0, 2, 0, 0, 0, 2, //
  0,   1,   2,   3,   4,   5,   6,   7,   8, 9, 10, 11, 12, 13, 14, 255, 1, 2, 3, 4, 0, 0, 0, 1,
};

static mf_preface_result
decode_with (gsize at, uint32_t value, mf_preface *out)
{
  uint8_t bytes[MF_PREFACE_BYTES];

  memcpy (bytes, example_bytes, sizeof bytes);
  for (gsize i = 0; i < 4; i++)
    bytes[at + i] = (uint8_t) (value >> (24 - 8 * i));
  return mf_preface_decode (bytes, out);
}

static void
test_layout (void)
{
  uint8_t bytes[MF_PREFACE_BYTES];
  mf_preface out;

  memset (bytes, 0xee, sizeof bytes);
  mf_preface_encode (&example, bytes);
  g_assert_cmpmem (bytes, sizeof bytes, example_bytes, sizeof example_bytes);

  memset (&out, 0xee, sizeof out);
  g_assert_cmpint (mf_preface_decode (bytes, &out), ==, MF_PREFACE_OK);
  g_assert_cmpmem (&out, sizeof out, &example, sizeof example);
}

static void
test_not_ours (void)
{
  mf_preface out = example;

  for (gsize i = 0; i < 8; i++) {
    uint8_t bytes[MF_PREFACE_BYTES];
    memcpy (bytes, example_bytes, sizeof bytes);
    bytes[i] ^= 0x20;
    g_assert_cmpint (mf_preface_decode (bytes, &out), ==, MF_PREFACE_NOT_OURS);
  }
  g_assert_cmpmem (&out, sizeof out, &example, sizeof example);
}

static void
test_versions (void)
{
  mf_preface out;

  g_assert_cmpint (decode_with (8, MF_PREFACE_COMPAT - 1, &out), ==, MF_PREFACE_TOO_OLD);
  g_assert_cmpuint (out.version, ==, MF_PREFACE_COMPAT - 1);
  g_assert_cmpint (decode_with (8, UINT32_MAX, &out), ==, MF_PREFACE_OK);
  g_assert_cmpint (decode_with (12, 0, &out), ==, MF_PREFACE_OK);
  g_assert_cmpint (decode_with (12, MF_PREFACE_VERSION, &out), ==, MF_PREFACE_OK);
  g_assert_cmpint (decode_with (12, MF_PREFACE_VERSION + 1, &out), ==, MF_PREFACE_TOO_NEW);
  g_assert_cmpuint (out.compat_version, ==, MF_PREFACE_VERSION + 1);
  g_assert_cmpint (decode_with (12, UINT32_MAX, &out), ==, MF_PREFACE_TOO_NEW);
}

/* Another version may name kinds that this one doesn't know: the answer is still about the version. */
static void
test_version_before_the_rest (void)
{
  uint8_t bytes[MF_PREFACE_BYTES];
  mf_preface out;

  memset (bytes, 0xff, sizeof bytes);
  memcpy (bytes, example_bytes, 8);
  g_assert_cmpint (mf_preface_decode (bytes, &out), ==, MF_PREFACE_TOO_NEW);
  memset (bytes + 8, 0, 4);
  g_assert_cmpint (mf_preface_decode (bytes, &out), ==, MF_PREFACE_TOO_OLD);
}

static void
test_bad (void)
{
  const uint32_t kinds[] = { 0, 4, 0x100, 0x02000000, UINT32_MAX };
  mf_preface out;

  for (gsize i = 0; i < G_N_ELEMENTS (kinds); i++) {
    g_assert_cmpint (decode_with (16, kinds[i], &out), ==, MF_PREFACE_BAD);
    g_assert_cmpint ((int) out.kind, ==, 0);
  }
  for (uint32_t kind = MF_STREAM_CONTROL; kind <= MF_STREAM_STATE; kind++)
    g_assert_cmpint (decode_with (16, kind, &out), ==, MF_PREFACE_OK);
  for (uint32_t status = 0; status <= MF_STATUS_LAST; status++)
    g_assert_cmpint (decode_with (20, status, &out), ==, MF_PREFACE_OK);
  g_assert_cmpint (decode_with (20, MF_STATUS_LAST + 1, &out), ==, MF_PREFACE_BAD);
  g_assert_cmpint (decode_with (20, UINT32_MAX, &out), ==, MF_PREFACE_BAD);
  g_assert_cmpint (decode_with (44, MF_LANE_FAULT + 1, &out), ==, MF_PREFACE_BAD);
  g_assert_cmpint (decode_with (44, UINT32_MAX, &out), ==, MF_PREFACE_BAD);
  g_assert_cmpuint (out.lane, ==, UINT32_MAX);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/preface/layout", test_layout);
  g_test_add_func ("/preface/not-ours", test_not_ours);
  g_test_add_func ("/preface/versions", test_versions);
  g_test_add_func ("/preface/version-before-the-rest", test_version_before_the_rest);
  g_test_add_func ("/preface/bad", test_bad);
  return g_test_run ();
}
