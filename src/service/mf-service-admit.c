/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "service/mf-service-admit.h"

#include "hypervisor/mf-domain-names.h"
#include "migrate/mf-peer.h"
#include "service/mf-service-private.h"
#include <string.h>

#define DIAL_USEC (10 * G_USEC_PER_SEC)
/* libvirt, whose hook waits, goes on at once when all is ready. */
#define READY_USEC (120 * G_USEC_PER_SEC)

/* --- on the host that it is to come to --- */

typedef struct {
  char *name, *peer;
  char *own; /* one of ours where the other host can be asked to come to */
  GDBusMethodInvocation *invocation;
} admission;

static void
admission_free (gpointer data)
{
  admission *self = data;

  g_free (self->name);
  g_free (self->peer);
  g_free (self->own);
  g_free (self);
}

/* The first address that the other host may dial: over a network if they talk over one. */
static char *
own_address (MfService *service, const char *peer)
{
  gboolean is_local = g_str_has_prefix (peer, "unix:");
  const char *const *listening = mf_service_get_listening (service);

  for (; *listening; listening++) {
    if (g_str_has_prefix (*listening, "unix:") == is_local)
      return g_strdup (*listening);
  }
  return NULL;
}

/* An address that stands for all of this host's is replaced by the one that the other host sees. */
static char *
as_seen_by (mf_peer *peer, const char *own)
{
  static const char *const wildcards[] = { "tcp://0.0.0.0", "tcp://[::]" };
  g_autofree char *local = mf_peer_dup_local_address (peer);

  for (guint i = 0; local && i < G_N_ELEMENTS (wildcards); i++) {
    if (g_str_has_prefix (own, wildcards[i]))
      return g_strdup_printf (strchr (local, ':') ? "tcp://[%s]%s" : "tcp://%s%s", local, own + strlen (wildcards[i]));
  }
  return g_strdup (own);
}

static void
ask (GTask *task, gpointer source, gpointer task_data, GCancellable *cancellable)
{
  admission *self = task_data;
  g_autoptr (GError) error = NULL;
  g_autoptr (mf_peer) peer = mf_peer_dial (self->peer, DIAL_USEC, cancellable, &error);
  g_autofree char *address = peer ? as_seen_by (peer, self->own) : NULL;
  GVariantDict options;

  if (!peer) {
    g_task_return_error (task, g_steal_pointer (&error));
    return;
  }
  g_variant_dict_init (&options, NULL);
  g_variant_dict_insert (&options, "peer", "s", address);
  if (mf_peer_request (peer, self->name, g_variant_dict_end (&options), cancellable, &error))
    g_task_return_boolean (task, TRUE);
  else
    g_task_return_error (task, g_steal_pointer (&error));
}

static void
asked (GObject *source, GAsyncResult *result, gpointer user_data)
{
  GDBusMethodInvocation *invocation = user_data;
  g_autoptr (GError) error = NULL;

  if (g_task_propagate_boolean (G_TASK (result), &error))
    g_dbus_method_invocation_return_value (invocation, NULL);
  else
    g_dbus_method_invocation_return_gerror (invocation, error);
}

/* A region that has just been made for a migration to here is remembered as a domain's when libvirt starts that. */
static gboolean
is_of (MfService *service, const char *region, const char *name)
{
  gboolean released = FALSE;
  g_autofree char *domain = mf_region_set_dup_domain (mf_service_regions (service), region, &released);

  return domain ? strcmp (domain, name) == 0 : mf_domain_owns_region (name, region);
}

/* The names of the domain's regions that are here. */
static char **
regions_of (MfService *service, const char *name)
{
  g_auto (GStrv) all = mf_region_set_names (mf_service_regions (service));
  g_autoptr (GStrvBuilder) own = g_strv_builder_new ();

  for (char **region = all; *region; region++) {
    if (is_of (service, *region, name))
      g_strv_builder_add (own, *region);
  }
  return g_strv_builder_end (own);
}

static gboolean
comes_already (MfService *service, const char *name)
{
  g_auto (GStrv) regions = regions_of (service, name);

  for (char **region = regions; *region; region++) {
    if (mf_host_region_role (mf_service_host (service), *region) == MF_REGION_INCOMING)
      return TRUE;
  }
  return FALSE;
}

void
mf_service_admit_domain (MfService *service, const char *name, const char *peer, GDBusMethodInvocation *invocation)
{
  g_autoptr (GTask) task = NULL;
  admission *self;
  char *own;

  if (comes_already (service, name)) {
    g_dbus_method_invocation_return_value (invocation, NULL);
    return;
  }
  if (!*peer) {
    g_dbus_method_invocation_return_error (invocation, MF_ERROR, MF_ERROR_INVALID,
                                           "%s: where the service of the host that it runs on listens is not known: "
                                           "use memferry domain migrate there, or memferry "
                                           "domain enable --peer",
                                           name);
    return;
  }
  own = own_address (service, peer);
  if (!own) {
    g_dbus_method_invocation_return_error (
        invocation, MF_ERROR, MF_ERROR_INVALID,
        "%s: memferryd listens for no other host here: its configuration (memferry.conf) has to name an address", name);
    return;
  }
  self = g_new0 (admission, 1);
  self->name = g_strdup (name);
  self->peer = g_strdup (peer);
  self->own = own;
  task = g_task_new (NULL, NULL, asked, invocation);
  g_task_set_task_data (task, self, admission_free);
  g_task_run_in_thread (task, ask);
}

/* --- on the host that it runs on --- */

typedef struct {
  MfMigration *migration;
  GDBusMethodInvocation *invocation;
  gulong progress, finished;
} readiness;

static void
readiness_free (readiness *self)
{
  g_signal_handler_disconnect (self->migration, self->progress);
  g_signal_handler_disconnect (self->migration, self->finished);
  g_object_unref (self->migration);
  g_free (self);
}

static void
on_progress (MfMigration *migration, gpointer user_data)
{
  readiness *self = user_data;
  mf_migration_status status;

  mf_migration_get_status (migration, &status);
  if (!status.ready)
    return;
  mf_peer_answer_request (self->invocation);
  readiness_free (self);
}

static void
on_finished (MfMigration *migration, gpointer user_data)
{
  readiness *self = user_data;
  g_autoptr (GError) error = mf_migration_get_error (migration);

  if (error)
    g_dbus_method_invocation_return_gerror (self->invocation, error);
  else
    mf_peer_answer_request (self->invocation);
  readiness_free (self);
}

static void
answer_when_ready (MfMigration *migration, GDBusMethodInvocation *invocation)
{
  readiness *self = g_new0 (readiness, 1);

  self->migration = g_object_ref (migration);
  self->invocation = invocation;
  self->progress = g_signal_connect (migration, "progress", G_CALLBACK (on_progress), self);
  self->finished = g_signal_connect (migration, "finished", G_CALLBACK (on_finished), self);
  /* It may be so already. */
  on_progress (migration, self);
}

static MfMigration *
begin (MfService *service, const char *name, const char *peer, GError **error)
{
  g_auto (GStrv) regions = regions_of (service, name);
  g_autofree char *qmp = mf_domain_qmp_path (name);
  g_autofree char *state = mf_domain_state_path (name);
  const mf_program_choice program = { "libvirt", qmp, state };
  const mf_migrate_options options = { .mode = MF_MODE_AUTO, .max_ready_usec = READY_USEC };
  MfJobObject *job;

  if (!*regions || mf_region_set_pid (mf_service_regions (service), regions[0]) == 0) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "no domain %s runs with its memory in regions", name);
    return NULL;
  }
  job = mf_service_migrate (service, (const char *const *) regions, peer, &program, &program, &options, NULL, error);
  return job ? mf_job_object_migration (job) : NULL;
}

void
mf_service_request_domain (const char *name, GVariant *options, GDBusMethodInvocation *invocation, gpointer user_data)
{
  MfService *service = user_data;
  g_autoptr (GError) error = NULL;
  const char *peer = NULL;
  MfMigration *migration;

  if (!g_variant_lookup (options, "peer", "&s", &peer)) {
    g_dbus_method_invocation_return_error (invocation, MF_ERROR, MF_ERROR_PROTOCOL, "the request names no peer");
    return;
  }
  g_message ("%s is asked for by %s", name, peer);
  migration = begin (service, name, peer, &error);
  if (migration)
    answer_when_ready (migration, invocation);
  else
    g_dbus_method_invocation_return_gerror (invocation, error);
}
