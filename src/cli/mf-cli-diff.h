/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What is different between two texts, for people.
 */
#include <glib.h>

G_BEGIN_DECLS

/* As "diff -u" shows it, lines and three lines around them; empty when they are equal. For texts of a few thousand lines. (transfer full) */
char *mf_cli_diff (const char *before, const char *after);

G_END_DECLS
