/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "link/mf-link-socket.h"
#include "mf-wait.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* 3 s idle, then three probes 2 s apart: a dead host is noticed after 9 s. */
#define KEEPALIVE_IDLE_S    3
#define KEEPALIVE_EVERY_S   2
#define KEEPALIVE_PROBES    3
#define UNACKNOWLEDGED_MSEC 10000u

/* A look-up under way. Held by the thread that does it and by the one that waits; the last to leave frees it. */
typedef struct {
  _Atomic int refs;
  char *host;
  char port[8];
  struct addrinfo hints;
  struct addrinfo *found;
  int result;          /* of getaddrinfo() */
  _Atomic int is_done; /* `found` and `result` are set */
  int done_fd;         /* readable from then on */
} Lookup;

static void
lookup_unref (Lookup *lookup)
{
  if (atomic_fetch_sub (&lookup->refs, 1) != 1)
    return;
  if (lookup->found != NULL)
    freeaddrinfo (lookup->found);
  if (lookup->done_fd >= 0)
    close (lookup->done_fd);
  g_free (lookup->host);
  g_free (lookup);
}

static void *
lookup_thread (void *data)
{
  Lookup *lookup = data;

  lookup->result = getaddrinfo (lookup->host, lookup->port, &lookup->hints, &lookup->found);
  atomic_store (&lookup->is_done, TRUE);
  eventfd_write (lookup->done_fd, 1);
  lookup_unref (lookup);
  return NULL;
}

static gboolean
lookup_in_thread (Lookup *lookup, gint64 deadline_usec, GCancellable *cancellable, GError **error)
{
  pthread_attr_t attr;
  pthread_t thread;
  int result;

  lookup->done_fd = eventfd (0, EFD_CLOEXEC);
  if (lookup->done_fd < 0)
    return mf_error_from_errno (error, errno, "eventfd");
  atomic_fetch_add (&lookup->refs, 1);
  pthread_attr_init (&attr);
  pthread_attr_setdetachstate (&attr, PTHREAD_CREATE_DETACHED);
  result = pthread_create (&thread, &attr, lookup_thread, lookup);
  pthread_attr_destroy (&attr);
  if (result != 0) {
    lookup_unref (lookup);
    return mf_error_from_errno (error, result, "starting a thread");
  }
  if (!mf_wait_fd (lookup->done_fd, POLLIN, deadline_usec, cancellable, error)) {
    g_prefix_error (error, "looking up %s: ", lookup->host);
    return FALSE;
  }
  return atomic_load (&lookup->is_done);
}

struct addrinfo *
mf_link_resolve (const mf_peer_address *address, gboolean for_listening, gint64 deadline_usec,
                 GCancellable *cancellable, GError **error)
{
  struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST };
  struct addrinfo *found = NULL;
  Lookup *lookup = g_new0 (Lookup, 1);

  lookup->refs = 1;
  lookup->done_fd = -1;
  lookup->host = g_strdup (address->host);
  g_snprintf (lookup->port, sizeof lookup->port, "%u", address->port);
  hints.ai_flags |= AI_NUMERICSERV | (for_listening ? AI_PASSIVE : 0);
  lookup->hints = hints;
  lookup->result = getaddrinfo (lookup->host, lookup->port, &lookup->hints, &lookup->found);
  if (lookup->result == EAI_NONAME) {
    lookup->hints.ai_flags &= ~AI_NUMERICHOST;
    if (!lookup_in_thread (lookup, deadline_usec, cancellable, error)) {
      lookup_unref (lookup);
      return NULL;
    }
  }
  if (lookup->result == 0)
    found = g_steal_pointer (&lookup->found);
  else
    g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION, "%s: looking up the host: %s", address->text,
                 gai_strerror (lookup->result));
  lookup_unref (lookup);
  return found;
}

static void
set_option (int fd, int level, int option, int value)
{
  /* Fails on a UNIX socket, where none is needed. */
  (void) !setsockopt (fd, level, option, &value, sizeof value);
}

void
mf_link_set_stream_options (int fd)
{
  set_option (fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option (fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option (fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
  set_option (fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_EVERY_S);
  set_option (fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
}

void
mf_link_set_control_options (int fd)
{
  set_option (fd, IPPROTO_TCP, TCP_USER_TIMEOUT, UNACKNOWLEDGED_MSEC);
}

gboolean
mf_link_set_blocking (int fd, gboolean blocking, GError **error)
{
  int flags = fcntl (fd, F_GETFL);

  if (flags < 0 || fcntl (fd, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK) < 0)
    return mf_error_from_errno (error, errno, "setting up a socket");
  return TRUE;
}

gboolean
mf_link_send_preface (int fd, const mf_preface *preface, GError **error)
{
  uint8_t bytes[MF_PREFACE_BYTES];
  ssize_t n;

  mf_preface_encode (preface, bytes);
  n = send (fd, bytes, sizeof bytes, MSG_NOSIGNAL);
  if (n == sizeof bytes)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION, "the connection broke while it was set up: %s",
               n < 0 ? g_strerror (errno) : "a short write");
  return FALSE;
}
