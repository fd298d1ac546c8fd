/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the files that make up mf_domain share.
 */
#include "hypervisor/mf-domain-xml.h"
#include "hypervisor/mf-domain.h"

G_BEGIN_DECLS

#define MF_QEMU_NAMESPACE "http://libvirt.org/schemas/domain/qemu/1.0"

/* What is in the preload library's environment for at most. */
#define MF_DOMAIN_MAX_FILES 8

struct _mf_domain {
  xmlDoc *document;
  xmlNode *root;
  char *name;
};

/* Our element in <metadata>, or NULL. */
xmlNode *mf_domain_metadata (const mf_domain *domain);
/* The first <cell> of <numa>, or NULL. */
xmlNode *mf_domain_first_cell (const mf_domain *domain);

G_END_DECLS
