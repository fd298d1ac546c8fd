/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-options.h"

#include "mf-config.h"
#include "mf-error.h"
#include <errno.h>
#include <gio/gio.h>
#include <stdio.h>
#include <string.h>

/* The options that every command which talks to a service has in common. */
typedef struct {
  char *socket;
  char *runtime_dir;
} service_options;

static void
add_service_options (GOptionContext *context, service_options *options)
{
  const GOptionEntry entries[] = {
    { "socket", 0, 0, G_OPTION_ARG_FILENAME, &options->socket, "Socket of the service", "PATH" },
    { "runtime-dir", 0, 0, G_OPTION_ARG_FILENAME, &options->runtime_dir, "Runtime folder of the service", "DIR" },
    G_OPTION_ENTRY_NULL
  };

  g_option_context_add_main_entries (context, entries, NULL);
}

static char *
socket_path (const service_options *options)
{
  const char *named = g_getenv ("MEMFERRY_SOCKET");

  if (options->socket)
    return g_strdup (options->socket);
  if (options->runtime_dir)
    return g_build_filename (options->runtime_dir, "memferry.sock", NULL);
  if (named && *named)
    return g_strdup (named);
  return g_strdup (MF_RUNTIME_DIR "/memferry.sock");
}

/* GOption leaves the dashes that end the options where they are if what follows looks like an option. */
static void
drop_dashes (int *argc, char **argv, gboolean only_first)
{
  for (int i = 1; i < (only_first ? MIN (*argc, 2) : *argc); i++) {
    if (strcmp (argv[i], "--") == 0) {
      memmove (argv + i, argv + i + 1, sizeof *argv * (gsize) (*argc - i));
      (*argc)--;
      return;
    }
  }
}

gboolean
mf_cli_parse (const mf_cli_usage *usage, int *argc, char ***argv, char **socket, GError **error)
{
  g_autoptr (GOptionContext) context = g_option_context_new (usage->parameters);
  g_autoptr (GError) wrong = NULL;
  service_options options = { NULL };
  gboolean good;

  g_option_context_set_summary (context, usage->summary);
  g_option_context_set_strict_posix (context, usage->stops_at_words);
  if (usage->entries)
    g_option_context_add_main_entries (context, usage->entries, NULL);
  if (usage->uses_service)
    add_service_options (context, &options);

  good = g_option_context_parse (context, argc, argv, &wrong);
  if (good)
    drop_dashes (argc, *argv, usage->stops_at_words);
  if (good && socket)
    *socket = socket_path (&options);
  g_free (options.socket);
  g_free (options.runtime_dir);
  if (!good)
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s; see %s --help", wrong->message, g_get_prgname ());
  return good;
}

gboolean
mf_cli_check_words (int argc, int min, int max, const char *what, GError **error)
{
  if (argc - 1 < min)
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s is missing; see %s --help", what, g_get_prgname ());
  else if (argc - 1 > max)
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "too many words; see %s --help", g_get_prgname ());
  else
    return TRUE;
  return FALSE;
}

int
mf_cli_fail (const GError *error)
{
  g_autofree char *message = g_strdup (error->message);

  /* One line, whatever a library or a peer has put into it. */
  g_strdelimit (message, "\n\r", ' ');
  g_printerr ("%s: %s\n", g_get_prgname (), g_strchomp (message));
  return 1;
}

gboolean
mf_cli_flush (GError **error)
{
  if (fflush (stdout) == 0 && !ferror (stdout))
    return TRUE;
  return mf_error_from_errno (error, errno, "standard output");
}
