/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/cmd-domain.h"

#include "cli/mf-cli-options.h"
#include "cli/mf-command.h"
#include <string.h>

static const mf_command commands[] = {
  { "enable", "Let a domain's memory be carried by memferry", mf_cmd_domain_enable },
  { "disable", "Make a domain what it was before", mf_cmd_domain_disable },
  { "migrate", "Move a running domain to another host", mf_cmd_domain_migrate },
  { "list", "Show which domains are ready, and why others are not", mf_cmd_domain_list },
};

static char *
describe_commands (void)
{
  g_autoptr (GString) text = g_string_new ("What libvirt's domains need to be moved by memferry.\n\nCommands:\n");

  for (guint i = 0; i < G_N_ELEMENTS (commands); i++)
    g_string_append_printf (text, "  %-10s  %s\n", commands[i].name, commands[i].summary);
  g_string_append (text, "\nmemferry domain COMMAND --help says more about each.");
  return g_string_free (g_steal_pointer (&text), FALSE);
}

static int
run_command (int argc, char **argv)
{
  for (guint i = 0; i < G_N_ELEMENTS (commands); i++) {
    if (strcmp (argv[0], commands[i].name) == 0) {
      g_autofree char *name = g_strdup_printf ("memferry domain %s", argv[0]);

      g_set_prgname (name);
      return commands[i].run (argc, argv);
    }
  }
  g_printerr ("memferry domain: there is no command %s; see memferry domain --help\n", argv[0]);
  return 1;
}

int
mf_cmd_domain (int argc, char **argv)
{
  g_autofree char *described = describe_commands ();
  g_autofree char *socket = NULL;
  g_autoptr (GError) error = NULL;
  const mf_cli_usage usage = {
    .parameters = "COMMAND ...",
    .summary = described,
    .uses_service = TRUE,
    .stops_at_words = TRUE,
  };

  if (!mf_cli_parse (&usage, &argc, &argv, &socket, &error) ||
      !mf_cli_check_words (argc, 1, G_MAXINT, "a command", &error))
    return mf_cli_fail (error);
  g_setenv ("MEMFERRY_SOCKET", socket, TRUE);
  return run_command (argc - 1, argv + 1);
}
