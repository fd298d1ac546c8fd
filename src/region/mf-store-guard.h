/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Reading a file through a mapping when somebody may cut the file short: the kernel answers with SIGBUS, which ends the process.
 *
 * A handler takes that signal for the mappings that are entered here: it puts a page of zeroes in the place of the one that is gone, says so, and lets the thread go
 * on. So whoever has read from such a mapping asks afterwards whether it was whole all the time, and doesn't use what he has read if it was not.
 * Any other SIGBUS ends the process as before.
 */
#include <glib.h>
#include <stddef.h>

G_BEGIN_DECLS

/* Enters a mapping. `is_cut` is set to TRUE (atomically) when a part of it was gone; it must live until the mapping is removed. The first one installs the handler, for
 * the whole process. Any thread. */
void mf_store_guard_add (const void *map, size_t length, gint *is_cut);
/* Before the mapping goes; nobody may read from it any more. Harmless when it was never entered. */
void mf_store_guard_remove (const void *map);

G_END_DECLS
