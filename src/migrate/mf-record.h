/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The record of a migration: who may run the program, written down before it is answered (invariant 5).
 *
 * One key file a session beside the stores, ".session-<id>", replaced as a whole (a new file, fsync, rename, fsync of the folder), so that all regions of
 * a session change hands in one step. A region without a record is here and nowhere else.
 */
#include "core/mf-preface.h"
#include "mf-error.h"

G_BEGIN_DECLS

typedef enum {
  MF_PHASE_INCOMING = 1, /* target, before the switchover: the stores hold no whole state */
  MF_PHASE_TAKEN = 2,    /* target: ours; what is missing is still at the peer */
  MF_PHASE_LEAVING = 3,  /* source, before the switchover: ours */
  MF_PHASE_HANDED = 4,   /* source: the peer's; it may still read from here */
  MF_PHASE_AWAY = 5,     /* source: the peer's, and it has everything */
  /* Target, after TAKEN, when the session has ended here and its source may not know yet. These name no region: it is free. */
  MF_PHASE_UNDONE = 6,   /* the program did not and will not run here */
  MF_PHASE_COMPLETE = 7, /* it runs here, and nothing is missing */
} mf_record_phase;

typedef struct {
  uint8_t session[MF_SESSION_BYTES];
  mf_record_phase phase;
  gboolean running;  /* target: the program has been seen running after the switchover */
  char **regions;    /* names, NULL-terminated */
  char *peer;        /* source: the peer's address; target: who it said it is */
  guint64 bandwidth; /* target: bytes a second for bulk data that were asked for; 0: no limit */
  gboolean
      target_dials; /* the target made the streams, and makes them again: `peer` is an address on the target, and a name on the source */
  /* The program: see mf_program_choice. Each may be NULL. */
  char *program;
  char *control;
  char *state;
} mf_record;

/* A new session's id, unlike any other. */
void mf_record_make_session (uint8_t session[MF_SESSION_BYTES]);
mf_record *mf_record_new (const uint8_t session[MF_SESSION_BYTES], const char *const *regions, const char *peer,
                          const char *control);
void mf_record_free (mf_record *record);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_record, mf_record_free)

/* Writes `record` with `phase` into `dir`; on success, and only then, record->phase is `phase`. */
gboolean mf_record_write (mf_record *record, const char *dir, mf_record_phase phase, GError **error);
/* Takes the record away. Harmless when it isn't there. */
void mf_record_remove (mf_record *record, const char *dir);
/* All records in `dir`. One that can't be read is reported by g_warning and left alone: it may say that the program runs elsewhere.
 * (transfer full) (element-type mf_record) */
GPtrArray *mf_record_load_all (const char *dir, GError **error);

/* The session's id in hexadecimal. */
char *mf_session_text (const uint8_t session[MF_SESSION_BYTES]);

G_END_DECLS
