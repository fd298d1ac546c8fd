/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The preface: the first 48 bytes that each side sends on every stream between two services. Big-endian, fixed.
 *
 *   0  8  magic "MEMFERRY"
 *   8  4  version: what the sender speaks
 *  12  4  compat version: the oldest it can still talk to
 *  16  4  kind: 1 control, 2 data, 3 state
 *  20  4  flags: 0; a receiver refuses what it doesn't know
 *  24 16  session: zeroes on a control stream
 *  40  4  index: which region (data) or which of the session's streams, from 0
 *  44  4  lane (data): 0 bulk, 1 faults
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MF_PREFACE_BYTES   48
#define MF_PREFACE_VERSION 1
#define MF_PREFACE_COMPAT  1
#define MF_SESSION_BYTES   16

typedef enum {
  MF_STREAM_CONTROL = 1,
  MF_STREAM_DATA = 2,
  MF_STREAM_STATE = 3,
} mf_stream_kind;

typedef enum {
  MF_LANE_BULK = 0,
  MF_LANE_FAULT = 1,
} mf_lane_kind;

typedef struct {
  uint32_t version;
  uint32_t compat_version;
  mf_stream_kind kind;
  uint32_t flags;
  uint8_t session[MF_SESSION_BYTES];
  uint32_t index;
  uint32_t lane;
} mf_preface;

typedef enum {
  MF_PREFACE_OK,
  MF_PREFACE_NOT_OURS, /* the magic is wrong: something else answers there */
  MF_PREFACE_TOO_OLD,  /* the other side is older than what we can talk to */
  MF_PREFACE_TOO_NEW,  /* we are older than what the other side can talk to */
  MF_PREFACE_BAD,      /* kind, flags or lane that don't exist */
} mf_preface_result;

void mf_preface_encode (const mf_preface *preface, uint8_t out[MF_PREFACE_BYTES]);
mf_preface_result mf_preface_decode (const uint8_t in[MF_PREFACE_BYTES], mf_preface *out);
