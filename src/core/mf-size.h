/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Sizes as people write them: a number, and perhaps K, M, G or T, powers of 1024.
 */
#include <stdbool.h>
#include <stdint.h>

/* The size at the beginning of `text`. False, and `out` untouched, when there is none, or it doesn't fit 63 bits. `rest` is set to what
 * follows. 0 is a size. */
bool mf_size_parse (const char *text, uint64_t *out, const char **rest);
