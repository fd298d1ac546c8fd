/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the definition of a domain has to say of the host that it is on.
 */
#include "hypervisor/mf-domain.h"
#include "mf-dbus.h"

G_BEGIN_DECLS

typedef struct {
  char *preload;
  char *handover;
  char *store_dir;
  char *peer; /* NULL: its service listens to no other host */
} mf_cli_place;

void mf_cli_place_clear (mf_cli_place *place);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (mf_cli_place, mf_cli_place_clear)

/* Of this host, as its service says. */
gboolean mf_cli_place_ask (mf_cli_place *place, MfDbusManager1 *manager, GError **error);
/* Of a host whose service can't be asked: as it is installed, and with the runtime folder that `socket` is in. */
gboolean mf_cli_place_guess (mf_cli_place *place, const char *socket, GError **error);

mf_domain_place mf_cli_place_get (const mf_cli_place *place);

G_END_DECLS
