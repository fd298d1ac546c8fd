/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A folder that belongs to one service: made, checked, and locked for as long as it runs.
 */
#include "mf-error.h"

G_BEGIN_DECLS

typedef struct mf_service_folder mf_service_folder;

/* Makes `path` with `mode` if it isn't there and takes its lock, a file in it. MF_ERROR_BUSY: another service has it.
 * MF_ERROR_PERMISSION: others could put files there, or it is not ours. `option` is what the user would give to have another
 * folder ("--store-dir"), for the message. */
mf_service_folder *mf_service_folder_take (const char *path, int mode, const char *option, GError **error);
/* Lets it go; the lock's file goes too. */
void mf_service_folder_free (mf_service_folder *folder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_service_folder, mf_service_folder_free)

G_END_DECLS
