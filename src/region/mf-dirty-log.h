/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The dirty log of a region: who still has to read which page.
 *
 * A *tracking session* (one migration, or one plain NBD client that negotiated memferry:dirty) has a bit a page: dirty from
 * the page's last write until the session reads it. A *reader* is one connection of a session: what it has read and not acknowledged is
 * dirty again when it goes away without acknowledging.
 *
 * Writes come from two sides: note() (an attachment or the NBD server saw one), and the tracker, which collect() asks. Order
 * that makes invariant 3 hold: collect() re-protects before it reports; take() clears the bit before the caller reads the page.
 *
 * Threads: every function from any thread. collect() calls are serialised by a lock of the log, held during the tracker's scan and nothing
 * else; the bits are atomic.
 */
#include "region/mf-tracker.h"

G_BEGIN_DECLS

typedef struct _mf_dirty_log mf_dirty_log;
typedef struct _mf_dirty_session mf_dirty_session;
typedef struct _mf_dirty_reader mf_dirty_reader;

/* NULL: errno is ENOMEM or EOVERFLOW. */
mf_dirty_log *mf_dirty_log_new (uint64_t n_pages);
/* The owner lets go of it; sessions that are still open keep it alive. */
void mf_dirty_log_free (mf_dirty_log *log);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_dirty_log, mf_dirty_log_free)

/* The tracker is started when the first session opens and stopped when the last one is gone. NULL: only note() reports. Takes ownership, and
 * the former tracker is stopped and freed; on an error neither. MF_ERROR_BUSY while sessions are open. */
gboolean mf_dirty_log_set_tracker (mf_dirty_log *log, mf_tracker *tracker, GError **error);

/* Opens a session in which the pages of `initial` (NULL: all) are dirty. To be exact, `initial` is looked up after the tracker started: so it is a callback,
 * called once when tracking is on, which sets bits in `dirty`; bits that are set there already (written since) stay. A callback of NULL: every page. */
typedef void (*mf_dirty_initial) (mf_bitmap *dirty, gpointer user_data);
mf_dirty_session *mf_dirty_session_open (mf_dirty_log *log, mf_dirty_initial initial, gpointer user_data,
                                         GError **error);
mf_dirty_session *mf_dirty_session_ref (mf_dirty_session *session);
void mf_dirty_session_unref (mf_dirty_session *session);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_dirty_session, mf_dirty_session_unref)

/* Pages of `run` were written: dirty in every session. */
void mf_dirty_log_note (mf_dirty_log *log, mf_run run);
/* Asks the tracker, and notes what it reports. `found` (may be NULL): how many pages. After an error, too, what
 * was reported before it is noted. Without a session nothing is watched, and nothing found. */
gboolean mf_dirty_log_collect (mf_dirty_log *log, uint64_t *found, GError **error);

/* The heat of a page: bit 3 = written before the latest collect, bit 2 = the one before that, ...; so 0 (cold) to 15, a larger
 * number is hotter. */
uint8_t mf_dirty_log_heat (mf_dirty_log *log, uint64_t page);

/* While live scans are off, a BLOCK_STATUS of memferry:dirty shows what is known without asking the tracker (the owner decides when to collect: with
 * O_DIRECT disks only while the guest stands). On by default. */
void mf_dirty_session_set_live_scans (mf_dirty_session *session, gboolean on);
gboolean mf_dirty_session_live_scans (mf_dirty_session *session);
/* Every page that a collect has reported since the session opened or this was last called becomes dirty again: the way out for reads in flight
 * across a scan (a page in flight is reported by the scan it crosses; only its data comes later). Returns how many. */
uint64_t mf_dirty_session_repeat_union (mf_dirty_session *session);

const mf_bitmap *mf_dirty_session_bits (mf_dirty_session *session);
uint64_t mf_dirty_session_count (mf_dirty_session *session);

/* A reader keeps its session open. NULL: errno is ENOMEM. */
mf_dirty_reader *mf_dirty_reader_new (mf_dirty_session *session);
/* The connection is gone: what was read and not acknowledged is dirty again. */
void mf_dirty_reader_free (mf_dirty_reader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_dirty_reader, mf_dirty_reader_free)
/* To be called before the pages of `run` are read for sending. */
void mf_dirty_reader_take (mf_dirty_reader *reader, mf_run run);
/* A FLUSH: all that this reader took before has arrived. Not while a take() of the same reader is under way in another thread. */
void mf_dirty_reader_acknowledge (mf_dirty_reader *reader);

G_END_DECLS
