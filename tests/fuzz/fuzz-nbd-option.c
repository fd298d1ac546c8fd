/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A client as the server sees it: options, one after the other, each a header and its data. */
#include "mf-fuzz.h"

#include "core/mf-nbd-protocol.h"
#include "core/mf-wire.h"

#include <string.h>

static void
check_string (mf_nbd_string string, const uint8_t *data, size_t length)
{
  MF_FUZZ_CHECK (string.length <= MF_NBD_STRING_MAX);
  if (string.length == 0)
    return;
  MF_FUZZ_CHECK ((const uint8_t *) string.text >= data);
  MF_FUZZ_CHECK ((const uint8_t *) string.text + string.length <= data + length);
  MF_FUZZ_CHECK (memchr (string.text, 0, string.length) == NULL);
}

static void
check_info (const uint8_t *data, size_t length)
{
  mf_nbd_info_request request;

  if (!mf_nbd_decode_info_request (data, length, &request))
    return;
  check_string (request.name, data, length);
  MF_FUZZ_CHECK (4 + (size_t) request.name.length + 2 + (size_t) request.n_infos * 2 == length);
  MF_FUZZ_CHECK (!mf_nbd_wants_info (&request, MF_NBD_INFO_EXPORT) || request.n_infos > 0);
}

static void
check_meta (const uint8_t *data, size_t length)
{
  mf_nbd_meta_request request;
  mf_nbd_string query;
  size_t used;
  uint32_t n;

  if (!mf_nbd_decode_meta_request (data, length, &request))
    return;
  check_string (request.name, data, length);
  used = 4 + (size_t) request.name.length + 4;
  n = request.n_queries;
  while (mf_nbd_next_query (&request, &query)) {
    check_string (query, data, length);
    used += 4 + (size_t) query.length;
    n--;
  }
  MF_FUZZ_CHECK (n == 0 && used == length);
}

static void
check_option (uint32_t option, const uint8_t *data, size_t length)
{
  mf_nbd_string name;

  switch (option) {
  case MF_NBD_OPT_EXPORT_NAME:
    if (mf_nbd_decode_export_name (data, length, &name))
      check_string (name, data, length);
    break;
  case MF_NBD_OPT_INFO:
  case MF_NBD_OPT_GO:
    check_info (data, length);
    break;
  case MF_NBD_OPT_LIST_META_CONTEXT:
  case MF_NBD_OPT_SET_META_CONTEXT:
    check_meta (data, length);
    break;
  default:
    break;
  }
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t length)
{
  mf_nbd_option option;

  while (length >= MF_NBD_OPTION_BYTES && mf_nbd_decode_option (data, MF_NBD_OPTION_BYTES, &option)) {
    uint8_t again[MF_NBD_OPTION_BYTES];
    mf_nbd_encode_option (&option, again);
    MF_FUZZ_CHECK (memcmp (again, data, sizeof again) == 0);
    data += MF_NBD_OPTION_BYTES;
    length -= MF_NBD_OPTION_BYTES;
    if (option.length > length)
      break;
    check_option (option.option, data, option.length);
    data += option.length;
    length -= option.length;
  }
  return 0;
}

static size_t
put_text (uint8_t *out, const char *text)
{
  mf_put_be32 (out, (uint32_t) strlen (text));
  memcpy (out + 4, text, strlen (text));
  return 4 + strlen (text);
}

void
mf_fuzz_make_seeds (void)
{
  uint8_t bytes[256];
  uint8_t *data = bytes + MF_NBD_OPTION_BYTES;
  size_t length;

  length = put_text (data, "vm1");
  mf_put_be16 (data + length, 1);
  mf_put_be16 (data + length + 2, MF_NBD_INFO_BLOCK_SIZE);
  length += 4;
  mf_nbd_encode_option (&(mf_nbd_option){ MF_NBD_OPT_GO, (uint32_t) length }, bytes);
  mf_fuzz_seed ("go", bytes, MF_NBD_OPTION_BYTES + length);

  length = put_text (data, "vm1");
  mf_put_be32 (data + length, 2);
  length += 4;
  length += put_text (data + length, MF_NBD_CONTEXT_ALLOCATION);
  length += put_text (data + length, MF_NBD_CONTEXT_DIRTY);
  mf_nbd_encode_option (&(mf_nbd_option){ MF_NBD_OPT_SET_META_CONTEXT, (uint32_t) length }, bytes);
  mf_fuzz_seed ("set-meta-context", bytes, MF_NBD_OPTION_BYTES + length);

  memcpy (data, "vm1", 3);
  mf_nbd_encode_option (&(mf_nbd_option){ MF_NBD_OPT_EXPORT_NAME, 3 }, bytes);
  mf_fuzz_seed ("export-name", bytes, MF_NBD_OPTION_BYTES + 3);
}
