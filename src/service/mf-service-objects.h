/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The objects that the service shows, on any number of connections at once, with org.freedesktop.DBus.ObjectManager at their root.
 *
 * GLib's own GDBusObjectManagerServer can't be used: it serves one connection, and two of them can't share an object.
 */
#include "mf-error.h"
#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _MfServiceObjects MfServiceObjects;

/* `root`: the path at which objects are listed. */
MfServiceObjects *mf_service_objects_new (const char *root);
/* Takes all objects from all connections. */
void mf_service_objects_free (MfServiceObjects *objects);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (MfServiceObjects, mf_service_objects_free)

/* Shows the object, at its path, on all connections that there are and that come; a reference is taken. Its interfaces must be complete. */
void mf_service_objects_add (MfServiceObjects *objects, GDBusObjectSkeleton *object);
void mf_service_objects_remove (MfServiceObjects *objects, GDBusObjectSkeleton *object);

/* Shows all objects on one more connection, or no longer; a reference is taken. */
void mf_service_objects_connect (MfServiceObjects *objects, GDBusConnection *connection);
void mf_service_objects_disconnect (MfServiceObjects *objects, GDBusConnection *connection);

G_END_DECLS
