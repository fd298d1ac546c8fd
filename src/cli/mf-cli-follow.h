/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Follows a migration until it has ended, showing its progress: a line on a terminal that is written over, or JSON lines.
 */
#include "mf-dbus.h"
#include "mf-error.h"

G_BEGIN_DECLS

/* Runs the default main context meanwhile. ^C (and SIGTERM) cancels the job and waits for it to be undone; past the switchover
 * it can't be, and the job is left to go on by itself; a second ^C leaves at once. FALSE: the job's error, MF_ERROR_CANCELLED, MF_ERROR_BUSY (left to go on), or
 * MF_ERROR_CONNECTION (the service has ended). */
gboolean mf_cli_follow (MfDbusJob1 *job, gboolean as_json, GError **error);

/* The same; `changed` is called when it begins, and with every change of the job. */
typedef void (*mf_cli_follow_changed) (MfDbusJob1 *job, gpointer user_data);
gboolean mf_cli_follow_with (MfDbusJob1 *job, gboolean as_json, mf_cli_follow_changed changed, gpointer user_data,
                             GError **error);

G_END_DECLS
