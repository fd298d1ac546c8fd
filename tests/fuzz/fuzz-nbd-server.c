/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whatever a client says, the NBD server greets it, answers or hangs up, and comes to an end when the client does. The
 * input begins where its first byte says: at the client's flags, or at the first request after a handshake with
 * structured replies and both contexts.
 */
#include "mf-fuzz.h"

#include "core/mf-nbd-protocol.h"
#include "nbd/mf-nbd-server.h"
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const uint8_t handshake[] =
    "\0\0\0\3"
    "IHAVEOPT\0\0\0\10\0\0\0\0"
    "IHAVEOPT\0\0\0\12\0\0\0\55\0\0\0\0\0\0\0\2\0\0\0\17base:allocation\0\0\0\16memferry:dirty"
    "IHAVEOPT\0\0\0\7\0\0\0\6\0\0\0\0\0\0";

static MfNbdServer *
server_new (void)
{
  MfNbdServer *server = mf_nbd_server_new ();
  g_autoptr (MfStore) store = mf_store_memfd ("fuzz", (1 << 20) + 100, NULL);
  g_autoptr (MfRegion) region = mf_region_new ("fuzz", store, NULL);
  const mf_nbd_export_options options = { .read_only = TRUE, .description = "read-only" };

  mf_store_write (store, 5000, "some bytes", 10, NULL);
  mf_nbd_server_export (server, "", region, NULL, NULL);
  mf_nbd_server_export (server, "ro", region, &options, NULL);
  return server;
}

/* Says all of it and listens until the server has hung up. */
static void
talk (int fd, const uint8_t *data, size_t size)
{
  static uint8_t bucket[1 << 16];
  gboolean saying = TRUE;
  size_t heard = 0;

  for (;;) {
    struct pollfd pfd = { .fd = fd, .events = POLLIN | (saying ? POLLOUT : 0) };
    ssize_t n;

    poll (&pfd, 1, -1);
    if (pfd.revents & (POLLIN | POLLHUP | POLLERR)) {
      n = recv (fd, bucket, sizeof bucket, MSG_DONTWAIT);
      if (n == 0 || (n < 0 && !(pfd.revents & POLLIN)))
        break;
      if (heard == 0 && n >= MF_NBD_GREETING_BYTES) {
        uint16_t flags;

        MF_FUZZ_CHECK (mf_nbd_decode_greeting (bucket, MF_NBD_GREETING_BYTES, &flags));
      }
      heard += (size_t) MAX (n, 0);
    }
    if (!(pfd.revents & POLLOUT))
      continue;
    n = size > 0 ? send (fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    if (n > 0) {
      data += n;
      size -= (size_t) n;
    }
    if (size == 0) {
      shutdown (fd, SHUT_WR);
      saying = FALSE;
    }
  }
  MF_FUZZ_CHECK (heard >= MF_NBD_GREETING_BYTES);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t length)
{
  static MfNbdServer *server;
  g_autofree uint8_t *words = NULL;
  size_t head;
  int fds[2];

  if (length == 0 || socketpair (AF_UNIX, SOCK_STREAM, 0, fds) == -1)
    return 0;
  if (!server)
    server = server_new ();
  head = data[0] & 1 ? sizeof handshake - 1 : 0;
  words = g_malloc (head + length);
  memcpy (words, handshake, head);
  memcpy (words + head, data + 1, length - 1);
  mf_nbd_server_serve_fd (server, fds[1], FALSE, NULL);
  talk (fds[0], words, head + length - 1);
  close (fds[0]);
  return 0;
}

/* A request of each kind, and what a WRITE carries. */
static void
seed_requests (void)
{
  uint8_t seed[1 + 8 * (MF_NBD_REQUEST_BYTES + 64)];
  size_t length = 1;

  seed[0] = 1;
  for (uint16_t type = MF_NBD_CMD_READ; type <= MF_NBD_CMD_BLOCK_STATUS; type++) {
    mf_nbd_request request = { .type = type, .cookie = type, .offset = 4096u * type, .length = 64 };

    if (type == MF_NBD_CMD_DISC)
      continue;
    if (type == MF_NBD_CMD_FLUSH)
      request.offset = request.length = 0;
    mf_nbd_encode_request (&request, seed + length);
    length += MF_NBD_REQUEST_BYTES;
    if (type == MF_NBD_CMD_WRITE) {
      memset (seed + length, 'w', 64);
      length += 64;
    }
  }
  mf_fuzz_seed ("requests", seed, length);
}

void
mf_fuzz_make_seeds (void)
{
  uint8_t seed[sizeof handshake] = { 0 };

  memcpy (seed + 1, handshake, sizeof handshake - 1);
  mf_fuzz_seed ("handshake", seed, sizeof seed);
  seed_requests ();
}
