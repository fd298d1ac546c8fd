/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The definition of a libvirt domain, and what memferry puts into it. XML in, XML out: nothing here talks to libvirt.
 *
 * An *enabled* domain has, beside our <metadata>, its memory in shared files, the preload library in QEMU's environment and a QMP
 * socket for us. What was there before is kept in the metadata, so that it can be restored.
 *
 * An mf_domain belongs to one thread at a time.
 */
#include "hypervisor/mf-domain-names.h"
#include "mf-error.h"

G_BEGIN_DECLS

#define MF_DOMAIN_NAMESPACE "https://memferry.org/libvirt/1.0"

typedef struct _mf_domain mf_domain;

/* `xml`: a <domain>, as libvirt writes it. MF_ERROR_INVALID. */
mf_domain *mf_domain_parse (const char *xml, GError **error);
void mf_domain_free (mf_domain *domain);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_domain, mf_domain_free)

/* The <domain> element, ending with a line's end. (transfer full) */
char *mf_domain_to_xml (mf_domain *domain);
const char *mf_domain_get_name (const mf_domain *domain);
/* Of a running domain: it is part of the names of its files. 0: the definition says none. */
guint mf_domain_get_id (const mf_domain *domain);
gboolean mf_domain_is_enabled (const mf_domain *domain);
/* The PEER of the host it runs on, of an enabled domain; NULL: that host listens to no one. (transfer full) */
char *mf_domain_dup_peer (const mf_domain *domain);

/* --- Memory --- */

/* One file of the guest's memory. */
typedef struct {
  char *file;         /* as QEMU and libvirt name it, in the folder of the domain's memory: "pc.ram", "ram-node0" */
  char *region;       /* ours: "NAME", "NAME.node0" */
  guint64 size_bytes; /* as far as the definition tells; libvirt may round it up at the start */
} mf_domain_memory;

/* All of the guest's memory, in order; (element-type mf_domain_memory) (transfer full). MF_ERROR_NOT_SUPPORTED, _INVALID: why it can't be known. */
GArray *mf_domain_list_memory (const mf_domain *domain, GError **error);
/* The name of its (first) region without what NUMA adds: the domain's name with '_' for what a region's name can't have. (transfer full) */
char *mf_domain_dup_stem (const mf_domain *domain);
/* Its private QMP socket, and the one that its device state goes through. (transfer full) */
char *mf_domain_dup_qmp_path (const mf_domain *domain);
char *mf_domain_dup_state_path (const mf_domain *domain);

/* --- Whether it can be enabled --- */

/* Why its memory can't be moved, a line each; NULL-terminated, empty when nothing speaks against it. (transfer full) */
char **mf_domain_find_obstacles (const mf_domain *domain);

/* --- Changes --- */

/* The host that the domain is on. */
typedef struct {
  const char *preload;   /* the library */
  const char *handover;  /* the service's socket for it */
  const char *store_dir; /* the folder of the regions */
  const char *peer;      /* where the service listens for others; NULL: nowhere */
} mf_domain_place;

/* Puts in what memferry needs. Of one that is enabled, what is missing or of another place: doing it twice changes nothing the second time.
 * MF_ERROR_NOT_SUPPORTED with the first obstacle. */
gboolean mf_domain_enable (mf_domain *domain, const mf_domain_place *place, GError **error);
/* Takes it out again, and restores what was there before, as far as nobody has changed it since. Does nothing to one that is not enabled. */
void mf_domain_disable (mf_domain *domain);
/* Names this host's files and its peer in an enabled domain, and leaves the rest as it is. */
gboolean mf_domain_settle (mf_domain *domain, const mf_domain_place *place, GError **error);

/* Our element of an enabled domain with another peer, as libvirt takes it: it gives the outer element its namespace itself. (transfer full) */
char *mf_domain_dup_metadata (const mf_domain *domain, const char *peer);

/* What of an enabled domain is no longer as mf_domain_enable() has made it, a line each; NULL-terminated. (transfer full) */
char **mf_domain_find_gaps (const mf_domain *domain);
/* Whether it was enabled under another name, and renamed or cloned since: QEMU would take the other's socket. */
gboolean mf_domain_is_of_another_name (const mf_domain *domain);

G_END_DECLS
