/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who may run the program while it migrates: two services, two programs (the one that leaves, the one that waits for
 * its state) and the link between them.
 *
 * The link may break and either service may die, between any two steps. A program lives on when its service dies.
 * What a service has recorded is there when it comes back, all else is gone. What was on the link when it broke may
 * still arrive or not. The program that leaves has a will of its own: when the stream of its device state ends
 * before all of it is out, it may go on by itself.
 *
 *   source's record   LEAVING, HANDED, AWAY
 *   target's record   INCOMING, TAKEN, then HERE (the session is over, the region stays), UNDONE (taken, but the
 *                     program never ran and never will) or NONE (undone before it was taken)
 *
 * Checked:
 *   never do both programs run
 *   the program runs on the target only with the final dirty set applied and the records saying so
 *   when nothing breaks any more exactly one program runs, and it is the source's if LEAVING is recorded there
 *
 * UNDONE is kept because the answer that said so may be lost, and the source asks again, perhaps long after. A
 * target that has no record of a session says that it doesn't know it, and that is no leave to go on: it may be one
 * that ended well.
 *
 * BROKEN=1..8 breaks one rule each; the check must find every one of them. REACH=1..4 says that something doesn't
 * happen that has to happen.
 */
#ifndef BROKEN
#define BROKEN 0
#endif
#ifndef REACH
#define REACH 0
#endif
#ifndef BREAKS
#define BREAKS 3
#endif
#ifndef DEATHS
#define DEATHS 3
#endif

/* Records, programs, messages to the target, messages to the source, and where the source's service is. */
mtype = { LEAVING, HANDED, AWAY, NONE, INCOMING, TAKEN, HERE, UNDONE };
mtype = { RUNS, STANDS, WAITS, LOADS, ENDED };
mtype = { SWITCHOVER, ASK, ABORT, DONE };
mtype = { TOOK, REFUSED, RUNNING, FAILED, UNKNOWN, YES, BUSY };
mtype = { PRECOPY, STOPPED, ASKED, ANSWERED, RECORDED, WAITING, LOST, RESUMING };
mtype = { ABORTING, TAKEBACK, ROLLBACK, SERVING, FINISHING, OVER, DEAD };

mtype source_record = LEAVING, target_record = INCOMING;
mtype source_program = RUNS, target_program = WAITS;
mtype source = PRECOPY;
bool target_lives = true;
bool dirty_set_applied = false;
bool complete = false; /* the target has every page */

/* The link. `epoch` is the connection's number: an answer goes to the connection that asked. */
bool link = true;
byte epoch = 0;
chan to_target = [2] of { mtype, byte };
chan to_source = [2] of { mtype };

/* The device state's stream: open from one program to the other, with the state in it or not. */
bool stream = true;
bool state_sent = false;    /* all of it has left the source's program */
bool state_on_way = false;

byte breaks = 0, source_deaths = 0, target_deaths = 0;
bool took_back = false, resumed = false;

/* The connections end. What was under way on the streams may have arrived at the target's end. */
inline cut ()
{
  link = false;
  stream = false;
  if
  :: state_on_way -> state_on_way = false
  :: skip
  fi;
  if
  :: nempty(to_target) -> to_target?_, _
  :: skip
  fi;
  do
  :: nempty(to_source) -> to_source?_
  :: empty(to_source) -> break
  od
}

#define REPLY(m) \
  if \
  :: link && asked_in == epoch -> to_source!m \
  :: else \
  fi

/* --- the source's service --- */
proctype source_service ()
{
  mtype answer;
end:
  do
  :: atomic { source == PRECOPY && link -> source_program = STANDS; source = STOPPED }
  :: atomic { source == STOPPED && link -> to_target!SWITCHOVER, epoch; source = ASKED }
  :: atomic {
       source == ASKED && link && nempty(to_source) ->
       to_source?answer;
       if
       :: answer == TOOK -> source = ANSWERED
       :: else -> source = ROLLBACK
       fi
     }
#if BROKEN == 1
  /* The state is let out first, and recorded then. */
  :: atomic { source == ANSWERED && stream -> state_on_way = true; state_sent = true; source = RECORDED }
  :: atomic { source == RECORDED -> source_record = HANDED; source = WAITING }
#else
  :: atomic { source == ANSWERED -> source_record = HANDED; source = RECORDED }
  :: atomic { source == RECORDED && stream -> state_on_way = true; state_sent = true; source = WAITING }
  :: atomic { source == RECORDED && !stream -> source = LOST }
#endif
  /* Before HANDED everything that goes wrong, and the user's wish, ends here. */
  :: atomic {
       (source == PRECOPY || source == STOPPED || source == ASKED || source == ANSWERED) -> source = ROLLBACK
     }
  :: atomic { source == ROLLBACK -> cut(); source_program = RUNS; source = OVER }

  /* After it, the target's word counts. */
  :: atomic { source == WAITING && link -> to_target!ASK, epoch; source = RESUMING }
  /* Or it doesn't wait: the user has had enough. */
  :: atomic { source == WAITING && link -> to_target!ABORT, epoch; source = ABORTING }
  :: atomic {
       source == RESUMING && link && nempty(to_source) ->
       to_source?answer;
       if
       :: answer == RUNNING -> source = SERVING
       :: answer == FAILED -> source = ABORTING; to_target!ABORT, epoch
       :: answer == UNKNOWN ->
#if BROKEN == 2
          source = TAKEBACK /* no record there: nothing runs there? */
#else
          source = OVER /* it was there and is done with, or somebody has removed it: not ours to run */
#endif
       fi
     }
  :: atomic {
       source == ABORTING && link && nempty(to_source) ->
       to_source?answer;
       if
       :: answer == YES -> source = TAKEBACK
       :: answer == BUSY -> source = SERVING
       fi
     }
  :: atomic { source == TAKEBACK -> source_record = LEAVING; took_back = true; source = ROLLBACK }
  :: atomic {
       (source == WAITING || source == RESUMING || source == ABORTING || source == SERVING) && !link -> source = LOST
     }
  :: atomic {
       source == LOST && target_lives ->
       epoch++;
       link = true;
       resumed = true;
       to_target!ASK, epoch;
       source = RESUMING
     }
  /* The target has every page. */
  :: atomic { source == SERVING && link && complete -> source_record = AWAY; source = FINISHING }
  :: atomic { source == FINISHING && link -> to_target!DONE, epoch; source = OVER }
  :: atomic { source == FINISHING && !link -> source = OVER }

  /* The next service finds the record. */
  :: atomic {
       source == DEAD ->
       if
       :: source_record == LEAVING -> source = ROLLBACK
#if BROKEN == 3
       :: source_record == HANDED -> source = TAKEBACK
#else
       :: source_record == HANDED -> source = LOST
#endif
       :: source_record == AWAY -> source = OVER
       fi
     }
  od
}

/* --- the target's service --- */
proctype target_service ()
{
  mtype question;
  byte asked_in;
end:
  do
  /* The dirty set is applied first, and recorded then: a death in between leaves INCOMING, and that is undone. */
#if BROKEN == 6
  :: atomic { target_lives && target_record == TAKEN && !dirty_set_applied -> dirty_set_applied = true }
  :: atomic {
       target_lives && to_target?[SWITCHOVER, _] ->
#else
  :: atomic {
       target_lives && to_target?[SWITCHOVER, _] && !dirty_set_applied && target_record == INCOMING ->
       dirty_set_applied = true
     }
  :: atomic {
       target_lives && to_target?[SWITCHOVER, _] && (dirty_set_applied || target_record != INCOMING) ->
#endif
       to_target?question, asked_in;
       if
       :: target_record == INCOMING -> target_record = TAKEN; REPLY(TOOK)
       :: else -> REPLY(REFUSED)
       fi;
       asked_in = 0
     }
  /* Answered when it is known. */
  :: atomic {
       target_lives && to_target?[ASK, _] &&
         (target_record != TAKEN || target_program == RUNS || target_program == ENDED) ->
       to_target?question, asked_in;
       if
       :: (target_record == TAKEN || target_record == HERE) && target_program == RUNS ->
#if BROKEN == 4
          REPLY(FAILED)
#else
          if
          :: target_record == TAKEN -> REPLY(RUNNING)
          :: else -> REPLY(UNKNOWN)
          fi
#endif
       :: target_record == TAKEN && target_program != RUNS -> REPLY(FAILED)
       :: target_record == UNDONE -> REPLY(FAILED)
       :: else -> REPLY(UNKNOWN)
       fi;
       asked_in = 0
     }
  :: atomic {
#if BROKEN == 5
       target_lives && to_target?[ABORT, _] ->
#else
       target_lives && to_target?[ABORT, _] && target_program != LOADS ->
#endif
       to_target?question, asked_in;
       if
       :: target_record == TAKEN && target_program == RUNS ->
#if BROKEN == 4
          REPLY(YES)
#else
          REPLY(BUSY)
#endif
       :: target_record == TAKEN && target_program != RUNS ->
          /* Its stream is closed here, so it never will. */
          state_on_way = false;
          stream = false;
          target_record = UNDONE;
          REPLY(YES)
       :: target_record == UNDONE -> REPLY(YES)
       :: else -> REPLY(BUSY)
       fi;
       asked_in = 0
     }
  :: atomic {
       target_lives && to_target?[DONE, _] ->
       to_target?question, asked_in;
       if
       :: target_record == TAKEN -> target_record = HERE
       :: else
       fi;
       asked_in = 0
     }
  /* The device state goes in when, and only when, the program is ours. */
  :: atomic {
       target_lives && state_on_way && target_program == WAITS && target_record == TAKEN ->
       state_on_way = false;
       target_program = LOADS
     }
#if BROKEN == 7
  /* It starts when it is recorded here. */
  :: atomic { target_lives && target_record == TAKEN && target_program == WAITS -> target_program = LOADS }
#endif
  /* The pages that are missing are pulled while the program runs. */
  :: atomic { target_lives && link && target_record == TAKEN && target_program == RUNS && !complete -> complete = true }
  /* The link is lost. */
  :: atomic {
       target_lives && !link && empty(to_target) && target_record == INCOMING ->
       target_record = NONE;
       stream = false;
       state_on_way = false
     }
  :: atomic {
       target_lives && !link && empty(to_target) && target_record == TAKEN && target_program == ENDED ->
#if BROKEN == 8
       target_record = NONE
#else
       target_record = UNDONE
#endif
     }
  /* Nobody comes back, and all pages are here: that session is over. */
  :: atomic {
       target_lives && !link && empty(to_target) && target_record == TAKEN && target_program == RUNS && complete ->
       target_record = HERE
     }
  od
}

/* --- the programs --- */
proctype programs ()
{
end:
  do
  /* The state's stream ends before the state is in. */
  :: atomic { target_program == WAITS && !stream && !state_on_way -> target_program = ENDED }
  :: atomic {
       target_program == LOADS ->
       if
       :: target_program = RUNS
       :: target_program = ENDED
       fi
     }
  /* QEMU goes on when its migration fails. */
  :: atomic { source_program == STANDS && !stream && !state_sent -> source_program = RUNS }
  od
}

/* --- what goes wrong --- */
proctype fate ()
{
end:
  do
  :: atomic { breaks < BREAKS && link -> breaks++; cut() }
  :: atomic {
       source_deaths < DEATHS && source != DEAD && source != OVER ->
       source_deaths++;
       source = DEAD;
       cut()
     }
  :: atomic {
       target_deaths < DEATHS && target_lives ->
       target_deaths++;
       target_lives = false;
       cut();
       state_on_way = false;
       do
       :: nempty(to_target) -> to_target?_, _
       :: empty(to_target) -> break
       od
     }
  :: atomic {
       !target_lives ->
       target_lives = true;
       if
       :: target_record == INCOMING -> target_record = NONE
       :: else
       fi
     }
  od
}

proctype judge ()
{
end:
  do
  :: atomic { source_program == RUNS && target_program == RUNS -> assert(false) }
  :: atomic {
       target_program == RUNS && (source_record == LEAVING || !dirty_set_applied || target_record == NONE ||
                                  target_record == INCOMING || target_record == UNDONE) ->
       assert(false)
     }
  :: atomic {
       timeout ->
       assert(source_program == RUNS || target_program == RUNS);
       assert(source_record != LEAVING || source_program == RUNS);
#if REACH == 1
       assert(target_record != HERE);
#elif REACH == 2
       assert(!took_back);
#elif REACH == 3
       assert(!(resumed && target_program == RUNS && source_record == AWAY));
#endif
       break
     }
#if REACH == 4
  :: atomic { target_record == TAKEN && source_record == LEAVING && source_program == RUNS -> assert(false) }
#endif
  od
}

init {
  atomic {
    run source_service();
    run target_service();
    run programs();
    run fate();
    run judge()
  }
}
