/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hypervisor/mf-qemu-private.h"
#include "mf-wait.h"

#include <string.h>
#include <unistd.h>

/* For a QEMU that nothing has been asked of yet: it may be that it can't answer. */
#define CLEAN_UP_CONNECT_USEC (2 * G_USEC_PER_SEC)

static const char *const events[] = { "STOP", "RESUME", "MIGRATION", NULL };

gboolean
mf_qemu_connect (mf_qemu *qemu, gint64 timeout_usec, GCancellable *cancellable, GError **error)
{
  if (qemu->qmp == NULL)
    qemu->qmp = mf_qmp_connect (qemu->qmp_path, events, timeout_usec, cancellable, error);
  return qemu->qmp != NULL;
}

char *
mf_qemu_run_state (mf_qemu *qemu, gboolean *is_running, gint64 timeout_usec, GCancellable *cancellable, GError **error)
{
  g_autoptr (JsonNode) answer = mf_qmp_call (qemu->qmp, "query-status", NULL, timeout_usec, cancellable, error);
  JsonObject *object = mf_json_node_object (answer);
  const char *status = mf_json_string (object, "status");

  if (answer == NULL)
    return NULL;
  if (is_running != NULL)
    *is_running = mf_json_bool (object, "running");
  return g_strdup (status != NULL ? status : "unknown");
}

char *
mf_qemu_migration_status (mf_qemu *qemu, char **reason, GError **error)
{
  g_autoptr (JsonNode) answer = mf_qmp_call (qemu->qmp, "query-migrate", NULL, MF_QEMU_COMMAND_USEC, NULL, error);
  JsonObject *object = mf_json_node_object (answer);
  const char *status = mf_json_string (object, "status");

  if (answer == NULL)
    return NULL;
  if (reason != NULL)
    *reason = g_strdup (mf_json_string (object, "error-desc"));
  return g_strdup (status != NULL ? status : "none");
}

gboolean
mf_qemu_status_is_active (const char *status)
{
  static const char *const ended[] = { "none", "completed", "failed", "cancelled", NULL };

  return !g_strv_contains (ended, status);
}

typedef struct {
  const char *const *statuses;
  gboolean or_resume;
} Awaited;

static gboolean
filter_awaited (const mf_qmp_event *event, gpointer user_data)
{
  const Awaited *awaited = user_data;
  const char *status = mf_json_string (event->data, "status");

  if (g_str_equal (event->name, "RESUME"))
    return awaited->or_resume;
  return g_str_equal (event->name, "MIGRATION") && status != NULL && g_strv_contains (awaited->statuses, status);
}

mf_qmp_event *
mf_qemu_await (mf_qemu *qemu, const char *const *statuses, gboolean or_resume, gint64 deadline_usec,
               GCancellable *cancellable, GError **error)
{
  Awaited awaited = { statuses, or_resume };

  return mf_qmp_wait (qemu->qmp, filter_awaited, &awaited, deadline_usec, cancellable, error);
}

gboolean
mf_qemu_give_fd (mf_qemu *qemu, const char *name, int fd, GCancellable *cancellable, GError **error)
{
  g_autoptr (JsonNode) answer = mf_qmp_call_with_fd (qemu->qmp, "getfd", mf_qmp_string_argument ("fdname", name), fd,
                                                     MF_QEMU_COMMAND_USEC, cancellable, error);

  return answer != NULL;
}

/* It was released, by us or a former service, and waits for the last word of its return path (see mf-qemu-source.c). */
static gboolean
is_released (mf_qemu *qemu)
{
  mf_qemu_leftover leftover = MF_QEMU_LEFT_NOTHING;
  g_autofree char *status = NULL;

  if (!qemu->has_reader && (qemu->was_checked || !mf_qemu_find_leftover (qemu, &leftover, NULL) ||
                            leftover == MF_QEMU_LEFT_NOTHING || leftover == MF_QEMU_LEFT_TARGET))
    return FALSE;
  status = mf_qemu_migration_status (qemu, NULL, NULL);
  return status != NULL && mf_qemu_status_is_active (status);
}

void
mf_qemu_clean_up (mf_program *program)
{
  mf_qemu *qemu = mf_qemu_of (program);

  /* What a former service has set, this one has to take back without having connected before. */
  if (qemu->qmp == NULL && !qemu->was_checked)
    mf_qemu_connect (qemu, CLEAN_UP_CONNECT_USEC, NULL, NULL);
  if (qemu->incoming_fd >= 0)
    close (qemu->incoming_fd);
  qemu->incoming_fd = -1;
  if (qemu->qmp == NULL)
    return;
  /* Its stream must stay whole, or it lets its guest run again; and its settings can't be changed meanwhile. */
  if (is_released (qemu)) {
    g_message (
        "the QEMU at %s does not end its migration, since the word that it waits for was lost with a service: its "
        "guest has moved and stands here; end this QEMU",
        qemu->qmp_path);
    g_clear_pointer (&qemu->qmp, mf_qmp_free_when_answered);
    return;
  }
  mf_qemu_restore_settings (qemu);
  /* A former service may have given it one; an error: it has none. */
  if (qemu->has_reader || !qemu->was_checked)
    mf_qmp_do (qemu->qmp, "closefd", mf_qmp_string_argument ("fdname", MF_QEMU_READER_NAME), MF_QEMU_COMMAND_USEC, NULL,
               NULL);
  g_clear_pointer (&qemu->qmp, mf_qmp_free_when_answered);
}

void
mf_qemu_clear (mf_qemu *qemu)
{
  mf_qmp_free_when_answered (qemu->qmp);
  if (qemu->incoming_fd >= 0)
    close (qemu->incoming_fd);
  g_hash_table_unref (qemu->capabilities);
  g_hash_table_unref (qemu->changed);
  for (guint i = 0; i < qemu->n_regions; i++)
    g_object_unref (qemu->regions[i]);
  g_free (qemu->regions);
  g_free (qemu->qmp_path);
  g_free (qemu->state_path);
}

static void
free_program (mf_program *program)
{
  mf_qemu_clear (mf_qemu_of (program));
  g_free (program);
}

static const mf_program_ops ops = {
  .check = mf_qemu_check,
  .prepare = mf_qemu_prepare,
  .pause = mf_qemu_pause,
  .resume = mf_qemu_resume,
  .stop_and_send = mf_qemu_stop_and_send,
  .release = mf_qemu_release,
  .await_sent = mf_qemu_await_sent,
  .roll_back = mf_qemu_roll_back,
  .receive = mf_qemu_receive,
  .await_running = mf_qemu_await_running,
  .clean_up = mf_qemu_clean_up,
  .free = free_program,
};

void
mf_qemu_init (mf_qemu *qemu, const mf_program_ops *program_ops, const char *qmp_path, MfRegion *const *regions,
              guint n_regions)
{
  qemu->base.ops = program_ops;
  qemu->qmp_path = g_strdup (qmp_path);
  qemu->regions = g_new0 (MfRegion *, n_regions);
  qemu->n_regions = n_regions;
  for (guint i = 0; i < n_regions; i++)
    qemu->regions[i] = g_object_ref (regions[i]);
  qemu->capabilities = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  qemu->changed = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  qemu->old_max_bandwidth = qemu->old_downtime_limit = -1;
  qemu->incoming_fd = -1;
}

mf_program *
mf_qemu_new (const char *qmp_path, MfRegion *const *regions, guint n_regions)
{
  mf_qemu *qemu = g_new0 (mf_qemu, 1);

  mf_qemu_init (qemu, &ops, qmp_path, regions, n_regions);
  return &qemu->base;
}
