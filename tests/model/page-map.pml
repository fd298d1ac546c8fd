/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The page map with everybody who uses it: a region of two pages here, and the peer's store.
 *
 * Page 0 belongs to this side: the program writes it, the pusher sends it. Page 1 is written by the peer first and
 * invalidated here each time, as pages are while they are migrated; then the peer stops, and the program writes it
 * here. Both are pulled, by two pulls at a time. Transfers take time: what was read at one end is not at the other
 * yet. Sends and pulls may fail; a send whose answer got lost has changed the peer's store all the same.
 *
 * A value is the number of the write that made it. The transition table comes from the code (print-events.c).
 *
 * Checked:
 *   1  what a present page holds is the latest write, from either side
 *   2  a local write is never overwritten by a pull that was under way (part of 1)
 *   3  a page that is neither dirty nor being sent is at the peer as it was written last
 *   in the end: every page is present, clean and the same on both sides, none has been forgotten
 *
 * BROKEN=1..7 leaves out one rule each; the check must find every one of them. REACH=1..3 says that something
 * doesn't happen that has to happen.
 */
#include "events.pml"

#ifndef BROKEN
#define BROKEN 0
#endif
#ifndef REACH
#define REACH 0
#endif

#define HOLE        99
#define WRITES(p)   (2 - (p)) /* of the program to page p, at most */
#define PEER_WRITES 2         /* of the peer to page 1 */

byte state[2];   /* the page map */
byte here[2];    /* the local bytes */
byte peer[2];    /* the peer's store */
byte latest[2];  /* the write that a reader must see */
bool queued[2];  /* the pull queue */
bool locked[2];  /* the store's range lock */
bool writing[2]; /* a writer is at it: neither old nor new is wrong now */
bool stale[2];   /* the peer has written and not yet said so: nobody may read here yet */
byte sending[2]; /* sends under way */
bool peer_is_done = false;
bool was_late = false, was_unsent = false;

/* An event is one step, as the map's compare and swap. */
#define APPLY(p, e) \
  d_step { \
    if \
    :: NEXT(state[p], e) != NOT_LEGAL -> state[p] = NEXT(state[p], e) \
    :: else \
    fi; \
    if \
    :: state[p] & LATE -> was_late = true \
    :: else \
    fi \
  }
#define LOCK(p)   atomic { !locked[p] -> locked[p] = true }
#define UNLOCK(p) locked[p] = false

proctype puller ()
{
  byte p, got;
end:
  do
  :: atomic {
       if
       :: queued[0] -> p = 0
       :: queued[1] -> p = 1
       fi;
       queued[p] = false
     }
#if BROKEN == 3
     /* A late page may be claimed again at once. */
     atomic {
       if
       :: NEXT(state[p], CLAIM) != NOT_LEGAL || state[p] == LATE -> state[p] = WANTED
       :: else -> goto end
       fi
     }
#else
     atomic {
       if
       :: NEXT(state[p], CLAIM) != NOT_LEGAL -> state[p] = NEXT(state[p], CLAIM)
       :: else -> goto end
       fi
     }
#endif
     got = peer[p];
     if
     :: APPLY(p, FAIL)
     ::
#if BROKEN != 5
        LOCK(p);
#endif
        if
#if BROKEN == 1
        :: here[p] = got
#else
        :: state[p] & WANTED -> here[p] = got
        :: !(state[p] & WANTED)
#endif
        fi;
        APPLY(p, ARRIVE);
#if BROKEN != 5
        UNLOCK(p)
#endif
     fi;
     d_step {
       if
       :: !(state[p] & (PRESENT | WANTED)) && BROKEN != 6 -> queued[p] = true
       :: else
       fi;
       /* Done with: or they would make states differ that don't. */
       got = 0;
       p = 0
     }
  od
}

proctype writer ()
{
  byte p = 0, n = 0, value = 10;

  do
  :: p < 2 && n < WRITES(p) ->
     (p == 0 || peer_is_done);
     atomic { !locked[p] -> locked[p] = true; value++; writing[p] = true };
#if BROKEN == 4
     APPLY(p, WRITE);
     d_step { here[p] = value; latest[p] = value };
#else
     d_step { here[p] = value; latest[p] = value };
     APPLY(p, WRITE);
#endif
     d_step { writing[p] = false; UNLOCK(p); n++ }
  :: p < 2 && n == WRITES(p) -> p++; n = 0
  :: break /* or it does not write that much */
  od
}

proctype peer_writer ()
{
  byte n = 0;

  do
  :: n < PEER_WRITES ->
     n++;
     d_step { peer[1] = n; latest[1] = n; stale[1] = true };
     LOCK(1);
     APPLY(1, INVALIDATE);
     d_step {
       if
       :: !(state[1] & PRESENT) -> here[1] = HOLE
       :: else
       fi
     };
     d_step { UNLOCK(1); stale[1] = false; queued[1] = true }
  :: n == PEER_WRITES -> break
  od;
  peer_is_done = true
}

proctype pusher ()
{
  byte p, got;
end:
  do
  :: atomic {
       if
       :: state[0] & DIRTY -> p = 0
       :: state[1] & DIRTY -> p = 1
       fi;
       sending[p]++
     }
#if BROKEN == 2
     got = here[p];
     APPLY(p, READ_TO_SEND);
#else
     APPLY(p, READ_TO_SEND);
     got = here[p];
#endif
     if
     :: peer[p] = got
     :: APPLY(p, SEND_FAILED); was_unsent = true
     :: peer[p] = got; APPLY(p, SEND_FAILED)
#if BROKEN == 7
     :: skip /* what failed is forgotten */
#endif
     fi;
     d_step { sending[p]--; got = 0; p = 0 }
  od
}

#define HOLDS_LATEST(p) (!(state[p] & PRESENT) || writing[p] || stale[p] || here[p] == latest[p])
#define IS_AT_PEER(p)   ((state[p] & DIRTY) || writing[p] || sending[p] > 0 || peer[p] == latest[p])
#define IS_POSSIBLE(p) \
  (!((state[p] & DIRTY) && !(state[p] & PRESENT)) && !((state[p] & WANTED) && (state[p] & (PRESENT | LATE))))
#define IS_SETTLED(p) (state[p] == PRESENT)

proctype judge ()
{
end:
  do
  :: atomic { !HOLDS_LATEST(0) || !HOLDS_LATEST(1) -> assert(false) }
  :: atomic { !IS_AT_PEER(0) || !IS_AT_PEER(1) -> assert(false) }
  :: atomic { !IS_POSSIBLE(0) || !IS_POSSIBLE(1) -> assert(false) }
  /* Nobody has anything left to do. */
  :: atomic {
       timeout ->
       assert(peer_is_done && IS_SETTLED(0) && IS_SETTLED(1));
       assert(here[0] == peer[0] && here[1] == peer[1]);
#if REACH == 1
       assert(!was_late);
#elif REACH == 2
       assert(!was_unsent);
#elif REACH == 3
       assert(false);
#endif
       break
     }
  od
}

init {
  atomic {
    queued[0] = true;
    queued[1] = true;
    here[0] = HOLE;
    here[1] = HOLE;
    run puller();
    run puller();
    run writer();
    run peer_writer();
    run pusher();
    run judge()
  }
}
