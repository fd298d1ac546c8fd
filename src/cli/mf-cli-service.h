/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The command's side of the service's socket. Blocking; errors are MF_ERROR with a line that can be shown as it is.
 */
#include "mf-dbus.h"
#include "mf-error.h"

G_BEGIN_DECLS

/* How long the service may take to answer. It only ever begins long work, it never waits for it. */
#define MF_CLI_TIMEOUT_MSEC (25 * 1000)

/* Connects to the service at the UNIX socket `path`. (transfer full) */
GDBusConnection *mf_cli_connect (const char *path, GError **error);
GDBusConnection *mf_cli_connect_within (const char *path, guint timeout_msec, GError **error);

/* The one that makes regions and begins migrations. (transfer full) */
MfDbusManager1 *mf_cli_manager (GDBusConnection *connection, GError **error);

/* All objects of the service with their properties, kept up to date in the main loop. (transfer full) */
GDBusObjectManager *mf_cli_objects (GDBusConnection *connection, GError **error);

/* What a call of the service failed with, the D-Bus part of the message removed. Returns FALSE, so that a caller can write
 * `return mf_cli_take_error (error, g_steal_pointer (&remote));`. */
gboolean mf_cli_take_error (GError **error, GError *remote);

/* The regions, by name, or the jobs, by number; (element-type MfDbusRegion1, MfDbusJob1) (transfer full). */
GPtrArray *mf_cli_regions (GDBusObjectManager *objects);
GPtrArray *mf_cli_jobs (GDBusObjectManager *objects);

/* MF_ERROR_NOT_FOUND when there is none of that name. (transfer full) */
MfDbusRegion1 *mf_cli_find_region (GDBusObjectManager *objects, const char *name, GError **error);
/* `number` is text from a command line. (transfer full) */
MfDbusJob1 *mf_cli_find_job (GDBusObjectManager *objects, const char *number, GError **error);

G_END_DECLS
