/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "core/mf-nbd-protocol.h"
#include "nbd-lane.h"

#include <sys/socket.h>
#include <unistd.h>

/* The lane over libnbd, against servers that die, lie or are silent. */

#define PAGE LANE_PAGE
#define MIB  (1u << 20)

/* A server written by hand: its thread does the handshake and then what `script` says. */
typedef struct {
  int fd;
  gboolean structured, dirty;
  void (*script) (int fd);
} FakeServer;

static void
put (int fd, const void *data, size_t length)
{
  g_assert_cmpint (send (fd, data, length, MSG_NOSIGNAL), ==, (ssize_t) length);
}

static gboolean
get (int fd, void *data, size_t length)
{
  return recv (fd, data, length, MSG_WAITALL) == (ssize_t) length;
}

static void
put_option_reply (int fd, uint32_t option, uint32_t type, const void *data, uint32_t length)
{
  mf_nbd_option_reply reply = { option, type, length };
  uint8_t wire[MF_NBD_OPTION_REPLY_BYTES];

  mf_nbd_encode_option_reply (&reply, wire);
  put (fd, wire, sizeof wire);
  if (length > 0)
    put (fd, data, length);
}

static gpointer
run_fake (gpointer data)
{
  const FakeServer *fake = data;
  uint8_t wire[MF_NBD_OPTION_MAX];
  mf_nbd_info_export info = { MIB, MF_NBD_FLAG_HAS_FLAGS | MF_NBD_FLAG_SEND_FLUSH };
  mf_nbd_option option = { 0, 0 };

  mf_nbd_encode_greeting (MF_NBD_FLAG_FIXED_NEWSTYLE | MF_NBD_FLAG_NO_ZEROES, wire);
  put (fake->fd, wire, MF_NBD_GREETING_BYTES);
  g_assert_true (get (fake->fd, wire, MF_NBD_CLIENT_FLAGS_BYTES));
  while (option.option != MF_NBD_OPT_GO && get (fake->fd, wire, MF_NBD_OPTION_BYTES)) {
    g_assert_true (mf_nbd_decode_option (wire, MF_NBD_OPTION_BYTES, &option));
    if (option.length > 0)
      g_assert_true (get (fake->fd, wire, option.length));
    if (option.option == MF_NBD_OPT_GO) {
      mf_nbd_encode_info_export (&info, wire);
      put_option_reply (fake->fd, option.option, MF_NBD_REP_INFO, wire, MF_NBD_INFO_EXPORT_BYTES);
    } else if (option.option == MF_NBD_OPT_SET_META_CONTEXT) {
      put_option_reply (fake->fd, option.option, MF_NBD_REP_META_CONTEXT, "\0\0\0\1base:allocation", 19);
      if (fake->dirty)
        put_option_reply (fake->fd, option.option, MF_NBD_REP_META_CONTEXT, "\0\0\0\2memferry:dirty", 18);
    } else if (option.option != MF_NBD_OPT_STRUCTURED_REPLY || !fake->structured) {
      put_option_reply (fake->fd, option.option, MF_NBD_REP_ERR_UNSUP, NULL, 0);
      continue;
    }
    put_option_reply (fake->fd, option.option, MF_NBD_REP_ACK, NULL, 0);
  }
  if (option.option == MF_NBD_OPT_GO)
    fake->script (fake->fd);
  shutdown (fake->fd, SHUT_RDWR);
  return NULL;
}

static mf_nbd_request
take_request (int fd)
{
  uint8_t wire[MF_NBD_REQUEST_BYTES];
  mf_nbd_request request = { 0 };

  if (get (fd, wire, sizeof wire))
    g_assert_true (mf_nbd_decode_request (wire, sizeof wire, &request));
  return request;
}

static void
put_chunk (int fd, uint64_t cookie, uint16_t type, uint16_t flags, const void *payload, uint32_t length)
{
  mf_nbd_chunk chunk = { flags, type, cookie, length };
  uint8_t wire[MF_NBD_CHUNK_BYTES];

  mf_nbd_encode_chunk (&chunk, wire);
  put (fd, wire, sizeof wire);
  if (length > 0)
    put (fd, payload, length);
}

/* Takes a request and hangs up. */
static void
script_hang_up (int fd)
{
  take_request (fd);
}

/* Hangs up in the middle of the bytes. */
static void
script_half_reply (int fd)
{
  mf_nbd_simple_reply reply = { 0, take_request (fd).cookie };
  uint8_t wire[MF_NBD_SIMPLE_REPLY_BYTES + 100] = { 0 };

  mf_nbd_encode_simple_reply (&reply, wire);
  put (fd, wire, sizeof wire);
}

static void
script_noise (int fd)
{
  take_request (fd);
  put (fd, "This is not a reply to anything.", 32);
  take_request (fd);
}

static void
script_unknown_cookie (int fd)
{
  mf_nbd_simple_reply reply = { 0, take_request (fd).cookie + 1000 };
  uint8_t wire[MF_NBD_SIMPLE_REPLY_BYTES];

  mf_nbd_encode_simple_reply (&reply, wire);
  put (fd, wire, sizeof wire);
  take_request (fd);
}

/* Bytes for outside of what was asked for. */
static void
script_outside (int fd)
{
  mf_nbd_request request = take_request (fd);
  uint8_t payload[MF_NBD_OFFSET_DATA_BYTES + 100] = { 0 };

  mf_nbd_encode_offset_data (request.offset + request.length - 50, payload);
  put_chunk (fd, request.cookie, MF_NBD_REPLY_TYPE_OFFSET_DATA, MF_NBD_REPLY_FLAG_DONE, payload, sizeof payload);
  take_request (fd);
}

static void
script_hole_outside (int fd)
{
  mf_nbd_request request = take_request (fd);
  uint8_t payload[MF_NBD_OFFSET_HOLE_BYTES];

  mf_nbd_encode_offset_hole (request.offset, UINT32_MAX, payload);
  put_chunk (fd, request.cookie, MF_NBD_REPLY_TYPE_OFFSET_HOLE, MF_NBD_REPLY_FLAG_DONE, payload, sizeof payload);
  take_request (fd);
}

static mf_lane *
connect_to_fake (FakeServer *fake, GThread **thread, const mf_nbd_client_options *options, GError **error)
{
  int client;

  fake->fd = lane_stream_pair (&client);
  *thread = g_thread_new ("fake", run_fake, fake);
  return mf_nbd_client_new_fd (client, "", options, LANE_TIMEOUT, error);
}

/* Servers that die or lie while requests are in flight. */
static void
test_lost_in_flight (void)
{
  static const struct {
    void (*script) (int fd);
    gboolean structured;
  } cases[] = { { script_hang_up, FALSE }, { script_hang_up, TRUE },     { script_half_reply, FALSE },
                { script_noise, FALSE },   { script_noise, TRUE },       { script_unknown_cookie, FALSE },
                { script_outside, TRUE },  { script_hole_outside, TRUE } };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    FakeServer fake = { .structured = cases[i].structured, .script = cases[i].script };
    g_autoptr (GError) error = NULL;
    mf_request *requests[3];
    GThread *thread;
    mf_lane *lane = connect_to_fake (&fake, &thread, cases[i].structured ? &lane_structured : &lane_simple, &error);
    guint done = 0;

    g_assert_no_error (error);
    for (guint r = 0; r < G_N_ELEMENTS (requests); r++) {
      requests[r] = lane_request_new (r * 16 * PAGE, 16 * PAGE, &done);
      mf_lane_submit (lane, requests[r]);
    }
    lane_assert_lost (lane, requests, G_N_ELEMENTS (requests), &done);
    mf_lane_close (lane);
    g_thread_join (thread);
    close (fake.fd);
    for (guint r = 0; r < G_N_ELEMENTS (requests); r++)
      lane_request_free (requests[r]);
  }
}

/* Says that it is done, with some of the bytes never mentioned. */
static void
script_silent_about_some (int fd)
{
  mf_nbd_request request = take_request (fd);
  uint8_t payload[MF_NBD_OFFSET_DATA_BYTES + PAGE] = { 0 };

  mf_nbd_encode_offset_data (request.offset, payload);
  put_chunk (fd, request.cookie, MF_NBD_REPLY_TYPE_OFFSET_DATA, MF_NBD_REPLY_FLAG_DONE, payload, sizeof payload);
  take_request (fd);
}

static void
script_error (int fd)
{
  mf_nbd_request request = take_request (fd);
  const mf_nbd_error error = { .error = MF_NBD_ENOSPC };
  uint8_t payload[MF_NBD_ERROR_MAX_BYTES];
  size_t length = mf_nbd_encode_error (&error, payload);

  put_chunk (fd, request.cookie, MF_NBD_REPLY_TYPE_ERROR, MF_NBD_REPLY_FLAG_DONE, payload, (uint32_t) length);
  take_request (fd);
}

/* One request fails; the lane goes on. */
static void
test_failed_request (void)
{
  static const struct {
    void (*script) (int fd);
    int error;
  } cases[] = { { script_error, ENOSPC }, { script_silent_about_some, 0 } };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    FakeServer fake = { .structured = TRUE, .script = cases[i].script };
    g_autoptr (GError) error = NULL;
    guint done = 0;
    g_autoptr (mf_request) request = lane_request_new (0, 2 * PAGE, &done);
    GThread *thread;
    mf_lane *lane = connect_to_fake (&fake, &thread, &lane_structured, &error);

    g_assert_no_error (error);
    mf_lane_submit (lane, request);
    lane_poll_until (lane, &done, 1);
    if (cases[i].error)
      g_assert_cmpint (request->error, ==, cases[i].error);
    else
      g_assert_cmpint (request->error, !=, 0);
    mf_lane_close (lane);
    g_thread_join (thread);
    close (fake.fd);
  }
}

/* Answers one request, if there is one. */
static void
put_extents (int fd, const mf_nbd_extent *extents, guint n)
{
  uint8_t payload[MF_NBD_STATUS_BYTES + 8 * MF_NBD_EXTENT_BYTES];
  mf_nbd_request request = take_request (fd);

  if (request.type != MF_NBD_CMD_BLOCK_STATUS)
    return;
  mf_nbd_encode_status (1, payload);
  for (guint i = 0; i < n; i++)
    mf_nbd_encode_extent (extents[i], payload + MF_NBD_STATUS_BYTES + i * MF_NBD_EXTENT_BYTES);
  put_chunk (fd, request.cookie, MF_NBD_REPLY_TYPE_BLOCK_STATUS, MF_NBD_REPLY_FLAG_DONE, payload,
             MF_NBD_STATUS_BYTES + n * MF_NBD_EXTENT_BYTES);
}

/* Short replies, the last one longer than asked for: all of that is legal. */
static void
script_short_extents (int fd)
{
  put_extents (fd, (const mf_nbd_extent[]){ { PAGE, 0 } }, 1);
  put_extents (fd, (const mf_nbd_extent[]){ { PAGE, 0 }, { PAGE, 3 } }, 2);
  put_extents (fd, (const mf_nbd_extent[]){ { 8 * PAGE, 3 } }, 1);
  take_request (fd);
}

static void
script_empty_extent (int fd)
{
  put_extents (fd, (const mf_nbd_extent[]){ { PAGE, 0 }, { 0, 3 } }, 2);
  take_request (fd);
}

static void
script_tiny_extents (int fd)
{
  for (int i = 0; i < 100; i++)
    put_extents (fd, (const mf_nbd_extent[]){ { 1, 0 }, { 1, 1 }, { 1, 0 }, { 1, 1 } }, 4);
}

static void
test_odd_extents (void)
{
  static const struct {
    void (*script) (int fd);
    MfError code;
    guint n;
  } cases[] = { { script_short_extents, 0, 2 },
                { script_empty_extent, MF_ERROR_FAILED, 0 },
                { script_tiny_extents, MF_ERROR_PROTOCOL, 0 } };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    FakeServer fake = { .structured = TRUE, .script = cases[i].script };
    g_autoptr (GArray) extents = g_array_new (FALSE, FALSE, sizeof (mf_extent));
    g_autoptr (GError) error = NULL;
    GThread *thread;
    mf_lane *lane = connect_to_fake (&fake, &thread, &lane_structured, &error);

    g_assert_no_error (error);
    mf_lane_extents (lane, MF_NBD_CONTEXT_ALLOCATION, 0, 6 * PAGE, extents, &error);
    if (cases[i].n > 0) {
      g_assert_no_error (error);
      g_assert_cmpuint (extents->len, ==, cases[i].n);
      lane_assert_extent (extents, 0, 2 * PAGE, 0);
      lane_assert_extent (extents, 1, 4 * PAGE, 3);
    } else {
      g_assert_nonnull (error);
      g_assert_true (error->domain == MF_ERROR);
    }
    mf_lane_shutdown (lane);
    mf_lane_close (lane);
    g_thread_join (thread);
    close (fake.fd);
  }
}

/* The context is the point of the connection: without it there is none. */
static void
test_dirty_not_there (void)
{
  FakeServer fake = { .structured = TRUE, .script = script_hang_up };
  g_autoptr (GError) error = NULL;
  GThread *thread;

  g_assert_null (connect_to_fake (&fake, &thread, &lane_tracking, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED);
  g_thread_join (thread);
  close (fake.fd);
}

static void
script_wait (int fd)
{
  uint8_t byte;

  while (recv (fd, &byte, 1, 0) == 1)
    continue;
}

static gpointer
shut_down_lane (gpointer lane)
{
  mf_lane_shutdown (lane);
  return NULL;
}

/* Another thread ends what the owner waits for. */
static void
test_shutdown (void)
{
  for (int i = 0; i < 3; i++) {
    FakeServer fake = { .structured = TRUE, .script = script_wait };
    g_autoptr (GArray) extents = g_array_new (FALSE, FALSE, sizeof (mf_extent));
    g_autoptr (GError) error = NULL;
    GThread *server, *thread;
    mf_lane *lane = connect_to_fake (&fake, &server, &lane_structured, &error);

    g_assert_no_error (error);
    thread = g_thread_new ("shutdown", shut_down_lane, lane);
    if (i == 0)
      g_assert_false (mf_lane_flush (lane, &error));
    else if (i == 1)
      g_assert_false (mf_lane_extents (lane, MF_NBD_CONTEXT_ALLOCATION, 0, PAGE, extents, &error));
    else
      g_assert_false (mf_lane_poll (lane, NULL, 0, -1, &error));
    g_assert_error (error, MF_ERROR, MF_ERROR_CONNECTION);
    g_thread_join (thread);
    mf_lane_close (lane);
    g_thread_join (server);
    close (fake.fd);
  }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/nbd-client-lost/lost-in-flight", test_lost_in_flight);
  g_test_add_func ("/nbd-client-lost/failed-request", test_failed_request);
  g_test_add_func ("/nbd-client-lost/odd-extents", test_odd_extents);
  g_test_add_func ("/nbd-client-lost/dirty-not-there", test_dirty_not_there);
  g_test_add_func ("/nbd-client-lost/shutdown", test_shutdown);
  return g_test_run ();
}
