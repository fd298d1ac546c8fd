/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nbd/mf-nbd-backend.h"
#include "nbd/mf-nbd-client.h"

#define OPEN_USEC (10 * G_USEC_PER_SEC)
/* Connections to a server that allows several. */
#define LANES 4

typedef struct {
  MfBackend base;
  char *uri;
  GMutex lock;    /* protects `first` */
  mf_lane *first; /* what the server was asked on, for whoever wants a lane first */
  GDestroyNotify let_go;
  gpointer data;
} NbdBackend;

static mf_lane *
connect_lane (const char *uri, gint64 timeout_usec, GError **error)
{
  const mf_nbd_client_options options = { .structured = TRUE };

  return mf_nbd_client_new_uri (uri, &options, timeout_usec, error);
}

static mf_lane *
open_lane (MfBackend *backend, gint64 timeout_usec, GError **error)
{
  NbdBackend *b = (NbdBackend *) backend;
  mf_lane *first;

  g_mutex_lock (&b->lock);
  first = g_steal_pointer (&b->first);
  g_mutex_unlock (&b->lock);
  return first != NULL ? first : connect_lane (b->uri, timeout_usec, error);
}

static void
backend_free (MfBackend *backend)
{
  NbdBackend *b = (NbdBackend *) backend;

  g_clear_pointer (&b->first, mf_lane_close);
  if (b->let_go != NULL)
    b->let_go (b->data);
  g_mutex_clear (&b->lock);
  g_free (b->uri);
  g_free (b);
}

static const mf_backend_ops backend_ops = { .open_lane = open_lane, .free = backend_free };

MfBackend *
mf_nbd_backend_new (const char *name, const char *uri, gboolean read_only, GDestroyNotify let_go, gpointer data,
                    GError **error)
{
  g_autoptr (mf_lane) lane = connect_lane (uri, OPEN_USEC, error);
  mf_nbd_export_facts facts;
  mf_backend_limits limits;
  NbdBackend *b;

  if (lane == NULL)
    return NULL;
  mf_nbd_client_get_facts (lane, &facts);
  limits = (mf_backend_limits){
    .size_bytes = mf_lane_size (lane),
    .block_bytes = facts.block_bytes,
    .request_bytes = facts.request_bytes,
    .lanes = facts.multi_conn ? LANES : 1,
    .read_only = read_only || facts.read_only,
    .pipelined = TRUE,
  };
  if (!mf_backend_check_limits (name, &limits, error))
    return NULL;
  b = g_new0 (NbdBackend, 1);
  mf_backend_init (&b->base, &backend_ops, name);
  b->base.limits = limits;
  b->uri = g_strdup (uri);
  g_mutex_init (&b->lock);
  b->first = g_steal_pointer (&lane);
  b->let_go = let_go;
  b->data = data;
  return &b->base;
}

static MfBackend *
open_uri (const char *name, gboolean read_only, GError **error)
{
  return mf_nbd_backend_new (name, name, read_only, NULL, NULL, error);
}

static const char *const schemes[] = { "nbd", "nbds", "nbd+unix", "nbds+unix", "nbd+vsock", "nbds+vsock", NULL };

const mf_backend_driver mf_nbd_backend_driver = {
  .schemes = schemes,
  .usage = "nbd://HOST[:PORT]/[EXPORT]",
  .open = open_uri,
};
