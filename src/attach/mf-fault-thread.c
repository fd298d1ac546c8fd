/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of a fault:
 *
 *   event read --> page PRESENT in the page map? --> zeroes (discarded, or a hole), or a wake when the page is there
 *        |
 *        v
 *      DUE --submit--> ASKED --arrived--> put down, page map marked, slot free
 *       ^                |    \
 *       |            (error)   (no room)
 *       +---- later -----+      HELD --later--> put down again
 *
 * "Later" is RETRY_USEC, or the next lane. A second thread that touches the page while it is on its way joins the slot. A page that bulk has in flight
 * is asked for all the same: the lane of the fault is ahead of what bulk has queued, and who comes second finds the page there (EEXIST).
 *
 * Most of what a fault costs across CPUs is waking a thread, so the thread looks again and again while faults keep coming, for SPIN_USEC after
 * the last thing that happened, and sleeps when they stop.
 *
 * Locks: none on the way of a fault but puller_lock, which is held for a queue operation after the page was asked for or put down, and which
 * bulk never takes.
 */
#include "attach/mf-fault-thread.h"
#include "attach/mf-latency.h"
#include "mf-schedule.h"
#include "track/mf-uffd.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define SPIN_USEC 150
/* A yield that takes so long has let somebody busy in: no looking for a while. */
#define CROWDED_USEC 50
#define CALM_USEC    20000
#define RETRY_USEC   50000
/* Each thread of the program waits for one page at most, so this is how many threads are served at once. */
#define SLOTS       256
#define SLOTS_BYTES (8 * 1024 * 1024) /* of buffers at most, but one slot in any case */
#define EVENTS      16

typedef enum {
  SLOT_DUE,   /* to be asked for */
  SLOT_ASKED, /* the lane has it */
  SLOT_HELD,  /* the bytes are here, and there was no room */
} slot_state;

typedef struct {
  mf_request request;
  mf_fault_thread *thread;
  uint64_t page;
  gint64 began_usec, due_usec;
  guint waiters; /* events */
  slot_state state;
  bool is_zero; /* HELD: what is held is zeroes */
} fault_slot;

struct _mf_fault_thread {
  MfRegion *region; /* a reference */
  mf_page_map *map;
  mf_placement *placement;
  uint32_t page_bytes;
  int uffd;
  int kick_fd;
  mf_fault_thread_callbacks callbacks;

  GThread *thread;
  _Atomic bool stop;
  _Atomic bool is_kicked; /* what kick_fd says, for one who does not sleep */
  _Atomic (mf_lane *) next_lane;
  GMutex puller_lock;
  mf_puller *puller;

  GMutex settle_lock; /* of what follows */
  GCond settled;
  guint settle_asked, settle_done;

  /* The thread's own. */
  mf_lane *lane;
  fault_slot *slots;
  fault_slot **order; /* all slots: the first n_busy are in use */
  uint8_t *buffers;
  guint n_slots, n_busy;
  guint n_later; /* of these, DUE or HELD */
  bool room_reported, stray_reported;
  gint64 active_usec; /* when something last happened */
  gint64 calm_usec;   /* until then, no looking */

  /* Written by the thread, read by all. */
  mf_latency latency;
  _Atomic uint64_t faults, already_there, zero;
  _Atomic guint waiting;
};

static gpointer fault_thread_run (gpointer data);

mf_fault_thread *
mf_fault_thread_new (MfRegion *region, int uffd, mf_placement *placement, const mf_fault_thread_callbacks *callbacks,
                     GError **error)
{
  g_autoptr (mf_fault_thread) thread = g_new0 (mf_fault_thread, 1);

  thread->region = g_object_ref (region);
  thread->map = mf_region_map (region);
  thread->page_bytes = mf_region_page_bytes (region);
  thread->placement = placement;
  thread->uffd = uffd;
  thread->kick_fd = -1;
  thread->callbacks = *callbacks;
  g_mutex_init (&thread->puller_lock);
  g_mutex_init (&thread->settle_lock);
  g_cond_init (&thread->settled);
  thread->n_slots = CLAMP (SLOTS_BYTES / thread->page_bytes, 1, SLOTS);
  thread->slots = g_new0 (fault_slot, thread->n_slots);
  thread->order = g_new0 (fault_slot *, thread->n_slots);
  thread->buffers = mmap (NULL, (size_t) thread->n_slots * thread->page_bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (thread->buffers == MAP_FAILED) {
    thread->buffers = NULL;
    mf_error_from_errno (error, errno, "Buffers for page faults");
    return NULL;
  }
  thread->kick_fd = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (thread->kick_fd < 0) {
    mf_error_from_errno (error, errno, "An eventfd for page faults");
    return NULL;
  }
  for (guint i = 0; i < thread->n_slots; i++) {
    thread->slots[i].thread = thread;
    thread->slots[i].request.buffer = thread->buffers + (size_t) i * thread->page_bytes;
    thread->order[i] = &thread->slots[i];
  }
  return g_steal_pointer (&thread);
}

void
mf_fault_thread_free (mf_fault_thread *thread)
{
  mf_fault_thread_stop (thread);
  if (thread->kick_fd >= 0)
    close (thread->kick_fd);
  if (thread->buffers)
    munmap (thread->buffers, (size_t) thread->n_slots * thread->page_bytes);
  g_free (thread->slots);
  g_free (thread->order);
  g_mutex_clear (&thread->puller_lock);
  g_mutex_clear (&thread->settle_lock);
  g_cond_clear (&thread->settled);
  g_object_unref (thread->region);
  g_free (thread);
}

static void
kick (mf_fault_thread *thread)
{
  const uint64_t one = 1;

  atomic_store_explicit (&thread->is_kicked, true, memory_order_release);
  /* It can only fail when the counter is full, and then it wakes all the same. */
  if (write (thread->kick_fd, &one, sizeof (one)) < 0)
    return;
}

void
mf_fault_thread_start (mf_fault_thread *thread)
{
  atomic_store (&thread->stop, false);
  thread->thread = g_thread_new ("faults", fault_thread_run, thread);
}

void
mf_fault_thread_stop (mf_fault_thread *thread)
{
  mf_lane *next;

  if (thread->thread) {
    atomic_store (&thread->stop, true);
    kick (thread);
    g_thread_join (g_steal_pointer (&thread->thread));
  }
  next = atomic_exchange (&thread->next_lane, NULL);
  if (next)
    mf_lane_close (next);
}

void
mf_fault_thread_settle (mf_fault_thread *thread)
{
  guint mine;

  if (!thread->thread)
    return;
  g_mutex_lock (&thread->settle_lock);
  mine = ++thread->settle_asked;
  kick (thread);
  while ((gint) (thread->settle_done - mine) < 0)
    g_cond_wait (&thread->settled, &thread->settle_lock);
  g_mutex_unlock (&thread->settle_lock);
}

void
mf_fault_thread_set_lane (mf_fault_thread *thread, mf_lane *lane)
{
  mf_lane *unused = atomic_exchange (&thread->next_lane, lane);

  if (unused)
    mf_lane_close (unused);
  kick (thread);
}

void
mf_fault_thread_set_puller (mf_fault_thread *thread, mf_puller *puller)
{
  g_mutex_lock (&thread->puller_lock);
  thread->puller = puller;
  g_mutex_unlock (&thread->puller_lock);
}

void
mf_fault_thread_get_stats (mf_fault_thread *thread, mf_fault_stats *stats)
{
  *stats = (mf_fault_stats){
    .faults = atomic_load (&thread->faults),
    .already_there = atomic_load (&thread->already_there),
    .zero = atomic_load (&thread->zero),
    .p50_usec = mf_latency_quantile (&thread->latency, 500),
    .p90_usec = mf_latency_quantile (&thread->latency, 900),
    .p99_usec = mf_latency_quantile (&thread->latency, 990),
    .max_usec = atomic_load (&thread->latency.max_usec),
    .waiting = atomic_load (&thread->waiting),
  };
}

static fault_slot *
find_slot (mf_fault_thread *thread, uint64_t page)
{
  for (guint i = 0; i < thread->n_busy; i++) {
    if (thread->order[i]->page == page)
      return thread->order[i];
  }
  return NULL;
}

static fault_slot *
take_slot (mf_fault_thread *thread, uint64_t page, slot_state state)
{
  fault_slot *slot = thread->order[thread->n_busy++];

  slot->page = page;
  slot->state = state;
  slot->waiters = 1;
  slot->is_zero = false;
  slot->began_usec = thread->active_usec;
  slot->due_usec = thread->active_usec;
  thread->n_later += state != SLOT_ASKED;
  atomic_fetch_add_explicit (&thread->waiting, 1, memory_order_relaxed);
  return slot;
}

static void
give_slot (mf_fault_thread *thread, fault_slot *slot)
{
  guint at = 0;

  atomic_fetch_sub_explicit (&thread->waiting, slot->waiters, memory_order_relaxed);
  while (thread->order[at] != slot)
    at++;
  thread->n_busy--;
  thread->order[at] = thread->order[thread->n_busy];
  thread->order[thread->n_busy] = slot;
}

static void
set_later (mf_fault_thread *thread, fault_slot *slot, slot_state state, gint64 delay_usec)
{
  thread->n_later += slot->state == SLOT_ASKED;
  slot->state = state;
  slot->due_usec = g_get_monotonic_time () + delay_usec;
}

static void
note_answer (mf_fault_thread *thread, mf_placed placed, bool is_zero, guint waiters, gint64 began_usec)
{
  const gint64 usec = g_get_monotonic_time () - began_usec;

  for (guint i = 0; i < waiters; i++)
    mf_latency_add (&thread->latency, usec);
  atomic_fetch_add_explicit (&thread->faults, waiters, memory_order_relaxed);
  if (placed == MF_PLACED_BEFORE)
    atomic_fetch_add_explicit (&thread->already_there, waiters, memory_order_relaxed);
  else if (placed == MF_PLACED && is_zero)
    atomic_fetch_add_explicit (&thread->zero, waiters, memory_order_relaxed);
}

/* The page is where the program sees it. Bulk may have claimed it, and give it up or put it down at any moment: whoever of the two marks
 * it, it ends as PRESENT, and a put of bulk that comes later finds it no longer WANTED, or gets EEXIST from the kernel. */
static void
mark_present (mf_page_map *map, uint64_t page)
{
  while (!(mf_page_map_state (map, page) & MF_PAGE_PRESENT)) {
    mf_page_map_apply (map, page, MF_PAGE_CLAIM);
    mf_page_map_apply (map, page, MF_PAGE_ARRIVE);
  }
}

static void
report_no_room (mf_fault_thread *thread)
{
  if (thread->room_reported)
    return;
  thread->room_reported = true;
  g_warning ("Region %s: its store has no room for a page that the program waits for; trying again until there is some",
             mf_region_get_name (thread->region));
}

/* The bytes of an ASKED or HELD slot are here: puts them down, or holds them. Not when another way was faster: then the program may have written
 * and even discarded the page since, and these are old. */
static void
finish_slot (mf_fault_thread *thread, fault_slot *slot, bool is_zero)
{
  const bool was_present = (mf_page_map_state (thread->map, slot->page) & MF_PAGE_PRESENT) != 0;
  const void *bytes = is_zero || was_present ? NULL : slot->request.buffer;
  const mf_placed placed = mf_placement_answer (thread->placement, slot->page, bytes);
  const mf_run run = { slot->page, 1 };

  if (placed == MF_PLACED_NO_ROOM) {
    report_no_room (thread);
    slot->is_zero = is_zero;
    set_later (thread, slot, SLOT_HELD, RETRY_USEC);
    return;
  }
  thread->room_reported = false;
  if (placed != MF_PLACED_NOWHERE)
    mark_present (thread->map, slot->page);
  note_answer (thread, placed, !bytes, slot->waiters, slot->began_usec);
  thread->n_later -= slot->state != SLOT_ASKED;
  give_slot (thread, slot);
  if (placed == MF_PLACED_NOWHERE)
    return;
  g_mutex_lock (&thread->puller_lock);
  if (thread->puller)
    mf_puller_remove (thread->puller, run);
  g_mutex_unlock (&thread->puller_lock);
}

static void
request_done (mf_request *request, gpointer user_data)
{
  fault_slot *slot = user_data;
  mf_fault_thread *thread = slot->thread;

  thread->active_usec = g_get_monotonic_time ();
  if (request->error != 0) {
    set_later (thread, slot, SLOT_DUE, RETRY_USEC);
    return;
  }
  /* The region's last page may be a short one: what is after its end reads as zeroes. */
  if (request->length < thread->page_bytes)
    memset ((uint8_t *) request->buffer + request->length, 0, thread->page_bytes - request->length);
  finish_slot (thread, slot, (request->holes[0] & 1) != 0);
}

static void
ask (mf_fault_thread *thread, fault_slot *slot)
{
  const mf_run run = { slot->page, 1 };
  uint64_t offset, length;

  mf_region_bytes_of (thread->region, run, &offset, &length);
  slot->state = SLOT_ASKED;
  thread->n_later--;
  slot->request.offset = offset;
  slot->request.length = (uint32_t) length;
  slot->request.page_bytes = thread->page_bytes;
  slot->request.error = 0;
  memset (slot->request.holes, 0, sizeof (slot->request.holes));
  slot->request.done = request_done;
  slot->request.user_data = slot;
  mf_lane_submit (thread->lane, &slot->request);

  /* While it is on its way. */
  g_mutex_lock (&thread->puller_lock);
  if (thread->puller)
    mf_puller_fault (thread->puller, run);
  g_mutex_unlock (&thread->puller_lock);
}

static void
handle_fault (mf_fault_thread *thread, uint64_t address)
{
  const mf_mapping_set *set = mf_placement_mappings (thread->placement);
  fault_slot *slot;
  uint64_t page;

  if (!mf_mapping_set_page_at (set, address, &page)) {
    if (!thread->stray_reported)
      g_warning ("Region %s: the program waits at an address that it has not handed over",
                 mf_region_get_name (thread->region));
    thread->stray_reported = true;
    return;
  }
  if (mf_page_map_state (thread->map, page) & MF_PAGE_PRESENT) {
    /* Known, and yet not there: a hole, or discarded since. If it is there after all (it came between the fault and now) the kernel
     * says so, and the program looks again. */
    finish_slot (thread, take_slot (thread, page, SLOT_HELD), true);
    return;
  }
  slot = find_slot (thread, page);
  if (slot) {
    slot->waiters++;
    atomic_fetch_add_explicit (&thread->waiting, 1, memory_order_relaxed);
    return;
  }
  slot = take_slot (thread, page, SLOT_DUE);
  if (thread->lane)
    ask (thread, slot);
}

static void
read_events (mf_fault_thread *thread)
{
  struct uffd_msg events[EVENTS];

  while (thread->n_busy < thread->n_slots) {
    const guint wanted = MIN (EVENTS, thread->n_slots - thread->n_busy);
    const ssize_t got = read (thread->uffd, events, wanted * sizeof (events[0]));

    if (got < (ssize_t) sizeof (events[0]))
      return;
    thread->active_usec = g_get_monotonic_time ();
    for (size_t i = 0; i < (size_t) got / sizeof (events[0]); i++) {
      if (events[i].event == UFFD_EVENT_PAGEFAULT)
        handle_fault (thread, events[i].arg.pagefault.address);
      else if (events[i].event == UFFD_EVENT_FORK) /* enabled by a predecessor of another version */
        close ((int) events[i].arg.fork.ufd);
    }
    if ((size_t) got < wanted * sizeof (events[0]))
      return;
  }
}

/* Whether time, and not an answer or a lane, is what the slot waits for. */
static bool
waits_for_time (const mf_fault_thread *thread, const fault_slot *slot)
{
  return slot->state == SLOT_HELD || (slot->state == SLOT_DUE && thread->lane);
}

/* Asks for, or puts down, whatever is due. Returns when the next one is, in microseconds from now; -1: nothing waits for a
 * time. */
static gint64
serve_due (mf_fault_thread *thread)
{
  gint64 now, next = -1;

  if (thread->n_later == 0)
    return -1;
  now = g_get_monotonic_time ();
  /* Backwards: a slot that is given back changes place with the last one in use. */
  for (guint i = thread->n_busy; i-- > 0;) {
    fault_slot *slot = thread->order[i];

    if (!waits_for_time (thread, slot) || slot->due_usec > now)
      continue;
    if (slot->state == SLOT_HELD)
      finish_slot (thread, slot, slot->is_zero);
    else
      ask (thread, slot);
  }
  for (guint i = 0; i < thread->n_busy; i++) {
    fault_slot *slot = thread->order[i];
    const gint64 left = MAX (slot->due_usec - now, 0);

    if (waits_for_time (thread, slot))
      next = next < 0 ? left : MIN (next, left);
  }
  return next;
}

static void
drop_lane (mf_fault_thread *thread)
{
  mf_lane *lane = g_steal_pointer (&thread->lane);

  if (lane)
    mf_lane_close (lane);
}

static void
take_next_lane (mf_fault_thread *thread)
{
  mf_lane *next = atomic_exchange (&thread->next_lane, NULL);

  if (!next)
    return;
  drop_lane (thread);
  thread->lane = next;
  for (guint i = 0; i < thread->n_busy; i++) {
    if (thread->order[i]->state == SLOT_DUE)
      thread->order[i]->due_usec = 0;
  }
}

static void
handle_kick (mf_fault_thread *thread)
{
  uint64_t kicks;

  atomic_store (&thread->is_kicked, false);
  if (read (thread->kick_fd, &kicks, sizeof (kicks)) < 0)
    g_warn_if_fail (errno == EAGAIN);
  take_next_lane (thread);
  g_mutex_lock (&thread->settle_lock);
  thread->settle_done = thread->settle_asked;
  g_cond_broadcast (&thread->settled);
  g_mutex_unlock (&thread->settle_lock);
}

static void
lose_lane (mf_fault_thread *thread, const GError *error)
{
  drop_lane (thread);
  if (thread->callbacks.lost)
    thread->callbacks.lost (error, thread->callbacks.user_data);
}

/* Whether to look, and not to sleep: something happened a moment ago, and others don't need the processors. */
static bool
spins (mf_fault_thread *thread)
{
  const gint64 now = g_get_monotonic_time ();

  return now - thread->active_usec < SPIN_USEC && now >= thread->calm_usec &&
         !mf_schedule_is_carrying ((uint64_t) now * 1000);
}

/* What is looked for may need this very processor. When a third one takes it, though, looking means waiting behind that one, and
 * a sleeper is woken ahead of it. */
static void
yield (mf_fault_thread *thread)
{
  const gint64 before = g_get_monotonic_time ();
  gint64 after;

  sched_yield ();
  after = g_get_monotonic_time ();
  if (after - before > CROWDED_USEC)
    thread->calm_usec = after + CALM_USEC;
}

/* Looks once for answers and events. The processor is given away when nothing is there, and at once after a question. */
static void
look (mf_fault_thread *thread)
{
  const gint64 before = thread->active_usec;
  g_autoptr (GError) error = NULL;

  if (thread->lane && mf_lane_in_flight (thread->lane) > 0 && !mf_lane_poll (thread->lane, NULL, 0, 0, &error))
    lose_lane (thread, error);
  read_events (thread);
  if (thread->active_usec == before || (thread->lane && mf_lane_in_flight (thread->lane) > 0))
    yield (thread);
}

/* Sleeps until there is an event, an answer, a kick or the time is over (-1: none). */
static void
sleep_for (mf_fault_thread *thread, gint64 timeout_usec)
{
  struct pollfd fds[2] = { { .fd = thread->kick_fd, .events = POLLIN },
                           { .fd = thread->n_busy < thread->n_slots ? thread->uffd : -1, .events = POLLIN } };
  const struct timespec time = { .tv_sec = timeout_usec / G_USEC_PER_SEC,
                                 .tv_nsec = timeout_usec % G_USEC_PER_SEC * 1000 };
  g_autoptr (GError) error = NULL;

  if (thread->lane) {
    if (!mf_lane_poll (thread->lane, fds, 2, timeout_usec, &error))
      lose_lane (thread, error);
  } else {
    ppoll (fds, 2, timeout_usec < 0 ? NULL : &time, NULL);
  }
  read_events (thread);
}

static gpointer
fault_thread_run (gpointer data)
{
  mf_fault_thread *thread = data;

  mf_schedule_urgent ();
  while (!atomic_load (&thread->stop)) {
    gint64 due_usec;

    if (atomic_load_explicit (&thread->is_kicked, memory_order_acquire))
      handle_kick (thread);
    due_usec = serve_due (thread);
    if (spins (thread))
      look (thread);
    else
      sleep_for (thread, due_usec);
  }
  drop_lane (thread);
  return NULL;
}
