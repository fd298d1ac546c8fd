/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A backend by a plugin, and its lanes.
 *
 * A plugin's calls block, so a lane makes them in submit(), one after the other, in its owner's thread. A `done` that submits comes back in
 * there; what it submits waits in `queue` for the outer one. The plugin's `concurrency` holds over all lanes.
 */
#include "mf-backend.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* More lanes than this are of no use to anybody here. */
#define LANES_MAX 8
/* Zeroes for a plugin that can't make them itself. */
#define ZERO_BYTES (64u * 1024)

typedef struct {
  MfBackend base;
  const memferry_backend *plugin;
  void *context;

  guint concurrency; /* 0: no limit */
  GMutex lock;       /* protects `running` */
  GCond ended;
  guint running;
} PluginBackend;

typedef struct {
  mf_lane base;
  PluginBackend *backend; /* a reference */
  int kick_fd;
  GQueue queue; /* of mf_request */
  gboolean busy;
  gint shut; /* atomic */
} PluginLane;

/* --- Calls --- */

static void
enter (PluginBackend *b)
{
  if (b->concurrency == 0)
    return;
  g_mutex_lock (&b->lock);
  while (b->running >= b->concurrency)
    g_cond_wait (&b->ended, &b->lock);
  b->running++;
  g_mutex_unlock (&b->lock);
}

static void
leave (PluginBackend *b)
{
  if (b->concurrency == 0)
    return;
  g_mutex_lock (&b->lock);
  b->running--;
  g_cond_signal (&b->ended);
  g_mutex_unlock (&b->lock);
}

/* A plugin's result as an errno value. */
static int
checked (int result)
{
  return result >= 0 ? result : EIO;
}

static int
read_pages (PluginBackend *b, mf_request *request, memferry_reason *reason)
{
  int result = b->plugin->read (b->context, request->buffer, request->length, request->offset, reason);

  if (result != MEMFERRY_BACKEND_ABSENT)
    return checked (result);
  if (request->page_bytes == 0) {
    memset (request->buffer, 0, request->length);
    return 0;
  }
  for (uint32_t page = 0; page <= (request->length - 1) / request->page_bytes; page++)
    request->holes[page / 64] |= UINT64_C (1) << page % 64;
  return 0;
}

static int
write_zeroes (PluginBackend *b, const mf_request *request, memferry_reason *reason)
{
  const uint32_t most = MIN (MAX (ZERO_BYTES, b->base.limits.block_bytes), b->base.limits.request_bytes);
  g_autofree uint8_t *zeroes = NULL;
  int result = 0;

  if (b->plugin->zero != NULL)
    return checked (b->plugin->zero (b->context, request->length, request->offset, reason));
  zeroes = g_try_malloc0 (most);
  if (zeroes == NULL)
    return ENOMEM;
  for (uint32_t at = 0; result == 0 && at < request->length; at += most)
    result =
        checked (b->plugin->write (b->context, zeroes, MIN (most, request->length - at), request->offset + at, reason));
  return result;
}

/* Why this request is not for the plugin, as an errno value, or 0. */
static int
check_request (PluginLane *lane, const mf_request *request)
{
  const mf_backend_limits *limits = &lane->backend->base.limits;
  const uint64_t end = request->offset + request->length;

  if (g_atomic_int_get (&lane->shut))
    return ENOTCONN;
  if (request->operation == MF_REQUEST_FLUSH)
    return request->length != 0 || request->offset != 0 ? EINVAL : 0;
  if (request->length == 0 || request->length > limits->request_bytes || request->offset > limits->size_bytes ||
      request->length > limits->size_bytes - request->offset)
    return EINVAL;
  if (request->offset % limits->block_bytes != 0 || (end % limits->block_bytes != 0 && end != limits->size_bytes))
    return EINVAL;
  if (request->operation == MF_REQUEST_READ && request->page_bytes != 0 &&
      ((request->length - 1) / request->page_bytes >= MF_REQUEST_MAX_PAGES ||
       request->offset % request->page_bytes != 0))
    return EINVAL;
  if (request->operation != MF_REQUEST_READ && limits->read_only)
    return EROFS;
  return 0;
}

static int
call (PluginLane *lane, mf_request *request)
{
  PluginBackend *b = lane->backend;
  memferry_reason reason = { .struct_size = sizeof reason };
  int error = check_request (lane, request);

  if (error != 0)
    return error;
  enter (b);
  switch (request->operation) {
  case MF_REQUEST_READ:
    error = read_pages (b, request, &reason);
    break;
  case MF_REQUEST_WRITE:
    error = checked (b->plugin->write (b->context, request->buffer, request->length, request->offset, &reason));
    break;
  case MF_REQUEST_ZERO:
    error = write_zeroes (b, request, &reason);
    break;
  case MF_REQUEST_FLUSH:
    error = b->plugin->flush != NULL ? checked (b->plugin->flush (b->context, &reason)) : 0;
    break;
  }
  leave (b);
  return error;
}

/* --- The lane --- */

static void
lane_submit (mf_lane *base, mf_request *request)
{
  PluginLane *lane = (PluginLane *) base;

  request->error = 0;
  request->submitted_usec = g_get_monotonic_time ();
  memset (request->holes, 0, sizeof request->holes);
  g_queue_push_tail (&lane->queue, request);
  if (lane->busy)
    return;
  lane->busy = TRUE;
  while ((request = g_queue_pop_head (&lane->queue)) != NULL) {
    request->error = call (lane, request);
    request->done_usec = g_get_monotonic_time ();
    request->done (request, request->user_data);
  }
  lane->busy = FALSE;
}

/* There is never anything under way here. */
static gboolean
lane_poll (mf_lane *base, struct pollfd *extra, guint n_extra, gint64 timeout_usec, GError **error)
{
  PluginLane *lane = (PluginLane *) base;
  g_autofree struct pollfd *pfds = g_new0 (struct pollfd, n_extra + 1);
  struct timespec timeout = { timeout_usec / G_USEC_PER_SEC, timeout_usec % G_USEC_PER_SEC * 1000 };
  eventfd_t ignored;
  int r;

  if (g_atomic_int_get (&lane->shut)) {
    g_set_error (error, MF_ERROR, MF_ERROR_CONNECTION, "%s was let go", lane->backend->base.name);
    return FALSE;
  }
  pfds[0] = (struct pollfd){ .fd = lane->kick_fd, .events = POLLIN };
  if (n_extra > 0)
    memcpy (pfds + 1, extra, n_extra * sizeof *extra);
  r = ppoll (pfds, n_extra + 1, timeout_usec < 0 ? NULL : &timeout, NULL);
  for (guint i = 0; i < n_extra; i++)
    extra[i].revents = r > 0 ? pfds[i + 1].revents : 0;
  if (r > 0 && pfds[0].revents != 0)
    eventfd_read (lane->kick_fd, &ignored);
  return TRUE;
}

static uint64_t
lane_size (mf_lane *base)
{
  return ((PluginLane *) base)->backend->base.limits.size_bytes;
}

static guint
lane_in_flight (mf_lane *base)
{
  return g_queue_get_length (&((PluginLane *) base)->queue);
}

static void
lane_kick (mf_lane *base)
{
  eventfd_write (((PluginLane *) base)->kick_fd, 1);
}

static void
lane_shutdown (mf_lane *base)
{
  g_atomic_int_set (&((PluginLane *) base)->shut, TRUE);
  lane_kick (base);
}

static gboolean
lane_flush (mf_lane *base, GError **error)
{
  PluginBackend *b = ((PluginLane *) base)->backend;
  memferry_reason reason = { .struct_size = sizeof reason };
  int result;

  if (b->plugin->flush == NULL)
    return TRUE;
  enter (b);
  result = checked (b->plugin->flush (b->context, &reason));
  leave (b);
  if (result == 0)
    return TRUE;
  reason.text[sizeof reason.text - 1] = '\0';
  mf_error_from_errno (error, result, "flushing %s", b->base.name);
  if (reason.text[0] != '\0')
    g_prefix_error (error, "%s: ", reason.text);
  return FALSE;
}

static gboolean
lane_extents (mf_lane *base, const char *context, uint64_t offset, uint64_t length, GArray *extents, GError **error)
{
  g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED, "%s has no block status '%s'",
               ((PluginLane *) base)->backend->base.name, context);
  return FALSE;
}

static void
lane_close (mf_lane *base)
{
  PluginLane *lane = (PluginLane *) base;

  close (lane->kick_fd);
  mf_backend_unref (&lane->backend->base);
  g_free (lane);
}

static const mf_lane_ops lane_ops = {
  .size = lane_size,
  .submit = lane_submit,
  .poll = lane_poll,
  .in_flight = lane_in_flight,
  .kick = lane_kick,
  .shutdown = lane_shutdown,
  .flush = lane_flush,
  .extents = lane_extents,
  .close = lane_close,
};

/* --- The backend --- */

static mf_lane *
open_lane (MfBackend *backend, gint64 timeout_usec, GError **error)
{
  PluginLane *lane = g_new0 (PluginLane, 1);

  lane->base.ops = &lane_ops;
  lane->kick_fd = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (lane->kick_fd == -1) {
    mf_error_from_errno (error, errno, "making an eventfd");
    g_free (lane);
    return NULL;
  }
  g_queue_init (&lane->queue);
  lane->backend = (PluginBackend *) mf_backend_ref (backend);
  return &lane->base;
}

static void
backend_free (MfBackend *backend)
{
  PluginBackend *b = (PluginBackend *) backend;

  if (b->context != NULL)
    b->plugin->close (b->context);
  g_mutex_clear (&b->lock);
  g_cond_clear (&b->ended);
  g_free (b);
}

static const mf_backend_ops backend_ops = { .open_lane = open_lane, .free = backend_free };

static gboolean
open_plugin (PluginBackend *b, const memferry_value *values, gboolean read_only, GError **error)
{
  memferry_limits limits = { .struct_size = sizeof limits };
  memferry_reason reason = { .struct_size = sizeof reason };
  const unsigned flags = read_only ? MEMFERRY_BACKEND_OPEN_READ_ONLY : 0;
  int result = checked (b->plugin->open (values, flags, &b->context, &limits, &reason));

  reason.text[sizeof reason.text - 1] = '\0';
  if (result != 0) {
    b->context = NULL;
    if (reason.text[0] != '\0')
      g_set_error (error, MF_ERROR, mf_error_code_from_errno (result), "%s: %s", b->base.name, reason.text);
    else
      mf_error_from_errno (error, result, "opening %s", b->base.name);
    return FALSE;
  }
  b->concurrency = limits.concurrency;
  b->base.limits = (mf_backend_limits){
    .size_bytes = limits.size_bytes,
    .block_bytes = MAX (limits.block_bytes, 1),
    .request_bytes = limits.request_bytes,
    .lanes = limits.concurrency == 0 ? LANES_MAX : MIN (limits.concurrency, LANES_MAX),
    .read_only = read_only || limits.read_only || b->plugin->write == NULL,
  };
  if (limits.request_bytes == 0)
    b->base.limits.request_bytes = MF_BACKEND_BLOCK_MAX;
  return mf_backend_check_limits (b->base.name, &b->base.limits, error);
}

MfBackend *
mf_plugin_backend_open (const memferry_backend *plugin, const char *name, gboolean read_only, GError **error)
{
  const char *colon = strchr (name, ':');
  memferry_value *values = mf_backend_parse_values (plugin, colon != NULL ? colon + 1 : "", error);
  PluginBackend *b;
  gboolean ok;

  if (values == NULL)
    return NULL;
  b = g_new0 (PluginBackend, 1);
  mf_backend_init (&b->base, &backend_ops, name);
  b->plugin = plugin;
  g_mutex_init (&b->lock);
  g_cond_init (&b->ended);
  ok = open_plugin (b, values, read_only, error);
  mf_backend_values_free (plugin, values);
  if (ok)
    return &b->base;
  mf_backend_unref (&b->base);
  return NULL;
}
