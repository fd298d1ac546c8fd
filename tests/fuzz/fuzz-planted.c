/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A decoder with a fault in it. The fuzzer has to find it, or nothing that it says of the others means anything.
 */
#include "mf-fuzz.h"

#include "core/mf-preface.h"

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t length)
{
  mf_preface preface;

  if (length == MF_PREFACE_BYTES && mf_preface_decode (data, &preface) == MF_PREFACE_OK)
    MF_FUZZ_CHECK (preface.kind != MF_STREAM_STATE || preface.lane != MF_LANE_FAULT);
  return 0;
}

void
mf_fuzz_make_seeds (void)
{
  mf_preface preface = { .version = MF_PREFACE_VERSION, .compat_version = MF_PREFACE_COMPAT, .kind = MF_STREAM_DATA };
  uint8_t bytes[MF_PREFACE_BYTES];

  mf_preface_encode (&preface, bytes);
  mf_fuzz_seed ("data", bytes, sizeof bytes);
}
