/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A service that can be killed: `ferryman SOCKET FILE SEED DIE-AT FILL`. It serves the faults of whoever maps FILE, whose holes are what is
 * missing and hold scribble's pattern of SEED. The DIE-AT'th fault (0: none) is read and never answered, for it dies of SIGKILL then. FILL not 0: it brings all
 * the rest meanwhile. Says "attached" when it serves.
 */
#include "attach/mf-handover.h"
#include "memory-source.h"
#include "scribble-pattern.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct {
  MfStore *store;
  MfRegion *region;
  memory_source source;
  gboolean fill;
} ferryman;

static void
forget_holes (ferryman *self)
{
  const uint64_t n_pages = mf_region_n_pages (self->region), size = mf_store_size (self->store);
  const uint32_t page_bytes = mf_region_page_bytes (self->region);
  uint64_t at = 0;

  while (at < size) {
    uint64_t data = size, end = size, first = at / page_bytes;

    mf_store_next_data (self->store, at, &data, &end);
    if (data > at)
      mf_page_map_apply_run (mf_region_map (self->region),
                             (mf_run){ first, data < size ? data / page_bytes - first : n_pages - first },
                             MF_PAGE_INVALIDATE, NULL);
    at = end;
  }
}

static gpointer
fill (gpointer data)
{
  ferryman *self = data;
  const uint32_t page_bytes = mf_region_page_bytes (self->region);
  const uint64_t n_pages = mf_region_n_pages (self->region);
  g_autofree uint8_t *bytes = g_malloc (16 * page_bytes);

  for (uint64_t first = 0; first < n_pages; first += 16) {
    const mf_run run = { first, MIN (16, n_pages - first) };

    mf_page_map_apply_run (mf_region_map (self->region), run, MF_PAGE_CLAIM, NULL);
    for (uint64_t i = 0; i < run.count; i++)
      pattern_fill (bytes + i * page_bytes, page_bytes, self->source.seed, first + i);
    g_assert_true (mf_region_put (self->region, run, bytes, NULL, MF_PUT_KEEP, NULL));
    g_usleep (100);
  }
  return NULL;
}

static MfRegion *
find_region (int fd, pid_t pid, GError **error, gpointer user_data)
{
  ferryman *self = user_data;

  g_assert_true (mf_store_is_fd (self->store, fd));
  return g_object_ref (self->region);
}

static void
attached (MfUserfault *userfault, gboolean again, gpointer user_data)
{
  ferryman *self = user_data;

  g_assert_true (mf_userfault_serve (userfault, NULL));
  mf_userfault_set_lane (userfault, memory_source_open (&self->source));
  puts ("attached");
  fflush (stdout);
  if (self->fill)
    g_thread_unref (g_thread_new ("fill", fill, self));
}

static void
detached (MfUserfault *userfault, gpointer user_data)
{
}

int
main (int argc, char **argv)
{
  static const mf_handover_callbacks callbacks = { find_region, attached, detached };
  g_autoptr (GMainLoop) loop = g_main_loop_new (NULL, FALSE);
  ferryman self = { 0 };

  g_assert_cmpint (argc, ==, 6);
  self.store = mf_store_open (argv[2], FALSE, NULL);
  self.region = mf_region_new ("test", self.store, NULL);
  self.fill = atoi (argv[5]) != 0;
  memory_source_init (&self.source, mf_store_size (self.store), mf_region_page_bytes (self.region),
                      (uint32_t) atoi (argv[3]));
  self.source.die_at = atoi (argv[4]);
  forget_holes (&self);
  g_assert_nonnull (mf_handover_new (argv[1], &callbacks, &self, NULL));
  g_main_loop_run (loop);
  return 0;
}
