/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What memferry domain does, a function a word after it; each is like an mf_command's (see mf-command.h), its name "memferry domain WORD".
 */

int mf_cmd_domain_enable (int argc, char **argv);
int mf_cmd_domain_disable (int argc, char **argv);
int mf_cmd_domain_migrate (int argc, char **argv);
int mf_cmd_domain_list (int argc, char **argv);
