/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "service/mf-job-list.h"

typedef struct {
  MfJobObject *job;
  GDBusConnection *client; /* may be NULL; a reference, so that no other connection gets its address */
} list_item;

struct _MfJobList {
  MfServiceBus *bus;
  GPtrArray *items; /* oldest first */
  guint last_id;
  mf_job_changed changed;
  gpointer user_data;
};

static void
item_free (gpointer data)
{
  list_item *item = data;

  mf_job_object_free (item->job);
  g_clear_object (&item->client);
  g_free (item);
}

MfJobList *
mf_job_list_new (MfServiceBus *bus, mf_job_changed changed, gpointer user_data)
{
  MfJobList *list = g_new0 (MfJobList, 1);

  list->bus = bus;
  list->items = g_ptr_array_new_with_free_func (item_free);
  list->changed = changed;
  list->user_data = user_data;
  return list;
}

void
mf_job_list_free (MfJobList *list)
{
  g_ptr_array_unref (list->items);
  g_free (list);
}

/* Lets the oldest go when there are more that have ended than are kept. */
static void
prune (MfJobList *list)
{
  guint ended = 0;

  for (guint i = list->items->len; i-- > 0;) {
    list_item *item = list->items->pdata[i];

    if (!mf_job_object_has_ended (item->job) || ++ended <= MF_JOB_LIST_ENDED_MAX)
      continue;
    mf_service_bus_unexport (list->bus, G_DBUS_OBJECT_SKELETON (mf_job_object_skeleton (item->job)));
    g_ptr_array_remove_index (list->items, i);
  }
}

static void
job_changed (MfJobObject *job, gpointer user_data)
{
  MfJobList *list = user_data;

  list->changed (job, list->user_data);
}

MfJobObject *
mf_job_list_add (MfJobList *list, MfMigration *migration, GDBusConnection *client)
{
  list_item *item = g_new0 (list_item, 1);

  /* Before the new one comes: none is taken away in the middle of its own signal. */
  prune (list);
  item->job = mf_job_object_new (++list->last_id, migration, job_changed, list);
  item->client = client ? g_object_ref (client) : NULL;
  g_ptr_array_add (list->items, item);
  mf_service_bus_export (list->bus, G_DBUS_OBJECT_SKELETON (mf_job_object_skeleton (item->job)));
  list->changed (item->job, list->user_data);
  return item->job;
}

void
mf_job_list_client_gone (MfJobList *list, GDBusConnection *client)
{
  for (guint i = 0; i < list->items->len; i++) {
    list_item *item = list->items->pdata[i];
    g_autoptr (GError) past = NULL;

    if (item->client != client)
      continue;
    g_clear_object (&item->client);
    if (mf_job_object_has_ended (item->job))
      continue;
    if (mf_migration_cancel (mf_job_object_migration (item->job), &past))
      g_message ("job %u: cancelled, since who asked for it has gone", mf_job_object_id (item->job));
    else
      g_message ("job %u: goes on although who asked for it has gone: %s", mf_job_object_id (item->job), past->message);
  }
}

MfJobObject *
mf_job_list_of_region (MfJobList *list, const char *name)
{
  for (guint i = list->items->len; i-- > 0;) {
    list_item *item = list->items->pdata[i];

    if (!mf_job_object_has_ended (item->job) && mf_job_object_has_region (item->job, name))
      return item->job;
  }
  return NULL;
}
