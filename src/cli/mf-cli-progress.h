/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A migration's progress and result, for people.
 */
#include "mf-dbus.h"

G_BEGIN_DECLS

/* "vm1 to tcp://b: pre-copy round 2, 412M of 1G, 98.0M/s, dirty 80.0M/s, downtime 14 ms if it moved now" */
char *mf_cli_progress_line (MfDbusJob1 *job);

/* "vm1 moved to tcp://b in 12.3 s: auto, 1.20G in 3 rounds, downtime 14.2 ms, 812 faults (p50 210 us, p99 1.9 ms)" */
char *mf_cli_summary_line (MfDbusJob1 *job);

/* The names of the regions in one word: "vm1,vm1-nvram". */
char *mf_cli_region_names (MfDbusJob1 *job);

gboolean mf_cli_job_has_ended (MfDbusJob1 *job);

/* Writes `line` over the line before, cut at the terminal's width. */
void mf_cli_progress_show (const char *line);
/* Takes the line away, so that another may be written there. */
void mf_cli_progress_clear (void);

G_END_DECLS
