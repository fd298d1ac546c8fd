/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memferry serve: shows a file or some memory to NBD clients. Needs no service.
 */
#include "cli/mf-cli-options.h"
#include "cli/mf-command.h"
#include "cli/mf-quantity.h"
#include "nbd/mf-nbd-address.h"
#include "nbd/mf-nbd-server.h"
#include <glib-unix.h>
#include <string.h>
#include <unistd.h>

typedef struct {
  char *at;
  char *name;
  gboolean read_only;
} serve_words;

static void
serve_words_clear (serve_words *words)
{
  g_free (words->at);
  g_free (words->name);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (serve_words, serve_words_clear)

static gboolean
parse (int *argc, char ***argv, serve_words *words, GError **error)
{
  const GOptionEntry entries[] = { { "at", 0, 0, G_OPTION_ARG_STRING, &words->at,
                                     "Where to listen: nbd://HOST[:PORT]/ or nbd+unix:///?socket=PATH", "NBD-URI" },
                                   { "name", 0, 0, G_OPTION_ARG_STRING, &words->name,
                                     "The export's name, otherwise what the URI says", "EXPORT" },
                                   { "read-only", 0, 0, G_OPTION_ARG_NONE, &words->read_only, "Refuse writes", NULL },
                                   G_OPTION_ENTRY_NULL };
  const mf_cli_usage usage = {
    .parameters = "BACKEND --at NBD-URI",
    .summary = "Shows a file (file:PATH) or memory (memory:SIZE) to NBD clients, until ^C.",
    .entries = entries,
  };

  if (!mf_cli_parse (&usage, argc, argv, NULL, error) || !mf_cli_check_words (*argc, 1, 1, "BACKEND", error))
    return FALSE;
  if (words->at)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "--at is missing; see memferry serve --help");
  return FALSE;
}

/* All of it may be written, so there must be room for all of it. */
static MfStore *
memory_backend (guint64 size, GError **error)
{
  g_autoptr (MfStore) store = mf_store_memfd ("serve", size, error);

  return store && mf_store_reserve (store, error) ? g_steal_pointer (&store) : NULL;
}

static MfStore *
open_backend (const char *backend, gboolean read_only, GError **error)
{
  guint64 size;

  if (g_str_has_prefix (backend, "file:"))
    return mf_store_open (backend + strlen ("file:"), read_only, error);
  if (g_str_has_prefix (backend, "memory:")) {
    if (!mf_quantity_parse_size (backend + strlen ("memory:"), &size, error))
      return NULL;
    return memory_backend (size, error);
  }
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s is no backend that can be served: write file:PATH or memory:SIZE",
               backend);
  return NULL;
}

/* The export's name: what was asked for, or what the URI says. */
static char *
export_name (const serve_words *words, GError **error)
{
  g_autoptr (mf_nbd_address) address = mf_nbd_address_parse (words->at, error);

  if (!address)
    return NULL;
  if (!words->name || strcmp (words->name, address->export) == 0)
    return g_strdup (address->export);
  if (!*address->export)
    return g_strdup (words->name);
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "--name says %s, but the URI says %s", words->name, address->export);
  return NULL;
}

static gboolean
on_signal (gpointer loop)
{
  g_main_loop_quit (loop);
  return G_SOURCE_CONTINUE;
}

static gboolean
serve (const char *backend, const serve_words *words, GError **error)
{
  const mf_nbd_export_options options = { .read_only = words->read_only, .description = backend };
  g_autofree char *name = export_name (words, error);
  g_autoptr (MfStore) store = name ? open_backend (backend, words->read_only, error) : NULL;
  g_autoptr (MfRegion) region = store ? mf_region_new ("serve", store, error) : NULL;
  g_autoptr (MfNbdServer) server = mf_nbd_server_new ();
  g_autoptr (GMainLoop) loop = g_main_loop_new (NULL, FALSE);
  guint interrupted, terminated;

  if (!region)
    return FALSE;
  /* Before the socket is there: who sees it may end this again. */
  interrupted = g_unix_signal_add (SIGINT, on_signal, loop);
  terminated = g_unix_signal_add (SIGTERM, on_signal, loop);
  if (!mf_nbd_server_export (server, name, region, &options, error) || !mf_nbd_server_listen (server, words->at, error))
    return FALSE;
  if (isatty (STDOUT_FILENO)) {
    g_autofree char *size = mf_quantity_format_size (mf_store_size (store));

    g_print ("serving %s (%s) at %s; ^C ends it\n", backend, size, words->at);
  }
  g_main_loop_run (loop);
  g_source_remove (interrupted);
  g_source_remove (terminated);
  return TRUE;
}

int
mf_cmd_serve (int argc, char **argv)
{
  g_auto (serve_words) words = { NULL };
  g_autoptr (GError) error = NULL;

  if (!parse (&argc, &argv, &words, &error) || !serve (argv[1], &words, &error))
    return mf_cli_fail (error);
  return 0;
}
