/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A host whose migrations move nothing: what becomes of one is said by the peer's name. For tests of what stands on top of
 * migrations: jobs, the bus, the command. Linked before the library, whose own host stays out.
 *
 *   tcp://done     carries a round, switches over, is done
 *   tcp://fails    carries a round and fails: not converging
 *   tcp://stays    pre-copies until it is cancelled
 *   tcp://past     is past the switchover, and stays there until SIGUSR1
 *   tcp://refused  is an error at once
 */
#include "migrate/mf-host.h"

#include <glib-unix.h>
#include <string.h>

struct _MfMigration {
  GObject parent;
  char **regions;
  char *peer;
  mf_mode mode;
  mf_migration_status status;
  GError *error;
  guint step;
  guint timer;
  gint64 begun_usec;
};

struct _MfHost {
  mf_host_callbacks callbacks;
  gpointer user_data;
  GPtrArray *migrations;
  guint signal_source;
};

enum {
  PROGRESS,
  FINISHED,
  N_SIGNALS
};

static guint signals[N_SIGNALS];

G_DEFINE_FINAL_TYPE (MfMigration, mf_migration, G_TYPE_OBJECT)

static void
mf_migration_finalize (GObject *object)
{
  MfMigration *self = MF_MIGRATION (object);

  g_clear_handle_id (&self->timer, g_source_remove);
  g_strfreev (self->regions);
  g_free (self->peer);
  g_clear_error (&self->error);
  G_OBJECT_CLASS (mf_migration_parent_class)->finalize (object);
}

static void
mf_migration_class_init (MfMigrationClass *class)
{
  G_OBJECT_CLASS (class)->finalize = mf_migration_finalize;
  signals[PROGRESS] =
      g_signal_new ("progress", MF_TYPE_MIGRATION, G_SIGNAL_RUN_LAST, 0, NULL, NULL, NULL, G_TYPE_NONE, 0);
  signals[FINISHED] =
      g_signal_new ("finished", MF_TYPE_MIGRATION, G_SIGNAL_RUN_LAST, 0, NULL, NULL, NULL, G_TYPE_NONE, 0);
}

static void
mf_migration_init (MfMigration *self)
{
  self->begun_usec = g_get_monotonic_time ();
  self->status = (mf_migration_status){
    .is_source = TRUE,
    .stage = "connect",
    .total = 64 << 20,
    .remaining = 64 << 20,
    .predicted_downtime_usec = G_MAXUINT64,
  };
}

void
mf_migration_get_status (MfMigration *self, mf_migration_status *status)
{
  *status = self->status;
  status->elapsed_usec = (guint64) (g_get_monotonic_time () - self->begun_usec);
}

GError *
mf_migration_get_error (MfMigration *self)
{
  return self->error ? g_error_copy (self->error) : NULL;
}

const char *
mf_migration_get_peer (MfMigration *self)
{
  return self->peer;
}

const char *const *
mf_migration_get_regions (MfMigration *self)
{
  return (const char *const *) self->regions;
}

mf_mode
mf_migration_get_mode (MfMigration *self)
{
  return self->mode;
}

static gboolean
finish (gpointer user_data)
{
  MfMigration *self = user_data;

  self->timer = 0;
  g_signal_emit (self, signals[FINISHED], 0);
  return G_SOURCE_REMOVE;
}

/* Ends soon, as a real one does. */
static void
end (MfMigration *self, mf_migration_state state, GError *error)
{
  self->status.state = state;
  self->error = error;
  g_clear_handle_id (&self->timer, g_source_remove);
  self->timer = g_idle_add (finish, self);
}

gboolean
mf_migration_cancel (MfMigration *self, GError **error)
{
  if (self->status.downtime_usec) {
    g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "past the switchover there is no way back");
    return FALSE;
  }
  if (self->status.state == MF_MIGRATION_RUNNING)
    end (self, MF_MIGRATION_CANCELLED,
         g_error_new (MF_ERROR, MF_ERROR_CANCELLED, "cancelled; it goes on here as before"));
  return TRUE;
}

static gboolean
ends_like (MfMigration *self, const char *name)
{
  return strcmp (self->peer, name) == 0;
}

static void
carry_round (MfMigration *self)
{
  self->status.stage = "pre-copy";
  self->status.round++;
  self->status.bytes += 48 << 20;
  self->status.remaining = 4 << 20;
  self->status.rate = 98 << 20;
  self->status.dirty_rate = 80 << 20;
  self->status.predicted_downtime_usec = 41000;
}

static void
switch_over (MfMigration *self)
{
  self->status.stage = "post-copy";
  self->status.downtime_usec = 14200;
  self->status.faults = 812;
  self->status.fault_p50_usec = 210;
  self->status.fault_p99_usec = 1900;
}

static gboolean
step (gpointer user_data)
{
  MfMigration *self = user_data;

  self->step++;
  if (self->step == 1) {
    carry_round (self);
  } else if (ends_like (self, "tcp://fails")) {
    end (self, MF_MIGRATION_FAILED,
         g_error_new (MF_ERROR, MF_ERROR_NOT_CONVERGING, "it writes faster than the link carries"));
    return G_SOURCE_REMOVE;
  } else if (self->step == 2 && !ends_like (self, "tcp://stays")) {
    switch_over (self);
  } else if (ends_like (self, "tcp://done")) {
    self->status.stage = "done";
    self->status.remaining = 0;
    end (self, MF_MIGRATION_DONE, NULL);
    return G_SOURCE_REMOVE;
  }
  g_signal_emit (self, signals[PROGRESS], 0);
  return G_SOURCE_CONTINUE;
}

static gboolean
let_go (gpointer user_data)
{
  MfHost *host = user_data;

  for (guint i = 0; i < host->migrations->len; i++) {
    MfMigration *migration = host->migrations->pdata[i];

    if (migration->status.downtime_usec && migration->status.state == MF_MIGRATION_RUNNING)
      end (migration, MF_MIGRATION_DONE, NULL);
  }
  return G_SOURCE_CONTINUE;
}

MfHost *
mf_host_new (const char *state_dir, const char *runtime_dir, const mf_host_callbacks *callbacks, gpointer user_data)
{
  MfHost *host = g_new0 (MfHost, 1);

  host->callbacks = *callbacks;
  host->user_data = user_data;
  host->migrations = g_ptr_array_new_with_free_func (g_object_unref);
  host->signal_source = g_unix_signal_add (SIGUSR1, let_go, host);
  return host;
}

void
mf_host_free (MfHost *host)
{
  g_source_remove (host->signal_source);
  g_ptr_array_unref (host->migrations);
  g_free (host);
}

gboolean
mf_host_accept (int fd, const mf_preface *preface, gpointer host, GError **error)
{
  g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED, "nothing can move to here");
  return FALSE;
}

static MfMigration *
running_of (MfHost *host, const char *name)
{
  for (guint i = 0; i < host->migrations->len; i++) {
    MfMigration *migration = host->migrations->pdata[i];

    if (migration->status.state == MF_MIGRATION_RUNNING && g_strv_contains (mf_migration_get_regions (migration), name))
      return migration;
  }
  return NULL;
}

MfMigration *
mf_host_migrate (MfHost *host, const char *const *regions, const char *peer, const mf_program_choice *program,
                 const mf_program_choice *peer_program, const mf_migrate_options *options, GError **error)
{
  MfMigration *migration;

  if (strcmp (peer, "tcp://refused") == 0) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s is no peer", peer);
    return NULL;
  }
  for (const char *const *name = regions; *name; name++) {
    g_autoptr (MfRegion) region = host->callbacks.find_region (*name, error, host->user_data);

    if (!region)
      return NULL;
    if (running_of (host, *name)) {
      g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "region %s: a migration has it", *name);
      return NULL;
    }
  }
  migration = g_object_new (MF_TYPE_MIGRATION, NULL);
  migration->regions = g_strdupv ((char **) regions);
  migration->peer = g_strdup (peer);
  migration->mode = options->mode;
  migration->timer = g_timeout_add (20, step, migration);
  g_ptr_array_add (host->migrations, g_object_ref (migration));
  return migration;
}

gboolean
mf_host_recover (MfHost *host, GError **error)
{
  return TRUE;
}

void
mf_host_attached (MfHost *host, MfUserfault *userfault)
{
}

void
mf_host_detached (MfHost *host, MfUserfault *userfault)
{
}

mf_region_role
mf_host_region_role (MfHost *host, const char *name)
{
  return running_of (host, name) ? MF_REGION_LEAVING : MF_REGION_HERE;
}

const char *
mf_region_role_name (mf_region_role role)
{
  return role == MF_REGION_LEAVING ? "leaving" : "here";
}

void
mf_host_expect (MfHost *host, const char *region, mf_host_expected told, gpointer user_data)
{
  told (NULL, user_data);
}

void
mf_host_forgo (MfHost *host, const char *region)
{
}

gboolean
mf_host_forget (MfHost *host, const char *name, GError **error)
{
  if (!running_of (host, name))
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "region %s: a migration has it", name);
  return FALSE;
}

MfMigration *
mf_host_fetch (MfHost *host, const char *const *regions, const char *peer, const mf_program_choice *program,
               const mf_program_choice *peer_program, const mf_migrate_options *options, GError **error)
{
  MfMigration *migration = mf_host_migrate (host, regions, peer, program, peer_program, options, error);

  if (migration)
    migration->status.is_source = FALSE;
  return migration;
}
