/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Backends behind NBD: a server that is named by its URI, and nbdkit, started as a child for one of its plugins.
 */
#include "backend/mf-backend.h"

G_BEGIN_DECLS

/* nbd://, nbds://, nbd+unix://, nbds+unix://, nbd+vsock://, nbds+vsock:// */
extern const mf_backend_driver mf_nbd_backend_driver;

/* nbdkit:PLUGIN,ARG...: the words are nbdkit's own, so options (--filter=NAME) may stand before the plugin; a comma in a word is written twice. nbdkit ends with the backend,
 * and with the thread that opened it (--exit-with-parent is by thread): so the main one should. It is not started again when it has died: what it kept in memory would be zeroes. */
extern const mf_backend_driver mf_nbdkit_backend_driver;

/* A backend of the server at `uri`, called `name`. When it is freed, `let_go` (may be NULL) is called with `data`. MF_ERROR_TIMED_OUT, _CONNECTION, _PROTOCOL, ... */
MfBackend *mf_nbd_backend_new (const char *name, const char *uri, gboolean read_only, GDestroyNotify let_go,
                               gpointer data, GError **error);

G_END_DECLS
