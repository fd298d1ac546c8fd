/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What a host that wants regions of another one to move to it asks for: the form of Peer1's Request that names a session. The host that asks is the one that dials, now and
 * whenever a stream is needed.
 */
#include "core/mf-preface.h"
#include "migrate/mf-migration.h"
#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct {
  uint8_t session[MF_SESSION_BYTES];
  char **regions;             /* NULL-terminated; NULL: the session is under way, and its dialler is back */
  mf_migrate_options options; /* those that the source heeds */
  char *control;              /* the QMP socket of the program on the source; may be NULL */
  char *peer_control;         /* and of the one that waits on the host that asks; may be NULL */
} mf_fetch_request;

void mf_fetch_request_clear (mf_fetch_request *request);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (mf_fetch_request, mf_fetch_request_clear)

/* a{sv}, floating. */
GVariant *mf_fetch_request_pack (const mf_fetch_request *request);
/* Whether these options are of this form, and not of that which names a domain of libvirt. */
gboolean mf_fetch_request_is_session (GVariant *options);
/* From the network: MF_ERROR_PROTOCOL says what is wrong. `request` is zeroed first, and is the caller's to clear when TRUE is returned. */
gboolean mf_fetch_request_parse (GVariant *options, mf_fetch_request *request, GError **error);

G_END_DECLS
