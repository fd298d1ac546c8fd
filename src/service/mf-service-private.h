/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the files that make up the service share.
 */
#include "migrate/mf-host.h"
#include "service/mf-region-set.h"
#include "service/mf-service.h"

G_BEGIN_DECLS

MfRegionSet *mf_service_regions (MfService *service);
/* NULL while the service begins and ends. */
MfHost *mf_service_host (MfService *service);

/* MF_ERROR_BUSY when a program other than `pid` has the region mapped; one that has ended doesn't count. */
gboolean mf_service_is_taken (MfService *service, const char *region, pid_t pid, GError **error);
/* What all programs need that map a region; `store` may be NULL. MF_ERROR_NOT_SUPPORTED and others say what is lacking. */
gboolean mf_service_check_programs (MfService *service, MfStore *store, GError **error);
/* Remembers the program's QMP socket; nothing when `qmp` is NULL. */
gboolean mf_service_remember_control (MfService *service, const char *region, const char *qmp, GError **error);
/* What is said of the region on the bus is brought up to date. */
void mf_service_show_region (MfService *service, const char *region);

/* A program has mapped the region: of a domain's it is remembered which one. */
void mf_service_domain_attached (MfService *service, const char *region, pid_t pid);
/* The service begins: a domain that has ended while there was none is released. */
void mf_service_recover_domain (MfService *service, const char *region);
/* Something has changed for a region: it is removed if it was a domain's that has ended and nobody needs it any more. */
void mf_service_settle_domain (MfService *service, const char *region);

G_END_DECLS
