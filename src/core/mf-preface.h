/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The preface: the first 48 bytes that each side sends on every stream between two services. Big-endian, fixed.
 *
 *   0  8  magic "MEMFERRY"
 *   8  4  version: what the sender speaks
 *  12  4  compat version: the oldest it can still talk to
 *  16  4  kind: 1 control, 2 data, 3 state
 *  20  4  flags: 0 from the dialler; in the answer the status (mf_preface_status): whether the stream is taken
 *  24 16  session: zeroes on a control stream
 *  40  4  index: which region (data) or which of the session's streams, from 0
 *  44  4  lane (data): 0 bulk, 1 faults
 *
 * The dialler sends first. The answer repeats the dialler's kind, session, index and lane where the acceptor could
 * read them; its versions are the acceptor's own, so that the dialler can name them.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MF_PREFACE_MAGIC   "MEMFERRY"
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

/* What the acceptor answers, in `flags`. */
typedef enum {
  MF_STATUS_TAKEN = 0,
  MF_STATUS_NO_SESSION = 1,
  MF_STATUS_BUSY = 2,
  MF_STATUS_FAILED = 3,
  MF_STATUS_VERSION = 4, /* the two can't talk to each other: see the version fields */
} mf_preface_status;
#define MF_STATUS_LAST MF_STATUS_VERSION

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
  MF_PREFACE_BAD,      /* kind or lane that don't exist, flags above MF_STATUS_LAST */
} mf_preface_result;

void mf_preface_encode (const mf_preface *preface, uint8_t out[MF_PREFACE_BYTES]);
/* `out` is filled unless the result is MF_PREFACE_NOT_OURS. The versions are judged before the rest: of another
 * version's preface only they count. That a dialler's flags are 0 is for the acceptor to check. A kind
 * that doesn't exist comes out as 0. */
mf_preface_result mf_preface_decode (const uint8_t in[MF_PREFACE_BYTES], mf_preface *out);
