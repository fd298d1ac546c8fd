/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The service on D-Bus: org.memferry.Manager1. Takes calls apart and answers them; what is done is done in mf-service.c.
 */
#include "service/mf-service.h"

G_BEGIN_DECLS

typedef struct _MfManagerObject MfManagerObject;

MfManagerObject *mf_manager_object_new (MfService *service);
void mf_manager_object_free (MfManagerObject *manager);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (MfManagerObject, mf_manager_object_free)

MfDbusObjectSkeleton *mf_manager_object_skeleton (MfManagerObject *manager);

G_END_DECLS
