/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "core/mf-preface.h"
#include "core/mf-wire.h"

#include <string.h>

#define MAGIC_BYTES (sizeof MF_PREFACE_MAGIC - 1)

void
mf_preface_encode (const mf_preface *preface, uint8_t out[MF_PREFACE_BYTES])
{
  memcpy (out, MF_PREFACE_MAGIC, MAGIC_BYTES);
  mf_put_be32 (out + 8, preface->version);
  mf_put_be32 (out + 12, preface->compat_version);
  mf_put_be32 (out + 16, (uint32_t) preface->kind);
  mf_put_be32 (out + 20, preface->flags);
  memcpy (out + 24, preface->session, MF_SESSION_BYTES);
  mf_put_be32 (out + 40, preface->index);
  mf_put_be32 (out + 44, preface->lane);
}

/* The kinds are a closed set: a number that is none of them must not become an enum value that no switch knows. */
static bool
is_kind (uint32_t kind)
{
  return kind == MF_STREAM_CONTROL || kind == MF_STREAM_DATA || kind == MF_STREAM_STATE;
}

mf_preface_result
mf_preface_decode (const uint8_t in[MF_PREFACE_BYTES], mf_preface *out)
{
  if (memcmp (in, MF_PREFACE_MAGIC, MAGIC_BYTES) != 0)
    return MF_PREFACE_NOT_OURS;

  uint32_t kind = mf_get_be32 (in + 16);
  *out = (mf_preface){
    .version = mf_get_be32 (in + 8),
    .compat_version = mf_get_be32 (in + 12),
    .kind = is_kind (kind) ? (mf_stream_kind) kind : (mf_stream_kind) 0,
    .flags = mf_get_be32 (in + 20),
    .index = mf_get_be32 (in + 40),
    .lane = mf_get_be32 (in + 44),
  };
  memcpy (out->session, in + 24, MF_SESSION_BYTES);

  if (out->version < MF_PREFACE_COMPAT)
    return MF_PREFACE_TOO_OLD;
  if (out->compat_version > MF_PREFACE_VERSION)
    return MF_PREFACE_TOO_NEW;
  if (!is_kind (kind) || out->flags > MF_STATUS_LAST || out->lane > MF_LANE_FAULT)
    return MF_PREFACE_BAD;
  return MF_PREFACE_OK;
}
