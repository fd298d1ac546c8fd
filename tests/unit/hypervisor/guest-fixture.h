/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A guest of 64 MiB: a region on tmpfs, a QEMU that has it as its RAM, and the driver for it. Its disk holds one sector that
 * counts for ever in a word of RAM: a guest that runs is one that counts.
 */
#include "hypervisor/mf-qemu.h"
#include "hypervisor/mf-qmp.h"
#include "qemu-fixture.h"

#define GUEST_BYTES    (64u << 20)
#define COUNTER_OFFSET 0x8000u

typedef struct {
  char *folder; /* on tmpfs */
  char *ram_path;
  MfRegion *region;
  Qemu *qemu;
  mf_qmp *witness; /* another monitor of the same QEMU, so that the test sees for itself */
  mf_program *program;
  mf_program_info info; /* of the last check that succeeded */
} Guest;

typedef struct {
  const char *backend;     /* "-object" of the RAM: %s is the file; NULL: as it has to be */
  const char *const *args; /* nullable: further ones */
  gboolean is_target;      /* -incoming defer */
} GuestOptions;

/* Only the region, with its file. */
Guest *guest_new_region (void);
void guest_start (Guest *guest, const GuestOptions *options);
/* The usual one. */
Guest *guest_new (const GuestOptions *options);
void guest_free (Guest *guest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (Guest, guest_free)

/* Another driver, as that of a service that has just started. The former one is freed without having done anything more. */
void guest_renew_program (Guest *guest);
/* With clean_up before. */
void guest_end_program (Guest *guest);

void guest_assert_check (Guest *guest, gboolean is_source);
void guest_assert_refused (Guest *guest, gboolean is_source, int code, const char *part);
void guest_assert_prepare (Guest *guest, gboolean is_source);
/* Returns our end of the state socket; the guest stands. */
int guest_assert_stop_and_send (Guest *guest, gint64 *stopped_usec);
void guest_assert_roll_back (Guest *guest);

/* As the witness sees it. (transfer full) */
char *guest_run_state (Guest *guest);
void guest_await_run_state (Guest *guest, const char *state);
gboolean guest_capability (Guest *guest, const char *name);
/* FALSE when this QEMU has no such capability. */
gboolean guest_set_capability (Guest *guest, const char *name, gboolean on);
gint64 guest_parameter (Guest *guest, const char *name);
void guest_do (Guest *guest, const char *command);
/* Everything is as before any migration. */
void guest_assert_untouched (Guest *guest);

guint32 guest_counter (Guest *guest);
/* Waits until it counts (further). */
void guest_await_counting (Guest *guest);
/* It doesn't count any more, for as long as one looks. */
void guest_assert_not_counting (Guest *guest);
void guest_copy_ram (Guest *from, Guest *to);
