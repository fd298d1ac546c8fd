/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memferry-libvirt: what memferry becomes for the commands that know libvirt. Not for people: its name, or else its first word, is the command.
 */
#include "cli/mf-command.h"
#include <glib.h>
#include <locale.h>
#include <string.h>

static const struct {
  const char *name;
  int (*run) (int argc, char **argv);
} commands[] = {
  { "domain", mf_cmd_domain },
  { "drain", mf_cmd_drain },
  { "hook", mf_cmd_hook },
};

/* The exit status, or -1: there is no such command. */
static int
run (int argc, char **argv)
{
  for (guint i = 0; argc > 0 && i < G_N_ELEMENTS (commands); i++) {
    if (strcmp (argv[0], commands[i].name) == 0) {
      g_autofree char *name = g_strdup_printf ("memferry %s", argv[0]);

      g_set_prgname (name);
      return commands[i].run (argc, argv);
    }
  }
  return -1;
}

int
main (int argc, char **argv)
{
  int status;

  setlocale (LC_CTYPE, "");
  status = run (argc, argv);
  /* Started by its path: by itself, for another guest. */
  if (status < 0)
    status = run (argc - 1, argv + 1);
  if (status >= 0)
    return status;
  g_printerr ("memferry-libvirt: this is a part of memferry; see memferry --help\n");
  return 1;
}
