/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The migration as its user sees it.
 *
 * The migration's own thread writes into `status` under `lock`. Signals are emitted in `context`: a tick ten times a second, and one wake-up
 * for every change of stage, round or state; several changes before the context gets to run are one signal. The sampler has a lock of its own, so
 * that unsetting it waits for a call under way without holding up those who only look at the status.
 */
#include "migrate/mf-migration-private.h"

#define TICK_MSEC 100
/* The rate shown is that of about the last second. */
#define RATE_WINDOW_USEC (1000 * 1000)

struct _MfMigration {
  GObject parent_instance;

  char **regions;
  char *peer;
  mf_mode mode;
  GMainContext *context;
  GCancellable *cancellable;
  gint64 began_usec;

  GMutex lock; /* the fields below */
  mf_migration_status status;
  GError *error;
  gboolean committed;
  gboolean over;
  GSource *tick;
  GSource *wake;
  guint64 rate_bytes; /* at rate_usec */
  gint64 rate_usec;

  GMutex sampler_lock; /* the fields below */
  mf_migration_sampler sampler;
  gpointer sampler_data;
};

G_DEFINE_FINAL_TYPE (MfMigration, mf_migration, G_TYPE_OBJECT)

enum {
  SIGNAL_PROGRESS,
  SIGNAL_FINISHED,
  N_SIGNALS
};
static guint signals[N_SIGNALS];

static void
mf_migration_finalize (GObject *object)
{
  MfMigration *self = MF_MIGRATION (object);

  g_strfreev (self->regions);
  g_free (self->peer);
  g_main_context_unref (self->context);
  g_object_unref (self->cancellable);
  g_clear_error (&self->error);
  g_mutex_clear (&self->lock);
  g_mutex_clear (&self->sampler_lock);
  G_OBJECT_CLASS (mf_migration_parent_class)->finalize (object);
}

static void
mf_migration_class_init (MfMigrationClass *klass)
{
  GType type = G_TYPE_FROM_CLASS (klass);

  G_OBJECT_CLASS (klass)->finalize = mf_migration_finalize;
  /**
   * MfMigration::progress:
   *
   * How far it is has changed. At most ten times a second, and at every change of stage, round or state.
   */
  signals[SIGNAL_PROGRESS] = g_signal_new ("progress", type, G_SIGNAL_RUN_LAST, 0, NULL, NULL, NULL, G_TYPE_NONE, 0);
  /**
   * MfMigration::finished:
   *
   * It is over; the last signal. The status and the error say how.
   */
  signals[SIGNAL_FINISHED] = g_signal_new ("finished", type, G_SIGNAL_RUN_LAST, 0, NULL, NULL, NULL, G_TYPE_NONE, 0);
}

static void
mf_migration_init (MfMigration *self)
{
  g_mutex_init (&self->lock);
  g_mutex_init (&self->sampler_lock);
  self->cancellable = g_cancellable_new ();
  self->began_usec = g_get_monotonic_time ();
  self->status.stage = "connect";
  self->status.predicted_downtime_usec = G_MAXUINT64;
}

static gboolean
on_tick (gpointer user_data)
{
  g_signal_emit (user_data, signals[SIGNAL_PROGRESS], 0);
  return G_SOURCE_CONTINUE;
}

static gboolean
on_wake (gpointer user_data)
{
  MfMigration *self = user_data;
  gboolean over;

  g_mutex_lock (&self->lock);
  g_clear_pointer (&self->wake, g_source_unref);
  over = self->over;
  if (over && self->tick) {
    g_source_destroy (self->tick);
    g_clear_pointer (&self->tick, g_source_unref);
  }
  g_mutex_unlock (&self->lock);
  g_signal_emit (self, signals[over ? SIGNAL_FINISHED : SIGNAL_PROGRESS], 0);
  return G_SOURCE_REMOVE;
}

/* With the lock held. */
static void
wake (MfMigration *self)
{
  if (self->wake != NULL)
    return;
  self->wake = g_idle_source_new ();
  g_source_set_priority (self->wake, G_PRIORITY_DEFAULT);
  g_source_set_callback (self->wake, on_wake, g_object_ref (self), g_object_unref);
  g_source_attach (self->wake, self->context);
}

MfMigration *
mf_migration_new (GMainContext *context, const char *const *regions, const char *peer, mf_mode mode, gboolean is_source)
{
  MfMigration *self = g_object_new (MF_TYPE_MIGRATION, NULL);

  self->context = g_main_context_ref (context ? context : g_main_context_default ());
  self->regions = g_strdupv ((char **) regions);
  self->peer = g_strdup (peer);
  self->mode = mode;
  self->status.is_source = is_source;
  self->tick = g_timeout_source_new (TICK_MSEC);
  /* The source holds a reference until finish() has it destroyed: every migration finishes. */
  g_source_set_callback (self->tick, on_tick, g_object_ref (self), g_object_unref);
  g_source_attach (self->tick, self->context);
  return self;
}

void
mf_migration_set_sampler (MfMigration *self, mf_migration_sampler sampler, gpointer user_data)
{
  mf_migration_status sample = { 0 };

  g_mutex_lock (&self->sampler_lock);
  if (sampler == NULL && self->sampler != NULL) {
    /* The numbers of the end stay. */
    g_mutex_lock (&self->lock);
    sample = self->status;
    g_mutex_unlock (&self->lock);
    self->sampler (&sample, self->sampler_data);
    g_mutex_lock (&self->lock);
    self->status.bytes = sample.bytes;
    self->status.total = sample.total;
    self->status.remaining = sample.remaining;
    self->status.faults = sample.faults;
    self->status.fault_p50_usec = sample.fault_p50_usec;
    self->status.fault_p99_usec = sample.fault_p99_usec;
    g_mutex_unlock (&self->lock);
  }
  self->sampler = sampler;
  self->sampler_data = user_data;
  g_mutex_unlock (&self->sampler_lock);
}

/* With the lock held. */
static void
measure_rate (MfMigration *self, mf_migration_status *status)
{
  gint64 now = g_get_monotonic_time ();
  gint64 passed = now - self->rate_usec;

  if (self->rate_usec == 0 || status->bytes < self->rate_bytes) {
    self->rate_usec = now;
    self->rate_bytes = status->bytes;
  } else if (passed >= TICK_MSEC * 1000 / 2) {
    double fresh = (double) (status->bytes - self->rate_bytes) * 1e6 / (double) passed;
    double weight = MIN (1.0, 2.0 * (double) passed / RATE_WINDOW_USEC);

    self->status.rate = (guint64) (fresh * weight + (double) self->status.rate * (1.0 - weight));
    self->rate_usec = now;
    self->rate_bytes = status->bytes;
  }
  status->rate = self->status.rate;
}

void
mf_migration_get_status (MfMigration *self, mf_migration_status *status)
{
  g_mutex_lock (&self->sampler_lock);
  g_mutex_lock (&self->lock);
  *status = self->status;
  g_mutex_unlock (&self->lock);
  if (self->sampler != NULL)
    self->sampler (status, self->sampler_data);
  g_mutex_unlock (&self->sampler_lock);

  g_mutex_lock (&self->lock);
  if (!self->over) {
    measure_rate (self, status);
    status->elapsed_usec = (guint64) (g_get_monotonic_time () - self->began_usec);
  }
  g_mutex_unlock (&self->lock);
}

GError *
mf_migration_get_error (MfMigration *self)
{
  GError *error;

  g_mutex_lock (&self->lock);
  error = self->error ? g_error_copy (self->error) : NULL;
  g_mutex_unlock (&self->lock);
  return error;
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

gboolean
mf_migration_cancel (MfMigration *self, GError **error)
{
  gboolean committed, over, is_source;

  g_mutex_lock (&self->lock);
  is_source = self->status.is_source;
  committed = self->committed;
  over = self->over;
  if (!committed && !over)
    g_cancellable_cancel (self->cancellable);
  g_mutex_unlock (&self->lock);
  if (over) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "the migration is over");
    return FALSE;
  }
  if (committed) {
    g_set_error (error, MF_ERROR, MF_ERROR_BUSY,
                 is_source ? "the program has been handed over already: only the other host may run it; move it back "
                             "when it has arrived"
                           : "the program has been taken over already, and runs here; move it back when all of it has "
                             "arrived");
    return FALSE;
  }
  return TRUE;
}

gboolean
mf_migration_commit (MfMigration *self)
{
  gboolean ok;

  g_mutex_lock (&self->lock);
  ok = !g_cancellable_is_cancelled (self->cancellable);
  if (ok)
    self->committed = TRUE;
  g_mutex_unlock (&self->lock);
  return ok;
}

GCancellable *
mf_migration_cancellable (MfMigration *self)
{
  return self->cancellable;
}

void
mf_migration_set_stage (MfMigration *self, const char *stage)
{
  g_mutex_lock (&self->lock);
  self->status.stage = stage;
  wake (self);
  g_mutex_unlock (&self->lock);
}

void
mf_migration_set_round (MfMigration *self, guint round)
{
  g_mutex_lock (&self->lock);
  self->status.round = round;
  wake (self);
  g_mutex_unlock (&self->lock);
}

void
mf_migration_set_ready (MfMigration *self, gboolean ready)
{
  g_mutex_lock (&self->lock);
  self->status.ready = ready;
  wake (self);
  g_mutex_unlock (&self->lock);
}

void
mf_migration_set_state (MfMigration *self, mf_migration_state state)
{
  g_mutex_lock (&self->lock);
  if (self->status.state != state)
    wake (self);
  self->status.state = state;
  g_mutex_unlock (&self->lock);
}

void
mf_migration_set_prediction (MfMigration *self, guint64 downtime_usec, guint64 dirty_rate)
{
  g_mutex_lock (&self->lock);
  self->status.predicted_downtime_usec = downtime_usec;
  self->status.dirty_rate = dirty_rate;
  g_mutex_unlock (&self->lock);
}

void
mf_migration_set_downtime (MfMigration *self, guint64 downtime_usec)
{
  g_mutex_lock (&self->lock);
  self->status.downtime_usec = downtime_usec;
  wake (self);
  g_mutex_unlock (&self->lock);
}

void
mf_migration_add_pause (MfMigration *self, guint64 usec)
{
  g_mutex_lock (&self->lock);
  self->status.pauses++;
  self->status.longest_pause_usec = MAX (self->status.longest_pause_usec, usec);
  wake (self);
  g_mutex_unlock (&self->lock);
}

void
mf_migration_set_faults (MfMigration *self, guint64 faults, guint32 p50_usec, guint32 p99_usec)
{
  g_mutex_lock (&self->lock);
  self->status.faults = faults;
  self->status.fault_p50_usec = p50_usec;
  self->status.fault_p99_usec = p99_usec;
  g_mutex_unlock (&self->lock);
}

void
mf_migration_finish (MfMigration *self, const GError *error)
{
  mf_migration_set_sampler (self, NULL, NULL);
  g_mutex_lock (&self->lock);
  self->status.elapsed_usec = (guint64) (g_get_monotonic_time () - self->began_usec);
  if (error == NULL)
    self->status.state = MF_MIGRATION_DONE;
  else if (g_error_matches (error, MF_ERROR, MF_ERROR_CANCELLED))
    self->status.state = MF_MIGRATION_CANCELLED;
  else
    self->status.state = MF_MIGRATION_FAILED;
  self->error = error ? g_error_copy (error) : NULL;
  self->over = TRUE;
  wake (self);
  g_mutex_unlock (&self->lock);
}
