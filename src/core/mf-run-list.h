/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A set of pages on the wire: how the last dirty set travels with the switchover.
 *
 * Byte 0 says the form: 1, the runs in ascending order, each as two LEB128 numbers (gap since the end of the run
 * before, count - 1); 2, a bitmap, bit 0 of byte 1 is page 0, of ceil (n_pages / 8) bytes. The encoder takes the
 * shorter. A decoder takes both, and refuses numbers over 10 bytes, runs past n_pages, bits past n_pages and bytes
 * left over.
 */
#include "mf-bitmap.h"

/* Encodes `set`. Returns a buffer for free() and its length, or NULL with errno ENOMEM. Bits that are changed meanwhile
 * may be in it or not. */
uint8_t *mf_run_list_encode (const mf_bitmap *set, size_t *length);
/* Sets in `set`, whose size is n_pages, the bits of the encoded pages. False: malformed, and `set` may hold some of
 * the bits. */
bool mf_run_list_decode (const uint8_t *data, size_t length, mf_bitmap *set);
