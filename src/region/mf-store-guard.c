/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The handler runs in the thread that has touched the page, at any moment: it takes no lock and allocates nothing. So the mappings are in a list
 * whose entries are never freed: one that was removed has no length, and is used again for the next. Who adds or removes holds `lock`; the
 * handler looks up an address that its own thread is reading, so that entry doesn't change under it.
 */
#include "region/mf-store-guard.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct guarded {
  uintptr_t start;
  _Atomic size_t length; /* 0: free */
  gint *is_cut;
  struct guarded *next;
} guarded;

static GMutex lock;
static _Atomic (guarded *) first;
static uintptr_t page_bytes;
static struct sigaction before;

static guarded *
find (uintptr_t address)
{
  guarded *g = atomic_load (&first);

  while (g != NULL && address - g->start >= atomic_load (&g->length))
    g = g->next;
  return g;
}

static void
on_sigbus (int number, siginfo_t *info, void *context)
{
  uintptr_t address = (uintptr_t) info->si_addr;
  guarded *g = info->si_code == BUS_ADRERR ? find (address) : NULL;

  if (g != NULL) {
    g_atomic_int_set (g->is_cut, TRUE);
    if (mmap ((void *) (address / page_bytes * page_bytes), page_bytes, PROT_READ | PROT_WRITE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED)
      return;
  }
  /* Not ours: the instruction is executed again, and then it counts. */
  sigaction (SIGBUS, &before, NULL);
}

static void
install (void)
{
  struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK };

  page_bytes = (uintptr_t) sysconf (_SC_PAGESIZE);
  sigemptyset (&action.sa_mask);
  sigaction (SIGBUS, &action, &before);
}

void
mf_store_guard_add (const void *map, size_t length, gint *is_cut)
{
  guarded *g;

  g_mutex_lock (&lock);
  if (first == NULL)
    install ();
  for (g = first; g != NULL && g->length != 0; g = g->next)
    ;
  if (g == NULL) {
    g = g_new0 (guarded, 1);
    g->next = first;
    atomic_store (&first, g);
  }
  g->start = (uintptr_t) map;
  g->is_cut = is_cut;
  atomic_store (&g->length, length);
  g_mutex_unlock (&lock);
}

void
mf_store_guard_remove (const void *map)
{
  g_mutex_lock (&lock);
  for (guarded *g = first; g != NULL; g = g->next) {
    if (g->length != 0 && g->start == (uintptr_t) map)
      atomic_store (&g->length, 0);
  }
  g_mutex_unlock (&lock);
}
