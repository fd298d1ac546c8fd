/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-fuzz.h"

#include "core/mf-preface.h"

#include <string.h>

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t length)
{
  uint8_t again[MF_PREFACE_BYTES];
  mf_preface preface;

  if (length != MF_PREFACE_BYTES)
    return 0;
  mf_preface_result result = mf_preface_decode (data, &preface);
  if (result == MF_PREFACE_NOT_OURS)
    return 0;
  MF_FUZZ_CHECK (preface.kind == 0 || preface.kind == MF_STREAM_CONTROL || preface.kind == MF_STREAM_DATA ||
                 preface.kind == MF_STREAM_STATE);
  if (result == MF_PREFACE_OK) {
    MF_FUZZ_CHECK (preface.kind != 0 && preface.flags <= MF_STATUS_LAST && preface.lane <= MF_LANE_FAULT);
    mf_preface_encode (&preface, again);
    MF_FUZZ_CHECK (memcmp (data, again, sizeof again) == 0);
  }
  return 0;
}

void
mf_fuzz_make_seeds (void)
{
  const mf_stream_kind kinds[] = { MF_STREAM_CONTROL, MF_STREAM_DATA, MF_STREAM_STATE };
  const char *names[] = { "control", "data", "state" };

  for (size_t i = 0; i < 3; i++) {
    mf_preface preface = { .version = MF_PREFACE_VERSION, .compat_version = MF_PREFACE_COMPAT, .kind = kinds[i] };
    uint8_t bytes[MF_PREFACE_BYTES];
    mf_preface_encode (&preface, bytes);
    mf_fuzz_seed (names[i], bytes, sizeof bytes);
  }
}
