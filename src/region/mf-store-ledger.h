/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The ledger of reserved room: what the stores of this process have been promised on each file system, and in the machine's memory.
 *
 * A file system promises nothing to a file with holes: two regions that each fit can be too much together, and the one that comes
 * last kills its program with SIGBUS. So each store is entered here with all of its size. What it has not allocated yet
 * is taken, at any time, from what the others see as free. Other processes' files are seen only as far as they are allocated.
 */
#include "mf-store.h"
#include <sys/types.h>

/* Enters `store`, or finds it there. MF_ERROR_NO_SPACE: there is too little room, and the message says where and how much. */
gboolean mf_store_ledger_add (MfStore *store, dev_t device, ino_t inode, GError **error);
/* Harmless when it is not there. */
void mf_store_ledger_remove (MfStore *store);
