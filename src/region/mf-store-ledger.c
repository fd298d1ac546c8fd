/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-store-ledger.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

typedef struct {
  MfStore *store; /* not a reference: a store leaves when it is freed */
  dev_t device;
  ino_t inode;
} Entry;

/* Room is a thing of the machine, not of a region: one list a process. */
static GMutex ledger_lock;
static GSList *ledger; /* of Entry */

static gboolean
in_memory (MfStore *store)
{
  return mf_store_kind (store) == MF_STORE_TMPFS || mf_store_kind (store) == MF_STORE_MEMFD;
}

/* What `store` may still allocate. */
static uint64_t
outstanding (MfStore *store)
{
  uint64_t page_bytes = mf_store_page_bytes (store);
  uint64_t whole = (mf_store_size (store) + page_bytes - 1) / page_bytes * page_bytes;
  uint64_t allocated = mf_store_allocated (store);

  return allocated < whole ? whole - allocated : 0;
}

static gboolean
same_file (const Entry *a, const Entry *b)
{
  return a->device == b->device && a->inode == b->inode;
}

/* A file that several stores have open is promised its room once. */
static gboolean
counted_before (GSList *link)
{
  for (GSList *l = ledger; l != link; l = l->next) {
    if (same_file (l->data, link->data))
      return TRUE;
  }
  return FALSE;
}

/* What other files have outstanding on `device`, or (device 0) in the machine's memory. */
static uint64_t
promised (dev_t device, const Entry *but)
{
  uint64_t sum = 0;

  for (GSList *l = ledger; l != NULL; l = l->next) {
    const Entry *entry = l->data;

    if (same_file (entry, but) || counted_before (l))
      continue;
    if (device != 0 ? entry->device == device : in_memory (entry->store))
      sum += outstanding (entry->store);
  }
  return sum;
}

/* UINT64_MAX when it can't be known: a machine without /proc must not refuse every region. */
static uint64_t
memory_available (void)
{
  unsigned long long kib;
  char line[128];
  uint64_t found = UINT64_MAX;
  FILE *file = fopen ("/proc/meminfo", "re");

  if (file == NULL)
    return UINT64_MAX;
  while (found == UINT64_MAX && fgets (line, sizeof line, file) != NULL) {
    if (sscanf (line, "MemAvailable: %llu kB", &kib) == 1)
      found = (uint64_t) kib * 1024;
  }
  fclose (file);
  return found;
}

static gboolean
check_room (MfStore *store, const char *where, uint64_t available, uint64_t taken, GError **error)
{
  uint64_t needed = outstanding (store);
  uint64_t free_bytes = available > taken ? available - taken : 0;
  g_autofree char *missing = NULL;
  g_autofree char *needed_text = NULL;
  g_autofree char *free_text = NULL;
  g_autofree char *taken_text = NULL;

  if (needed <= free_bytes)
    return TRUE;
  missing = g_format_size_full (needed - free_bytes, G_FORMAT_SIZE_IEC_UNITS);
  needed_text = g_format_size_full (needed, G_FORMAT_SIZE_IEC_UNITS);
  free_text = g_format_size_full (available, G_FORMAT_SIZE_IEC_UNITS);
  taken_text = g_format_size_full (taken, G_FORMAT_SIZE_IEC_UNITS);
  g_set_error (error, MF_ERROR, MF_ERROR_NO_SPACE,
               "%s needs %s more in %s: %s free, %s of it promised to others: %s missing",
               mf_store_path (store) != NULL ? mf_store_path (store) : "the memfd", needed_text, where, free_text,
               taken_text, missing);
  return FALSE;
}

static gboolean
check_both (MfStore *store, const Entry *entry, GError **error)
{
  struct statvfs fs;

  if (fstatvfs (mf_store_fd (store), &fs) < 0)
    return mf_error_from_errno (error, errno, "asking for the room of %s's file system", mf_store_path (store));
  /* A tmpfs without a limit, and the kernel's own one of memfds, say 0 blocks in all. */
  if (fs.f_blocks != 0 && !check_room (store, "its file system", (uint64_t) fs.f_bavail * fs.f_frsize,
                                       promised (entry->device, entry), error))
    return FALSE;
  return !in_memory (store) ||
         check_room (store, "this machine's memory", memory_available (), promised (0, entry), error);
}

gboolean
mf_store_ledger_add (MfStore *store, dev_t device, ino_t inode, GError **error)
{
  Entry entry = { store, device, inode };
  gboolean ok;

  g_mutex_lock (&ledger_lock);
  for (GSList *l = ledger; l != NULL; l = l->next) {
    if (((Entry *) l->data)->store == store) {
      g_mutex_unlock (&ledger_lock);
      return TRUE;
    }
  }
  ok = check_both (store, &entry, error);
  if (ok)
    ledger = g_slist_prepend (ledger, g_memdup2 (&entry, sizeof entry));
  g_mutex_unlock (&ledger_lock);
  return ok;
}

void
mf_store_ledger_remove (MfStore *store)
{
  g_mutex_lock (&ledger_lock);
  for (GSList *l = ledger; l != NULL; l = l->next) {
    if (((Entry *) l->data)->store == store) {
      g_free (l->data);
      ledger = g_slist_delete_link (ledger, l);
      break;
    }
  }
  g_mutex_unlock (&ledger_lock);
}
