/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nbd/mf-nbd-connection.h"

#include <string.h>

mf_nbd_export *
mf_nbd_export_new (const char *name, MfRegion *region, const mf_nbd_export_options *options)
{
  mf_nbd_export *export = g_new0 (mf_nbd_export, 1);

  g_atomic_ref_count_init (&export->refs);
  export->name = g_strdup (name);
  export->region = g_object_ref (region);
  export->size_bytes = mf_region_get_size (region);
  export->read_only = mf_store_read_only (mf_region_store (region));
  if (options) {
    export->read_only |= options->read_only;
    export->description = g_strdup (options->description);
    if (options->session)
      export->session = mf_dirty_session_ref (options->session);
  }
  return export;
}

mf_nbd_export *
mf_nbd_export_ref (mf_nbd_export *export)
{
  g_atomic_ref_count_inc (&export->refs);
  return export;
}

void
mf_nbd_export_unref (mf_nbd_export *export)
{
  if (!g_atomic_ref_count_dec (&export->refs))
    return;
  g_clear_pointer (&export->session, mf_dirty_session_unref);
  g_object_unref (export->region);
  g_free (export->name);
  g_free (export->description);
  g_free (export);
}

mf_nbd_connection *
mf_nbd_connection_new (MfNbdServer *server, mf_nbd_counters *counters, int fd, gboolean spin)
{
  mf_nbd_connection *connection = g_new0 (mf_nbd_connection, 1);

  connection->server = server;
  connection->counters = counters;
  connection->cancellable = g_cancellable_new ();
  mf_nbd_stream_init (&connection->stream, fd, spin);
  return connection;
}

void
mf_nbd_connection_let_go (mf_nbd_connection *connection)
{
  if (connection->mapped_bytes > 0)
    mf_store_map_forget (mf_region_store (connection->export->region), connection->mapped_start,
                         connection->mapped_end - connection->mapped_start);
  connection->mapped_bytes = 0;
  g_clear_pointer (&connection->reader, mf_dirty_reader_free);
  g_clear_pointer (&connection->session, mf_dirty_session_unref);
  g_clear_pointer (&connection->scratch, g_free);
}

void
mf_nbd_connection_free (mf_nbd_connection *connection)
{
  mf_nbd_connection_let_go (connection);
  g_clear_pointer (&connection->export, mf_nbd_export_unref);
  mf_nbd_stream_clear (&connection->stream);
  g_object_unref (connection->cancellable);
  g_free (connection);
}

/* Reading or writing there may wait for missing pages: then the client is watched meanwhile. Returns whether it is. */
static gboolean
begin_waiting (mf_nbd_connection *connection, uint64_t offset, uint64_t length)
{
  const mf_page_map *map = mf_region_map (connection->export->region);
  mf_run run, present;

  if (!mf_run_from_bytes (offset, length, mf_region_page_bytes (connection->export->region), mf_page_map_pages (map),
                          &run))
    return FALSE;
  if (mf_page_map_next_run (map, run, MF_PAGE_PRESENT, &present) && present.count == run.count)
    return FALSE;
  mf_nbd_server_watch (connection->server, connection, TRUE);
  return TRUE;
}

static void
end_waiting (mf_nbd_connection *connection, gboolean watched)
{
  if (watched)
    mf_nbd_server_watch (connection->server, connection, FALSE);
}

gboolean
mf_nbd_connection_read (mf_nbd_connection *connection, uint64_t offset, void *buffer, size_t length, GError **error)
{
  gboolean watched = begin_waiting (connection, offset, length);
  gboolean ok = mf_region_read (connection->export->region, offset, buffer, length, connection->cancellable, error);

  end_waiting (connection, watched);
  return ok;
}

gboolean
mf_nbd_connection_write (mf_nbd_connection *connection, uint64_t offset, const void *buffer, size_t length,
                         GError **error)
{
  gboolean watched = begin_waiting (connection, offset, length);
  gboolean ok = mf_region_write (connection->export->region, offset, buffer, length, connection->cancellable, error);

  end_waiting (connection, watched);
  return ok;
}

gboolean
mf_nbd_connection_zero (mf_nbd_connection *connection, uint64_t offset, uint64_t length, gboolean punch, GError **error)
{
  gboolean watched = begin_waiting (connection, offset, length);
  gboolean ok = mf_region_zero (connection->export->region, offset, length, punch, connection->cancellable, error);

  end_waiting (connection, watched);
  return ok;
}

uint8_t *
mf_nbd_connection_scratch (mf_nbd_connection *connection)
{
  if (!connection->scratch)
    connection->scratch = g_malloc (MF_NBD_SCRATCH_BYTES);
  return connection->scratch;
}

uint32_t
mf_nbd_error_number (const GError *error)
{
  if (!error || error->domain != MF_ERROR)
    return MF_NBD_EIO;
  switch ((MfError) error->code) {
  case MF_ERROR_NO_SPACE:
    return MF_NBD_ENOSPC;
  case MF_ERROR_PERMISSION:
    return MF_NBD_EPERM;
  case MF_ERROR_INVALID:
    return MF_NBD_EINVAL;
  case MF_ERROR_NOT_SUPPORTED:
    return MF_NBD_ENOTSUP;
  case MF_ERROR_CANCELLED:
    return MF_NBD_ESHUTDOWN;
  case MF_ERROR_FAILED:
  case MF_ERROR_EXISTS:
  case MF_ERROR_NOT_FOUND:
  case MF_ERROR_BUSY:
  case MF_ERROR_PROTOCOL:
  case MF_ERROR_VERSION:
  case MF_ERROR_CONNECTION:
  case MF_ERROR_TIMED_OUT:
  case MF_ERROR_PROGRAM:
  case MF_ERROR_NOT_CONVERGING:
  case MF_ERROR_IO:
    return MF_NBD_EIO;
  }
  return MF_NBD_EIO;
}
