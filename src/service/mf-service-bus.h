/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The service's socket: peer-to-peer D-Bus for as many clients as come. Every client sees the same objects under /org/memferry.
 *
 * Who may use it: root, the user that the service runs as, and the members of the socket's group. The kernel keeps others from the socket
 * by its mode (0660), and the credentials of who connected are checked again.
 *
 * Everything is called, and calls back, in the thread of the main context.
 */
#include "mf-error.h"
#include <gio/gio.h>

G_BEGIN_DECLS

#define MF_SERVICE_PATH "/org/memferry"

typedef struct _MfServiceBus MfServiceBus;

/* A client is gone. */
typedef void (*mf_service_bus_gone) (GDBusConnection *client, gpointer user_data);

/* Makes the socket; a stale one is replaced, so the caller holds the lock of its folder. Or `listen_fd` is one that listens there already (taken over, also when it fails)
 * and is left there at the end; -1: none. `group`: a group's name, or NULL: that of a socket that was there already, else that of the process. Nobody
 * is answered before mf_service_bus_start(). */
MfServiceBus *mf_service_bus_new (const char *path, int listen_fd, const char *group, mf_service_bus_gone gone,
                                  gpointer user_data, GError **error);
/* Whose members may use it. */
gid_t mf_service_bus_group (MfServiceBus *bus);
void mf_service_bus_start (MfServiceBus *bus);
/* Closes the socket and all clients' connections. */
void mf_service_bus_free (MfServiceBus *bus);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (MfServiceBus, mf_service_bus_free)

/* Shows the object, at its path, to all clients that are there and that come; a reference is taken. */
void mf_service_bus_export (MfServiceBus *bus, GDBusObjectSkeleton *object);
void mf_service_bus_unexport (MfServiceBus *bus, GDBusObjectSkeleton *object);

G_END_DECLS
