/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Numbers on the wire: big-endian, at any alignment. Each function reads or writes exactly the bytes that its name
 * says; the caller has checked that they are there.
 */
#include <stdint.h>

static inline void
mf_put_be16 (uint8_t *out, uint16_t value)
{
  out[0] = (uint8_t) (value >> 8);
  out[1] = (uint8_t) value;
}

static inline void
mf_put_be32 (uint8_t *out, uint32_t value)
{
  mf_put_be16 (out, (uint16_t) (value >> 16));
  mf_put_be16 (out + 2, (uint16_t) value);
}

static inline void
mf_put_be64 (uint8_t *out, uint64_t value)
{
  mf_put_be32 (out, (uint32_t) (value >> 32));
  mf_put_be32 (out + 4, (uint32_t) value);
}

static inline uint16_t
mf_get_be16 (const uint8_t *in)
{
  return (uint16_t) ((uint32_t) in[0] << 8 | in[1]);
}

static inline uint32_t
mf_get_be32 (const uint8_t *in)
{
  return (uint32_t) mf_get_be16 (in) << 16 | mf_get_be16 (in + 2);
}

static inline uint64_t
mf_get_be64 (const uint8_t *in)
{
  return (uint64_t) mf_get_be32 (in) << 32 | mf_get_be32 (in + 4);
}
