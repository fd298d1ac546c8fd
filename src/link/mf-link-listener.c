/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The listener.
 *
 * One thread (the poller) waits on all listening sockets and on every connection whose preface has not come in whole yet. These are
 * not blocking and have a deadline each, so that whoever is silent or slow costs a slot of `handshakes` for MF_LINK_HANDSHAKE_USEC and nothing else; when all slots
 * are taken the oldest makes room. A connection with a good preface gets a thread of its own (a worker), because `accept` may block.
 *
 * `handshakes` and `workers` belong to the poller. `lock` protects `sockets` and `stopping`.
 */
#include "link/mf-link-bind.h"
#include "link/mf-link-socket.h"
#include "mf-wait.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MAX_SOCKETS 32
/* How long to leave the listening sockets alone when accept() finds no descriptor free. */
#define ACCEPT_PAUSE_USEC 100000

typedef struct {
  int fd; /* -1: the slot is free */
  gint64 deadline_usec;
  size_t have;
  uint8_t bytes[MF_PREFACE_BYTES];
} Handshake;

/* Belongs to the poller, but for what the thread reads and `ended`. */
typedef struct {
  MfLinkListener *listener;
  gboolean has_thread; /* to be joined before the slot is used again */
  _Atomic int ended;   /* ... which won't take long */
  pthread_t thread;
  int fd;
  mf_preface preface;
} Worker;

struct _MfLinkListener {
  mf_link_accept accept;
  gpointer user_data;
  mf_kept_sockets *kept; /* may be NULL; not ours */
  pthread_t poller;
  gboolean has_poller;
  int wake_fd; /* readable: `sockets` or `stopping` have changed */

  pthread_mutex_t lock;
  gboolean stopping;
  mf_bound_socket sockets[MAX_SOCKETS];
  guint n_sockets;

  Worker workers[MF_LINK_MAX_ACCEPTS];
  Handshake handshakes[MF_LINK_MAX_HANDSHAKES];
  gint64 accept_after_usec;
};

static mf_preface_status
status_of_error (const GError *error)
{
  if (g_error_matches (error, MF_ERROR, MF_ERROR_NOT_FOUND))
    return MF_STATUS_NO_SESSION;
  if (g_error_matches (error, MF_ERROR, MF_ERROR_BUSY))
    return MF_STATUS_BUSY;
  return MF_STATUS_FAILED;
}

static gboolean
answer_status (int fd, const mf_preface *preface, mf_preface_status status, GError **error)
{
  mf_preface answer = *preface;

  answer.version = MF_PREFACE_VERSION;
  answer.compat_version = MF_PREFACE_COMPAT;
  answer.flags = status;
  return mf_link_send_preface (fd, &answer, error);
}

gboolean
mf_link_answer (int fd, const mf_preface *preface, GError **error)
{
  return answer_status (fd, preface, MF_STATUS_TAKEN, error);
}

/* Tells the dialler, if it still listens, why not. */
static void
refuse (int fd, const mf_preface *preface, mf_preface_status status)
{
  answer_status (fd, preface, status, NULL);
  close (fd);
}

static void *
worker_thread (void *data)
{
  Worker *worker = data;
  MfLinkListener *listener = worker->listener;
  g_autoptr (GError) error = NULL;

  if (!listener->accept (worker->fd, &worker->preface, listener->user_data, &error)) {
    g_info ("refused a stream: %s", error != NULL ? error->message : "no reason given");
    refuse (worker->fd, &worker->preface, status_of_error (error));
  }
  atomic_store (&worker->ended, TRUE);
  return NULL;
}

static void
join_worker (Worker *worker)
{
  if (worker->has_thread)
    pthread_join (worker->thread, NULL);
  worker->has_thread = FALSE;
}

/* A free slot; NULL when all run. */
static Worker *
claim_worker (MfLinkListener *listener)
{
  for (guint i = 0; i < MF_LINK_MAX_ACCEPTS; i++) {
    Worker *worker = &listener->workers[i];

    if (worker->has_thread && !atomic_load (&worker->ended))
      continue;
    join_worker (worker);
    return worker;
  }
  return NULL;
}

static void
start_worker (MfLinkListener *listener, int fd, const mf_preface *preface)
{
  Worker *worker = claim_worker (listener);

  if (worker == NULL || !mf_link_set_blocking (fd, TRUE, NULL)) {
    refuse (fd, preface, MF_STATUS_BUSY);
    return;
  }
  worker->listener = listener;
  worker->fd = fd;
  worker->preface = *preface;
  atomic_store (&worker->ended, FALSE);
  worker->has_thread = pthread_create (&worker->thread, NULL, worker_thread, worker) == 0;
  if (!worker->has_thread)
    refuse (fd, preface, MF_STATUS_BUSY);
}

static void
end_handshake (Handshake *handshake)
{
  close (handshake->fd);
  handshake->fd = -1;
}

static void
judge_preface (MfLinkListener *listener, Handshake *handshake)
{
  mf_preface preface;
  mf_preface_result result = mf_preface_decode (handshake->bytes, &preface);
  int fd = handshake->fd;

  handshake->fd = -1;
  switch (result) {
  case MF_PREFACE_OK:
    if (preface.flags == 0)
      start_worker (listener, fd, &preface);
    else
      refuse (fd, &preface, MF_STATUS_FAILED);
    break;
  case MF_PREFACE_TOO_OLD:
  case MF_PREFACE_TOO_NEW:
    g_info ("refused a peer that speaks version %u of the protocol", preface.version);
    refuse (fd, &preface, MF_STATUS_VERSION);
    break;
  case MF_PREFACE_BAD:
    refuse (fd, &preface, MF_STATUS_FAILED);
    break;
  case MF_PREFACE_NOT_OURS:
  default:
    close (fd);
    break;
  }
}

/* More bytes of a preface, an end or an error. Whoever begins otherwise than a preface does is not waited for. */
static void
read_preface (MfLinkListener *listener, Handshake *handshake)
{
  ssize_t n = read (handshake->fd, handshake->bytes + handshake->have, MF_PREFACE_BYTES - handshake->have);

  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return;
  if (n <= 0) {
    end_handshake (handshake);
    return;
  }
  handshake->have += n;
  if (memcmp (handshake->bytes, MF_PREFACE_MAGIC, MIN (handshake->have, strlen (MF_PREFACE_MAGIC))) != 0)
    end_handshake (handshake);
  else if (handshake->have == MF_PREFACE_BYTES)
    judge_preface (listener, handshake);
}

static void
begin_handshake (MfLinkListener *listener, int fd)
{
  Handshake *slot = &listener->handshakes[0];

  for (guint i = 0; i < MF_LINK_MAX_HANDSHAKES && slot->fd >= 0; i++) {
    Handshake *other = &listener->handshakes[i];

    if (other->fd < 0 || other->deadline_usec < slot->deadline_usec)
      slot = other;
  }
  if (slot->fd >= 0)
    end_handshake (slot);
  mf_link_set_stream_options (fd);
  *slot = (Handshake){ .fd = fd, .deadline_usec = mf_deadline_after (MF_LINK_HANDSHAKE_USEC) };
}

static void
accept_all (MfLinkListener *listener, int socket_fd)
{
  for (;;) {
    int fd = accept4 (socket_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0) {
      begin_handshake (listener, fd);
      continue;
    }
    if (errno == EINTR || errno == ECONNABORTED)
      continue;
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      g_warning ("a connection has to wait: %s", g_strerror (errno));
      listener->accept_after_usec = mf_deadline_after (ACCEPT_PAUSE_USEC);
    }
    return;
  }
}

typedef struct {
  struct pollfd fds[1 + MAX_SOCKETS + MF_LINK_MAX_HANDSHAKES];
  Handshake *handshakes[MF_LINK_MAX_HANDSHAKES];
  guint n_sockets, n_handshakes;
  gint64 deadline_usec; /* -1: none */
} PollSet;

static void
limit_wait (PollSet *set, gint64 deadline_usec)
{
  if (set->deadline_usec < 0 || deadline_usec < set->deadline_usec)
    set->deadline_usec = deadline_usec;
}

/* FALSE when the listener is to stop. */
static gboolean
gather (MfLinkListener *listener, PollSet *set)
{
  gboolean may_accept = g_get_monotonic_time () >= listener->accept_after_usec;
  gboolean stopping;
  struct pollfd *next = set->fds;

  set->n_sockets = set->n_handshakes = 0;
  set->deadline_usec = -1;
  *next++ = (struct pollfd){ .fd = listener->wake_fd, .events = POLLIN };
  pthread_mutex_lock (&listener->lock);
  stopping = listener->stopping;
  for (; set->n_sockets < listener->n_sockets; set->n_sockets++)
    *next++ = (struct pollfd){ .fd = may_accept ? listener->sockets[set->n_sockets].fd : -1, .events = POLLIN };
  pthread_mutex_unlock (&listener->lock);
  if (!may_accept)
    limit_wait (set, listener->accept_after_usec);
  for (guint i = 0; i < MF_LINK_MAX_HANDSHAKES; i++) {
    Handshake *handshake = &listener->handshakes[i];

    if (handshake->fd < 0)
      continue;
    *next++ = (struct pollfd){ .fd = handshake->fd, .events = POLLIN };
    set->handshakes[set->n_handshakes++] = handshake;
    limit_wait (set, handshake->deadline_usec);
  }
  return !stopping;
}

static void
wait_for_any (PollSet *set)
{
  gint64 left = set->deadline_usec < 0 ? -1 : MAX (0, set->deadline_usec - g_get_monotonic_time ());
  /* Rounded up, or the last millisecond would be spent in a loop. */
  int limit_msec = left < 0 ? -1 : (int) MIN (left / 1000 + 1, G_MAXINT);

  if (poll (set->fds, 1 + set->n_sockets + set->n_handshakes, limit_msec) < 0)
    for (guint i = 0; i < G_N_ELEMENTS (set->fds); i++)
      set->fds[i].revents = 0;
}

static void *
poller_thread (void *data)
{
  MfLinkListener *listener = data;
  g_autofree PollSet *set = g_new0 (PollSet, 1);

  while (gather (listener, set)) {
    struct pollfd *of_handshakes = set->fds + 1 + set->n_sockets;
    eventfd_t ignored;

    wait_for_any (set);
    if (set->fds[0].revents != 0)
      eventfd_read (listener->wake_fd, &ignored);
    /* Before new connections come in, which may take the slots of old ones. */
    for (guint i = 0; i < set->n_handshakes; i++)
      if (of_handshakes[i].revents != 0)
        read_preface (listener, set->handshakes[i]);
      else if (set->handshakes[i]->deadline_usec <= g_get_monotonic_time ())
        end_handshake (set->handshakes[i]);
    for (guint i = 0; i < set->n_sockets; i++)
      if (set->fds[1 + i].revents != 0)
        accept_all (listener, set->fds[1 + i].fd);
  }
  for (guint i = 0; i < MF_LINK_MAX_HANDSHAKES; i++)
    if (listener->handshakes[i].fd >= 0)
      end_handshake (&listener->handshakes[i]);
  return NULL;
}

MfLinkListener *
mf_link_listener_new (mf_link_accept accept, gpointer user_data)
{
  MfLinkListener *listener = g_new0 (MfLinkListener, 1);

  listener->accept = accept;
  listener->user_data = user_data;
  listener->wake_fd = -1;
  pthread_mutex_init (&listener->lock, NULL);
  for (guint i = 0; i < MF_LINK_MAX_HANDSHAKES; i++)
    listener->handshakes[i].fd = -1;
  return listener;
}

void
mf_link_listener_use_kept (MfLinkListener *listener, mf_kept_sockets *kept)
{
  listener->kept = kept;
}

static gboolean
start_poller (MfLinkListener *listener, GError **error)
{
  int result;

  if (listener->has_poller)
    return TRUE;
  if (listener->wake_fd < 0)
    listener->wake_fd = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (listener->wake_fd < 0)
    return mf_error_from_errno (error, errno, "eventfd");
  result = pthread_create (&listener->poller, NULL, poller_thread, listener);
  if (result != 0)
    return mf_error_from_errno (error, result, "starting a thread");
  listener->has_poller = TRUE;
  return TRUE;
}

gboolean
mf_link_listener_add (MfLinkListener *listener, const mf_peer_address *address, GError **error)
{
  mf_bound_socket bound[MAX_SOCKETS];
  guint n_bound = mf_link_bind (address, listener->kept, bound, MAX_SOCKETS, error);
  gboolean fits;

  if (n_bound == 0)
    return FALSE;
  if (!start_poller (listener, error)) {
    for (guint i = 0; i < n_bound; i++)
      mf_bound_socket_close (&bound[i]);
    return FALSE;
  }
  pthread_mutex_lock (&listener->lock);
  fits = listener->n_sockets + n_bound <= MAX_SOCKETS;
  for (guint i = 0; i < n_bound; i++)
    if (fits)
      listener->sockets[listener->n_sockets++] = bound[i];
    else
      mf_bound_socket_close (&bound[i]);
  pthread_mutex_unlock (&listener->lock);
  eventfd_write (listener->wake_fd, 1);
  if (!fits)
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "listening at %s: more than %d addresses", address->text,
                 MAX_SOCKETS);
  return fits;
}

guint16
mf_link_listener_port (MfLinkListener *listener)
{
  guint16 port = 0;

  pthread_mutex_lock (&listener->lock);
  for (guint i = 0; i < listener->n_sockets; i++)
    if (listener->sockets[i].port != 0)
      port = listener->sockets[i].port;
  pthread_mutex_unlock (&listener->lock);
  return port;
}

void
mf_link_listener_free (MfLinkListener *listener)
{
  if (listener == NULL)
    return;
  pthread_mutex_lock (&listener->lock);
  listener->stopping = TRUE;
  pthread_mutex_unlock (&listener->lock);
  if (listener->has_poller) {
    eventfd_write (listener->wake_fd, 1);
    pthread_join (listener->poller, NULL);
  }
  for (guint i = 0; i < MF_LINK_MAX_ACCEPTS; i++)
    join_worker (&listener->workers[i]);
  for (guint i = 0; i < listener->n_sockets; i++)
    mf_bound_socket_close (&listener->sockets[i]);
  if (listener->wake_fd >= 0)
    close (listener->wake_fd);
  pthread_mutex_destroy (&listener->lock);
  g_free (listener);
}
