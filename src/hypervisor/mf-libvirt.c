/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hypervisor/mf-libvirt-private.h"

#include <unistd.h>

#define CLEAN_UP_CONNECT_USEC (2 * G_USEC_PER_SEC)

static gboolean
check (mf_program *program, gboolean is_source, mf_program_info *info, GCancellable *cancellable, GError **error)
{
  mf_qemu *qemu = mf_libvirt_qemu (program);
  g_autoptr (GError) failure = NULL;

  *info = (mf_program_info){ 0 };
  /* A QEMU that is just being started: not an answer, and not a refusal either. */
  if (!is_source && !mf_qemu_connect (qemu, MF_QEMU_COMMAND_USEC, cancellable, &failure)) {
    g_set_error (error, MF_ERROR,
                 g_error_matches (failure, MF_ERROR, MF_ERROR_PROGRAM) ? MF_ERROR_NOT_FOUND : (MfError) failure->code,
                 "%s", failure->message);
    return FALSE;
  }
  return mf_qemu_check (program, is_source, info, cancellable, error);
}

static gboolean
prepare (mf_program *program, gboolean is_source, GCancellable *cancellable, GError **error)
{
  /* The source's is set when libvirt may begin. */
  return is_source || mf_libvirt_prepare_target (mf_libvirt_of (program), cancellable, error);
}

static gboolean
roll_back (mf_program *program, GError **error)
{
  mf_libvirt *libvirt = mf_libvirt_of (program);

  /* libvirt ends a target's QEMU itself. */
  if (libvirt->qemu.was_checked && !libvirt->qemu.is_source)
    return TRUE;
  return mf_libvirt_roll_back_source (libvirt, error);
}

static void
clean_up (mf_program *program)
{
  mf_libvirt *libvirt = mf_libvirt_of (program);

  mf_libvirt_close_sender (libvirt);
  if (libvirt->is_committed)
    mf_libvirt_watch_to_the_end (libvirt);
  /* The monitor is let go between times. */
  if (libvirt->qemu.qmp == NULL && g_hash_table_contains (libvirt->qemu.changed, "x-ignore-shared"))
    mf_qemu_connect (&libvirt->qemu, CLEAN_UP_CONNECT_USEC, NULL, NULL);
  mf_qemu_clean_up (program);
}

static void
free_program (mf_program *program)
{
  mf_libvirt_close_sender (mf_libvirt_of (program));
  mf_qemu_clear (mf_libvirt_qemu (program));
  g_free (program);
}

static const mf_program_ops ops = {
  .check = check,
  .prepare = prepare,
  .pause = mf_qemu_pause,
  .resume = mf_qemu_resume,
  .stop_and_send = mf_libvirt_stop_and_send,
  .open_sender = mf_libvirt_open_sender,
  .arm = mf_libvirt_arm,
  .await_sender = mf_libvirt_await_sender,
  .commit = mf_libvirt_commit,
  .came_back = mf_libvirt_came_back,
  .guard = mf_libvirt_guard,
  .roll_back = roll_back,
  .receive = mf_libvirt_receive,
  .await_running = mf_libvirt_await_running,
  .withdraw = mf_libvirt_withdraw,
  .clean_up = clean_up,
  .free = free_program,
};

mf_program *
mf_libvirt_new (const char *qmp_path, const char *state_path, MfRegion *const *regions, guint n_regions)
{
  mf_libvirt *libvirt = g_new0 (mf_libvirt, 1);

  mf_qemu_init (&libvirt->qemu, &ops, qmp_path, regions, n_regions);
  libvirt->qemu.state_path = g_strdup (state_path);
  libvirt->listen_fd = -1;
  return &libvirt->qemu.base;
}
