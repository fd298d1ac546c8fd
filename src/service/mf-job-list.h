/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The jobs: numbers them, shows them, keeps the last that have ended, and cancels those whose client has gone. In the thread of the main
 * context.
 */
#include "service/mf-job-object.h"
#include "service/mf-service-bus.h"

G_BEGIN_DECLS

/* How many jobs that have ended are kept. */
#define MF_JOB_LIST_ENDED_MAX 32

typedef struct _MfJobList MfJobList;

/* `changed` is called for every job that has come further or has ended. */
MfJobList *mf_job_list_new (MfServiceBus *bus, mf_job_changed changed, gpointer user_data);
void mf_job_list_free (MfJobList *list);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (MfJobList, mf_job_list_free)

/* Makes a job of a migration. `client`: who asked for it and stays to see it through; NULL: it goes on by itself. */
MfJobObject *mf_job_list_add (MfJobList *list, MfMigration *migration, GDBusConnection *client);
/* A client has gone: what it had asked for is cancelled, unless it is past the switchover. */
void mf_job_list_client_gone (MfJobList *list, GDBusConnection *client);
/* The job that has this region now; NULL: none. */
MfJobObject *mf_job_list_of_region (MfJobList *list, const char *name);

G_END_DECLS
