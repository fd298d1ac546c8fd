/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The commands about libvirt's domains are a program of their own, memferry-libvirt: to load libvirt and what it needs takes four times as long as
 * everything else that memferry does before it begins, and no other command needs it.
 */

/* Becomes memferry-libvirt with the same words; an mf_command's `run`. Returns only when that fails. */
int mf_cli_run_libvirt (int argc, char **argv);
