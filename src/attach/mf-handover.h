/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The hand-over socket: where a program's preload library gives its userfaultfds and mappings to the service, and gives them again whenever
 * the service comes back. docs/protocol.md has the messages.
 *
 * Runs in the GMainContext that was the default when it was made; never blocks it: a hand-over is a few small messages handled by a
 * GSocketService-like source with a deadline each.
 */
#include "attach/mf-userfault.h"

G_BEGIN_DECLS

typedef struct _MfHandover MfHandover;

typedef struct {
  /* A program maps the file of which `fd` is a descriptor: which region is that? (transfer full) NULL with an error: none. The library proves with
   * the descriptor, open for reading and writing, that the program may have it. */
  MfRegion *(*find_region) (int fd, pid_t pid, GError **error, gpointer user_data);
  /* Handed over: keep `userfault` (a reference is passed). `again`: it comes from a program that had been handed over before. The program stands still
   * until this returns: where pages are missing, mf_userfault_serve() is called in here. */
  void (*attached) (MfUserfault *userfault, gboolean again, gpointer user_data);
  /* The program ended, or let the region go. */
  void (*detached) (MfUserfault *userfault, gpointer user_data);
} mf_handover_callbacks;

/* Listens on `path` (a stale socket is replaced). The descriptor of /dev/userfaultfd is opened here once. */
MfHandover *mf_handover_new (const char *path, const mf_handover_callbacks *callbacks, gpointer user_data,
                             GError **error);
/* The same at a socket that listens there already (not blocking; taken over, also when it fails), whose file is somebody else's: the service manager's. */
MfHandover *mf_handover_new_on (int listen_fd, const char *path, const mf_handover_callbacks *callbacks,
                                gpointer user_data, GError **error);
/* The programs stay attached on their side, and hand over to whoever listens next; `detached` is not called. */
void mf_handover_free (MfHandover *handover);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (MfHandover, mf_handover_free)

G_END_DECLS
