/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hypervisor/mf-domain-migration.h"

#include "hypervisor/mf-virt-error.h"
#include <libvirt/libvirt.h>

#define DEFAULT_URI      "qemu:///system"
#define KEEPALIVE_SEC    5
#define KEEPALIVE_MISSED 5

/* How long a guest may be on its way back, and for how long it has to run to be back: libvirt may let it run where it is stopped at once. */
#define SETTLE_USEC (10 * G_USEC_PER_SEC)
#define LOOK_USEC   (250 * 1000)
#define SURE_LOOKS  3

struct _mf_domain_migration {
  mf_domain_migration_options options;
  char *destination;
  virConnectPtr here, there; /* `there` NULL: peer to peer */
  virDomainPtr domain;
  char uuid[VIR_UUID_STRING_BUFLEN];
};

static virConnectPtr
connect_to (const char *uri, GError **error)
{
  virConnectPtr connection = virConnectOpenAuth (uri, virConnectAuthPtrDefault, 0);

  if (connection)
    virConnectSetKeepAlive (connection, KEEPALIVE_SEC, KEEPALIVE_MISSED);
  else
    mf_error_from_virt (error, uri);
  return connection;
}

mf_domain_migration *
mf_domain_migration_new (const char *domain, const mf_domain_migration_options *options, GError **error)
{
  g_autoptr (mf_domain_migration) migration = g_new0 (mf_domain_migration, 1);

  migration->options = *options;
  migration->destination = g_strdup (options->destination);
  mf_virt_be_quiet ();
  if (virEventRegisterDefaultImpl () < 0) {
    mf_error_from_virt (error, "libvirt");
    return NULL;
  }
  migration->here = connect_to (options->uri ? options->uri : DEFAULT_URI, error);
  if (!migration->here)
    return NULL;
  migration->domain = virDomainLookupByName (migration->here, domain);
  if (!migration->domain)
    migration->domain = virDomainLookupByUUIDString (migration->here, domain);
  if (!migration->domain) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "there is no domain %s", domain);
    return NULL;
  }
  virDomainGetUUIDString (migration->domain, migration->uuid);
  if (virDomainIsActive (migration->domain) != 1) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s does not run", domain);
    return NULL;
  }
  if (!options->peer_to_peer && !(migration->there = connect_to (options->destination, error)))
    return NULL;
  return g_steal_pointer (&migration);
}

void
mf_domain_migration_free (mf_domain_migration *migration)
{
  if (migration->domain)
    virDomainFree (migration->domain);
  if (migration->there)
    virConnectClose (migration->there);
  if (migration->here)
    virConnectClose (migration->here);
  g_free (migration->destination);
  g_free (migration);
}

char *
mf_domain_migration_dup_xml (mf_domain_migration *migration, GError **error)
{
  char *xml = virDomainGetXMLDesc (migration->domain, 0);
  char *copy = g_strdup (xml);

  if (!xml)
    mf_error_from_virt (error, virDomainGetName (migration->domain));
  free (xml);
  return copy;
}

/* --- running it --- */

typedef struct {
  mf_domain_migration *migration;
  char *uri;
} job;

static void
job_free (gpointer data)
{
  job *self = data;

  g_free (self->uri);
  g_free (self);
}

static unsigned int
flags_of (const mf_domain_migration_options *options)
{
  unsigned int flags = VIR_MIGRATE_LIVE;

  if (options->peer_to_peer)
    flags |= VIR_MIGRATE_PEER2PEER;
  if (options->persistent)
    flags |= VIR_MIGRATE_PERSIST_DEST;
  if (options->undefine)
    flags |= VIR_MIGRATE_UNDEFINE_SOURCE;
  if (options->unsafe)
    flags |= VIR_MIGRATE_UNSAFE;
  return flags;
}

static gboolean
migrate (mf_domain_migration *migration, const char *uri, GError **error)
{
  unsigned int flags = flags_of (&migration->options);
  virTypedParameterPtr parameters = NULL;
  int count = 0, size = 0;
  virDomainPtr moved = NULL;
  gboolean ok;

  if (virTypedParamsAddString (&parameters, &count, &size, VIR_MIGRATE_PARAM_URI, uri) < 0)
    return mf_error_from_virt (error, "libvirt");
  if (migration->there) {
    moved = virDomainMigrate3 (migration->domain, migration->there, parameters, (unsigned int) count, flags);
    ok = moved != NULL;
  } else {
    ok = virDomainMigrateToURI3 (migration->domain, migration->destination, parameters, (unsigned int) count, flags) ==
         0;
  }
  if (!ok)
    mf_error_from_virt (error, "libvirt");
  if (moved)
    virDomainFree (moved);
  virTypedParamsFree (parameters, count);
  return ok;
}

static void
run (GTask *task, gpointer source, gpointer task_data, GCancellable *cancellable)
{
  job *self = task_data;
  g_autoptr (GError) error = NULL;

  if (migrate (self->migration, self->uri, &error))
    g_task_return_boolean (task, TRUE);
  else
    g_task_return_error (task, g_steal_pointer (&error));
}

/* In a thread of its own: it waits for the daemon. */
static gpointer
abort_job (gpointer domain)
{
  virDomainAbortJob (domain);
  virDomainFree (domain);
  return NULL;
}

static void
on_cancelled (GCancellable *cancellable, gpointer data)
{
  mf_domain_migration *migration = data;

  virDomainRef (migration->domain);
  g_thread_unref (g_thread_new ("mf-abort", abort_job, migration->domain));
}

void
mf_domain_migration_run (mf_domain_migration *migration, const char *state_path, GCancellable *cancellable,
                         GAsyncReadyCallback callback, gpointer user_data)
{
  g_autoptr (GTask) task = g_task_new (NULL, NULL, callback, user_data);
  job *self = g_new0 (job, 1);

  self->migration = migration;
  self->uri = g_strconcat ("unix://", state_path, NULL);
  g_task_set_task_data (task, self, job_free);
  if (cancellable)
    g_cancellable_connect (cancellable, G_CALLBACK (on_cancelled), migration, NULL);
  g_task_run_in_thread (task, run);
}

gboolean
mf_domain_migration_run_finish (GAsyncResult *result, GError **error)
{
  return g_task_propagate_boolean (G_TASK (result), error);
}

/* --- what became of it --- */

/* `connection` is made when it is needed, and anew where it has broken. Nobody is asked for a password. */
static gboolean
runs_at (virConnectPtr *connection, const char *uri, const char *uuid)
{
  virDomainPtr domain = NULL;
  int state = VIR_DOMAIN_NOSTATE;

  if (*connection && virConnectIsAlive (*connection) != 1) {
    virConnectClose (*connection);
    *connection = NULL;
  }
  if (!*connection)
    *connection = virConnectOpen (uri);
  if (*connection)
    domain = virDomainLookupByUUIDString (*connection, uuid);
  if (!domain)
    return FALSE;
  if (virDomainGetState (domain, &state, NULL, 0) < 0)
    state = VIR_DOMAIN_NOSTATE;
  virDomainFree (domain);
  return state == VIR_DOMAIN_RUNNING;
}

mf_domain_whereabouts
mf_domain_migration_find (mf_domain_migration *migration)
{
  const char *uri = migration->options.uri ? migration->options.uri : DEFAULT_URI;
  gint64 deadline_usec = g_get_monotonic_time () + SETTLE_USEC;
  virConnectPtr here = NULL, there = NULL;
  mf_domain_whereabouts found = MF_DOMAIN_SOMEWHERE;

  for (guint looks = 0; looks < SURE_LOOKS && g_get_monotonic_time () < deadline_usec;) {
    const gboolean is_here = runs_at (&here, uri, migration->uuid);
    const gboolean is_there = runs_at (&there, migration->destination, migration->uuid);
    const mf_domain_whereabouts now = is_here == is_there ? MF_DOMAIN_SOMEWHERE
                                      : is_here           ? MF_DOMAIN_HERE
                                                          : MF_DOMAIN_THERE;

    looks = now != MF_DOMAIN_SOMEWHERE && now == found ? looks + 1 : 0;
    found = now;
    if (looks < SURE_LOOKS)
      g_usleep (LOOK_USEC);
  }
  if (here)
    virConnectClose (here);
  if (there)
    virConnectClose (there);
  return found;
}
