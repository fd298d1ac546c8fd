/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Whether a domain can be moved, and if not, what it still needs.
 */
#include "hypervisor/mf-domain-registry.h"
#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct {
  const char *name; /* the entry's */
  gboolean runs;
  gboolean enabled;
  gboolean ready; /* it can be moved as it runs, or can be once it is started */
  char *reason;   /* why it isn't; NULL */
} mf_domain_verdict;

/* `objects` of the service on the domain's host; NULL: not looked at. */
void mf_domain_verdict_init (mf_domain_verdict *verdict, const mf_domain_entry *entry, GDBusObjectManager *objects);
void mf_domain_verdict_clear (mf_domain_verdict *verdict);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (mf_domain_verdict, mf_domain_verdict_clear)

G_END_DECLS
