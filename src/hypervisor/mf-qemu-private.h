/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The QEMU driver's own state, shared by its files: mf-qemu-check.c (what can't work), mf-qemu-settings.c (capabilities and parameters),
 * mf-qemu-source.c, mf-qemu-target.c. One thread at a time.
 */
#include "hypervisor/mf-qemu.h"
#include "hypervisor/mf-qmp.h"

/* For commands that QEMU answers at once unless it hangs. */
#define MF_QEMU_COMMAND_USEC (10 * G_USEC_PER_SEC)

typedef struct {
  mf_program base;
  char *qmp_path;
  MfRegion **regions;
  guint n_regions;

  char *state_path; /* libvirt drives it: where its device state goes in or out; NULL: memferry does */

  mf_qmp *qmp; /* NULL before it is needed */
  gboolean is_source;
  gboolean was_checked; /* this object, and no former service, knows what the guest was like before */
  gboolean was_running; /* ... and that it ran */

  /* --- settings --- */
  GHashTable *capabilities; /* of char * to GINT_TO_POINTER (on): those that this QEMU has, as they were */
  GHashTable *changed;      /* of char * to GINT_TO_POINTER (what they were) */
  gint64 old_max_bandwidth, old_downtime_limit; /* -1: not changed */

  /* --- source --- */
  gboolean paused;     /* by pause, to be undone */
  gint64 paused_usec;  /* since when */
  gboolean begun;      /* `migrate` was sent */
  gboolean has_reader; /* QEMU keeps the other end of its stream */
  gboolean sent;       /* and QEMU has written everything */

  /* --- target --- */
  int incoming_fd;  /* QEMU's end of the state socket, which it doesn't have yet; -1 */
  gboolean loading; /* QEMU has begun to read the device state */
} mf_qemu;

static inline mf_qemu *
mf_qemu_of (mf_program *program)
{
  return (mf_qemu *) program;
}

/* --- mf-qemu.c --- */
void mf_qemu_init (mf_qemu *qemu, const mf_program_ops *ops, const char *qmp_path, MfRegion *const *regions,
                   guint n_regions);
/* Frees what it has, not itself. */
void mf_qemu_clear (mf_qemu *qemu);
/* Takes settings back and lets the monitor go. */
void mf_qemu_clean_up (mf_program *program);
/* Connects if that wasn't done yet. */
gboolean mf_qemu_connect (mf_qemu *qemu, gint64 timeout_usec, GCancellable *cancellable, GError **error);
/* "running", "paused", ...; (transfer full) */
char *mf_qemu_run_state (mf_qemu *qemu, gboolean *is_running, gint64 timeout_usec, GCancellable *cancellable,
                         GError **error);
/* The status of QEMU's migration, "none" when there was none yet; its error, if it has one. (transfer full) */
char *mf_qemu_migration_status (mf_qemu *qemu, char **reason, GError **error);
/* Whether a migration with that status still does something. */
gboolean mf_qemu_status_is_active (const char *status);
/* Waits for a MIGRATION event with one of `statuses` (NULL-terminated), or, where `or_resume`, for RESUME. (transfer full) */
mf_qmp_event *mf_qemu_await (mf_qemu *qemu, const char *const *statuses, gboolean or_resume, gint64 deadline_usec,
                             GCancellable *cancellable, GError **error);
/* Gives QEMU a descriptor under the name that MF_QEMU_FD_URI has. */
gboolean mf_qemu_give_fd (mf_qemu *qemu, const char *name, int fd, GCancellable *cancellable, GError **error);
#define MF_QEMU_FD_NAME     "memferry"
#define MF_QEMU_READER_NAME "memferry-reader"
#define MF_QEMU_FD_URI      "fd:" MF_QEMU_FD_NAME

/* --- mf-qemu-check.c, mf-qemu-memory.c, mf-qemu-devices.c --- */
gboolean mf_qemu_check (mf_program *program, gboolean is_source, mf_program_info *info, GCancellable *cancellable,
                        GError **error);
/* Each adds its lines to the signature. */
gboolean mf_qemu_check_memory (mf_qemu *qemu, GString *signature, GCancellable *cancellable, GError **error);
gboolean mf_qemu_check_devices (mf_qemu *qemu, GString *signature, GCancellable *cancellable, GError **error);
/* Sets `direct` when a disk, or something else, does I/O to and from guest memory behind the CPU's back that only a stop waits for. */
gboolean mf_qemu_check_disks (mf_qemu *qemu, gboolean *direct, GCancellable *cancellable, GError **error);
/* A property of a QOM object: NULL with error, or a node (transfer full). */
JsonNode *mf_qemu_property (mf_qemu *qemu, const char *path, const char *property, GCancellable *cancellable,
                            GError **error);
/* The children of a QOM object: names to types ("child<" and ">" taken away); NULL with error. Ordered by name. (transfer full) */
typedef struct {
  char *name, *type;
} mf_qemu_child;
GArray *mf_qemu_children (mf_qemu *qemu, const char *path, GCancellable *cancellable, GError **error);

/* --- mf-qemu-settings.c --- */
gboolean mf_qemu_read_settings (mf_qemu *qemu, GCancellable *cancellable, GError **error);
gboolean mf_qemu_has_capability (mf_qemu *qemu, const char *name, gboolean *is_on);
gboolean mf_qemu_prepare (mf_program *program, gboolean is_source, GCancellable *cancellable, GError **error);
/* What a former service, that died in the middle, has left in QEMU. */
typedef enum {
  MF_QEMU_LEFT_NOTHING = 0,
  MF_QEMU_LEFT_RUNNING = 1, /* a migration from here of a guest that ran */
  MF_QEMU_LEFT_PAUSED = 2,  /* ... that its user had paused */
  MF_QEMU_LEFT_TARGET = 3,  /* a migration to here */
} mf_qemu_leftover;
gboolean mf_qemu_find_leftover (mf_qemu *qemu, mf_qemu_leftover *leftover, GError **error);
void mf_qemu_restore_settings (mf_qemu *qemu);
/* Sets one capability, and remembers to take it back. */
gboolean mf_qemu_set_capability (mf_qemu *qemu, const char *name, gboolean on, GCancellable *cancellable,
                                 GError **error);

/* --- mf-qemu-source.c --- */
gboolean mf_qemu_pause (mf_program *program, gint64 limit_usec, GCancellable *cancellable, GError **error);
gboolean mf_qemu_resume (mf_program *program, gint64 *stood_usec, GError **error);
gboolean mf_qemu_stop_and_send (mf_program *program, int state_fd, int reader_fd, gint64 *stopped_usec,
                                GCancellable *cancellable, GError **error);
gboolean mf_qemu_release (mf_program *program, GCancellable *cancellable, GError **error);
gboolean mf_qemu_await_sent (mf_program *program, GCancellable *cancellable, GError **error);
gboolean mf_qemu_roll_back (mf_program *program, GError **error);
/* A step of each: what is under way is asked to end, and then the guest to run. Both wait until it does so. */
gboolean mf_qemu_cancel_migration (mf_qemu *qemu, gint64 deadline_usec, GError **error);
gboolean mf_qemu_make_run (mf_qemu *qemu, gint64 deadline_usec, GError **error);
/* Waits until the guest stands, its I/O drained, and QEMU waits for its switchover. */
gboolean mf_qemu_await_standing (mf_qemu *qemu, gint64 deadline_usec, gint64 *stopped_usec, GCancellable *cancellable,
                                 GError **error);

/* --- mf-qemu-target.c --- */
int mf_qemu_receive (mf_program *program, GCancellable *cancellable, GError **error);
gboolean mf_qemu_loading_failed (mf_qemu *qemu, GError **error);
gboolean mf_qemu_await_running (mf_program *program, gint64 *running_usec, GCancellable *cancellable, GError **error);
gboolean mf_qemu_roll_back_target (mf_qemu *qemu, GError **error);
