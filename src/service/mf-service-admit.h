/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Migrations of libvirt's domains that nobody has begun with memferry: an operator's own virsh migrate. libvirt's hook asks the service of the host that the domain is
 * to come to (admit), and that asks the service of the host that it runs on (request), which moves its memory until all is ready.
 */
#include "service/mf-service.h"

G_BEGIN_DECLS

/* See AdmitDomain in org.memferry.xml. `invocation` (taken over) is answered without a value, or with an error. */
void mf_service_admit_domain (MfService *service, const char *name, const char *peer,
                              GDBusMethodInvocation *invocation);
/* The host's callback: see mf-host.h. */
void mf_service_request_domain (const char *name, GVariant *options, GDBusMethodInvocation *invocation,
                                gpointer service);

G_END_DECLS
