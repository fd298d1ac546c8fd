/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "region-fixture.h"

/* As a program's mapping would: a page appears whole, and only where the store has none. */
typedef struct {
  Fixture *f;
  mf_bitmap *put;     /* pages that came by put() and went down */
  mf_bitmap *present; /* pages that present() told of */
  gboolean fail;
  /* put() waits here while `hold` is set. */
  GMutex lock;
  GCond cond;
  gboolean hold, holding;
  gint inside; /* atomic: calls of put() under way */
} Program;

static gboolean
program_put (gpointer attachment, mf_run run, const void *bytes, mf_bitmap *kept, GError **error)
{
  Program *p = attachment;

  g_atomic_int_inc (&p->inside);
  g_mutex_lock (&p->lock);
  p->holding = TRUE;
  g_cond_broadcast (&p->cond);
  while (p->hold)
    g_cond_wait (&p->cond, &p->lock);
  g_mutex_unlock (&p->lock);
  if (p->fail) {
    g_atomic_int_add (&p->inside, -1);
    g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM, "gone");
    return FALSE;
  }
  for (uint64_t i = 0; i < run.count; i++) {
    const uint8_t *page_bytes = (const uint8_t *) bytes + i * PAGE;
    uint64_t offset, length, data, end;

    mf_region_bytes_of (p->f->region, (mf_run){ run.first + i, 1 }, &offset, &length);
    for (uint64_t rest = length; rest < PAGE; rest++)
      g_assert_cmpint (page_bytes[rest], ==, 0);
    if (mf_store_next_data (p->f->store, offset, &data, &end) && data == offset) {
      if (kept != NULL)
        mf_bitmap_set (kept, i);
      continue;
    }
    g_assert_true (mf_store_write (p->f->store, offset, page_bytes, length, NULL));
    mf_bitmap_set (p->put, run.first + i);
  }
  g_atomic_int_add (&p->inside, -1);
  return TRUE;
}

static void
program_present (gpointer attachment, mf_run run)
{
  Program *p = attachment;

  for (uint64_t page = run.first; page < run.first + run.count; page++)
    g_assert_true (state_of (p->f, page) & MF_PAGE_PRESENT);
  mf_bitmap_set_run (p->present, run);
}

static const mf_attachment_ops program_ops = { program_put, program_present };

static void
program_init (Program *p, Fixture *f)
{
  p->f = f;
  p->put = mf_bitmap_new (PAGES);
  p->present = mf_bitmap_new (PAGES);
  g_mutex_init (&p->lock);
  g_cond_init (&p->cond);
  g_assert_true (mf_region_attach (f->region, &program_ops, p, NULL));
}

static void
program_clear (Program *p)
{
  mf_region_detach (p->f->region, p);
  mf_bitmap_free (p->put);
  mf_bitmap_free (p->present);
  g_mutex_clear (&p->lock);
  g_cond_clear (&p->cond);
}

static void
test_attached_keep (Fixture *f, gconstpointer data)
{
  Program p = { 0 };

  program_init (&p, f);
  claim (f, 60, PAGES - 60);
  /* The program has got page 62 by other means. */
  g_assert_true (mf_store_write (f->store, 62 * PAGE, "program", 7, NULL));
  put (f, 60, PAGES - 60, 'a', 1 << 3, MF_PUT_KEEP);

  assert_page (f, 60, 'a');
  assert_page (f, 63, 0);
  assert_hole (f, 63);
  assert_page (f, PAGES - 1, (char) ('a' + PAGES - 1 - 60));
  g_assert_cmpuint (mf_bitmap_count (p.put), ==, PAGES - 60 - 2);
  g_assert_false (mf_bitmap_test (p.put, 62));
  g_assert_cmpuint (mf_bitmap_count (p.present), ==, 1);
  g_assert_true (mf_bitmap_test (p.present, 63));
  g_assert_cmpint (state_of (f, 62), ==, MF_PAGE_PRESENT);
  program_clear (&p);
}

static void
test_attached_replace (Fixture *f, gconstpointer data)
{
  Program p = { 0 };
  uint8_t bytes[PAGE];

  program_init (&p, f);
  /* Something is there in the first and last pages that the map knows nothing of. */
  g_assert_true (mf_store_write (f->store, 0, "program", 7, NULL));
  g_assert_true (mf_store_write (f->store, SIZE - 7, "program", 7, NULL));
  put (f, 0, 10, 'a', 0, MF_PUT_REPLACE);
  put (f, PAGES - 3, 3, 'A', 0, MF_PUT_REPLACE);
  for (guint page = 0; page < 10; page++)
    assert_page (f, page, (char) ('a' + page));
  for (guint page = PAGES - 3; page < PAGES; page++)
    assert_page (f, page, (char) ('A' + page - (PAGES - 3)));
  g_assert_cmpuint (mf_bitmap_count (p.put), ==, 9 + 2);

  /* Pages that are there are written over, holes punched, and those around them put. */
  put (f, 8, 5, 'k', 2, MF_PUT_REPLACE);
  assert_page (f, 8, 'k');
  assert_page (f, 9, 0);
  assert_hole (f, 9);
  assert_page (f, 10, 'm');
  assert_page (f, 12, 'o');
  g_assert_cmpuint (mf_bitmap_count (p.put), ==, 9 + 2 + 3);
  g_assert_true (mf_region_read (f->region, 9 * PAGE, bytes, PAGE, NULL, NULL));
  program_clear (&p);
}

/* A page that is written through the region while the program waits for it. */
static void
test_attached_write (Fixture *f, gconstpointer data)
{
  Program p = { 0 };

  program_init (&p, f);
  claim (f, 1, 1);
  write_bytes (f, PAGE, PAGE, 'w');
  g_assert_true (mf_bitmap_test (p.present, 1));
  put (f, 1, 1, 'r', 0, MF_PUT_KEEP);
  assert_page (f, 1, 'w');
  mf_bitmap_clear (p.present, 1);
  write_bytes (f, PAGE, PAGE, 'v');
  g_assert_false (mf_bitmap_test (p.present, 1));
  program_clear (&p);
}

static void
test_attached_failure (Fixture *f, gconstpointer data)
{
  Program p = { .fail = TRUE };
  g_autoptr (GError) error = NULL;

  program_init (&p, f);
  claim (f, 0, 2);
  g_assert_false (put_with_error (f, 0, 2, 'a', 0, MF_PUT_KEEP, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_PROGRAM);
  g_assert_cmpint (state_of (f, 0), ==, MF_PAGE_WANTED);
  program_clear (&p);
}

static gpointer
run_put (gpointer data)
{
  put (data, 0, 1, 'a', 0, MF_PUT_KEEP);
  return NULL;
}

static gpointer
run_detach (gpointer data)
{
  Program *p = data;

  mf_region_detach (p->f->region, p);
  g_assert_cmpint (g_atomic_int_get (&p->inside), ==, 0);
  return NULL;
}

static void
test_detach_waits (Fixture *f, gconstpointer data)
{
  Program p = { .hold = TRUE }, other = { 0 };
  GThread *putter, *detacher;
  g_autoptr (GError) error = NULL;

  program_init (&p, f);
  g_assert_false (mf_region_attach (f->region, &program_ops, &other, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_BUSY);
  mf_region_detach (f->region, &other);

  claim (f, 0, 2);
  putter = g_thread_new ("put", run_put, f);
  g_mutex_lock (&p.lock);
  while (!p.holding)
    g_cond_wait (&p.cond, &p.lock);
  detacher = g_thread_new ("detach", run_detach, &p);
  p.hold = FALSE;
  g_cond_broadcast (&p.cond);
  g_mutex_unlock (&p.lock);
  g_thread_join (putter);
  g_thread_join (detacher);

  /* From here on it is not asked any more. */
  put (f, 1, 1, 'b', 0, MF_PUT_KEEP);
  assert_page (f, 1, 'b');
  g_assert_cmpuint (mf_bitmap_count (p.put), ==, 1);
  program_clear (&p);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define ADD(name, up, test) g_test_add ("/region-attachment/" name, Fixture, NULL, up, test, tear_down)
  ADD ("keep", set_up_missing, test_attached_keep);
  ADD ("replace", set_up_missing, test_attached_replace);
  ADD ("write", set_up_missing, test_attached_write);
  ADD ("failure", set_up_missing, test_attached_failure);
  ADD ("detach-waits", set_up_missing, test_detach_waits);
  return g_test_run ();
}
