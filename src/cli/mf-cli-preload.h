/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Where the preload library is.
 */
#include <glib.h>

G_BEGIN_DECLS

/* What MEMFERRY_PRELOAD names; else the library of the same build as this command, if it is in a build folder; else `installed`. It can be
 * read, and its path can be in LD_PRELOAD. (transfer full) MF_ERROR_INVALID, _NOT_FOUND, ... */
char *mf_cli_preload_path (const char *installed, GError **error);

G_END_DECLS
