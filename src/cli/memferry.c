/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memferry: the command. One executable; the first word says what to do.
 */
#include "cli/mf-cli-options.h"
#include "cli/mf-cli-libvirt.h"
#include "cli/mf-command.h"
#include "mf-config.h"
#include "mf-error.h"
#include <locale.h>
#include <string.h>

static const mf_command commands[] = {
  { "run", "Start a program whose memory can be moved", mf_cmd_run },
  { "migrate", "Move a program and its regions to another host", mf_cmd_migrate },
  { "serve", "Show a file or memory to NBD clients", mf_cmd_serve },
#if MF_HAVE_FUSE
  { "mount", "Show the bytes of a backend as a file", mf_cmd_mount },
#endif
  { "list", "Show the regions", mf_cmd_list },
  { "show", "Show everything about a region", mf_cmd_show },
  { "create", "Make a region", mf_cmd_create },
  { "remove", "Remove a region and its bytes", mf_cmd_remove },
  { "jobs", "Show the migrations", mf_cmd_jobs },
  { "cancel", "Cancel a migration", mf_cmd_cancel },
  { "watch", "Show what happens as it happens", mf_cmd_watch },
#if MF_HAVE_LIBVIRT
  { "domain", "Let domains of libvirt be moved", mf_cli_run_libvirt },
  { "drain", "Move all of this host's domains away", mf_cli_run_libvirt },
  { "hook", "Do what libvirt's hook has to do", mf_cli_run_libvirt },
#endif
};

static char *
describe_commands (void)
{
  g_autoptr (GString) text = g_string_new ("Commands:\n");

  for (guint i = 0; i < G_N_ELEMENTS (commands); i++)
    g_string_append_printf (text, "  %-10s  %s\n", commands[i].name, commands[i].summary);
  g_string_append (text, "\nmemferry COMMAND --help says more about each.");
  return g_string_free (g_steal_pointer (&text), FALSE);
}

static int
run_command (int argc, char **argv)
{
  for (guint i = 0; i < G_N_ELEMENTS (commands); i++) {
    if (strcmp (argv[0], commands[i].name) == 0) {
      g_autofree char *name = g_strdup_printf ("memferry %s", argv[0]);

      g_set_prgname (name);
      return commands[i].run (argc, argv);
    }
  }
  g_printerr ("memferry: there is no command %s; see memferry --help\n", argv[0]);
  return 1;
}

int
main (int argc, char **argv)
{
  g_autofree char *described = describe_commands ();
  g_autofree char *socket = NULL;
  g_autoptr (GError) error = NULL;
  gboolean version = FALSE;
  const GOptionEntry entries[] = { { "version", 0, 0, G_OPTION_ARG_NONE, &version, "Show the version", NULL },
                                   G_OPTION_ENTRY_NULL };
  const mf_cli_usage usage = {
    .parameters = "COMMAND ...",
    .summary = described,
    .entries = entries,
    .uses_service = TRUE,
    .stops_at_words = TRUE,
  };

  setlocale (LC_CTYPE, "");
  g_set_prgname ("memferry");
  if (!mf_cli_parse (&usage, &argc, &argv, &socket, &error))
    return mf_cli_fail (error);
  if (version) {
    g_print ("memferry %s\n", MF_VERSION);
    return 0;
  }
  if (argc < 2) {
    g_printerr ("memferry: a command is missing; see memferry --help\n");
    return 1;
  }
  /* What was said before the command holds for it; it may say something else itself. */
  g_setenv ("MEMFERRY_SOCKET", socket, TRUE);
  return run_command (argc - 1, argv + 1);
}
