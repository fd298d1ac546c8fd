/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-backend.h"

#include <string.h>

/* A scheme becomes a part of a file's name. */
#define SCHEME_MAX 32

static GMutex drivers_lock;
static GPtrArray *drivers; /* of const mf_backend_driver *; drivers_lock */

void
mf_backend_register (const mf_backend_driver *driver)
{
  g_mutex_lock (&drivers_lock);
  if (drivers == NULL)
    drivers = g_ptr_array_new ();
  if (!g_ptr_array_find (drivers, driver, NULL))
    g_ptr_array_add (drivers, (gpointer) driver);
  g_mutex_unlock (&drivers_lock);
}

static const mf_backend_driver *
find_driver (const char *scheme)
{
  const mf_backend_driver *found = NULL;

  g_mutex_lock (&drivers_lock);
  for (guint i = 0; drivers != NULL && found == NULL && i < drivers->len; i++) {
    const mf_backend_driver *driver = g_ptr_array_index (drivers, i);

    if (g_strv_contains (driver->schemes, scheme))
      found = driver;
  }
  g_mutex_unlock (&drivers_lock);
  return found;
}

/* What stands before the colon; NULL when that can't be a scheme. */
static char *
scheme_of (const char *name)
{
  const char *colon = strchr (name, ':');
  size_t length = colon != NULL ? (size_t) (colon - name) : 0;

  if (length == 0 || length > SCHEME_MAX || name[0] == '-')
    return NULL;
  for (size_t i = 0; i < length; i++) {
    if (!g_ascii_islower (name[i]) && !g_ascii_isdigit (name[i]) && strchr ("+-", name[i]) == NULL)
      return NULL;
  }
  return g_strndup (name, length);
}

MfBackend *
mf_backend_open (const char *name, gboolean read_only, GError **error)
{
  g_autofree char *scheme = scheme_of (name);
  const mf_backend_driver *driver = scheme != NULL ? find_driver (scheme) : NULL;
  const memferry_backend *plugin;
  g_autoptr (GError) why = NULL;

  if (driver != NULL)
    return driver->open (name, read_only, error);
  plugin = scheme != NULL ? mf_backend_find_plugin (scheme, &why) : NULL;
  if (plugin != NULL)
    return mf_plugin_backend_open (plugin, name, read_only, error);
  if (why != NULL)
    g_propagate_error (error, g_steal_pointer (&why));
  else
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
                 "%s is no backend: write file:PATH, memory:SIZE, dir:PATH, an NBD URI or nbdkit:PLUGIN,ARG...%s%s",
                 name, scheme != NULL ? "; there is no plugin " : "", scheme != NULL ? scheme : "");
  return NULL;
}

void
mf_backend_init (MfBackend *backend, const mf_backend_ops *ops, const char *name)
{
  g_atomic_ref_count_init (&backend->refs);
  backend->ops = ops;
  backend->name = g_strdup (name);
  g_mutex_init (&backend->blocks_lock);
  g_cond_init (&backend->blocks_free);
  backend->blocks_busy = NULL;
}

MfBackend *
mf_backend_ref (MfBackend *backend)
{
  g_atomic_ref_count_inc (&backend->refs);
  return backend;
}

void
mf_backend_unref (MfBackend *backend)
{
  if (backend == NULL || !g_atomic_ref_count_dec (&backend->refs))
    return;
  g_clear_pointer (&backend->name, g_free);
  g_clear_pointer (&backend->blocks_busy, g_array_unref);
  g_mutex_clear (&backend->blocks_lock);
  g_cond_clear (&backend->blocks_free);
  backend->ops->free (backend);
}

const char *
mf_backend_name (MfBackend *backend)
{
  return backend->name;
}

const mf_backend_limits *
mf_backend_get_limits (MfBackend *backend)
{
  return &backend->limits;
}

gboolean
mf_backend_check_limits (const char *name, const mf_backend_limits *limits, GError **error)
{
  const char *what = NULL;

  if (limits->size_bytes == 0)
    what = "it is empty";
  else if (limits->size_bytes > G_MAXINT64)
    what = "its size makes no sense";
  else if (limits->block_bytes == 0 || (limits->block_bytes & (limits->block_bytes - 1)) != 0 ||
           limits->block_bytes > MF_BACKEND_BLOCK_MAX)
    what = "its blocks have a size that is no power of two up to 32 MiB";
  else if (limits->request_bytes < limits->block_bytes || limits->request_bytes % limits->block_bytes != 0)
    what = "the longest request that it takes is not a multiple of its blocks";
  if (what == NULL)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s: %s", name, what);
  return FALSE;
}

mf_lane *
mf_backend_open_lane (MfBackend *backend, uint32_t granule, gint64 timeout_usec, GError **error)
{
  g_autoptr (mf_lane) lane = backend->ops->open_lane (backend, timeout_usec, error);

  if (lane == NULL)
    return NULL;
  if (mf_lane_size (lane) < backend->limits.size_bytes) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
                 "%s has %" G_GUINT64_FORMAT " bytes now, and had %" G_GUINT64_FORMAT, backend->name,
                 mf_lane_size (lane), backend->limits.size_bytes);
    return NULL;
  }
  if (backend->limits.block_bytes > granule || backend->limits.request_bytes < MF_LANE_REQUEST_BYTES)
    return mf_block_lane_new (backend, g_steal_pointer (&lane));
  return g_steal_pointer (&lane);
}
