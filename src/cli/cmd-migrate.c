/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-follow.h"
#include "cli/mf-cli-json.h"
#include "cli/mf-cli-migration.h"
#include "cli/mf-cli-options.h"
#include "cli/mf-cli-progress.h"
#include "cli/mf-cli-service.h"
#include "cli/mf-command.h"
#include <string.h>

/* The options as they were written. */
typedef struct {
  char *socket, *to, *from, *qmp, *peer_qmp, *program, *state, *peer_state, *max_downtime, *mode, *bandwidth,
      *max_pause;
  int max_pauses;
  gboolean live_scans, detach, as_json;
} migrate_words;

static void
migrate_words_clear (migrate_words *words)
{
  g_free (words->socket);
  g_free (words->to);
  g_free (words->from);
  g_free (words->qmp);
  g_free (words->peer_qmp);
  g_free (words->program);
  g_free (words->state);
  g_free (words->peer_state);
  g_free (words->max_downtime);
  g_free (words->mode);
  g_free (words->bandwidth);
  g_free (words->max_pause);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (migrate_words, migrate_words_clear)

static gboolean
parse (int *argc, char ***argv, migrate_words *words, GError **error)
{
  const GOptionEntry entries[] = {
    { "to", 0, 0, G_OPTION_ARG_STRING, &words->to, "The host: ssh://[USER@]HOST, tcp://HOST[:PORT], unix:PATH",
      "PEER" },
    { "from", 0, 0, G_OPTION_ARG_STRING, &words->from, "Instead: the host that they are to come from, to here",
      "PEER" },
    { "qmp", 0, 0, G_OPTION_ARG_FILENAME, &words->qmp, "QMP socket of the QEMU here", "SOCKET" },
    { "peer-qmp", 0, 0, G_OPTION_ARG_FILENAME, &words->peer_qmp, "QMP socket of the QEMU there", "SOCKET" },
    { "program", 0, 0, G_OPTION_ARG_STRING, &words->program,
      "libvirt: it drives the migration when all is ready; see memferry domain migrate", "KIND" },
    { "state-socket", 0, 0, G_OPTION_ARG_FILENAME, &words->state, "Where libvirt's migration URI points to", "SOCKET" },
    { "peer-state-socket", 0, 0, G_OPTION_ARG_FILENAME, &words->peer_state, "The same on the other host", "SOCKET" },
    { "max-downtime", 0, 0, G_OPTION_ARG_STRING, &words->max_downtime, "How long the program may stand", "MS" },
    { "mode", 0, 0, G_OPTION_ARG_STRING, &words->mode, "auto, precopy or postcopy", "MODE" },
    { "bandwidth", 0, 0, G_OPTION_ARG_STRING, &words->bandwidth, "Bytes a second for bulk data, with K, M, G", "RATE" },
    { "max-pause", 0, 0, G_OPTION_ARG_STRING, &words->max_pause, "How long a pause for a scan may last", "MS" },
    { "max-pauses", 0, 0, G_OPTION_ARG_INT, &words->max_pauses, "How many pauses there may be", "N" },
    { "live-scans", 0, 0, G_OPTION_ARG_NONE, &words->live_scans,
      "Never pause for a scan; only where no O_DIRECT read takes long", NULL },
    { "detach", 0, 0, G_OPTION_ARG_NONE, &words->detach, "Begin it, print its number, and return", NULL },
    { "json", 0, 0, G_OPTION_ARG_NONE, &words->as_json, "Progress as one JSON object a line", NULL },
    G_OPTION_ENTRY_NULL
  };
  const mf_cli_usage usage = {
    .parameters = "REGION... --to|--from PEER",
    .summary = "Moves a program's regions to another host, or from there to here, while it runs.\n"
               "^C cancels: until the switchover the program goes on where it is as if nothing had been asked.",
    .entries = entries,
    .uses_service = TRUE,
  };

  if (!mf_cli_parse (&usage, argc, argv, &words->socket, error) ||
      !mf_cli_check_words (*argc, 1, G_MAXINT, "REGION", error))
    return FALSE;
  if (words->to && words->from)
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "--to and --from: one of the two hosts is this one");
  else if (words->from && (words->program || words->state || words->peer_state))
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "--from: what libvirt drives is moved from its own host");
  else if (!words->to && !words->from)
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "--to, or --from, is missing; see memferry migrate --help");
  else
    return TRUE;
  return FALSE;
}

/* The service has another working folder. */
static char *
absolute_peer (const char *peer)
{
  g_autofree char *path = NULL;

  if (!g_str_has_prefix (peer, "unix:"))
    return g_strdup (peer);
  path = g_canonicalize_filename (peer + strlen ("unix:"), NULL);
  return g_strconcat ("unix:", path, NULL);
}

static gboolean
add_mode (GVariantDict *options, const char *mode, GError **error)
{
  const char *const modes[] = { "auto", "precopy", "postcopy", NULL };

  if (!mode)
    return TRUE;
  if (!g_strv_contains (modes, mode)) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "--mode: %s is not a mode: auto, precopy or postcopy", mode);
    return FALSE;
  }
  g_variant_dict_insert (options, "mode", "s", mode);
  return TRUE;
}

static gboolean
add_sockets (GVariantDict *options, const migrate_words *words, GError **error)
{
  if (words->qmp) {
    g_autofree char *path = g_canonicalize_filename (words->qmp, NULL);

    g_variant_dict_insert (options, "qmp", "s", path);
  }
  if (words->peer_qmp && !g_path_is_absolute (words->peer_qmp)) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "--peer-qmp: %s is not a full path on the other host",
                 words->peer_qmp);
    return FALSE;
  }
  if (words->peer_qmp)
    g_variant_dict_insert (options, "peer-qmp", "s", words->peer_qmp);
  if (words->program)
    g_variant_dict_insert (options, "program", "s", words->program);
  if (words->state)
    g_variant_dict_insert (options, "state-socket", "s", words->state);
  if (words->peer_state)
    g_variant_dict_insert (options, "peer-state-socket", "s", words->peer_state);
  return TRUE;
}

static gboolean
add_numbers (GVariantDict *options, const migrate_words *words, GError **error)
{
  if (!mf_cli_add_rate (options, "bandwidth", words->bandwidth, error))
    return FALSE;
  if (words->max_pauses < 0) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "--max-pauses: %d is less than none", words->max_pauses);
    return FALSE;
  }
  if (words->max_pauses)
    g_variant_dict_insert (options, "max-pauses", "u", (guint32) words->max_pauses);
  return TRUE;
}

/* The options as the service takes them, floating; NULL with an error. */
static GVariant *
service_options (const migrate_words *words, GError **error)
{
  g_auto (GVariantDict) options = G_VARIANT_DICT_INIT (NULL);

  if (!mf_cli_add_msec (&options, "max-downtime", words->max_downtime, error) ||
      !mf_cli_add_msec (&options, "max-pause", words->max_pause, error) || !add_mode (&options, words->mode, error) ||
      !add_sockets (&options, words, error) || !add_numbers (&options, words, error))
    return NULL;
  if (words->live_scans)
    g_variant_dict_insert (&options, "live-scans", "b", TRUE);
  if (words->detach)
    g_variant_dict_insert (&options, "detach", "b", TRUE);
  return g_variant_dict_end (&options);
}

/* Begins the migration. (transfer full) */
static MfDbusJob1 *
begin (GDBusConnection *connection, const migrate_words *words, const char *const *regions, GVariant *options,
       GError **error)
{
  g_autofree char *peer = absolute_peer (words->to ? words->to : words->from);
  g_autoptr (MfDbusManager1) manager = mf_cli_manager (connection, error);
  g_autofree char *path = NULL;
  g_autoptr (GError) remote = NULL;
  gboolean ok;

  if (!manager)
    return NULL;
  if (words->to)
    ok = mf_dbus_manager1_call_migrate_sync (manager, regions, peer, options, &path, NULL, &remote);
  else
    ok = mf_dbus_manager1_call_fetch_sync (manager, regions, peer, options, &path, NULL, &remote);
  if (!ok) {
    mf_cli_take_error (error, g_steal_pointer (&remote));
    return NULL;
  }
  return mf_cli_job (connection, path, error);
}

static gboolean
migrate (const migrate_words *words, const char *const *regions, GError **error)
{
  g_autoptr (GVariant) options = service_options (words, error);
  g_autoptr (GDBusConnection) connection = NULL;
  g_autoptr (MfDbusJob1) job = NULL;

  if (!options)
    return FALSE;
  g_variant_ref_sink (options);
  connection = mf_cli_connect (words->socket, error);
  job = connection ? begin (connection, words, regions, options, error) : NULL;
  if (!job)
    return FALSE;
  if (words->detach) {
    g_autofree char *json = mf_cli_json_job (job);

    if (words->as_json)
      g_print ("%s\n", json);
    else
      g_print ("%u\n", mf_dbus_job1_get_id (job));
    return mf_cli_flush (error);
  }
  if (!mf_cli_follow (job, words->as_json, error))
    return FALSE;
  if (!words->as_json) {
    g_autofree char *summary = mf_cli_summary_line (job);

    g_print ("%s\n", summary);
  }
  return mf_cli_flush (error);
}

int
mf_cmd_migrate (int argc, char **argv)
{
  g_auto (migrate_words) words = { NULL };
  g_autoptr (GError) error = NULL;

  if (!parse (&argc, &argv, &words, &error) || !migrate (&words, (const char *const *) argv + 1, &error))
    return mf_cli_fail (error);
  return 0;
}
