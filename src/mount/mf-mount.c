/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-mount-private.h"
#include "nbd/mf-nbd-backend.h"

#include <string.h>

/* Lanes for what somebody waits for. */
#define IO_LANES        4
#define FIRST_LANE_USEC (10 * G_USEC_PER_SEC)

/* --- Pages that somebody waits for --- */

/* A read of pages by the thread that wants them. */
typedef struct {
  mf_request request;
  mf_bitmap *claimed; /* bit 0: the first page of the part */
  uint8_t *buffer;    /* MF_REQUEST_MAX_PAGES pages */
} Fetch;

static void
fetch_free (gpointer data)
{
  Fetch *fetch = data;

  mf_bitmap_free (fetch->claimed);
  g_free (fetch->buffer);
  g_free (fetch);
}

/* Each thread that ever waited for a page keeps its own. */
static Fetch *
fetch_get (uint32_t page_bytes)
{
  static GPrivate per_thread = G_PRIVATE_INIT (fetch_free);
  Fetch *fetch = g_private_get (&per_thread);

  if (fetch == NULL) {
    fetch = g_new0 (Fetch, 1);
    fetch->claimed = mf_bitmap_new (MF_REQUEST_MAX_PAGES);
    g_private_set (&per_thread, fetch);
  }
  if (fetch->request.page_bytes != page_bytes) {
    g_free (fetch->buffer);
    fetch->buffer = g_malloc ((size_t) MF_REQUEST_MAX_PAGES * page_bytes);
    fetch->request.page_bytes = page_bytes;
  }
  return fetch;
}

/* Brings `run`, which has been claimed. Whatever happens the claim is over then. */
static gboolean
bring (mf_mount *mount, Fetch *fetch, mf_run run, GCancellable *cancellable, GError **error)
{
  uint64_t offset, length;
  gboolean ok;

  mf_region_bytes_of (mount->region, run, &offset, &length);
  fetch->request.operation = MF_REQUEST_READ;
  fetch->request.offset = offset;
  fetch->request.length = (uint32_t) length;
  fetch->request.buffer = fetch->buffer;
  ok = mf_backend_io_do (mount->io, &fetch->request, cancellable, error) &&
       mf_region_put (mount->region, run, fetch->buffer, fetch->request.holes, MF_PUT_KEEP, error);
  if (!ok) {
    mf_page_map_apply_run (mf_region_map (mount->region), run, MF_PAGE_FAIL, NULL);
    /* The puller may have dropped them, since they were claimed. */
    mf_puller_queue (mount->puller, run, MF_PULL_CALLER);
    mf_mount_requeued (mount);
  }
  return ok;
}

/* `part`: MF_REQUEST_MAX_PAGES at most. */
static gboolean
bring_part (mf_mount *mount, mf_run part, GCancellable *cancellable, GError **error)
{
  Fetch *fetch = fetch_get (mf_region_page_bytes (mount->region));
  mf_run rest = { 0, part.count }, bits;
  gboolean ok = TRUE;

  mf_bitmap_clear_run (fetch->claimed, (mf_run){ 0, MF_REQUEST_MAX_PAGES });
  if (mf_page_map_apply_run (mf_region_map (mount->region), part, MF_PAGE_CLAIM, fetch->claimed) == 0)
    return TRUE;
  mf_puller_fault (mount->puller, part);
  while (rest.count > 0 && mf_bitmap_next_run (fetch->claimed, rest, true, &bits)) {
    mf_run run = { part.first + bits.first, bits.count };

    if (ok) {
      ok = bring (mount, fetch, run, cancellable, error);
    } else {
      mf_page_map_apply_run (mf_region_map (mount->region), run, MF_PAGE_FAIL, NULL);
      mf_puller_queue (mount->puller, run, MF_PULL_CALLER);
      mf_mount_requeued (mount);
    }
    rest = (mf_run){ bits.first + bits.count, part.count - bits.first - bits.count };
  }
  return ok;
}

/* Brings what is missing of `length` bytes at `offset` and nobody else brings. What others bring is waited for by mf_region_read() and _write(). */
static gboolean
bring_missing (mf_mount *mount, uint64_t offset, uint64_t length, GCancellable *cancellable, GError **error)
{
  mf_page_map *map = mf_region_map (mount->region);
  mf_run run, missing;

  /* Who is out of range is told so later. */
  if (!mf_run_from_bytes (offset, length, mf_region_page_bytes (mount->region), mf_region_n_pages (mount->region),
                          &run))
    return TRUE;
  while (run.count > 0 && mf_page_map_next_run (map, run, MF_PAGE_MISSING, &missing)) {
    mf_run part = { missing.first, MIN (missing.count, MF_REQUEST_MAX_PAGES) };
    uint64_t end = part.first + part.count;

    if (!bring_part (mount, part, cancellable, error))
      return FALSE;
    run = (mf_run){ end, run.first + run.count - end };
  }
  return TRUE;
}

/* A page that a write covers in part is needed first. */
static gboolean
bring_edges (mf_mount *mount, uint64_t offset, uint64_t length, GCancellable *cancellable, GError **error)
{
  const uint64_t page = mf_region_page_bytes (mount->region), end = offset + length;

  if (length == 0)
    return TRUE;
  if (offset % page != 0 && !bring_missing (mount, offset, 1, cancellable, error))
    return FALSE;
  return end % page == 0 || end == mf_region_get_size (mount->region) ||
         bring_missing (mount, end - 1, 1, cancellable, error);
}

/* --- Requests --- */

static gboolean
check (mf_mount *mount, uint64_t offset, uint64_t length, gboolean writes, GError **error)
{
  const uint64_t size = mf_mount_size (mount);

  if (writes && mount->read_only) {
    g_set_error (error, MF_ERROR, MF_ERROR_PERMISSION, "%s is mounted to be read only",
                 mf_backend_name (mount->backend));
    return FALSE;
  }
  if (offset <= size && length <= size - offset)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
               "%" G_GUINT64_FORMAT " bytes at %" G_GUINT64_FORMAT " pass the end of %s at %" G_GUINT64_FORMAT, length,
               offset, mf_backend_name (mount->backend), size);
  return FALSE;
}

static gboolean
direct (mf_mount *mount, mf_request_operation operation, uint64_t offset, void *buffer, uint64_t length,
        GCancellable *cancellable, GError **error)
{
  uint8_t *at = buffer;

  while (length > 0) {
    mf_request request = {
      .operation = operation, .offset = offset, .length = (uint32_t) MIN (length, MF_LANE_REQUEST_BYTES), .buffer = at
    };

    if (!mf_backend_io_do (mount->io, &request, cancellable, error))
      return FALSE;
    at = at != NULL ? at + request.length : NULL;
    offset += request.length;
    length -= request.length;
  }
  return TRUE;
}

gboolean
mf_mount_read (mf_mount *mount, uint64_t offset, void *buffer, size_t length, GCancellable *cancellable, GError **error)
{
  if (!check (mount, offset, length, FALSE, error))
    return FALSE;
  if (mount->region == NULL)
    return direct (mount, MF_REQUEST_READ, offset, buffer, length, cancellable, error);
  return bring_missing (mount, offset, length, cancellable, error) &&
         mf_region_read (mount->region, offset, buffer, length, cancellable, error);
}

gboolean
mf_mount_write (mf_mount *mount, uint64_t offset, const void *buffer, size_t length, GCancellable *cancellable,
                GError **error)
{
  if (!check (mount, offset, length, TRUE, error))
    return FALSE;
  if (mount->region == NULL)
    return direct (mount, MF_REQUEST_WRITE, offset, (void *) buffer, length, cancellable, error);
  return bring_edges (mount, offset, length, cancellable, error) &&
         mf_region_write (mount->region, offset, buffer, length, cancellable, error);
}

gboolean
mf_mount_zero (mf_mount *mount, uint64_t offset, uint64_t length, gboolean punch, GCancellable *cancellable,
               GError **error)
{
  if (!check (mount, offset, length, TRUE, error))
    return FALSE;
  if (mount->region == NULL)
    return direct (mount, MF_REQUEST_ZERO, offset, NULL, length, cancellable, error);
  return bring_edges (mount, offset, length, cancellable, error) &&
         mf_region_zero (mount->region, offset, length, punch, cancellable, error);
}

static gboolean
sync_to_backend (mf_mount *mount, GCancellable *cancellable, GError **error)
{
  mf_request request = { .operation = MF_REQUEST_FLUSH };

  if (mount->read_only)
    return TRUE;
  if (mount->region == NULL)
    return mf_backend_io_do (mount->io, &request, cancellable, error);
  return mf_pusher_sync (mount->pusher, mount->limit_usec < 0 ? -1 : g_get_monotonic_time () + mount->limit_usec,
                         cancellable, error);
}

static gboolean
is_away (mf_mount *mount)
{
  gboolean lost;

  g_mutex_lock (&mount->lock);
  lost = mount->is_lost;
  g_mutex_unlock (&mount->lock);
  return lost;
}

gboolean
mf_mount_sync (mf_mount *mount, GCancellable *cancellable, GError **error)
{
  g_autoptr (GError) why = NULL;

  if (mount->cache == NULL || mount->read_only)
    return sync_to_backend (mount, cancellable, error);
  if (!mf_mount_cache_sync (mount->cache, error))
    return FALSE;
  /* It is safe here, and known to be dirty. */
  if (is_away (mount)) {
    mf_pusher_begin_sync (mount->pusher);
    return TRUE;
  }
  if (sync_to_backend (mount, cancellable, &why) ||
      (g_error_matches (why, MF_ERROR, MF_ERROR_TIMED_OUT) && is_away (mount)))
    return TRUE;
  g_propagate_error (error, g_steal_pointer (&why));
  return FALSE;
}

/* Nothing is pulled or pushed any more: what the store has stays as it is. */
static void
end_traffic (mf_mount *mount)
{
  mf_mount_keeper_stop (mount);
  if (mount->region != NULL)
    mf_region_set_fetcher (mount->region, NULL, NULL);
  g_clear_pointer (&mount->puller, mf_puller_free);
  g_clear_pointer (&mount->pusher, mf_pusher_free);
}

gboolean
mf_mount_close (mf_mount *mount, GCancellable *cancellable, GError **error)
{
  g_autoptr (GError) why = NULL;
  mf_mount_status status;

  gboolean ok = sync_to_backend (mount, cancellable, &why);

  mf_mount_get_status (mount, &status);
  end_traffic (mount);
  if (mount->cache != NULL && !mf_mount_cache_close (mount->cache, ok ? error : NULL) && ok)
    return FALSE;
  if (ok)
    return TRUE;
  if (mount->region == NULL)
    g_set_error (error, why->domain, why->code, "what was written last may not be safe: %s", why->message);
  else
    g_set_error (error, why->domain, why->code,
                 "%" G_GUINT64_FORMAT " bytes that were changed could not be written to %s: %s%s%s", status.dirty_bytes,
                 mf_backend_name (mount->backend), why->message,
                 mount->cache != NULL ? "; they are sent at the next start, from " : "",
                 mount->cache != NULL ? mf_mount_cache_path (mount->cache) : "");
  return FALSE;
}

/* --- Beginning and end --- */

uint64_t
mf_mount_size (mf_mount *mount)
{
  return mf_backend_get_limits (mount->backend)->size_bytes;
}

gboolean
mf_mount_is_read_only (mf_mount *mount)
{
  return mount->read_only;
}

static void
puller_failed (mf_puller *puller, const GError *error, gpointer mount)
{
  mf_mount_lane_lost (mount, error);
}

static void
pusher_lost (const GError *error, gpointer mount)
{
  mf_mount_lane_lost (mount, error);
}

static void
pusher_failed (const GError *error, gpointer mount)
{
  mf_mount_refused (mount, error);
}

static void
pusher_taking (mf_run run, gpointer mount)
{
  mf_mount_cache_taking (((mf_mount *) mount)->cache, run);
}

static void
pusher_sent (mf_run run, gpointer mount)
{
  mf_mount_cache_sent (((mf_mount *) mount)->cache, run);
}

static MfStore *
make_store (mf_mount *mount, const char *cache, GError **error)
{
  g_autoptr (MfStore) store = NULL;

  if (cache != NULL) {
    mount->cache = mf_mount_cache_open (cache, mf_backend_name (mount->backend), mf_mount_size (mount), error);
    return mount->cache != NULL ? mf_store_ref (mf_mount_cache_store (mount->cache)) : NULL;
  }
  store = mf_store_memfd ("memferry-mount", mf_mount_size (mount), error);
  if (store == NULL)
    return NULL;
  if (!mf_store_reserve (store, error)) {
    g_prefix_error (error, "%s does not fit into memory (use --cache or --direct): ", mf_backend_name (mount->backend));
    return NULL;
  }
  return g_steal_pointer (&store);
}

/* Everything to pull, in the order in which it is wanted. */
static gboolean
queue_pulls (mf_mount *mount, const mf_mount_options *options, GError **error)
{
  const uint64_t n_pages = mf_region_n_pages (mount->region);

  mf_puller_queue (mount->puller, (mf_run){ 0, n_pages }, MF_PULL_LINEAR);
  /* From the last on: where two overlap the first one counts. */
  for (guint i = options->n_pull_first; i-- > 0;) {
    mf_byte_range range = options->pull_first[i];
    mf_run run;

    if (range.length == 0 || range.offset > mf_mount_size (mount) ||
        range.length > mf_mount_size (mount) - range.offset ||
        !mf_run_from_bytes (range.offset, range.length, mf_region_page_bytes (mount->region), n_pages, &run)) {
      g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
                   "%" G_GUINT64_FORMAT " bytes at %" G_GUINT64_FORMAT
                   " can't be pulled first: %s has %" G_GUINT64_FORMAT,
                   range.length, range.offset, mf_backend_name (mount->backend), mf_mount_size (mount));
      return FALSE;
    }
    /* Classes are drained one after the other, so the order of the ranges is that of the hints. */
    mf_puller_queue (mount->puller, run, i == 0 ? MF_PULL_CALLER : MF_PULL_HINT_0 + MIN (i - 1, MF_PULL_HINTS - 2));
  }
  return TRUE;
}

/* Who wants the first page finds a lane: the backend has one from when it was opened. */
static gboolean
make_io (mf_mount *mount, uint32_t granule, guint lanes, GError **error)
{
  mf_lane *lane = mf_backend_open_lane (mount->backend, granule, FIRST_LANE_USEC, error);

  if (lane == NULL)
    return FALSE;
  mount->io = mf_backend_io_new (mount->backend, granule, lanes, mount->limit_usec);
  mf_backend_io_add_lane (mount->io, lane);
  return TRUE;
}

static gboolean
manage (mf_mount *mount, const mf_mount_options *options, GError **error)
{
  const mf_puller_callbacks puller_callbacks = { .failed = puller_failed, .user_data = mount };
  mf_pusher_callbacks pusher_callbacks = { .lost = pusher_lost, .failed = pusher_failed, .user_data = mount };
  g_autoptr (MfStore) store = make_store (mount, options->cache, error);

  mount->region = store != NULL ? mf_region_new ("mount", store, error) : NULL;
  if (mount->region == NULL)
    return FALSE;
  if (mount->cache == NULL && !mf_region_reset (mount->region, error))
    return FALSE;
  if (mount->cache != NULL) {
    pusher_callbacks.taking = pusher_taking;
    pusher_callbacks.sent = pusher_sent;
    if (!mf_mount_cache_load (mount->cache, mount->region, error))
      return FALSE;
  }
  mf_region_set_wait_limit (mount->region, mount->limit_usec);
  mount->puller = mf_puller_new (mount->region, &puller_callbacks, error);
  if (mount->puller == NULL || !queue_pulls (mount, options, error))
    return FALSE;
  if (!mount->read_only) {
    mount->pusher = mf_pusher_new (mount->region, mount->cache != NULL ? mf_mount_cache_dirty (mount->cache) : NULL,
                                   options->push_interval_usec, &pusher_callbacks, error);
    if (mount->pusher == NULL)
      return FALSE;
    /* What is left of the last time. */
    if (mount->cache != NULL)
      mf_pusher_begin_sync (mount->pusher);
  }
  mf_region_set_fetcher (mount->region, mf_puller_fetch, mount->puller);
  if (!make_io (mount, mf_region_page_bytes (mount->region), IO_LANES, error))
    return FALSE;
  mf_mount_keeper_start (mount);
  return TRUE;
}

mf_mount *
mf_mount_new (const char *backend, const mf_mount_options *options, GError **error)
{
  g_autoptr (mf_mount) mount = g_new0 (mf_mount, 1);

  mf_backend_register (&mf_nbd_backend_driver);
  mf_backend_register (&mf_nbdkit_backend_driver);
  g_mutex_init (&mount->lock);
  g_cond_init (&mount->changed);
  mount->limit_usec = options->limit_usec;
  mount->tell = options->tell;
  mount->user_data = options->user_data;
  mount->backend = mf_backend_open (backend, options->read_only, error);
  if (mount->backend == NULL)
    return NULL;
  mount->read_only = options->read_only || mf_backend_get_limits (mount->backend)->read_only;
  if (options->direct) {
    guint lanes = MIN (mf_backend_get_limits (mount->backend)->lanes, IO_LANES);

    if (!make_io (mount, 1, lanes, error))
      return NULL;
  } else if (!manage (mount, options, error)) {
    return NULL;
  }
  return g_steal_pointer (&mount);
}

void
mf_mount_free (mf_mount *mount)
{
  if (mount == NULL)
    return;
  end_traffic (mount);
  mf_backend_io_free (mount->io);
  g_clear_object (&mount->region);
  mf_mount_cache_free (mount->cache);
  mf_backend_unref (mount->backend);
  g_mutex_clear (&mount->lock);
  g_cond_clear (&mount->changed);
  g_free (mount);
}

void
mf_mount_get_status (mf_mount *mount, mf_mount_status *status)
{
  *status = (mf_mount_status){ 0 };
  if (mount->puller == NULL)
    return;
  const uint64_t page = mf_region_page_bytes (mount->region), size = mf_mount_size (mount);
  mf_puller_stats pulled;
  mf_pusher_stats pushed = { 0 };

  mf_puller_get_stats (mount->puller, &pulled);
  if (mount->pusher != NULL)
    mf_pusher_get_stats (mount->pusher, &pushed);
  status->local_bytes = MIN (mf_page_map_count (mf_region_map (mount->region), MF_PAGE_PRESENT) * page, size);
  status->dirty_bytes = MIN (pushed.dirty_pages * page, size);
  status->pulled_bytes = pulled.bytes;
  status->pushed_bytes = pushed.bytes;
}
