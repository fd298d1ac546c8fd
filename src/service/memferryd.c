/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memferryd: the service's command line, its signals and its main loop.
 */
#include "mf-config.h"
#include "mf-notify.h"
#include "service/mf-service.h"
#include <glib-unix.h>
#include <locale.h>
#include <signal.h>
#include <sys/stat.h>

typedef struct {
  mf_service_config config;
  char *file;
  gboolean version;
} service_words;

static gboolean
parse (int *argc, char ***argv, service_words *words, GError **error)
{
  const GOptionEntry entries[] = {
    { "runtime-dir", 0, 0, G_OPTION_ARG_FILENAME, &words->config.runtime_dir, "Folder for the sockets", "DIR" },
    { "store-dir", 0, 0, G_OPTION_ARG_FILENAME, &words->config.store_dir, "Folder for the regions", "DIR" },
    { "listen", 0, 0, G_OPTION_ARG_STRING_ARRAY, &words->config.listen,
      "Let other services in at this address too; may be given several times", "PEER" },
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &words->file, "Configuration (" MF_SYSCONF_FILE ")", "FILE" },
    { "version", 0, 0, G_OPTION_ARG_NONE, &words->version, "Show the version", NULL },
    G_OPTION_ENTRY_NULL
  };
  g_autoptr (GOptionContext) context = g_option_context_new (NULL);
  g_autoptr (GError) wrong = NULL;

  g_option_context_set_summary (context,
                                "Serves the regions of this host: lets their programs be moved to and from others.");
  g_option_context_add_main_entries (context, entries, NULL);
  if (!g_option_context_parse (context, argc, argv, &wrong)) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s; see memferryd --help", wrong->message);
    return FALSE;
  }
  if (*argc > 1) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s: too many words; see memferryd --help", (*argv)[1]);
    return FALSE;
  }
  return TRUE;
}

static gboolean
configure (service_words *words, GError **error)
{
  const char *file = words->file ? words->file : MF_SYSCONF_FILE;

  if (!mf_service_config_read (&words->config, file, words->file != NULL, error))
    return FALSE;
  mf_service_config_complete (&words->config);
  return TRUE;
}

static gboolean
end (gpointer loop)
{
  mf_notify ("STOPPING=1");
  g_main_loop_quit (loop);
  return G_SOURCE_CONTINUE;
}

/* All that is done in the main loop is short: where it stands still for long the service is of no use to anybody. */
static gboolean
feed_watchdog (gpointer user_data)
{
  mf_notify ("WATCHDOG=1");
  return G_SOURCE_CONTINUE;
}

static gboolean
serve (const mf_service_config *config, GError **error)
{
  g_autoptr (GMainLoop) loop = g_main_loop_new (NULL, FALSE);
  g_autoptr (mf_kept_sockets) kept = mf_kept_sockets_new ();
  g_autoptr (MfService) service = NULL;
  guint64 watchdog_usec = mf_notify_watchdog_usec ();

  /* Before anything is there that would have to be cleaned up. */
  g_unix_signal_add (SIGTERM, end, loop);
  g_unix_signal_add (SIGINT, end, loop);
  signal (SIGPIPE, SIG_IGN);
  service = mf_service_new (config, kept, error);
  if (!service)
    return FALSE;
  mf_kept_sockets_finish (kept);
  g_message ("memferryd %s is ready at %s/memferry.sock", MF_VERSION, config->runtime_dir);
  mf_notify ("READY=1");
  if (watchdog_usec)
    g_timeout_add ((guint) CLAMP (watchdog_usec / 2000, 1, G_MAXUINT), feed_watchdog, NULL);
  g_main_loop_run (loop);
  return TRUE;
}

int
main (int argc, char **argv)
{
  service_words words = { { NULL } };
  g_autoptr (GError) error = NULL;
  int status = 0;

  setlocale (LC_CTYPE, "");
  g_set_prgname ("memferryd");
  g_log_writer_default_set_use_stderr (TRUE);
  /* What is for others is said so, file by file. */
  umask (0077);
  if (!parse (&argc, &argv, &words, &error)) {
    status = 1;
  } else if (words.version) {
    g_print ("memferryd %s\n", MF_VERSION);
  } else if (!configure (&words, &error) || !serve (&words.config, &error)) {
    status = 1;
  }
  if (error)
    g_printerr ("memferryd: %s\n", error->message);
  mf_service_config_clear (&words.config);
  g_free (words.file);
  return status;
}
