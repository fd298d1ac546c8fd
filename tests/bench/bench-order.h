/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The first `count` of a random order of the numbers below `total`, the same at every call with the same `seed`.
 */
#include <stddef.h>
#include <stdint.h>

/* An array of `count` numbers, to be freed. Ends the program when count > total. */
uint64_t *bench_order_new (uint64_t total, size_t count, uint64_t seed);
