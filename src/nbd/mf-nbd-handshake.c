/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The handshake: fixed newstyle, options until one of them begins the transmission. A client has HANDSHAKE_USEC for
 * all of it and MAX_OPTIONS options; one that breaks the framing is dropped, anything else is answered.
 */
#include "nbd/mf-nbd-connection.h"

#include <string.h>

#define HANDSHAKE_USEC (10 * G_USEC_PER_SEC)
#define MAX_OPTIONS    128

typedef enum {
  OPTION_NEXT,     /* answered; more options may follow */
  OPTION_TRANSMIT, /* the transmission begins */
  OPTION_DROP,     /* the connection is over */
} OptionResult;

typedef struct {
  uint32_t option;
  const uint8_t *data;
  uint32_t length;
} Option;

/* Sends a reply of two parts of data, both optional. */
static gboolean
send_reply (mf_nbd_connection *connection, uint32_t option, uint32_t type, const void *head, size_t head_length,
            const char *tail, size_t tail_length)
{
  mf_nbd_option_reply reply = { option, type, (uint32_t) (head_length + tail_length) };
  uint8_t header[MF_NBD_OPTION_REPLY_BYTES];
  struct iovec iov[] = { { header, sizeof header }, { (void *) head, head_length }, { (void *) tail, tail_length } };

  mf_nbd_encode_option_reply (&reply, header);
  return mf_nbd_stream_writev (&connection->stream, iov, G_N_ELEMENTS (iov), FALSE);
}

static OptionResult
answer (mf_nbd_connection *connection, uint32_t option, uint32_t type, const char *why)
{
  gboolean ok = send_reply (connection, option, type, NULL, 0, why, why ? strlen (why) : 0);

  return ok ? OPTION_NEXT : OPTION_DROP;
}

uint16_t
mf_nbd_transmission_flags (mf_nbd_connection *connection, const mf_nbd_export *export)
{
  uint16_t flags = MF_NBD_FLAG_HAS_FLAGS | MF_NBD_FLAG_SEND_FLUSH;

  if (export->read_only)
    flags |= MF_NBD_FLAG_READ_ONLY;
  else
    flags |= MF_NBD_FLAG_SEND_FUA | MF_NBD_FLAG_SEND_TRIM | MF_NBD_FLAG_SEND_WRITE_ZEROES;
  if (connection->structured)
    flags |= MF_NBD_FLAG_SEND_DF;
  /* All connections see one store and nothing is cached in between, so a flush or FUA on one covers the writes of all.
   * But a client with a tracking session of its own must not spread its reads: another connection would be another
   * session. */
  if (!(connection->contexts & MF_NBD_ID_DIRTY) || export->session)
    flags |= MF_NBD_FLAG_CAN_MULTI_CONN;
  return flags;
}

static void
forget_contexts (mf_nbd_connection *connection)
{
  connection->contexts = 0;
  g_clear_pointer (&connection->session, mf_dirty_session_unref);
}

static OptionResult
option_export_name (mf_nbd_connection *connection, const Option *option)
{
  uint8_t reply[MF_NBD_EXPORT_NAME_REPLY_BYTES];
  mf_nbd_export *before = connection->export;
  mf_nbd_export *export;
  mf_nbd_string name;

  /* This option knows no error but hanging up. */
  if (!mf_nbd_decode_export_name (option->data, option->length, &name))
    return OPTION_DROP;
  export = mf_nbd_server_bind (connection->server, connection, name);
  if (!export)
    return OPTION_DROP;
  if (export != before)
    forget_contexts (connection);
  mf_nbd_encode_export_name_reply (export->size_bytes, mf_nbd_transmission_flags (connection, export), reply);
  if (!mf_nbd_stream_write (&connection->stream, reply,
                            connection->no_zeroes ? MF_NBD_EXPORT_NAME_REPLY_SHORT : sizeof reply))
    return OPTION_DROP;
  return OPTION_TRANSMIT;
}

static OptionResult
option_list (mf_nbd_connection *connection, const Option *option)
{
  g_autoptr (GPtrArray) exports = NULL;

  if (option->length > 0)
    return answer (connection, option->option, MF_NBD_REP_ERR_INVALID, "LIST takes no data");
  exports = mf_nbd_server_list (connection->server);
  for (guint i = 0; i < exports->len; i++) {
    const mf_nbd_export *export = g_ptr_array_index (exports, i);
    size_t name_length = strlen (export->name);
    g_autofree char *text = g_strconcat (export->name, export->description, NULL);
    uint8_t head[MF_NBD_SERVER_BYTES];

    mf_nbd_encode_server ((uint32_t) name_length, head);
    if (!send_reply (connection, option->option, MF_NBD_REP_SERVER, head, sizeof head, text, strlen (text)))
      return OPTION_DROP;
  }
  return answer (connection, option->option, MF_NBD_REP_ACK, NULL);
}

/* A REP_INFO that is text. */
static gboolean
send_text (mf_nbd_connection *connection, uint32_t option, uint16_t type, const char *text)
{
  uint8_t head[2] = { (uint8_t) (type >> 8), (uint8_t) type };

  return send_reply (connection, option, MF_NBD_REP_INFO, head, sizeof head, text, strlen (text));
}

static gboolean
send_infos (mf_nbd_connection *connection, uint32_t option, const mf_nbd_info_request *request,
            const mf_nbd_export *export)
{
  mf_nbd_info_export info = { export->size_bytes, mf_nbd_transmission_flags (connection, export) };
  uint32_t page_bytes = mf_region_page_bytes (export->region);
  mf_nbd_info_block_size sizes = { 1, MIN (page_bytes, MF_NBD_PAYLOAD_MAX), MF_NBD_PAYLOAD_MAX };
  uint8_t export_bytes[MF_NBD_INFO_EXPORT_BYTES];
  uint8_t size_bytes[MF_NBD_INFO_BLOCK_SIZE_BYTES];

  mf_nbd_encode_info_export (&info, export_bytes);
  mf_nbd_encode_info_block_size (&sizes, size_bytes);
  if (!send_reply (connection, option, MF_NBD_REP_INFO, export_bytes, sizeof export_bytes, NULL, 0) ||
      !send_reply (connection, option, MF_NBD_REP_INFO, size_bytes, sizeof size_bytes, NULL, 0))
    return FALSE;
  if (mf_nbd_wants_info (request, MF_NBD_INFO_NAME) && !send_text (connection, option, MF_NBD_INFO_NAME, export->name))
    return FALSE;
  if (mf_nbd_wants_info (request, MF_NBD_INFO_DESCRIPTION) && export->description &&
      !send_text (connection, option, MF_NBD_INFO_DESCRIPTION, export->description))
    return FALSE;
  return TRUE;
}

static OptionResult
option_info (mf_nbd_connection *connection, const Option *option)
{
  g_autoptr (mf_nbd_export) export = NULL;
  mf_nbd_info_request request;

  if (!mf_nbd_decode_info_request (option->data, option->length, &request))
    return answer (connection, option->option, MF_NBD_REP_ERR_INVALID, "malformed request");
  export = mf_nbd_server_find (connection->server, request.name);
  if (!export)
    return answer (connection, option->option, MF_NBD_REP_ERR_UNKNOWN, "no such export");
  if (!send_infos (connection, option->option, &request, export))
    return OPTION_DROP;
  return answer (connection, option->option, MF_NBD_REP_ACK, NULL);
}

static OptionResult
option_go (mf_nbd_connection *connection, const Option *option)
{
  mf_nbd_export *before = connection->export;
  mf_nbd_export *export;
  mf_nbd_info_request request;

  if (!mf_nbd_decode_info_request (option->data, option->length, &request))
    return answer (connection, option->option, MF_NBD_REP_ERR_INVALID, "malformed request");
  export = mf_nbd_server_bind (connection->server, connection, request.name);
  if (!export)
    return answer (connection, option->option, MF_NBD_REP_ERR_UNKNOWN, "no such export");
  /* Contexts were chosen for one export and say nothing of another. */
  if (export != before)
    forget_contexts (connection);
  if (!send_infos (connection, option->option, &request, export))
    return OPTION_DROP;
  if (answer (connection, option->option, MF_NBD_REP_ACK, NULL) != OPTION_NEXT)
    return OPTION_DROP;
  return OPTION_TRANSMIT;
}

static OptionResult
option_structured_reply (mf_nbd_connection *connection, const Option *option)
{
  if (option->length > 0)
    return answer (connection, option->option, MF_NBD_REP_ERR_INVALID, "STRUCTURED_REPLY takes no data");
  connection->structured = TRUE;
  return answer (connection, option->option, MF_NBD_REP_ACK, NULL);
}

/* The contexts that the queries name. `list`: a namespace alone means all that is in it, and so does no query. */
static unsigned
queried_contexts (mf_nbd_meta_request request, gboolean list)
{
  unsigned contexts = list && request.n_queries == 0 ? MF_NBD_ID_ALLOCATION | MF_NBD_ID_DIRTY : 0;
  mf_nbd_string query;

  while (mf_nbd_next_query (&request, &query)) {
    if (mf_nbd_string_is (query, MF_NBD_CONTEXT_ALLOCATION) || (list && mf_nbd_string_is (query, "base:")))
      contexts |= MF_NBD_ID_ALLOCATION;
    if (mf_nbd_string_is (query, MF_NBD_CONTEXT_DIRTY) || (list && mf_nbd_string_is (query, "memferry:")))
      contexts |= MF_NBD_ID_DIRTY;
  }
  return contexts;
}

/* Tracking begins when it is asked for, so that the client hears at once when it can't be had: the context is not
 * there then. */
static unsigned
open_session (mf_nbd_connection *connection, mf_nbd_export *export, unsigned contexts)
{
  g_autoptr (GError) error = NULL;

  if (!(contexts & MF_NBD_ID_DIRTY) || export->session)
    return contexts;
  connection->session = mf_dirty_session_open (mf_region_dirty_log (export->region), NULL, NULL, &error);
  if (connection->session)
    return contexts;
  g_debug ("NBD export '%s': no %s: %s", export->name, MF_NBD_CONTEXT_DIRTY, error->message);
  return contexts & ~MF_NBD_ID_DIRTY;
}

static gboolean
send_context (mf_nbd_connection *connection, uint32_t option, uint32_t id, const char *name)
{
  uint8_t head[MF_NBD_META_CONTEXT_BYTES];

  mf_nbd_encode_meta_context (id, head);
  return send_reply (connection, option, MF_NBD_REP_META_CONTEXT, head, sizeof head, name, strlen (name));
}

static OptionResult
option_meta_context (mf_nbd_connection *connection, const Option *option)
{
  gboolean set = option->option == MF_NBD_OPT_SET_META_CONTEXT;
  g_autoptr (mf_nbd_export) found = NULL;
  mf_nbd_meta_request request;
  unsigned contexts;

  if (set)
    forget_contexts (connection);
  if (!connection->structured)
    return answer (connection, option->option, MF_NBD_REP_ERR_INVALID, "negotiate structured replies first");
  if (!mf_nbd_decode_meta_request (option->data, option->length, &request))
    return answer (connection, option->option, MF_NBD_REP_ERR_INVALID, "malformed request");
  if (set) {
    mf_nbd_export *bound = mf_nbd_server_bind (connection->server, connection, request.name);

    found = bound ? mf_nbd_export_ref (bound) : NULL;
  } else {
    found = mf_nbd_server_find (connection->server, request.name);
  }
  if (!found)
    return answer (connection, option->option, MF_NBD_REP_ERR_UNKNOWN, "no such export");

  contexts = queried_contexts (request, !set);
  if (set)
    contexts = connection->contexts = open_session (connection, found, contexts);
  if ((contexts & MF_NBD_ID_ALLOCATION) &&
      !send_context (connection, option->option, set ? MF_NBD_ID_ALLOCATION : 0, MF_NBD_CONTEXT_ALLOCATION))
    return OPTION_DROP;
  if ((contexts & MF_NBD_ID_DIRTY) &&
      !send_context (connection, option->option, set ? MF_NBD_ID_DIRTY : 0, MF_NBD_CONTEXT_DIRTY))
    return OPTION_DROP;
  return answer (connection, option->option, MF_NBD_REP_ACK, NULL);
}

static OptionResult
handle_option (mf_nbd_connection *connection, const Option *option)
{
  switch (option->option) {
  case MF_NBD_OPT_EXPORT_NAME:
    return option_export_name (connection, option);
  case MF_NBD_OPT_ABORT:
    answer (connection, option->option, MF_NBD_REP_ACK, NULL);
    return OPTION_DROP;
  case MF_NBD_OPT_LIST:
    return option_list (connection, option);
  case MF_NBD_OPT_STARTTLS:
    if (option->length > 0)
      return answer (connection, option->option, MF_NBD_REP_ERR_INVALID, "STARTTLS takes no data");
    return answer (connection, option->option, MF_NBD_REP_ERR_UNSUP, "no TLS here");
  case MF_NBD_OPT_INFO:
    return option_info (connection, option);
  case MF_NBD_OPT_GO:
    return option_go (connection, option);
  case MF_NBD_OPT_STRUCTURED_REPLY:
    return option_structured_reply (connection, option);
  case MF_NBD_OPT_LIST_META_CONTEXT:
  case MF_NBD_OPT_SET_META_CONTEXT:
    return option_meta_context (connection, option);
  default:
    return answer (connection, option->option, MF_NBD_REP_ERR_UNSUP, "unknown option");
  }
}

/* Greets. `fixed`: whether the client knows replies to options; if not, it may only say EXPORT_NAME. */
static gboolean
greet (mf_nbd_connection *connection, gboolean *fixed)
{
  uint8_t greeting[MF_NBD_GREETING_BYTES];
  const uint8_t *data;
  uint32_t flags;

  mf_nbd_encode_greeting (MF_NBD_FLAG_FIXED_NEWSTYLE | MF_NBD_FLAG_NO_ZEROES, greeting);
  if (!mf_nbd_stream_write (&connection->stream, greeting, sizeof greeting))
    return FALSE;
  data = mf_nbd_stream_take (&connection->stream, MF_NBD_CLIENT_FLAGS_BYTES);
  if (!data || !mf_nbd_decode_client_flags (data, MF_NBD_CLIENT_FLAGS_BYTES, &flags))
    return FALSE;
  *fixed = (flags & MF_NBD_FLAG_C_FIXED_NEWSTYLE) != 0;
  connection->no_zeroes = (flags & MF_NBD_FLAG_C_NO_ZEROES) != 0;
  return TRUE;
}

gboolean
mf_nbd_handshake (mf_nbd_connection *connection)
{
  OptionResult result = OPTION_NEXT;
  gboolean fixed;

  mf_nbd_stream_set_timeout (&connection->stream, HANDSHAKE_USEC);
  if (!greet (connection, &fixed))
    return FALSE;
  for (int i = 0; result == OPTION_NEXT; i++) {
    const uint8_t *header = mf_nbd_stream_take (&connection->stream, MF_NBD_OPTION_BYTES);
    mf_nbd_option head;
    Option option;

    if (i == MAX_OPTIONS || !header || !mf_nbd_decode_option (header, MF_NBD_OPTION_BYTES, &head))
      return FALSE;
    if (!fixed && head.option != MF_NBD_OPT_EXPORT_NAME)
      return FALSE;
    option.option = head.option;
    option.length = head.length;
    option.data = mf_nbd_connection_scratch (connection);
    G_STATIC_ASSERT (MF_NBD_OPTION_MAX <= MF_NBD_SCRATCH_BYTES);
    if (!mf_nbd_stream_read (&connection->stream, connection->scratch, option.length))
      return FALSE;
    result = handle_option (connection, &option);
  }
  mf_nbd_stream_set_timeout (&connection->stream, -1);
  /* Most connections never need it again. */
  g_clear_pointer (&connection->scratch, g_free);
  return result == OPTION_TRANSMIT;
}
