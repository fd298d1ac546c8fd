/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What memferryd is told: a key file (memferry.conf), and options that go before it.
 */
#include "mf-error.h"

G_BEGIN_DECLS

/* NULL: not said. */
typedef struct {
  char *runtime_dir; /* sockets and the lock */
  char *store_dir;   /* the regions' files and what is remembered of them */
  char *group;       /* who may use the socket besides root and the service's own user */
  char **listen;     /* PEERs at which other services may reach this one */
} mf_service_config;

void mf_service_config_clear (mf_service_config *config);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (mf_service_config, mf_service_config_clear)

/* Fills what is not said yet from `file`. Groups and keys that don't exist are MF_ERROR_INVALID: a misspelt one must not be ignored. A file
 * that isn't there is an error only when `required`. */
gboolean mf_service_config_read (mf_service_config *config, const char *file, gboolean required, GError **error);

/* Fills the rest with defaults, and makes paths absolute. */
void mf_service_config_complete (mf_service_config *config);

G_END_DECLS
