/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Reads a disk that mkdisk wrote and checks every block of it.
 *
 * Each reader is a thread that has one read of 64 KiB under way at a time, past the guest's page cache, at places in a
 * random order that never takes the same place twice in a row: what a read should have brought and did not is then the
 * content of another place, which the block's number gives away.
 */
#include "params.h"

/* Opens the disk; ends the program when it can't or when the disk is smaller than two reads. Call before the readers. */
void disk_open (const params *p);

/* Reads for ever. `number` is the reader's, cast from uintptr_t, 0 to disk_readers - 1. */
void *disk_read_forever (void *number);
