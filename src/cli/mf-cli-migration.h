/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the commands that begin a migration share: words of the line as options of the service, and the job that it answers with.
 */
#include "mf-dbus.h"
#include "mf-error.h"

G_BEGIN_DECLS

/* Adds the option `key`, in microseconds or bytes a second, from its text on the command line; NULL: it was not said. FALSE: the text is wrong, and the error
 * begins with the option's name. */
gboolean mf_cli_add_msec (GVariantDict *options, const char *key, const char *text, GError **error);
gboolean mf_cli_add_rate (GVariantDict *options, const char *key, const char *text, GError **error);

/* The job at `path` of the service. (transfer full) */
MfDbusJob1 *mf_cli_job (GDBusConnection *connection, const char *path, GError **error);

G_END_DECLS
