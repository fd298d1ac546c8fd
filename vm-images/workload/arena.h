/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The memory that the guest fills, dirties and checks.
 *
 * Its pages are all filled with the pattern. The first `dirty_pages` of them also carry POINTS words that the dirtying
 * thread changes with every pass, after it has checked that the last pass's are there; all other words never change again.
 * So a lost page, a stale page, a page in the wrong place and a torn page each show: by the points at the next pass, by the
 * other words when the background check comes round.
 *
 * Threads: arena_new() before the others start; then one thread in arena_dirty_forever() and one in
 * arena_verify_forever(), which never looks at the points of a dirtied page.
 */
#include "params.h"

typedef struct arena arena;

/* Maps and fills the memory. Ends the program when the guest is too small. */
arena *arena_new (const params *p);

/* Dirties at the rate asked for. Does not return. */
void *arena_dirty_forever (void *self);

/* Checks one page after the other at the rate asked for, round and round. Does not return. */
void *arena_verify_forever (void *self);
