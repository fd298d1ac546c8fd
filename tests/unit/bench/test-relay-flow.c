/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "relay-flow.h"

#include <glib.h>
#include <string.h>

#define MSEC    1000000u
#define SEC     1000000000u
#define START   (5ull * SEC)
#define GIGABIT 125000000u

/*
 * A sender that always has more and a receiver, in a time of their own, which goes from one moment at which the flow has something to do to the
 * next: were one of those not told, the run would stand still.
 */
typedef struct {
  relay_link link;
  relay_flow *flow;
  GRand *rand;
  uint64_t now, sent, received, total;
  uint64_t first_nsec, last_nsec; /* when the first and the last byte came */
  size_t piece_bytes;             /* at most so many at once; 0: as many as go */
  guint blocked;                  /* one time in so many the receiver takes nothing; 0: never */
  gboolean ended;
} World;

static void
world_init (World *world, const relay_shape *shape, size_t window_bytes, uint64_t open_nsec)
{
  relay_link_init (&world->link, shape, 11);
  world->flow = relay_flow_new (&world->link, window_bytes, shape->delay_nsec, START + open_nsec);
  world->rand = g_rand_new_with_seed (1);
  world->now = START;
}

static void
world_clear (World *world)
{
  relay_flow_free (world->flow);
  g_rand_free (world->rand);
}

/* `most`, or something below it where pieces are to be small. */
static size_t
some_of (World *world, size_t most)
{
  size_t some =
      world->piece_bytes > 0 ? (size_t) g_rand_int_range (world->rand, 1, (gint32) world->piece_bytes + 1) : most;

  return MIN (some, most);
}

static uint8_t
byte_at (uint64_t position)
{
  return (uint8_t) ((position * 0x9e3779b97f4a7c15u) >> 56);
}

/* True: the link or the window was full. */
static gboolean
send_some (World *world)
{
  uint8_t *at;
  size_t room = world->sent < world->total ? relay_flow_offer (world->flow, world->now, &at) : 0;

  if (world->sent == world->total || room == 0)
    return world->sent < world->total;
  room = MIN (room, world->total - world->sent);
  room = some_of (world, room);
  for (size_t i = 0; i < room; i++)
    at[i] = byte_at (world->sent + i);
  relay_flow_push (world->flow, world->now, room);
  world->sent += room;
  if (world->sent == world->total)
    relay_flow_push_end (world->flow, world->now);
  return FALSE;
}

/* True: the receiver would not take what was due. */
static gboolean
receive_some (World *world)
{
  const uint8_t *at;
  size_t due;

  while ((due = relay_flow_due (world->flow, world->now, &at)) > 0) {
    if (world->blocked > 0 && g_rand_int_range (world->rand, 0, (gint32) world->blocked) == 0)
      return TRUE;
    if (world->received == 0)
      world->first_nsec = world->now;
    due = some_of (world, due);
    for (size_t i = 0; i < due; i++)
      g_assert_cmpuint (at[i], ==, byte_at (world->received + i));
    relay_flow_pop (world->flow, world->now, due);
    world->received += due;
    world->last_nsec = world->now;
  }
  world->ended = relay_flow_ended (world->flow, world->now);
  return FALSE;
}

static void
run (World *world, uint64_t total)
{
  world->total = total;
  while (!world->ended) {
    gboolean full = send_some (world), blocked = receive_some (world);
    uint64_t next = relay_flow_next (world->flow, world->now, blocked, full);

    if (world->ended)
      break;
    if (world->sent < world->total && !full)
      continue;
    if (blocked)
      next = MIN (next, world->now + 1000); /* the receiver takes something again */
    g_assert_cmpuint (next, !=, RELAY_NEVER);
    world->now = MAX (world->now, next);
  }
  g_assert_cmpuint (world->received, ==, total);
}

/* All bytes, in their order, through windows small and large, in pieces of any size, while delays vary and segments are lost. */
static void
test_bytes (void)
{
  static const struct {
    relay_shape shape;
    size_t window_bytes, piece_bytes;
    guint blocked;
  } cases[] = {
    { { 0 }, 16384, 0, 0 },
    { { 0 }, 16384, 1000, 3 },
    { { .delay_nsec = MSEC }, 16384, 1000, 0 },
    { { .delay_nsec = MSEC }, 4099, 97, 5 },
    { { .delay_nsec = 10 * MSEC, .jitter_nsec = 5 * MSEC }, 1 << 20, 30000, 0 },
    { { .delay_nsec = 10 * MSEC, .bytes_per_sec = GIGABIT, .queue_nsec = MSEC }, 1 << 20, 0, 4 },
    { { .delay_nsec = MSEC,
        .jitter_nsec = MSEC,
        .bytes_per_sec = 1000000,
        .queue_nsec = MSEC,
        .loss = 0.05,
        .stall_nsec = 50 * MSEC },
      65536,
      5000,
      9 },
  };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    World world = { .piece_bytes = cases[i].piece_bytes, .blocked = cases[i].blocked };
    world_init (&world, &cases[i].shape, cases[i].window_bytes, 0);
    run (&world, 777777);
    world_clear (&world);
  }
}

/* 10 MB at 1 Gbit/s with 20 ms: the first byte after a delay, the last after 80 ms more. */
static void
test_time (void)
{
  const relay_shape shape = { .delay_nsec = 20 * MSEC, .bytes_per_sec = GIGABIT, .queue_nsec = 5 * MSEC };
  World world = { 0 };

  world_init (&world, &shape, 64 << 20, 0);
  run (&world, 10000000);
  g_assert_cmpuint (world.first_nsec, >=, START + 20 * MSEC);
  g_assert_cmpuint (world.first_nsec, <, START + 21 * MSEC);
  g_assert_cmpuint (world.last_nsec, >=, START + 100 * MSEC - 10000);
  g_assert_cmpuint (world.last_nsec, <, START + 101 * MSEC);
  world_clear (&world);
}

/* A window's worth each time there and back, whatever the link could do. */
static void
test_window (void)
{
  const relay_shape shape = { .delay_nsec = 10 * MSEC };
  World world = { 0 };

  world_init (&world, &shape, 100000, 0);
  run (&world, 1000000);
  /* The tenth window goes after nine ways there and back. */
  g_assert_cmpuint (world.last_nsec, ==, START + 190 * MSEC);
  world_clear (&world);
}

/* A connection takes its handshake. */
static void
test_open (void)
{
  const relay_shape shape = { .delay_nsec = 10 * MSEC };
  World world = { 0 };

  world_init (&world, &shape, 100000, 20 * MSEC);
  run (&world, 1000);
  g_assert_cmpuint (world.first_nsec, ==, START + 30 * MSEC);
  world_clear (&world);
}

/* The end comes after the last byte, a delay after it was sent, also where there was no byte. */
static void
test_end (void)
{
  const relay_shape shape = { .delay_nsec = 10 * MSEC };
  World world = { 0 };
  const uint8_t *at;

  world_init (&world, &shape, 100000, 0);
  relay_flow_push_end (world.flow, START);
  g_assert_false (relay_flow_ended (world.flow, START + 10 * MSEC - 1));
  g_assert_cmpuint (relay_flow_next (world.flow, START, false, false), ==, START + 10 * MSEC);
  g_assert_cmpuint (relay_flow_due (world.flow, START + 10 * MSEC, &at), ==, 0);
  g_assert_true (relay_flow_ended (world.flow, START + 10 * MSEC));
  world_clear (&world);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/relay-flow/bytes", test_bytes);
  g_test_add_func ("/relay-flow/time", test_time);
  g_test_add_func ("/relay-flow/window", test_window);
  g_test_add_func ("/relay-flow/open", test_open);
  g_test_add_func ("/relay-flow/end", test_end);
  return g_test_run ();
}
