/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The NBD protocol's numbers and fixed messages, after the public specification (NetworkBlockDevice/nbd,
 * doc/proto.md). Codecs only: bytes in, struct out, no I/O. Everything on the wire is big-endian.
 *
 * Encoders fill a buffer of the size in their name and can't fail. Decoders take the bytes and how many there are,
 * and return false, `out` untouched, for anything shorter or longer than the message, with a wrong magic, or out of
 * its limits. Strings are not terminated: pointer and length, inside the caller's bytes and valid as long as those.
 * They are at most MF_NBD_STRING_MAX bytes and hold no NUL, so that a copy with a NUL behind it is the same string;
 * whether they are UTF-8 is not looked at.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Numbers ---- */

#define MF_NBD_GREETING_MAGIC         UINT64_C (0x4e42444d41474943) /* "NBDMAGIC" */
#define MF_NBD_OPTION_MAGIC           UINT64_C (0x49484156454f5054) /* "IHAVEOPT" */
#define MF_NBD_OPTION_REPLY_MAGIC     UINT64_C (0x0003e889045565a9)
#define MF_NBD_REQUEST_MAGIC          UINT32_C (0x25609513)
#define MF_NBD_SIMPLE_REPLY_MAGIC     UINT32_C (0x67446698)
#define MF_NBD_STRUCTURED_REPLY_MAGIC UINT32_C (0x668e33ef)

/* Limits. Strings: the specification's. An option's data: enough for an export's name and some queries; the
 * specification names none. A request's payload: what the specification says that every server should take. */
#define MF_NBD_STRING_MAX  4096u
#define MF_NBD_OPTION_MAX  65536u
#define MF_NBD_PAYLOAD_MAX (UINT32_C (32) << 20)
#define MF_NBD_EXTENTS_MAX (UINT32_C (1) << 20)
#define MF_NBD_CHUNK_MAX   (MF_NBD_PAYLOAD_MAX + 64) /* a chunk's fixed bytes come on top */

/* The server's handshake flags (16 bits) and the client's answer (32 bits). */
#define MF_NBD_FLAG_FIXED_NEWSTYLE   (1u << 0)
#define MF_NBD_FLAG_NO_ZEROES        (1u << 1)
#define MF_NBD_FLAG_C_FIXED_NEWSTYLE (1u << 0)
#define MF_NBD_FLAG_C_NO_ZEROES      (1u << 1)

/* Transmission flags of an export (16 bits). */
#define MF_NBD_FLAG_HAS_FLAGS         (1u << 0)
#define MF_NBD_FLAG_READ_ONLY         (1u << 1)
#define MF_NBD_FLAG_SEND_FLUSH        (1u << 2)
#define MF_NBD_FLAG_SEND_FUA          (1u << 3)
#define MF_NBD_FLAG_ROTATIONAL        (1u << 4)
#define MF_NBD_FLAG_SEND_TRIM         (1u << 5)
#define MF_NBD_FLAG_SEND_WRITE_ZEROES (1u << 6)
#define MF_NBD_FLAG_SEND_DF           (1u << 7)
#define MF_NBD_FLAG_CAN_MULTI_CONN    (1u << 8)
#define MF_NBD_FLAG_SEND_RESIZE       (1u << 9)
#define MF_NBD_FLAG_SEND_CACHE        (1u << 10)
#define MF_NBD_FLAG_SEND_FAST_ZERO    (1u << 11)

/* Options. */
#define MF_NBD_OPT_EXPORT_NAME       UINT32_C (1)
#define MF_NBD_OPT_ABORT             UINT32_C (2)
#define MF_NBD_OPT_LIST              UINT32_C (3)
#define MF_NBD_OPT_STARTTLS          UINT32_C (5)
#define MF_NBD_OPT_INFO              UINT32_C (6)
#define MF_NBD_OPT_GO                UINT32_C (7)
#define MF_NBD_OPT_STRUCTURED_REPLY  UINT32_C (8)
#define MF_NBD_OPT_LIST_META_CONTEXT UINT32_C (9)
#define MF_NBD_OPT_SET_META_CONTEXT  UINT32_C (10)
#define MF_NBD_OPT_EXTENDED_HEADERS  UINT32_C (11)

/* Replies to options. Those with bit 31 are errors. */
#define MF_NBD_REP_ACK                 UINT32_C (1)
#define MF_NBD_REP_SERVER              UINT32_C (2)
#define MF_NBD_REP_INFO                UINT32_C (3)
#define MF_NBD_REP_META_CONTEXT        UINT32_C (4)
#define MF_NBD_REP_FLAG_ERROR          UINT32_C (0x80000000)
#define MF_NBD_REP_ERR_UNSUP           UINT32_C (0x80000001)
#define MF_NBD_REP_ERR_POLICY          UINT32_C (0x80000002)
#define MF_NBD_REP_ERR_INVALID         UINT32_C (0x80000003)
#define MF_NBD_REP_ERR_PLATFORM        UINT32_C (0x80000004)
#define MF_NBD_REP_ERR_TLS_REQD        UINT32_C (0x80000005)
#define MF_NBD_REP_ERR_UNKNOWN         UINT32_C (0x80000006)
#define MF_NBD_REP_ERR_SHUTDOWN        UINT32_C (0x80000007)
#define MF_NBD_REP_ERR_BLOCK_SIZE_REQD UINT32_C (0x80000008)
#define MF_NBD_REP_ERR_TOO_BIG         UINT32_C (0x80000009)
#define MF_NBD_REP_ERR_EXT_HEADER_REQD UINT32_C (0x8000000a)

/* Information types. */
#define MF_NBD_INFO_EXPORT      UINT16_C (0)
#define MF_NBD_INFO_NAME        UINT16_C (1)
#define MF_NBD_INFO_DESCRIPTION UINT16_C (2)
#define MF_NBD_INFO_BLOCK_SIZE  UINT16_C (3)

/* Commands and their flags. */
#define MF_NBD_CMD_READ         UINT16_C (0)
#define MF_NBD_CMD_WRITE        UINT16_C (1)
#define MF_NBD_CMD_DISC         UINT16_C (2)
#define MF_NBD_CMD_FLUSH        UINT16_C (3)
#define MF_NBD_CMD_TRIM         UINT16_C (4)
#define MF_NBD_CMD_CACHE        UINT16_C (5)
#define MF_NBD_CMD_WRITE_ZEROES UINT16_C (6)
#define MF_NBD_CMD_BLOCK_STATUS UINT16_C (7)

#define MF_NBD_CMD_FLAG_FUA         (1u << 0)
#define MF_NBD_CMD_FLAG_NO_HOLE     (1u << 1)
#define MF_NBD_CMD_FLAG_DF          (1u << 2)
#define MF_NBD_CMD_FLAG_REQ_ONE     (1u << 3)
#define MF_NBD_CMD_FLAG_FAST_ZERO   (1u << 4)
#define MF_NBD_CMD_FLAG_PAYLOAD_LEN (1u << 5)

/* Chunks of a structured reply. Types with bit 15 are errors. */
#define MF_NBD_REPLY_FLAG_DONE         (1u << 0)
#define MF_NBD_REPLY_TYPE_NONE         UINT16_C (0)
#define MF_NBD_REPLY_TYPE_OFFSET_DATA  UINT16_C (1)
#define MF_NBD_REPLY_TYPE_OFFSET_HOLE  UINT16_C (2)
#define MF_NBD_REPLY_TYPE_BLOCK_STATUS UINT16_C (5)
#define MF_NBD_REPLY_TYPE_FLAG_ERROR   UINT16_C (0x8000)
#define MF_NBD_REPLY_TYPE_ERROR        UINT16_C (0x8001)
#define MF_NBD_REPLY_TYPE_ERROR_OFFSET UINT16_C (0x8002)

/* Error numbers: the protocol's own, which need not be this system's errno. */
#define MF_NBD_OK        UINT32_C (0)
#define MF_NBD_EPERM     UINT32_C (1)
#define MF_NBD_EIO       UINT32_C (5)
#define MF_NBD_ENOMEM    UINT32_C (12)
#define MF_NBD_EINVAL    UINT32_C (22)
#define MF_NBD_ENOSPC    UINT32_C (28)
#define MF_NBD_EOVERFLOW UINT32_C (75)
#define MF_NBD_ENOTSUP   UINT32_C (95)
#define MF_NBD_ESHUTDOWN UINT32_C (108)

/* The number for an errno (0 for 0); what has none is EIO. And back. */
uint32_t mf_nbd_error_from_errno (int error);
int mf_nbd_error_to_errno (uint32_t error);

/* The allocation context and its extent flags. */
#define MF_NBD_CONTEXT_ALLOCATION "base:allocation"
#define MF_NBD_STATE_HOLE         (1u << 0)
#define MF_NBD_STATE_ZERO         (1u << 1)

/* The dirty context's name. Extent flags: MF_NBD_DIRTY when the page is dirty in this session; bits 4 to 7 its heat, 0
 * (not written in any of the latest scans) to 15 (written in each). */
#define MF_NBD_CONTEXT_DIRTY "memferry:dirty"
#define MF_NBD_DIRTY         (1u << 0)
#define MF_NBD_HEAT_SHIFT    4
#define MF_NBD_HEAT_MAX      15u

/* A string in somebody's bytes: not terminated. */
typedef struct {
  const char *text;
  uint32_t length;
} mf_nbd_string;

/* ---- Handshake ---- */

/* The server's first message: two magics and the handshake flags. */
#define MF_NBD_GREETING_BYTES 18
void mf_nbd_encode_greeting (uint16_t flags, uint8_t out[MF_NBD_GREETING_BYTES]);
bool mf_nbd_decode_greeting (const uint8_t *data, size_t length, uint16_t *flags);

/* The client's answer. Flags that the specification doesn't name are refused, as it wants; that none is set which
 * the server did not offer is for the caller to check. */
#define MF_NBD_CLIENT_FLAGS_BYTES 4
void mf_nbd_encode_client_flags (uint32_t flags, uint8_t out[MF_NBD_CLIENT_FLAGS_BYTES]);
bool mf_nbd_decode_client_flags (const uint8_t *data, size_t length, uint32_t *flags);

/* An option's header; `length` bytes of data follow. More than MF_NBD_OPTION_MAX is refused. */
#define MF_NBD_OPTION_BYTES 16
typedef struct {
  uint32_t option;
  uint32_t length;
} mf_nbd_option;
void mf_nbd_encode_option (const mf_nbd_option *option, uint8_t out[MF_NBD_OPTION_BYTES]);
bool mf_nbd_decode_option (const uint8_t *data, size_t length, mf_nbd_option *out);

/* The header of a reply to an option; `length` bytes of data follow, at most MF_NBD_OPTION_MAX. */
#define MF_NBD_OPTION_REPLY_BYTES 20
typedef struct {
  uint32_t option; /* what it answers */
  uint32_t type;   /* MF_NBD_REP_* */
  uint32_t length;
} mf_nbd_option_reply;
void mf_nbd_encode_option_reply (const mf_nbd_option_reply *reply, uint8_t out[MF_NBD_OPTION_REPLY_BYTES]);
bool mf_nbd_decode_option_reply (const uint8_t *data, size_t length, mf_nbd_option_reply *out);

/* The data of EXPORT_NAME: the name and nothing else (empty: the default export). */
bool mf_nbd_decode_export_name (const uint8_t *data, size_t length, mf_nbd_string *name);
/* The answer to it, which has no header: send all of it, or only the first MF_NBD_EXPORT_NAME_REPLY_SHORT bytes when
 * both sides set NO_ZEROES. */
#define MF_NBD_EXPORT_NAME_REPLY_BYTES 134
#define MF_NBD_EXPORT_NAME_REPLY_SHORT 10
void mf_nbd_encode_export_name_reply (uint64_t size_bytes, uint16_t flags, uint8_t out[MF_NBD_EXPORT_NAME_REPLY_BYTES]);

/* The data of INFO and GO. */
typedef struct {
  mf_nbd_string name; /* empty: the default export */
  uint16_t n_infos;
  const uint8_t *infos; /* as on the wire: ask mf_nbd_wants_info() */
} mf_nbd_info_request;
bool mf_nbd_decode_info_request (const uint8_t *data, size_t length, mf_nbd_info_request *out);
/* Whether the client asks for information `type`. */
bool mf_nbd_wants_info (const mf_nbd_info_request *request, uint16_t type);

/* The data of LIST_META_CONTEXT and SET_META_CONTEXT. A decoded request is right to its last query. */
typedef struct {
  mf_nbd_string name;
  uint32_t n_queries;
  const uint8_t *queries; /* as on the wire: walk with mf_nbd_next_query() */
  size_t queries_bytes;
} mf_nbd_meta_request;
bool mf_nbd_decode_meta_request (const uint8_t *data, size_t length, mf_nbd_meta_request *out);
/* Takes the first query off `request`; false when there is none left. To walk twice, copy the struct. */
bool mf_nbd_next_query (mf_nbd_meta_request *request, mf_nbd_string *query);
/* Whether `query` is exactly `text` (terminated). */
bool mf_nbd_string_is (mf_nbd_string query, const char *text);

/* The beginning of a REP_SERVER reply's data; the name's bytes follow, then, if the reply is longer, text for
 * people. */
#define MF_NBD_SERVER_BYTES 4
void mf_nbd_encode_server (uint32_t name_length, uint8_t out[MF_NBD_SERVER_BYTES]);
bool mf_nbd_decode_server (const uint8_t *data, size_t length, mf_nbd_string *name, mf_nbd_string *details);

/* The beginning of a REP_META_CONTEXT reply's data; the context's name, all the rest, follows. */
#define MF_NBD_META_CONTEXT_BYTES 4
void mf_nbd_encode_meta_context (uint32_t id, uint8_t out[MF_NBD_META_CONTEXT_BYTES]);
bool mf_nbd_decode_meta_context (const uint8_t *data, size_t length, uint32_t *id, mf_nbd_string *name);

/* A REP_INFO reply's data for INFO_EXPORT. */
#define MF_NBD_INFO_EXPORT_BYTES 12
typedef struct {
  uint64_t size_bytes;
  uint16_t flags; /* MF_NBD_FLAG_*, transmission */
} mf_nbd_info_export;
void mf_nbd_encode_info_export (const mf_nbd_info_export *info, uint8_t out[MF_NBD_INFO_EXPORT_BYTES]);
bool mf_nbd_decode_info_export (const uint8_t *data, size_t length, mf_nbd_info_export *out);

/* A REP_INFO reply's data for INFO_BLOCK_SIZE, bytes. Refused when it is not as the specification wants: minimum and
 * preferred are powers of two, minimum <= 65536, preferred >= 512 and >= minimum, maximum >= preferred. */
#define MF_NBD_INFO_BLOCK_SIZE_BYTES 14
typedef struct {
  uint32_t minimum;
  uint32_t preferred;
  uint32_t maximum; /* of a payload; UINT32_MAX: no limit */
} mf_nbd_info_block_size;
void mf_nbd_encode_info_block_size (const mf_nbd_info_block_size *info, uint8_t out[MF_NBD_INFO_BLOCK_SIZE_BYTES]);
bool mf_nbd_decode_info_block_size (const uint8_t *data, size_t length, mf_nbd_info_block_size *out);

/* ---- Transmission ---- */

/* A compact request; a WRITE's `length` bytes follow. Offset, length and type can be anything (a server answers what it
 * doesn't like with an error): see mf_nbd_request_within(). */
#define MF_NBD_REQUEST_BYTES 28
typedef struct {
  uint16_t flags;
  uint16_t type;
  uint64_t cookie; /* the client's; comes back in the reply */
  uint64_t offset;
  uint32_t length;
} mf_nbd_request;
void mf_nbd_encode_request (const mf_nbd_request *request, uint8_t out[MF_NBD_REQUEST_BYTES]);
bool mf_nbd_decode_request (const uint8_t *data, size_t length, mf_nbd_request *out);
/* Whether [offset, offset + length) lies within an export of `size_bytes`; without overflow. */
bool mf_nbd_request_within (const mf_nbd_request *request, uint64_t size_bytes);

/* A simple reply; a READ's data follow when `error` is 0. */
#define MF_NBD_SIMPLE_REPLY_BYTES 16
typedef struct {
  uint32_t error;
  uint64_t cookie;
} mf_nbd_simple_reply;
void mf_nbd_encode_simple_reply (const mf_nbd_simple_reply *reply, uint8_t out[MF_NBD_SIMPLE_REPLY_BYTES]);
bool mf_nbd_decode_simple_reply (const uint8_t *data, size_t length, mf_nbd_simple_reply *out);

/* The header of a structured reply's chunk; `length` bytes of payload follow. Refused when the payload is longer
 * than any chunk may be (MF_NBD_CHUNK_MAX). */
#define MF_NBD_CHUNK_BYTES 20
typedef struct {
  uint16_t flags; /* MF_NBD_REPLY_FLAG_* */
  uint16_t type;  /* MF_NBD_REPLY_TYPE_* */
  uint64_t cookie;
  uint32_t length;
} mf_nbd_chunk;
void mf_nbd_encode_chunk (const mf_nbd_chunk *chunk, uint8_t out[MF_NBD_CHUNK_BYTES]);
bool mf_nbd_decode_chunk (const uint8_t *data, size_t length, mf_nbd_chunk *out);

/* The beginning of an OFFSET_DATA chunk's payload; the bytes follow. The decoder takes the whole payload or, when
 * the bytes are to be received somewhere else, just these eight and the chunk header's length; `data_length` is how
 * many bytes there are, at least 1. That they lie within the request is for the caller to check. */
#define MF_NBD_OFFSET_DATA_BYTES 8
void mf_nbd_encode_offset_data (uint64_t offset, uint8_t out[MF_NBD_OFFSET_DATA_BYTES]);
bool mf_nbd_decode_offset_data (const uint8_t *data, uint32_t chunk_length, uint64_t *offset, uint32_t *data_length);

/* An OFFSET_HOLE chunk's payload: `hole_length` zeroes, not 0 of them. */
#define MF_NBD_OFFSET_HOLE_BYTES 12
void mf_nbd_encode_offset_hole (uint64_t offset, uint32_t hole_length, uint8_t out[MF_NBD_OFFSET_HOLE_BYTES]);
bool mf_nbd_decode_offset_hole (const uint8_t *data, size_t length, uint64_t *offset, uint32_t *hole_length);

/* A BLOCK_STATUS chunk's payload: the context's id, then extents, at least one and at most MF_NBD_EXTENTS_MAX, none
 * empty. A sender writes the id and each extent by itself. */
#define MF_NBD_STATUS_BYTES 4
#define MF_NBD_EXTENT_BYTES 8
typedef struct {
  uint32_t length; /* bytes */
  uint32_t flags;
} mf_nbd_extent;
typedef struct {
  uint32_t context_id;
  uint32_t n_extents;
  const uint8_t *extents; /* as on the wire: mf_nbd_status_extent() */
} mf_nbd_status;
void mf_nbd_encode_status (uint32_t context_id, uint8_t out[MF_NBD_STATUS_BYTES]);
void mf_nbd_encode_extent (mf_nbd_extent extent, uint8_t out[MF_NBD_EXTENT_BYTES]);
bool mf_nbd_decode_status (const uint8_t *data, size_t length, mf_nbd_status *out);
/* `index` < n_extents (asserted). */
mf_nbd_extent mf_nbd_status_extent (const mf_nbd_status *status, uint32_t index);

/* An error chunk's payload, of both types. `error` 0 is refused. */
#define MF_NBD_ERROR_BYTES     6    /* without a message */
#define MF_NBD_ERROR_MAX_BYTES 4110 /* the longest message and an offset */
typedef struct {
  uint32_t error; /* MF_NBD_E* */
  mf_nbd_string message;
  bool has_offset; /* ERROR_OFFSET */
  uint64_t offset;
} mf_nbd_error;
/* Returns how many bytes of `out` are the payload of an ERROR, or with has_offset an ERROR_OFFSET, chunk. A message
 * that is too long is cut. */
size_t mf_nbd_encode_error (const mf_nbd_error *error, uint8_t out[MF_NBD_ERROR_MAX_BYTES]);
/* `type` is the chunk's: of one that isn't known only error and message are decoded, and what follows is ignored. */
bool mf_nbd_decode_error (uint16_t type, const uint8_t *data, size_t length, mf_nbd_error *out);
