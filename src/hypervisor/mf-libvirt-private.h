/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The state of the driver of libvirt's QEMUs: the QEMU driver's, and what it has besides. mf-libvirt-source.c, mf-libvirt-target.c.
 */
#include "hypervisor/mf-libvirt.h"
#include "hypervisor/mf-qemu-private.h"

typedef struct {
  mf_qemu qemu;

  /* --- source --- */
  int listen_fd;          /* at state_path; -1 */
  gboolean is_armed;      /* the guest's memory is left out of what it sends */
  gboolean was_connected; /* libvirt's migration has begun */
  gboolean is_committed;  /* the other side has the guest: here it must not run */
  gboolean came_back;     /* let run here after that, or about to be: guard has to see to it */
  gboolean was_stopped;   /* by guard */

  /* --- target --- */
  gboolean has_run; /* seen here */
} mf_libvirt;

static inline mf_libvirt *
mf_libvirt_of (mf_program *program)
{
  return (mf_libvirt *) program;
}

static inline mf_qemu *
mf_libvirt_qemu (mf_program *program)
{
  return &mf_libvirt_of (program)->qemu;
}

/* --- mf-libvirt-source.c --- */
gboolean mf_libvirt_open_sender (mf_program *program, GCancellable *cancellable, GError **error);
gboolean mf_libvirt_arm (mf_program *program, gboolean on, GCancellable *cancellable, GError **error);
int mf_libvirt_await_sender (mf_program *program, gint64 deadline_usec, mf_program_info *info,
                             GCancellable *cancellable, GError **error);
void mf_libvirt_close_sender (mf_libvirt *libvirt);
gboolean mf_libvirt_stop_and_send (mf_program *program, int state_fd, int reader_fd, gint64 *stopped_usec,
                                   GCancellable *cancellable, GError **error);
gboolean mf_libvirt_commit (mf_program *program, int reader_fd, GError **error);
gboolean mf_libvirt_came_back (mf_program *program, gboolean *is_known);
gboolean mf_libvirt_guard (mf_program *program, GCancellable *cancellable, GError **error);
gboolean mf_libvirt_roll_back_source (mf_libvirt *libvirt, GError **error);
/* The guest has moved, and this QEMU is about to be ended by libvirt: until then it is watched. Takes the monitor. */
void mf_libvirt_watch_to_the_end (mf_libvirt *libvirt);

/* --- mf-libvirt-target.c --- */
gboolean mf_libvirt_prepare_target (mf_libvirt *libvirt, GCancellable *cancellable, GError **error);
int mf_libvirt_receive (mf_program *program, GCancellable *cancellable, GError **error);
gboolean mf_libvirt_await_running (mf_program *program, gint64 *running_usec, GCancellable *cancellable,
                                   GError **error);
gboolean mf_libvirt_withdraw (mf_program *program, GError **error);
