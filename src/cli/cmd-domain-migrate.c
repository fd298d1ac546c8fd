/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memferry domain migrate: the service here carries the memory; when it is ready, libvirt is told to migrate, and the two meet at the switchover. Either of them may fail or be
 * cancelled, and then the other does as well; what is said is what the first one said.
 */
#include "cli/cmd-domain.h"
#include "cli/mf-cli-follow.h"
#include "cli/mf-cli-json.h"
#include "cli/mf-cli-migration.h"
#include "cli/mf-cli-options.h"
#include "cli/mf-cli-progress.h"
#include "cli/mf-cli-service.h"
#include "hypervisor/mf-domain-migration.h"
#include "hypervisor/mf-domain.h"
#include "link/mf-link.h"
#include <string.h>

typedef struct {
  char *socket, *uri, *peer, *mode, *max_downtime, *bandwidth, *max_pause;
  int timeout, max_pauses;
  gboolean p2p, persistent, undefine, unsafe, live, as_json;
} migrate_words;

static void
migrate_words_clear (migrate_words *words)
{
  g_free (words->socket);
  g_free (words->uri);
  g_free (words->peer);
  g_free (words->mode);
  g_free (words->max_downtime);
  g_free (words->bandwidth);
  g_free (words->max_pause);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (migrate_words, migrate_words_clear)

typedef struct {
  mf_domain_migration *libvirt;
  char *state_path;
  GCancellable *cancellable; /* of libvirt's migration */
  MfDbusJob1 *job;
  gboolean has_begun, has_ended; /* libvirt's migration */
  GError *error;                 /* and what it failed with */
  gboolean failed_first;         /* before the job had */
  gboolean timed_out;
} move;

static void
move_clear (move *self)
{
  g_clear_pointer (&self->libvirt, mf_domain_migration_free);
  g_clear_pointer (&self->state_path, g_free);
  g_clear_object (&self->cancellable);
  g_clear_object (&self->job);
  g_clear_error (&self->error);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (move, move_clear)

/* --- what was written --- */

static gboolean
parse (int *argc, char ***argv, migrate_words *words, GError **error)
{
  const GOptionEntry entries[] = {
    { "connect", 'c', 0, G_OPTION_ARG_STRING, &words->uri, "The libvirt daemon; qemu:///system if left out", "URI" },
    { "peer", 0, 0, G_OPTION_ARG_STRING, &words->peer, "The service there; see below", "PEER" },
    { "mode", 0, 0, G_OPTION_ARG_STRING, &words->mode, "auto, precopy or postcopy", "MODE" },
    { "max-downtime", 0, 0, G_OPTION_ARG_STRING, &words->max_downtime, "How long the guest may stand", "MS" },
    { "bandwidth", 0, 0, G_OPTION_ARG_STRING, &words->bandwidth, "Bytes a second for bulk data, with K, M, G", "RATE" },
    { "timeout", 0, 0, G_OPTION_ARG_INT, &words->timeout, "Cancel it when the guest has not moved by then", "SECONDS" },
    { "max-pause", 0, 0, G_OPTION_ARG_STRING, &words->max_pause, "How long a pause for a scan may last", "MS" },
    { "max-pauses", 0, 0, G_OPTION_ARG_INT, &words->max_pauses, "How many pauses there may be", "N" },
    { "p2p", 0, 0, G_OPTION_ARG_NONE, &words->p2p, "libvirt's daemons talk to each other by themselves", NULL },
    { "persistent", 0, 0, G_OPTION_ARG_NONE, &words->persistent, "The domain stays defined there", NULL },
    { "undefine-source", 0, 0, G_OPTION_ARG_NONE, &words->undefine, "It is not defined here any more", NULL },
    { "unsafe", 0, 0, G_OPTION_ARG_NONE, &words->unsafe, "Also where libvirt doubts that its disks are shared", NULL },
    { "live", 0, 0, G_OPTION_ARG_NONE, &words->live, "As it always is: for who is used to virsh migrate", NULL },
    { "json", 0, 0, G_OPTION_ARG_NONE, &words->as_json, "Progress as one JSON object a line", NULL },
    G_OPTION_ENTRY_NULL
  };
  const mf_cli_usage usage = {
    .parameters = "DOMAIN DEST-URI",
    .summary =
        "Moves a running domain to the host of DEST-URI (qemu+ssh://HOST/system, qemu+tcp://..., qemu+tls://...).\n"
        "PEER is where its memory goes: ssh://HOST for qemu+ssh, tcp://HOST for the others, if left out.\n"
        "^C, or virsh domjobabort, cancels: until the switchover it goes on here as if nothing had been asked.",
    .entries = entries,
    .uses_service = TRUE,
  };

  return mf_cli_parse (&usage, argc, argv, &words->socket, error) &&
         mf_cli_check_words (*argc, 2, 2, "DOMAIN and DEST-URI", error);
}

/* The memory goes the way that the user has chosen for libvirt: through ssh, or not. */
static char *
peer_at (GUri *uri)
{
  const char *host = g_uri_get_host (uri), *user = g_uri_get_userinfo (uri);
  const gboolean ssh = g_str_has_suffix (g_uri_get_scheme (uri), "+ssh");
  GString *peer = g_string_new (ssh ? "ssh://" : "tcp://");

  if (ssh && user)
    g_string_append_printf (peer, "%s@", user);
  g_string_append_printf (peer, strchr (host, ':') ? "[%s]" : "%s", host);
  /* That of ssh is sshd's; any other is libvirt's, and none of ours. */
  if (ssh && g_uri_get_port (uri) > 0)
    g_string_append_printf (peer, ":%d", g_uri_get_port (uri));
  return g_string_free (peer, FALSE);
}

/* The service of the host that DEST-URI names. */
static char *
peer_of (const migrate_words *words, const char *destination, GError **error)
{
  g_autoptr (GUri) uri = NULL;
  g_autoptr (mf_peer_address) address = NULL;
  g_autofree char *peer = NULL;

  if (words->peer) {
    peer = g_strdup (words->peer);
  } else {
    uri = g_uri_parse (destination, G_URI_FLAGS_PARSE_RELAXED | G_URI_FLAGS_NON_DNS, NULL);
    if (uri && g_uri_get_host (uri) && *g_uri_get_host (uri))
      peer = peer_at (uri);
  }
  if (!peer) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
                 "%s names no host, so where its memferryd listens is not known: name it with --peer", destination);
    return NULL;
  }
  address = mf_peer_address_parse (peer, error);
  return address ? g_steal_pointer (&peer) : NULL;
}

static GVariant *
service_options (const migrate_words *words, const mf_domain *domain, GError **error)
{
  g_auto (GVariantDict) options = G_VARIANT_DICT_INIT (NULL);
  g_autofree char *qmp = mf_domain_dup_qmp_path (domain);
  g_autofree char *state = mf_domain_dup_state_path (domain);

  if (!mf_cli_add_msec (&options, "max-downtime", words->max_downtime, error) ||
      !mf_cli_add_msec (&options, "max-pause", words->max_pause, error) ||
      !mf_cli_add_rate (&options, "bandwidth", words->bandwidth, error))
    return NULL;
  if (words->mode)
    g_variant_dict_insert (&options, "mode", "s", words->mode);
  if (words->max_pauses > 0)
    g_variant_dict_insert (&options, "max-pauses", "u", (guint32) words->max_pauses);
  g_variant_dict_insert (&options, "program", "s", "libvirt");
  g_variant_dict_insert (&options, "qmp", "s", qmp);
  g_variant_dict_insert (&options, "state-socket", "s", state);
  return g_variant_dict_end (&options);
}

/* --- the job --- */

static char **
regions_of (const mf_domain *domain, GError **error)
{
  g_autoptr (GArray) memory = mf_domain_list_memory (domain, error);
  g_autoptr (GStrvBuilder) names = g_strv_builder_new ();

  if (!memory)
    return NULL;
  for (guint i = 0; i < memory->len; i++)
    g_strv_builder_add (names, g_array_index (memory, mf_domain_memory, i).region);
  return g_strv_builder_end (names);
}

static mf_domain *
enabled_domain (mf_domain_migration *libvirt, GError **error)
{
  g_autofree char *xml = mf_domain_migration_dup_xml (libvirt, error);
  g_autoptr (mf_domain) domain = xml ? mf_domain_parse (xml, error) : NULL;

  if (!domain || mf_domain_is_enabled (domain))
    return g_steal_pointer (&domain);
  g_set_error (
      error, MF_ERROR, MF_ERROR_INVALID,
      "%s runs without memferry: memferry domain enable %s, and then shut it down and start it, or move it with virsh",
      mf_domain_get_name (domain), mf_domain_get_name (domain));
  return NULL;
}

static MfDbusJob1 *
begin (GDBusConnection *connection, const char *const *regions, const char *peer, GVariant *options, GError **error)
{
  g_autoptr (MfDbusManager1) manager = mf_cli_manager (connection, error);
  g_autofree char *path = NULL;
  g_autoptr (GError) remote = NULL;

  if (!manager)
    return NULL;
  if (!mf_dbus_manager1_call_migrate_sync (manager, regions, peer, options, &path, NULL, &remote)) {
    mf_cli_take_error (error, g_steal_pointer (&remote));
    return NULL;
  }
  return mf_cli_job (connection, path, error);
}

/* --- both of them --- */

static void
libvirt_ended (GObject *source, GAsyncResult *result, gpointer user_data)
{
  move *self = user_data;

  self->has_ended = TRUE;
  if (mf_domain_migration_run_finish (result, &self->error))
    return;
  self->failed_first = !mf_cli_job_has_ended (self->job);
  /* One that is past its switchover sees by itself what libvirt does. */
  if (self->failed_first)
    mf_dbus_job1_call_cancel (self->job, NULL, NULL, NULL);
}

static void
job_changed (MfDbusJob1 *job, gpointer user_data)
{
  move *self = user_data;

  if (mf_dbus_job1_get_ready (job) && !self->has_begun) {
    self->has_begun = TRUE;
    mf_domain_migration_run (self->libvirt, self->state_path, self->cancellable, libvirt_ended, self);
  }
}

static gboolean
too_late (gpointer user_data)
{
  move *self = user_data;

  self->timed_out = TRUE;
  mf_dbus_job1_call_cancel (self->job, NULL, NULL, NULL);
  return G_SOURCE_REMOVE;
}

/* To what went wrong: where the guest is after it. */
static void
say_where (move *self, const char *name, const char *destination, GError **error)
{
  g_autofree char *end = NULL;

  switch (mf_domain_migration_find (self->libvirt)) {
  case MF_DOMAIN_HERE:
    end = g_strdup_printf ("%s goes on here", name);
    break;
  case MF_DOMAIN_THERE:
    end = g_strdup_printf ("%s runs at %s", name, destination);
    break;
  case MF_DOMAIN_SOMEWHERE:
  default:
    end = g_strdup_printf ("virsh domstate %s, on both hosts, tells where it is", name);
  }
  g_prefix_error (error, "%s: ", end);
}

/* Why the job is not done; NULL: it is. When it has ended so has libvirt, or it has not begun. */
static GError *
follow (move *self, gboolean as_json)
{
  GError *error = NULL;

  mf_cli_follow_with (self->job, as_json, job_changed, self, &error);
  /* Its source is undone, so there is nothing that it could wait for but its own time limits. But a service that is gone may have handed the guest over before, and the next
   * one goes on with the memory; if it has not, libvirt's stream is broken. */
  if (error && self->has_begun && !self->has_ended && mf_cli_job_has_ended (self->job))
    g_cancellable_cancel (self->cancellable);
  while (self->has_begun && !self->has_ended)
    g_main_context_iteration (NULL, TRUE);
  return error;
}

/* TRUE: the domain runs there. */
static gboolean
see_through (move *self, const migrate_words *words, const char *name, const char *destination, GError **error)
{
  guint timer = words->timeout > 0 ? g_timeout_add_seconds ((guint) words->timeout, too_late, self) : 0;
  g_autoptr (GError) job_error = follow (self, words->as_json);

  if (timer && !self->timed_out)
    g_source_remove (timer);
  if (!job_error && !self->error)
    return TRUE;
  if (self->has_begun && !self->error) {
    g_propagate_prefixed_error (error, g_steal_pointer (&job_error), "%s has moved, and runs at %s, and yet: ", name,
                                destination);
  } else if (!job_error) {
    g_propagate_prefixed_error (error, g_steal_pointer (&self->error), "the guest has moved, and yet: ");
  } else {
    if (self->timed_out)
      g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT, "cancelled, for it had not moved after %d s", words->timeout);
    else if (self->failed_first)
      g_propagate_error (error, g_steal_pointer (&self->error));
    else
      g_propagate_error (error, g_steal_pointer (&job_error));
    if (self->has_begun)
      say_where (self, name, destination, error);
    else
      g_prefix_error (error, "%s goes on here: ", name);
  }
  return FALSE;
}

static gboolean
migrate (const migrate_words *words, const char *name, const char *destination, GError **error)
{
  const mf_domain_migration_options wanted = {
    .uri = words->uri,
    .destination = destination,
    .peer_to_peer = words->p2p,
    .persistent = words->persistent,
    .undefine = words->undefine,
    .unsafe = words->unsafe,
  };
  g_autofree char *peer = peer_of (words, destination, error);
  g_autoptr (GDBusConnection) connection = NULL;
  g_autoptr (mf_domain) domain = NULL;
  g_autoptr (GVariant) options = NULL;
  g_auto (GStrv) regions = NULL;
  g_auto (move) self = { NULL };

  if (!peer || !(self.libvirt = mf_domain_migration_new (name, &wanted, error)))
    return FALSE;
  domain = enabled_domain (self.libvirt, error);
  options = domain ? service_options (words, domain, error) : NULL;
  regions = options ? regions_of (domain, error) : NULL;
  connection = regions ? mf_cli_connect (words->socket, error) : NULL;
  if (!connection)
    return FALSE;
  self.state_path = mf_domain_dup_state_path (domain);
  self.cancellable = g_cancellable_new ();
  self.job = begin (connection, (const char *const *) regions, peer, g_variant_ref_sink (options), error);
  if (!self.job || !see_through (&self, words, mf_domain_get_name (domain), destination, error))
    return FALSE;
  if (!words->as_json) {
    g_autofree char *summary = mf_cli_summary_line (self.job);

    g_print ("%s\n", summary);
  }
  return mf_cli_flush (error);
}

int
mf_cmd_domain_migrate (int argc, char **argv)
{
  g_auto (migrate_words) words = { NULL };
  g_autoptr (GError) error = NULL;

  if (!parse (&argc, &argv, &words, &error) || !migrate (&words, argv[1], argv[2], &error))
    return mf_cli_fail (error);
  return 0;
}
