/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A migration on D-Bus: org.memferry.Job1. In the thread of the main context.
 */
#include "migrate/mf-migration.h"
#include "mf-dbus.h"

G_BEGIN_DECLS

typedef struct _MfJobObject MfJobObject;

/* The migration has come further, or has ended (mf_job_object_has_ended()): its properties say so already. */
typedef void (*mf_job_changed) (MfJobObject *job, gpointer user_data);

MfJobObject *mf_job_object_new (guint id, MfMigration *migration, mf_job_changed changed, gpointer user_data);
void mf_job_object_free (MfJobObject *job);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (MfJobObject, mf_job_object_free)

guint mf_job_object_id (MfJobObject *job);
const char *mf_job_object_path (MfJobObject *job);
MfDbusObjectSkeleton *mf_job_object_skeleton (MfJobObject *job);
MfMigration *mf_job_object_migration (MfJobObject *job);
gboolean mf_job_object_has_ended (MfJobObject *job);
gboolean mf_job_object_has_region (MfJobObject *job, const char *name);

/* "auto", "precopy", "postcopy". */
const char *mf_job_mode_name (mf_mode mode);
gboolean mf_job_mode_parse (const char *name, mf_mode *mode, GError **error);

G_END_DECLS
