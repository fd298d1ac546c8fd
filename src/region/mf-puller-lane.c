/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-puller-private.h"
#include "mf-schedule.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/*
 * A lane's thread: takes runs from the queue, claims their pages, asks, and puts down what comes, in the completion.
 *
 * Requests and buffers are made once, and reused from the lowest free one on, so that few are in use as long as few are in
 * flight and what was just copied from is what is received into next. A buffer is address space until it is used; those that
 * were not used for a while are given back to the kernel.
 */

#define SLOTS_MIN       4
#define SLOTS_MAX       256
#define SLOTS_KEPT      4 /* these buffers are never given back */
#define TRIM_USEC       G_USEC_PER_SEC
#define FREE_MASK_WORDS (SLOTS_MAX / 64)

typedef struct _Worker Worker;

typedef struct {
  Worker *worker;
  mf_request request; /* user_data: this slot */
  mf_puller_take take;
} Slot;

struct _Worker {
  mf_puller *puller;
  mf_puller_lane *lane;
  MfRegion *region;
  mf_lane *link; /* the lane's; NULL once it has been closed */

  guint n_slots;
  size_t slot_bytes;
  uint8_t *buffers;
  Slot *slots;
  uint64_t free_slots[FREE_MASK_WORDS];

  /* What was taken and claimed and not yet asked for: bits from `rest` of the run on. */
  mf_puller_take take;
  mf_bitmap *claimed; /* bit 0 = take.run.first */
  mf_run rest;        /* of the bits; count 0: nothing */

  mf_bitmap *missing; /* scratch of a completion */
  gboolean ending;    /* what completes now was let go by the end of the lane */
  GError *read_error; /* a read failed, and it is not known yet whether the lane did */
  guint highest_used; /* slot, since the last trim */
  guint ever_used;    /* slots whose buffers may be there */
  gint64 trimmed_usec;
};

/* --- Slots --- */

static Slot *
slot_get (Worker *w)
{
  for (guint i = 0; i < FREE_MASK_WORDS; i++) {
    if (w->free_slots[i] != 0) {
      guint n = i * 64 + (guint) __builtin_ctzll (w->free_slots[i]);

      w->free_slots[i] &= w->free_slots[i] - 1;
      w->highest_used = MAX (w->highest_used, n);
      w->ever_used = MAX (w->ever_used, n + 1);
      return &w->slots[n];
    }
  }
  return NULL;
}

static void
slot_put (Worker *w, Slot *slot)
{
  guint n = (guint) (slot - w->slots);

  w->free_slots[n / 64] |= UINT64_C (1) << (n % 64);
}

static gboolean
slot_is_free (Worker *w, guint n)
{
  return (w->free_slots[n / 64] >> (n % 64) & 1) != 0;
}

/* Gives back the buffers that were not used since the last time, or all of them when there is nothing to do. */
static void
trim (Worker *w, gboolean idle)
{
  gint64 now_usec = g_get_monotonic_time ();
  guint keep = idle ? SLOTS_KEPT : MAX (w->highest_used + 1, SLOTS_KEPT);

  if (!idle && now_usec - w->trimmed_usec < TRIM_USEC)
    return;
  while (w->ever_used > keep && slot_is_free (w, w->ever_used - 1)) {
    w->ever_used--;
    madvise (w->buffers + w->ever_used * w->slot_bytes, w->slot_bytes, MADV_DONTNEED);
  }
  w->highest_used = 0;
  w->trimmed_usec = now_usec;
}

/* --- Claims --- */

/* Fills `claimed` with what of the run that was taken is to be asked for. In REPLACE the queue has done so already. */
static void
claim (Worker *w)
{
  w->rest = (mf_run){ 0, w->take.run.count };
  if (w->take.mode == MF_PUT_KEEP) {
    uint64_t n = mf_page_map_apply_run (mf_region_map (w->region), w->take.run, MF_PAGE_CLAIM, w->claimed);

    mf_puller_untake (w->puller, w->take.run.count - n);
  }
}

/* The next run of claimed pages. */
static gboolean
next_claimed (Worker *w, mf_run *run)
{
  mf_run bits;

  if (w->rest.count == 0 || !mf_bitmap_next_run (w->claimed, w->rest, true, &bits)) {
    w->rest.count = 0;
    return FALSE;
  }
  w->rest = (mf_run){ bits.first + bits.count, w->take.run.count - bits.first - bits.count };
  *run = (mf_run){ w->take.run.first + bits.first, bits.count };
  return TRUE;
}

static void
give_up_claim (Worker *w, mf_run run, MfPutMode mode)
{
  if (mode == MF_PUT_KEEP)
    mf_page_map_apply_run (mf_region_map (w->region), run, MF_PAGE_FAIL, NULL);
}

/* --- Completions --- */

/* Returns how many pages are holes. `run` is at most MF_REQUEST_MAX_PAGES. */
static uint64_t
count_holes (const mf_request *request, mf_run run)
{
  uint64_t n = 0;

  for (uint64_t i = 0; i < run.count; i += 64) {
    uint64_t left = run.count - i;
    uint64_t mask = left >= 64 ? UINT64_MAX : (UINT64_C (1) << left) - 1;

    n += (uint64_t) __builtin_popcountll (request->holes[i / 64] & mask);
  }
  return n;
}

/* How many pages of `run` were nobody's wish any more when they came. */
static uint64_t
count_unwanted (Worker *w, mf_run run)
{
  uint64_t wanted = 0;
  mf_run rest = run, found;

  while (rest.count > 0 && mf_page_map_next_run (mf_region_map (w->region), rest, MF_PAGE_WANTED, &found)) {
    wanted += found.count;
    rest = (mf_run){ found.first + found.count, run.first + run.count - found.first - found.count };
  }
  return run.count - wanted;
}

/* Puts down what came. FALSE: the store or the program did not take it. */
static gboolean
put_down (Worker *w, Slot *slot, mf_puller_landing *landing)
{
  const mf_request *request = &slot->request;
  const mf_run run = slot->take.run;
  uint64_t hole_bytes;

  landing->hole_pages = count_holes (request, run);
  hole_bytes = landing->hole_pages * request->page_bytes;
  landing->carried_bytes = request->length > hole_bytes ? request->length - hole_bytes : 0;
  if (slot->take.mode == MF_PUT_KEEP)
    landing->kept_pages = count_unwanted (w, run);
  return mf_region_put (w->region, run, request->buffer, landing->hole_pages > 0 ? request->holes : NULL,
                        slot->take.mode, &landing->error);
}

/* What is still MISSING after the pull's end: it failed, or the page was invalidated under way. */
static gboolean
find_missing (Worker *w, mf_run run)
{
  mf_run rest = run, found;
  gboolean any = FALSE;

  while (rest.count > 0 && mf_page_map_next_run (mf_region_map (w->region), rest, MF_PAGE_MISSING, &found)) {
    mf_bitmap_set_run (w->missing, (mf_run){ found.first - run.first, found.count });
    rest = (mf_run){ found.first + found.count, run.first + run.count - found.first - found.count };
    any = TRUE;
  }
  return any;
}

static void
on_done (mf_request *request, gpointer user_data)
{
  Slot *slot = user_data;
  Worker *w = slot->worker;
  mf_puller_landing landing = { .request = request, .take = slot->take };
  gboolean down = FALSE, again;

  mf_schedule_carried ();
  if (request->error == 0)
    down = put_down (w, slot, &landing);
  else
    landing.lost = TRUE;
  if (request->error != 0 && !w->ending && w->read_error == NULL)
    mf_error_from_errno (&w->read_error, request->error, "reading %u bytes at %" G_GUINT64_FORMAT " of region %s",
                         request->length, request->offset, mf_region_get_name (w->region));

  mf_bitmap_clear_run (w->missing, (mf_run){ 0, MF_REQUEST_MAX_PAGES });
  if (slot->take.mode == MF_PUT_KEEP) {
    if (!down)
      give_up_claim (w, slot->take.run, MF_PUT_KEEP);
    again = find_missing (w, slot->take.run);
  } else {
    again = !down;
    if (again)
      mf_bitmap_set_run (w->missing, (mf_run){ 0, slot->take.run.count });
  }
  mf_puller_landed (w->puller, w->lane, &landing, again ? w->missing : NULL);
  slot_put (w, slot);
}

/* --- Asking --- */

static void
submit (Worker *w, Slot *slot, mf_run run)
{
  uint64_t offset, length;

  mf_region_bytes_of (w->region, run, &offset, &length);
  slot->take = w->take;
  slot->take.run = run;
  slot->request.offset = offset;
  slot->request.length = (uint32_t) length;
  slot->request.error = 0;
  memset (slot->request.holes, 0, sizeof slot->request.holes);
  mf_puller_submitted (w->puller, w->lane, slot->request.length);
  mf_lane_submit (w->link, &slot->request);
}

/* Asks for as much as is to be asked for now. `timeout_usec`: how long to wait for something to happen, -1 without end. */
static mf_puller_next
fill (Worker *w, gint64 *timeout_usec)
{
  for (;;) {
    mf_puller_next next;
    Slot *slot;
    mf_run run;

    *timeout_usec = -1;
    /* A read that failed may mean that the lane did: poll() knows. */
    if (w->read_error != NULL) {
      *timeout_usec = 0;
      return MF_PULLER_WAIT;
    }
    slot = slot_get (w);
    if (slot == NULL)
      return MF_PULLER_WAIT;
    if (next_claimed (w, &run)) {
      submit (w, slot, run);
      continue;
    }
    slot_put (w, slot);
    mf_bitmap_clear_run (w->claimed, (mf_run){ 0, MF_REQUEST_MAX_PAGES });
    next = mf_puller_next_take (w->puller, w->lane, mf_lane_in_flight (w->link), &w->take, w->claimed, timeout_usec);
    if (next != MF_PULLER_TAKEN)
      return next;
    claim (w);
  }
}

/* The lane is alive, and a read failed: that is for the owner to know. */
static void
report_read_error (Worker *w)
{
  g_mutex_lock (&w->puller->lock);
  if (w->puller->error == NULL)
    w->puller->error = g_steal_pointer (&w->read_error);
  g_cond_broadcast (&w->puller->changed);
  g_mutex_unlock (&w->puller->lock);
  g_clear_error (&w->read_error);
}

static void
end_worker (Worker *w, const GError *error)
{
  mf_run run;

  w->ending = TRUE;
  while (next_claimed (w, &run)) {
    give_up_claim (w, run, w->take.mode);
    mf_puller_give_back (w->puller, run, w->take.class);
  }
  /* Requests that are still in flight come back while it closes. */
  mf_lane_close (mf_puller_lane_ended (w->puller, w->lane, error));

  munmap (w->buffers, w->n_slots * w->slot_bytes);
  mf_bitmap_free (w->claimed);
  mf_bitmap_free (w->missing);
  g_clear_error (&w->read_error);
  g_free (w->slots);
  g_free (w);
}

static gpointer
run_lane (gpointer data)
{
  Worker *w = data;
  g_autoptr (GError) error = NULL;
  mf_puller_next next;
  gint64 timeout_usec;

  mf_schedule_bulk ();
  while (error == NULL && (next = fill (w, &timeout_usec)) != MF_PULLER_STOP) {
    if (next == MF_PULLER_FLUSH) {
      if (mf_lane_flush (w->link, &error))
        mf_puller_flushed (w->puller, w->lane);
      continue;
    }
    trim (w, timeout_usec < 0 && mf_lane_in_flight (w->link) == 0);
    if (!mf_lane_poll (w->link, NULL, 0, timeout_usec, &error))
      break;
    if (w->read_error != NULL)
      report_read_error (w);
  }
  end_worker (w, error);
  return NULL;
}

static void
init_slots (Worker *w, uint32_t page_bytes)
{
  for (guint i = 0; i < w->n_slots; i++) {
    Slot *slot = &w->slots[i];

    slot->worker = w;
    slot->request.buffer = w->buffers + i * w->slot_bytes;
    slot->request.page_bytes = page_bytes;
    slot->request.done = on_done;
    slot->request.user_data = slot;
    slot_put (w, slot);
  }
}

mf_puller_lane *
mf_puller_lane_new (mf_puller *puller, mf_lane *link, guint number, GError **error)
{
  Worker *w = g_new0 (Worker, 1);
  g_autofree char *name = g_strdup_printf ("mf-pull-%u", number);
  mf_puller_lane *lane;

  w->slot_bytes = MAX (MF_TRANSFER_MAX, puller->page_bytes);
  w->n_slots = CLAMP (MF_PULLER_WINDOW_MAX / w->slot_bytes * 4, SLOTS_MIN, SLOTS_MAX);
  w->claimed = mf_bitmap_new (MF_REQUEST_MAX_PAGES);
  w->missing = mf_bitmap_new (MF_REQUEST_MAX_PAGES);
  w->buffers = mmap (NULL, w->n_slots * w->slot_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (w->buffers == MAP_FAILED || w->claimed == NULL || w->missing == NULL) {
    mf_error_from_errno (error, errno, "making buffers to pull region %s", mf_region_get_name (puller->region));
    if (w->buffers != MAP_FAILED)
      munmap (w->buffers, w->n_slots * w->slot_bytes);
    mf_bitmap_free (w->claimed);
    mf_bitmap_free (w->missing);
    g_free (w);
    mf_lane_close (link);
    return NULL;
  }
  w->slots = g_new0 (Slot, w->n_slots);
  init_slots (w, puller->page_bytes);

  lane = g_new0 (mf_puller_lane, 1);
  lane->puller = puller;
  lane->lane = link;
  w->puller = puller;
  w->lane = lane;
  w->link = link;
  w->region = puller->region;
  lane->thread = g_thread_new (name, run_lane, w);
  return lane;
}

void
mf_puller_lane_join (mf_puller_lane *lane)
{
  g_thread_join (lane->thread);
}
