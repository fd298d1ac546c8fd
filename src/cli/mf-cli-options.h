/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The words of a command line: options, --help, and how an error is told.
 */
#include <glib.h>

G_BEGIN_DECLS

typedef struct {
  const char *parameters;      /* after the options in the usage line: "REGION... --to PEER" */
  const char *summary;         /* what the command does, a sentence or two */
  const GOptionEntry *entries; /* its own options, or NULL */
  gboolean uses_service;       /* takes --socket and --runtime-dir as well */
  gboolean stops_at_words;     /* options end at the first word that is none (what follows belongs to somebody else) */
} mf_cli_usage;

/* Parses and takes the options out of argv; --help prints and ends the program. `socket` (NULL unless uses_service) is
 * where the service is to be looked for: --socket, --runtime-dir, MEMFERRY_SOCKET, or where it is by default. */
gboolean mf_cli_parse (const mf_cli_usage *usage, int *argc, char ***argv, char **socket, GError **error);

/* MF_ERROR_INVALID unless there are `min` to `max` words after the command's name. `what` names them: "REGION". */
gboolean mf_cli_check_words (int argc, int min, int max, const char *what, GError **error);

/* The one line on standard error. Returns 1, the exit status. */
int mf_cli_fail (const GError *error);

/* Makes sure that what was printed on standard output got there (the disk may be full). */
gboolean mf_cli_flush (GError **error);

G_END_DECLS
