/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * One subcommand of memferry. `run` gets its own words, argv[0] being its name, and returns the exit status: 0, or 1 after one line on
 * standard error. The program's name (g_get_prgname) is "memferry NAME" by then.
 */
typedef struct {
  const char *name;
  const char *summary; /* for memferry --help: one line, no full stop */
  int (*run) (int argc, char **argv);
} mf_command;

int mf_cmd_run (int argc, char **argv);
int mf_cmd_migrate (int argc, char **argv);
int mf_cmd_list (int argc, char **argv);
int mf_cmd_show (int argc, char **argv);
int mf_cmd_create (int argc, char **argv);
int mf_cmd_remove (int argc, char **argv);
int mf_cmd_jobs (int argc, char **argv);
int mf_cmd_cancel (int argc, char **argv);
int mf_cmd_watch (int argc, char **argv);
int mf_cmd_serve (int argc, char **argv);
/* Only where libfuse is (MF_HAVE_FUSE). */
int mf_cmd_mount (int argc, char **argv);
/* Only where libvirt is (MF_HAVE_LIBVIRT). */
int mf_cmd_domain (int argc, char **argv);
int mf_cmd_drain (int argc, char **argv);
int mf_cmd_hook (int argc, char **argv);
