/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * libvirt's errors as ours.
 */
#include "mf-error.h"

G_BEGIN_DECLS

/* By itself libvirt prints every error: from here on it does not. */
void mf_virt_be_quiet (void);

/* The last error of libvirt in this thread, in libvirt's own words after "`what`: ": MF_ERROR_NOT_FOUND (no such domain), _PERMISSION, _CONNECTION, _NOT_SUPPORTED or
 * _FAILED. Returns FALSE. */
gboolean mf_error_from_virt (GError **error, const char *what);

G_END_DECLS
