/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-dirty-log.h"

#include <errno.h>

/*
 * Memory, a page: 1 bit for each session's dirty set, 1 for its union of what collects reported, 1 for each reader's
 * unacknowledged pages, 1 for the tracker's report and HEAT_PLANES + 1 for the heat: with one migration and four
 * connections 12 bits, 0.04 % of the region.
 *
 * Heat is kept in planes of one bit a page. Writes are gathered in the plane `gathering`; a collect closes it, and the oldest plane
 * becomes, emptied, the next to gather in. So the shift of all histories is the change of one index.
 *
 * Locks, in this order:
 *   collect_lock   the tracker, and the heat's index. Held during start, collect and stop.
 *   sessions_lock  the list of sessions: read by who sets bits in all of them, written when one comes or goes.
 *
 * Why no page is lost when a session opens: it is in the list before its initial pages are looked up, and the tracker
 * watches before that. A page that is written later is in a report; one written before is in the initial set.
 */

#define HEAT_PLANES 4

struct _mf_dirty_log {
  gatomicrefcount refs; /* the owner's, and one a session */
  uint64_t n_pages;

  GMutex collect_lock;
  mf_tracker *tracker;
  mf_bitmap *report; /* what one collect found; there while sessions are open */
  mf_bitmap *heat[HEAT_PLANES + 1];
  guint gathering; /* atomic: index of the plane that gathers; the one before it is the latest closed */

  GRWLock sessions_lock;
  GPtrArray *sessions; /* not references */
};

struct _mf_dirty_session {
  gatomicrefcount refs;
  mf_dirty_log *log;
  mf_bitmap *dirty;
  mf_bitmap *reported; /* by collects since the session opened or repeat_union */
  int live_scans;      /* atomic */
};

struct _mf_dirty_reader {
  mf_dirty_session *session;
  mf_bitmap *unacknowledged;
};

static mf_run
all_pages (mf_dirty_log *log)
{
  return (mf_run){ 0, log->n_pages };
}

static void
log_unref (mf_dirty_log *log)
{
  if (!g_atomic_ref_count_dec (&log->refs))
    return;
  if (log->tracker != NULL) {
    log->tracker->ops->stop (log->tracker);
    log->tracker->ops->free (log->tracker);
  }
  for (guint i = 0; i < G_N_ELEMENTS (log->heat); i++)
    mf_bitmap_free (log->heat[i]);
  mf_bitmap_free (log->report);
  g_ptr_array_unref (log->sessions);
  g_rw_lock_clear (&log->sessions_lock);
  g_mutex_clear (&log->collect_lock);
  g_free (log);
}

mf_dirty_log *
mf_dirty_log_new (uint64_t n_pages)
{
  mf_dirty_log *log = g_new0 (mf_dirty_log, 1);

  g_atomic_ref_count_init (&log->refs);
  log->n_pages = n_pages;
  g_mutex_init (&log->collect_lock);
  g_rw_lock_init (&log->sessions_lock);
  log->sessions = g_ptr_array_new ();
  for (guint i = 0; i < G_N_ELEMENTS (log->heat); i++) {
    log->heat[i] = mf_bitmap_new (n_pages);
    if (log->heat[i] == NULL) {
      int reason = errno;

      log_unref (log);
      errno = reason;
      return NULL;
    }
  }
  return log;
}

void
mf_dirty_log_free (mf_dirty_log *log)
{
  if (log != NULL)
    log_unref (log);
}

static guint
count_sessions (mf_dirty_log *log)
{
  guint n;

  g_rw_lock_reader_lock (&log->sessions_lock);
  n = log->sessions->len;
  g_rw_lock_reader_unlock (&log->sessions_lock);
  return n;
}

gboolean
mf_dirty_log_set_tracker (mf_dirty_log *log, mf_tracker *tracker, GError **error)
{
  mf_tracker *former;

  g_mutex_lock (&log->collect_lock);
  if (count_sessions (log) > 0) {
    g_mutex_unlock (&log->collect_lock);
    g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "writes are being tracked for a session that is open");
    return FALSE;
  }
  former = log->tracker;
  log->tracker = tracker;
  g_mutex_unlock (&log->collect_lock);
  if (former != NULL) {
    former->ops->stop (former);
    former->ops->free (former);
  }
  return TRUE;
}

/* Brings the session into the list, the first one starts the tracker. */
static gboolean
enter_session (mf_dirty_log *log, mf_dirty_session *session, GError **error)
{
  gboolean ok = TRUE;

  g_mutex_lock (&log->collect_lock);
  if (log->report == NULL) {
    log->report = mf_bitmap_new (log->n_pages);
    ok = log->report != NULL || mf_error_from_errno (error, errno, "making a bitmap");
  }
  if (ok && log->tracker != NULL && count_sessions (log) == 0)
    ok = log->tracker->ops->start (log->tracker, error);
  if (ok) {
    g_rw_lock_writer_lock (&log->sessions_lock);
    g_ptr_array_add (log->sessions, session);
    g_rw_lock_writer_unlock (&log->sessions_lock);
  }
  g_mutex_unlock (&log->collect_lock);
  return ok;
}

static void
leave_session (mf_dirty_log *log, mf_dirty_session *session)
{
  g_mutex_lock (&log->collect_lock);
  g_rw_lock_writer_lock (&log->sessions_lock);
  g_ptr_array_remove_fast (log->sessions, session);
  g_rw_lock_writer_unlock (&log->sessions_lock);
  if (log->sessions->len == 0) {
    if (log->tracker != NULL)
      log->tracker->ops->stop (log->tracker);
    g_clear_pointer (&log->report, mf_bitmap_free);
  }
  g_mutex_unlock (&log->collect_lock);
}

static void
session_free (mf_dirty_session *session)
{
  mf_bitmap_free (session->dirty);
  mf_bitmap_free (session->reported);
  log_unref (session->log);
  g_free (session);
}

mf_dirty_session *
mf_dirty_session_open (mf_dirty_log *log, mf_dirty_initial initial, gpointer user_data, GError **error)
{
  mf_dirty_session *session = g_new0 (mf_dirty_session, 1);

  g_atomic_ref_count_init (&session->refs);
  g_atomic_ref_count_inc (&log->refs);
  session->log = log;
  session->dirty = mf_bitmap_new (log->n_pages);
  session->reported = mf_bitmap_new (log->n_pages);
  session->live_scans = TRUE;
  if (session->dirty == NULL || session->reported == NULL) {
    mf_error_from_errno (error, errno, "making a bitmap");
    session_free (session);
    return NULL;
  }
  if (!enter_session (log, session, error)) {
    session_free (session);
    return NULL;
  }

  /* Straight into the session's bits: nobody else has the session yet, and a page that is written meanwhile only sets one. */
  if (initial != NULL)
    initial (session->dirty, user_data);
  else
    mf_bitmap_set_run (session->dirty, all_pages (log));
  return session;
}

mf_dirty_session *
mf_dirty_session_ref (mf_dirty_session *session)
{
  g_atomic_ref_count_inc (&session->refs);
  return session;
}

void
mf_dirty_session_unref (mf_dirty_session *session)
{
  if (!g_atomic_ref_count_dec (&session->refs))
    return;
  leave_session (session->log, session);
  session_free (session);
}

void
mf_dirty_log_note (mf_dirty_log *log, mf_run run)
{
  g_rw_lock_reader_lock (&log->sessions_lock);
  for (guint i = 0; i < log->sessions->len; i++) {
    mf_dirty_session *session = g_ptr_array_index (log->sessions, i);

    mf_bitmap_set_run (session->dirty, run);
  }
  if (log->sessions->len > 0)
    mf_bitmap_set_run (log->heat[g_atomic_int_get (&log->gathering)], run);
  g_rw_lock_reader_unlock (&log->sessions_lock);
}

/* Closes the plane that gathers. A note() that still has the old index warms a page one scan too early or is forgotten by
 * the heat: that is a hint, and never decides what is sent. */
static void
shift_heat (mf_dirty_log *log)
{
  guint next = (g_atomic_int_get (&log->gathering) + 1) % G_N_ELEMENTS (log->heat);

  mf_bitmap_clear_run (log->heat[next], all_pages (log));
  g_atomic_int_set (&log->gathering, next);
}

gboolean
mf_dirty_log_collect (mf_dirty_log *log, uint64_t *found, GError **error)
{
  gboolean ok = TRUE;
  uint64_t n = 0;

  g_mutex_lock (&log->collect_lock);
  if (log->report != NULL) {
    if (log->tracker != NULL)
      ok = log->tracker->ops->collect (log->tracker, log->report, error);
    /* Also after an error: the tracker will not report again what it has reported before it failed. */
    n = mf_bitmap_count (log->report);
    if (n > 0) {
      g_rw_lock_reader_lock (&log->sessions_lock);
      for (guint i = 0; i < log->sessions->len; i++) {
        mf_dirty_session *session = g_ptr_array_index (log->sessions, i);

        mf_bitmap_or (session->dirty, log->report);
        mf_bitmap_or (session->reported, log->report);
      }
      g_rw_lock_reader_unlock (&log->sessions_lock);
      mf_bitmap_move (log->heat[g_atomic_int_get (&log->gathering)], log->report);
    }
    if (ok)
      shift_heat (log);
  }
  g_mutex_unlock (&log->collect_lock);

  if (found != NULL)
    *found = n;
  return ok;
}

uint8_t
mf_dirty_log_heat (mf_dirty_log *log, uint64_t page)
{
  const guint n = G_N_ELEMENTS (log->heat);
  guint gathering = g_atomic_int_get (&log->gathering);
  uint8_t heat = 0;

  for (guint age = 1; age <= HEAT_PLANES; age++)
    heat = (uint8_t) (heat << 1 | mf_bitmap_test (log->heat[(gathering + n - age) % n], page));
  return heat;
}

void
mf_dirty_session_set_live_scans (mf_dirty_session *session, gboolean on)
{
  g_atomic_int_set (&session->live_scans, on);
}

gboolean
mf_dirty_session_live_scans (mf_dirty_session *session)
{
  return g_atomic_int_get (&session->live_scans);
}

uint64_t
mf_dirty_session_repeat_union (mf_dirty_session *session)
{
  mf_dirty_log *log = session->log;
  uint64_t n;

  /* The lock: so that what is counted is what is moved. */
  g_mutex_lock (&log->collect_lock);
  n = mf_bitmap_count (session->reported);
  mf_bitmap_move (session->dirty, session->reported);
  g_mutex_unlock (&log->collect_lock);
  return n;
}

const mf_bitmap *
mf_dirty_session_bits (mf_dirty_session *session)
{
  return session->dirty;
}

uint64_t
mf_dirty_session_count (mf_dirty_session *session)
{
  return mf_bitmap_count (session->dirty);
}

mf_dirty_reader *
mf_dirty_reader_new (mf_dirty_session *session)
{
  mf_bitmap *unacknowledged = mf_bitmap_new (session->log->n_pages);
  mf_dirty_reader *reader;

  if (unacknowledged == NULL)
    return NULL;
  reader = g_new0 (mf_dirty_reader, 1);
  reader->session = mf_dirty_session_ref (session);
  reader->unacknowledged = unacknowledged;
  return reader;
}

void
mf_dirty_reader_free (mf_dirty_reader *reader)
{
  if (reader == NULL)
    return;
  /* Dirty before it is no longer unacknowledged: who takes the dirty set meanwhile must not find a page in neither. */
  mf_bitmap_or (reader->session->dirty, reader->unacknowledged);
  mf_bitmap_free (reader->unacknowledged);
  mf_dirty_session_unref (reader->session);
  g_free (reader);
}

void
mf_dirty_reader_take (mf_dirty_reader *reader, mf_run run)
{
  mf_bitmap_set_run (reader->unacknowledged, run);
  mf_bitmap_clear_run (reader->session->dirty, run);
}

void
mf_dirty_reader_acknowledge (mf_dirty_reader *reader)
{
  mf_bitmap_clear_run (reader->unacknowledged, all_pages (reader->session->log));
}
