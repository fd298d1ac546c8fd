/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memferry run: starts a program whose memory the service can move. The command becomes the program: nothing stands between it and
 * who started it. All that may fail is asked for before.
 */
#include "cli/mf-cli-options.h"
#include "cli/mf-cli-preload.h"
#include "cli/mf-cli-service.h"
#include "cli/mf-command.h"
#include "cli/mf-quantity.h"
#include <errno.h>
#include <unistd.h>

/* What the preload library has room for. */
#define MAX_REGIONS 8

typedef struct {
  char *socket;
  char **regions;
  char *size;
  char *qmp;
} run_words;

static void
run_words_clear (run_words *words)
{
  g_free (words->socket);
  g_strfreev (words->regions);
  g_free (words->size);
  g_free (words->qmp);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (run_words, run_words_clear)

/* What the program needs in its environment. */
typedef struct {
  char *handover;
  char *preload;
  GString *files; /* separated by colons */
} run_environment;

static void
run_environment_clear (run_environment *environment)
{
  g_free (environment->handover);
  g_free (environment->preload);
  if (environment->files)
    g_string_free (environment->files, TRUE);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (run_environment, run_environment_clear)

static gboolean
parse (int *argc, char ***argv, run_words *words, GError **error)
{
  const GOptionEntry entries[] = {
    { "region", 0, 0, G_OPTION_ARG_STRING_ARRAY, &words->regions, "A region that it maps; may be given several times",
      "NAME" },
    { "size", 0, 0, G_OPTION_ARG_STRING, &words->size, "Make the region with this size if it isn't there", "SIZE" },
    { "qmp", 0, 0, G_OPTION_ARG_FILENAME, &words->qmp, "QMP socket of the program, if it is QEMU", "SOCKET" },
    G_OPTION_ENTRY_NULL
  };
  const mf_cli_usage usage = {
    .parameters = "--region NAME [--] PROGRAM [ARG]...",
    .summary = "Starts a program whose memory can be moved to another host.",
    .entries = entries,
    .uses_service = TRUE,
    .stops_at_words = TRUE,
  };

  if (!mf_cli_parse (&usage, argc, argv, &words->socket, error))
    return FALSE;
  if (!words->regions) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "--region is missing; see memferry run --help");
    return FALSE;
  }
  if (g_strv_length (words->regions) > MAX_REGIONS) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "a program can have at most %d regions", MAX_REGIONS);
    return FALSE;
  }
  return mf_cli_check_words (*argc, 1, G_MAXINT, "PROGRAM", error);
}

static gboolean
prepare (MfDbusManager1 *manager, const char *region, guint64 size, const char *qmp, run_environment *environment,
         GError **error)
{
  g_autoptr (GVariant) answer = NULL;
  g_autoptr (GError) remote = NULL;
  g_autofree char *file = NULL;
  GVariantDict options;

  g_variant_dict_init (&options, NULL);
  if (qmp)
    g_variant_dict_insert (&options, "qmp", "s", qmp);
  if (!mf_dbus_manager1_call_prepare_run_sync (manager, region, size, g_variant_dict_end (&options), &answer, NULL,
                                               &remote))
    return mf_cli_take_error (error, g_steal_pointer (&remote));
  g_free (environment->handover);
  g_free (environment->preload);
  if (!g_variant_lookup (answer, "handover", "s", &environment->handover) ||
      !g_variant_lookup (answer, "preload", "s", &environment->preload) ||
      !g_variant_lookup (answer, "file", "s", &file)) {
    g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL,
                 "the service left something out of its answer: it is of another version");
    return FALSE;
  }
  g_string_append_printf (environment->files, "%s%s", environment->files->len ? ":" : "", file);
  return TRUE;
}

static gboolean
prepare_all (const run_words *words, run_environment *environment, GError **error)
{
  g_autofree char *qmp = words->qmp ? g_canonicalize_filename (words->qmp, NULL) : NULL;
  g_autoptr (GDBusConnection) connection = NULL;
  g_autoptr (MfDbusManager1) manager = NULL;
  guint64 size = 0;

  if (words->size && !mf_quantity_parse_size (words->size, &size, error))
    return FALSE;
  connection = mf_cli_connect (words->socket, error);
  manager = connection ? mf_cli_manager (connection, error) : NULL;
  if (!manager)
    return FALSE;
  environment->files = g_string_new (NULL);
  for (char **region = words->regions; *region; region++)
    if (!prepare (manager, *region, size, qmp, environment, error))
      return FALSE;
  return TRUE;
}

static gboolean
set_environment (const run_environment *environment, GError **error)
{
  g_autofree char *preload = mf_cli_preload_path (environment->preload, error);
  const char *others = g_getenv ("LD_PRELOAD");
  g_autofree char *all = NULL;

  if (!preload)
    return FALSE;
  all = others && *others ? g_strconcat (others, ":", preload, NULL) : g_strdup (preload);
  g_setenv ("LD_PRELOAD", all, TRUE);
  g_setenv ("MEMFERRY_HANDOVER", environment->handover, TRUE);
  g_setenv ("MEMFERRY_REGION_FILE", environment->files->str, TRUE);
  return TRUE;
}

int
mf_cmd_run (int argc, char **argv)
{
  g_auto (run_words) words = { NULL };
  g_auto (run_environment) environment = { NULL };
  g_autoptr (GError) error = NULL;

  if (!parse (&argc, &argv, &words, &error) || !prepare_all (&words, &environment, &error) ||
      !set_environment (&environment, &error))
    return mf_cli_fail (error);
  execvp (argv[1], argv + 1);
  mf_error_from_errno (&error, errno, "%s", argv[1]);
  return mf_cli_fail (error);
}
