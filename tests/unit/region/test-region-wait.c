/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "region-fixture.h"

typedef struct {
  Fixture *f;
  uint64_t offset;
  size_t length;
  uint8_t *bytes;
  gboolean write;
  GCancellable *cancellable;
  gboolean ok;
  GError *error;
} Waiter;

static gpointer
run_waiter (gpointer data)
{
  Waiter *w = data;

  if (w->write)
    w->ok = mf_region_write (w->f->region, w->offset, w->bytes, w->length, w->cancellable, &w->error);
  else
    w->ok = mf_region_read (w->f->region, w->offset, w->bytes, w->length, w->cancellable, &w->error);
  return NULL;
}

typedef struct {
  GMutex lock;
  GCond cond;
  mf_bitmap *asked;
  guint calls;
} Fetcher;

static void
fetch (mf_run run, gpointer user_data)
{
  Fetcher *fetcher = user_data;

  g_mutex_lock (&fetcher->lock);
  mf_bitmap_set_run (fetcher->asked, run);
  fetcher->calls++;
  g_cond_broadcast (&fetcher->cond);
  g_mutex_unlock (&fetcher->lock);
}

static void
fetcher_init (Fetcher *fetcher)
{
  g_mutex_init (&fetcher->lock);
  g_cond_init (&fetcher->cond);
  fetcher->asked = mf_bitmap_new (PAGES);
}

static void
fetcher_clear (Fetcher *fetcher)
{
  mf_bitmap_free (fetcher->asked);
  g_mutex_clear (&fetcher->lock);
  g_cond_clear (&fetcher->cond);
}

static void
wait_until_asked (Fetcher *fetcher, uint64_t page)
{
  gint64 deadline = g_get_monotonic_time () + DEADLINE;

  g_mutex_lock (&fetcher->lock);
  while (!mf_bitmap_test (fetcher->asked, page))
    g_assert_true (g_cond_wait_until (&fetcher->cond, &fetcher->lock, deadline));
  g_mutex_unlock (&fetcher->lock);
}

static void
test_read_waits (Fixture *f, gconstpointer data)
{
  g_autofree uint8_t *bytes = g_malloc (SIZE);
  Waiter waiter = { f, PAGE / 2, SIZE - PAGE / 2, bytes };
  Fetcher fetcher = { 0 };
  GThread *thread;

  fetcher_init (&fetcher);
  mf_region_set_fetcher (f->region, fetch, &fetcher);
  put (f, 1, 1, 'p', 0, MF_PUT_REPLACE);
  thread = g_thread_new ("reader", run_waiter, &waiter);

  /* It asks for all that is missing at once, and for nothing else. */
  wait_until_asked (&fetcher, PAGES - 1);
  g_assert_cmpuint (mf_bitmap_count (fetcher.asked), ==, PAGES - 1);
  g_assert_false (mf_bitmap_test (fetcher.asked, 1));
  claim (f, 0, PAGES);
  for (guint page = PAGES - 1; page != 1; page--)
    put (f, page, 1, (char) page, 0, MF_PUT_KEEP);
  put (f, 0, 1, 'o', 0, MF_PUT_KEEP);
  g_thread_join (thread);
  g_assert_no_error (waiter.error);
  g_assert_true (waiter.ok);
  g_assert_cmpint (bytes[0], ==, 'o');
  g_assert_cmpint (bytes[PAGE / 2], ==, 'p');
  for (size_t i = 3 * PAGE / 2; i < waiter.length; i++)
    g_assert_cmpint (bytes[i], ==, (uint8_t) ((i + PAGE / 2) / PAGE));
  mf_region_set_fetcher (f->region, NULL, NULL);
  fetcher_clear (&fetcher);
}

/* A write fetches the pages it covers in part, and no others. */
static void
test_partial_write_fetches (Fixture *f, gconstpointer data)
{
  g_autofree uint8_t *bytes = g_malloc (4 * PAGE);
  Waiter waiter = { f, 2 * PAGE + 10, 3 * PAGE, bytes, TRUE };
  Fetcher fetcher = { 0 };
  GThread *thread;
  uint8_t got[4 * PAGE];

  memset (bytes, 'w', 4 * PAGE);
  fetcher_init (&fetcher);
  mf_region_set_fetcher (f->region, fetch, &fetcher);
  thread = g_thread_new ("writer", run_waiter, &waiter);
  wait_until_asked (&fetcher, 2);
  claim (f, 2, 1);
  put (f, 2, 1, 'r', 0, MF_PUT_KEEP);
  wait_until_asked (&fetcher, 5);
  claim (f, 5, 1);
  put (f, 5, 1, 'r', 0, MF_PUT_KEEP);
  g_thread_join (thread);
  g_assert_true (waiter.ok);
  g_assert_cmpuint (mf_bitmap_count (fetcher.asked), ==, 2);

  g_assert_true (mf_region_read (f->region, 2 * PAGE, got, sizeof got, NULL, NULL));
  for (guint i = 0; i < sizeof got; i++)
    g_assert_cmpint (got[i], ==, i < 10 || i >= 10 + 3 * PAGE ? 'r' : 'w');

  /* A write up to the region's end covers its last page. */
  write_bytes (f, SIZE - SIZE % PAGE, SIZE % PAGE, 'e');
  assert_page (f, PAGES - 1, 'e');
  mf_region_set_fetcher (f->region, NULL, NULL);
  fetcher_clear (&fetcher);
}

static void
test_no_fetcher (Fixture *f, gconstpointer data)
{
  g_autoptr (GError) error = NULL;
  uint8_t bytes[PAGE];

  memset (bytes, 0x5a, sizeof bytes);
  g_assert_false (mf_region_read (f->region, 0, bytes, sizeof bytes, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_IO);
  g_clear_error (&error);
  g_assert_false (mf_region_write (f->region, 1, bytes, 1, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_IO);
  g_assert_cmpint (state_of (f, 0), ==, MF_PAGE_MISSING);
}

static void
test_cancel (Fixture *f, gconstpointer data)
{
  uint8_t byte;
  Waiter waiter = { f, 0, 1, &byte, .cancellable = g_cancellable_new () };
  Fetcher fetcher = { 0 };
  GThread *thread;

  fetcher_init (&fetcher);
  mf_region_set_fetcher (f->region, fetch, &fetcher);
  thread = g_thread_new ("reader", run_waiter, &waiter);
  wait_until_asked (&fetcher, 0);
  g_cancellable_cancel (waiter.cancellable);
  g_thread_join (thread);
  g_assert_false (waiter.ok);
  g_assert_error (waiter.error, MF_ERROR, MF_ERROR_CANCELLED);
  g_clear_error (&waiter.error);

  /* Cancelled already. */
  run_waiter (&waiter);
  g_assert_error (waiter.error, MF_ERROR, MF_ERROR_CANCELLED);
  g_clear_error (&waiter.error);
  g_object_unref (waiter.cancellable);
  mf_region_set_fetcher (f->region, NULL, NULL);
  fetcher_clear (&fetcher);
}

/* Who waits asks the next fetcher, too, and gets an error when there is none any more. */
static void
test_fetcher_changes (Fixture *f, gconstpointer data)
{
  uint8_t byte;
  Waiter waiter = { f, 0, 1, &byte };
  Fetcher first = { 0 }, second = { 0 };
  GThread *thread;

  fetcher_init (&first);
  fetcher_init (&second);
  mf_region_set_fetcher (f->region, fetch, &first);
  thread = g_thread_new ("reader", run_waiter, &waiter);
  wait_until_asked (&first, 0);
  mf_region_set_fetcher (f->region, fetch, &second);
  wait_until_asked (&second, 0);
  g_assert_cmpuint (first.calls, ==, 1);
  mf_region_set_fetcher (f->region, NULL, NULL);
  g_thread_join (thread);
  g_assert_error (waiter.error, MF_ERROR, MF_ERROR_IO);
  g_clear_error (&waiter.error);
  fetcher_clear (&first);
  fetcher_clear (&second);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define ADD(name, up, test) g_test_add ("/region-wait/" name, Fixture, NULL, up, test, tear_down)
  ADD ("read-waits", set_up_missing, test_read_waits);
  ADD ("partial-write-fetches", set_up_missing, test_partial_write_fetches);
  ADD ("no-fetcher", set_up_missing, test_no_fetcher);
  ADD ("cancel", set_up_missing, test_cancel);
  ADD ("fetcher-changes", set_up_missing, test_fetcher_changes);
  return g_test_run ();
}
