/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Any alignment over a backend with fixed blocks: a plugin of this test, which aborts when a request breaks the limits that it declared.
 */
#include "backend/mf-backend.h"

#include <string.h>

#define SIZE        (10 * BLOCK + 1000)
#define BLOCK       65536u
#define REQUEST     (3 * BLOCK)
#define CONCURRENCY 3
#define WRITERS     4

static struct {
  GMutex lock;
  uint8_t bytes[SIZE];
  guint running, most;
} place;

static void
enter (uint64_t offset, uint32_t length)
{
  g_assert_cmpuint (offset % BLOCK, ==, 0);
  g_assert_true (length % BLOCK == 0 || offset + length == SIZE);
  g_assert_cmpuint (length, <=, REQUEST);
  g_assert_cmpuint (length, <=, SIZE - offset);
  g_mutex_lock (&place.lock);
  place.running++;
  place.most = MAX (place.most, place.running);
  g_assert_cmpuint (place.running, <=, CONCURRENCY);
  g_mutex_unlock (&place.lock);
  /* So that others come in between. */
  g_thread_yield ();
  g_mutex_lock (&place.lock);
}

static void
leave (void)
{
  place.running--;
  g_mutex_unlock (&place.lock);
}

static int
block_open (const memferry_value *values, unsigned flags, void **context, memferry_limits *limits,
            memferry_reason *reason)
{
  limits->size_bytes = SIZE;
  limits->block_bytes = BLOCK;
  limits->request_bytes = REQUEST;
  limits->concurrency = CONCURRENCY;
  memset (place.bytes, 0, SIZE);
  *context = &place;
  return 0;
}

static void
block_close (void *context)
{
}

static int
block_read (void *context, void *buffer, uint32_t length, uint64_t offset, memferry_reason *reason)
{
  enter (offset, length);
  memcpy (buffer, place.bytes + offset, length);
  leave ();
  return 0;
}

static int
block_write (void *context, const void *buffer, uint32_t length, uint64_t offset, memferry_reason *reason)
{
  enter (offset, length);
  memcpy (place.bytes + offset, buffer, length);
  leave ();
  return 0;
}

static const memferry_backend plugin = {
  .struct_size = sizeof plugin,
  .api = MEMFERRY_BACKEND_API,
  .name = "block",
  .open = block_open,
  .close = block_close,
  .read = block_read,
  .write = block_write,
};

static void
count_done (mf_request *request, gpointer user_data)
{
  (*(guint *) user_data)++;
}

static void
ask (mf_lane *lane, mf_request_operation operation, uint64_t offset, uint32_t length, void *buffer)
{
  guint done = 0;
  mf_request request = {
    .operation = operation, .offset = offset, .length = length, .buffer = buffer, .done = count_done, .user_data = &done
  };

  mf_lane_submit (lane, &request);
  g_assert_cmpuint (done, ==, 1);
  g_assert_cmpint (request.error, ==, 0);
}

static MfBackend *
open_block (void)
{
  g_autoptr (GError) error = NULL;
  MfBackend *backend = mf_plugin_backend_open (&plugin, "block:", FALSE, &error);

  g_assert_no_error (error);
  return backend;
}

static void
test_any_alignment (void)
{
  g_autoptr (MfBackend) backend = open_block ();
  g_autoptr (mf_lane) lane = mf_backend_open_lane (backend, 1, -1, NULL);
  g_autoptr (GRand) dice = g_rand_new_with_seed (4);
  g_autofree uint8_t *model = g_malloc0 (SIZE), *buffer = g_malloc (SIZE);

  for (guint i = 0; i < 600; i++) {
    uint32_t offset = (uint32_t) g_rand_int_range (dice, 0, SIZE);
    uint32_t length = (uint32_t) g_rand_int_range (dice, 1, (gint32) (SIZE - offset) + 1);
    int what = g_rand_int_range (dice, 0, 3);

    if (i % 3 == 0)
      length = MIN (length, 100);
    if (what == 0) {
      for (uint32_t n = 0; n < length; n++)
        buffer[n] = (uint8_t) g_rand_int (dice);
      memcpy (model + offset, buffer, length);
      ask (lane, MF_REQUEST_WRITE, offset, length, buffer);
    } else if (what == 1) {
      memset (model + offset, 0, length);
      ask (lane, MF_REQUEST_ZERO, offset, length, NULL);
    } else {
      memset (buffer, 0xee, length);
      ask (lane, MF_REQUEST_READ, offset, length, buffer);
      g_assert_cmpmem (buffer, length, model + offset, length);
    }
  }
  g_assert_cmpmem (place.bytes, SIZE, model, SIZE);
}

/* Who asks the plugin's own lane for what it doesn't take is refused before it gets there. */
static void
test_limits_are_kept (void)
{
  static const struct {
    uint64_t offset;
    uint32_t length;
  } cases[] = { { 1, BLOCK }, { 0, BLOCK - 1 }, { 0, 4 * BLOCK }, { SIZE - 1000, 999 }, { 10 * BLOCK, BLOCK } };
  g_autoptr (MfBackend) backend = open_block ();
  g_autoptr (mf_lane) lane = backend->ops->open_lane (backend, -1, NULL);
  g_autofree uint8_t *buffer = g_malloc0 (4 * BLOCK);

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    guint done = 0;
    mf_request request = { .operation = MF_REQUEST_WRITE,
                           .offset = cases[i].offset,
                           .length = cases[i].length,
                           .buffer = buffer,
                           .done = count_done,
                           .user_data = &done };

    mf_lane_submit (lane, &request);
    g_assert_cmpuint (done, ==, 1);
    g_assert_cmpint (request.error, !=, 0);
  }
  ask (lane, MF_REQUEST_WRITE, 10 * BLOCK, 1000, buffer);
}

typedef struct {
  MfBackend *backend;
  guint number;
} Writer;

/* Each writer has every WRITERS-th piece of 100 bytes: all of them share all blocks. */
static gpointer
write_pieces (gpointer data)
{
  Writer *writer = data;
  g_autoptr (mf_lane) lane = mf_backend_open_lane (writer->backend, 1, -1, NULL);
  uint8_t bytes[100];

  memset (bytes, 'A' + (int) writer->number, sizeof bytes);
  for (uint32_t at = writer->number * 100; at + 100 <= 3 * BLOCK; at += WRITERS * 100)
    ask (lane, MF_REQUEST_WRITE, at, 100, bytes);
  return NULL;
}

/* Several writers change different parts of the same blocks: none of it is lost. */
static void
test_no_write_is_lost (void)
{
  g_autoptr (MfBackend) backend = open_block ();
  Writer writers[WRITERS];
  GThread *threads[WRITERS];

  for (guint i = 0; i < WRITERS; i++) {
    writers[i] = (Writer){ backend, i };
    threads[i] = g_thread_new ("writer", write_pieces, &writers[i]);
  }
  for (guint i = 0; i < WRITERS; i++)
    g_thread_join (threads[i]);
  for (uint32_t at = 0; at + 100 <= 3 * BLOCK; at++)
    g_assert_cmpuint (place.bytes[at], ==, 'A' + at / 100 % WRITERS);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_mutex_init (&place.lock);
  g_test_add_func ("/block-lane/any-alignment", test_any_alignment);
  g_test_add_func ("/block-lane/limits-are-kept", test_limits_are_kept);
  g_test_add_func ("/block-lane/no-write-is-lost", test_no_write_is_lost);
  return g_test_run ();
}
