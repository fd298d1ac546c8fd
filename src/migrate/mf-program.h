/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The program whose memory moves, as a migration sees it: QEMU, libvirt's QEMU, or anything that can be stopped and continued.
 *
 * A migration runs in a thread of its own and calls these one after the other; each blocks until it is done, the cancellable is
 * cancelled or its time is over. Only the vtable is here; src/hypervisor implements it. `clean_up` is called exactly once, last, whatever happened before, and
 * leaves the program as if nothing had been asked, but for where it runs.
 *
 * A program whose migration somebody else drives (libvirt) begins to send when it is told to by him: open_sender and await_sender are how the
 * source waits for that. Its other end is started by him too, so on the target the program comes later than the memory. All this is the case
 * where `open_sender` is not NULL.
 */
#include "region/mf-region.h"

G_BEGIN_DECLS

typedef struct _mf_program mf_program;

/* Which program it is, as its user names it. Each may be NULL. */
typedef struct {
  const char *kind;    /* NULL: a QEMU that memferry drives by itself; "libvirt": one whose migration libvirt drives */
  const char *control; /* its control socket (QMP); NULL: what was registered with its region */
  const char
      *state; /* libvirt: the socket at which its device state goes out (source), or where it listens for it (target) */
} mf_program_choice;

/* What is known of the program, filled by check. */
typedef struct {
  gboolean
      drains_for_scans; /* a disk uses O_DIRECT: scans are exact only while the program stands (pause/resume around them) */
  gboolean
      switchover_ack; /* the receiving program acknowledges the head of the device state, and the sending one does not stop before */
  gboolean
      return_path; /* source: the program doesn't end its migration before the receiving one has said, with a last message on the return path, that it has loaded */
  gboolean is_running; /* FALSE: it was paused by its user, and is to stay so on the other side */
  char *description;   /* for people: "QEMU 7.2.22, pid 4711" (owned by this struct's holder, g_free) */
  char *
      signature; /* what must be equal on both sides (machine type, RAM size, ...), one "key=value" a line; g_free. Differences are reported by name */
} mf_program_info;

void mf_program_info_clear (mf_program_info *info);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (mf_program_info, mf_program_info_clear)

typedef struct {
  /* --- both sides --- */
  /* Connects and refuses what can't work, with the reason: RAM that isn't this region as a shared named file, another size, devices whose
   * writes nobody sees (VFIO, vhost-user), a program that isn't running (source) or isn't waiting for a migration (target). Changes nothing. */
  gboolean (*check) (mf_program *program, gboolean is_source, mf_program_info *info, GCancellable *cancellable,
                     GError **error);
  /* Sets what the migration needs (capabilities). */
  gboolean (*prepare) (mf_program *program, gboolean is_source, GCancellable *cancellable, GError **error);

  /* --- source --- */
  /* Stops the program with its I/O drained, and lets it run again. `limit_usec`: pause fails with MF_ERROR_TIMED_OUT when the program did not stand by then; it is
   * then continued as soon as it answers. resume undoes pause; `stood_usec` (may be NULL) is how long it stood. */
  gboolean (*pause) (mf_program *program, gint64 limit_usec, GCancellable *cancellable, GError **error);
  gboolean (*resume) (mf_program *program, gint64 *stood_usec, GError **error);
  /* Begins to write the device state to `state_fd` (a connected socket, taken over), and returns when the program stands for good: memory doesn't change any more. `stopped_usec`: monotonic time at which
   * it stopped. With switchover_ack the relay must already forward the head. `reader_fd` (stays the caller's; -1: none) is the other end of
   * `state_fd`: the program is given a copy to keep until clean_up, so that its stream doesn't break when this service dies, which would let it go on after
   * it was released. */
  gboolean (*stop_and_send) (mf_program *program, int state_fd, int reader_fd, gint64 *stopped_usec,
                             GCancellable *cancellable, GError **error);
  /* --- source, a program that somebody else drives (all of these or none) --- */
  /* From here on the program may come. */
  gboolean (*open_sender) (mf_program *program, GCancellable *cancellable, GError **error);
  /* `on`: its other end is about to be started, so that it may be told to migrate: its memory is left out of what it sends. Not before, and no more when `on` is FALSE: till then
   * whoever saves it gets all of it. Before await_sender has returned a socket. */
  gboolean (*arm) (mf_program *program, gboolean on, GCancellable *cancellable, GError **error);
  /* Waits until it does: the socket to which it writes its device state (the caller's), or -1: MF_ERROR_TIMED_OUT when it has not by `deadline_usec`, and
   * it may be called again; MF_ERROR_PROGRAM when it is being saved or moved to somewhere else while it is armed, or comes when it is not. What `info` says of is_running and switchover_ack is
   * renewed. stop_and_send is called afterwards, with `state_fd` -1. */
  int (*await_sender) (mf_program *program, gint64 deadline_usec, mf_program_info *info, GCancellable *cancellable,
                       GError **error);
  /* Right before it is written down that the other side has the program: FALSE when who drives it has let it go on here meanwhile. `reader_fd` is
   * what it is in stop_and_send, and is given to the program here instead. */
  gboolean (*commit) (mf_program *program, int reader_fd, GError **error);
  /* After that, before guard() is called the first time: whether it has run since commit(); guard() returns at once then, or when it has to be asked whose it is. `is_known`: not, if the program gives
   * no answer. */
  gboolean (*came_back) (mf_program *program, gboolean *is_known);
  /* Afterwards, in a thread of its own; until it returns nothing else is called. Waits until who drives the program lets it run here again, stops it at once, and returns
   * FALSE with MF_ERROR_PROGRAM; or with MF_ERROR_NOT_FOUND when the program has ended, or MF_ERROR_CANCELLED. */
  gboolean (*guard) (mf_program *program, GCancellable *cancellable, GError **error);

  /* Lets the rest of the device state out. After this returned TRUE the program here doesn't go on by itself. */
  gboolean (*release) (mf_program *program, GCancellable *cancellable, GError **error);
  /* The device state is out completely (after release); errors: it wasn't. */
  gboolean (*await_sent) (mf_program *program, GCancellable *cancellable, GError **error);
  /* Whatever was begun is undone; the program runs again if it ran before. Allowed at any time until the other side may run. The relay's streams are closed before. Not cancellable. */
  gboolean (*roll_back) (mf_program *program, GError **error);

  /* --- target --- */
  /* A socket to which the device state is to be written; may be called before anything is there to write. */
  int (*receive) (mf_program *program, GCancellable *cancellable, GError **error);
  /* Returns when the program has loaded the state and runs (or, if it was paused on the source, stands). `running_usec`: monotonic time of it. */
  gboolean (*await_running) (mf_program *program, gint64 *running_usec, GCancellable *cancellable, GError **error);

  /* A program that somebody else drives: it must not run here any more. FALSE (MF_ERROR_BUSY) when it does already, or that can't be ruled out.
   * await_running has returned. */
  gboolean (*withdraw) (mf_program *program, GError **error);

  /* --- both sides --- */
  void (*clean_up) (mf_program *program);
  void (*free) (mf_program *program);
} mf_program_ops;

struct _mf_program {
  const mf_program_ops *ops;
  gboolean stays_paused; /* target: it was paused on the source by its user, and stays so; set before receive */
};

G_END_DECLS
