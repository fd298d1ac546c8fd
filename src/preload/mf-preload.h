/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * libmemferry-preload.so: hands a program's mapping of a region's file to the service.
 *
 *   mf-preload.c         the hooked functions: what the program maps and unmaps
 *   mf-preload-ranges.c  the set of ranges that are mapped of one file
 *   mf-preload-keeper.c  one thread a file that keeps the service told, for as long as the program lives
 *   mf-preload-link.c    the messages of the hand-over socket (docs/protocol.md, "Hand-over")
 *
 * It is a guest in somebody else's program: no library but libc, no signal ever handled in its thread, no descriptor that
 * survives an exec, no work at all in a program that maps no region.
 */
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#define MF_PRELOAD_FILES  8  /* region files of one program */
#define MF_PRELOAD_RANGES 32 /* mappings of one file */

/* [address, address + length) of the program shows the file from `offset` on. All in bytes, whole pages. */
typedef struct {
  uintptr_t address;
  size_t length;
  uint64_t offset;
} mf_preload_range;

typedef struct {
  unsigned count;
  mf_preload_range items[MF_PRELOAD_RANGES];
} mf_preload_ranges;

/* Adds a range; false: the set is full. What it overlaps must have been cut out before. */
bool mf_preload_ranges_add (mf_preload_ranges *ranges, mf_preload_range range);
/* Cuts [address, address + length) out. Returns whether anything was there. A piece for which there is no room is reported on standard error and no
 * longer looked after. */
bool mf_preload_ranges_cut (mf_preload_ranges *ranges, uintptr_t address, size_t length);
bool mf_preload_ranges_overlap (const mf_preload_ranges *ranges, uintptr_t address, size_t length);

typedef enum {
  MF_PRELOAD_NEW,     /* nothing mapped yet: no thread */
  MF_PRELOAD_TELLING, /* the service does not know the latest ranges yet */
  MF_PRELOAD_TOLD,
  MF_PRELOAD_REFUSED, /* the service would not have it: the program goes on alone */
} mf_preload_state;

/* One region file. Everything but `path` is protected by mf_preload_lock. */
typedef struct {
  const char *path;
  mf_preload_state state;
  mf_preload_ranges ranges;
  unsigned version; /* grows with every change of `ranges` */
  unsigned told;    /* the version that the service has answered for */
  int file;         /* a descriptor of the file, the proof that the program may have it */
  int kick;         /* eventfd: `version` has grown */
  unsigned waiters; /* threads that stand still until the service has answered */

  /* Read by the keeper alone, changed by it with the lock held: a child of a fork closes them. */
  int link;            /* the socket, or -1 */
  int uffds[2];        /* the one for faults and the one for tracking; -1 until the first hand-over */
  unsigned generation; /* how often it was handed over before */
} mf_preload_file;

extern pthread_mutex_t mf_preload_lock;
extern pthread_cond_t mf_preload_changed; /* some file's state or told has changed */

/* The path of the hand-over socket. */
const char *mf_preload_socket_path (void);

/* One line on standard error, with "memferry: " before and a newline after it. */
void mf_preload_say (const char *format, ...) __attribute__ ((format (printf, 1, 2)));

/* With mf_preload_lock held: makes the service know of file->version, starting the thread if it is the first time. `wait`: returns when it does,
 * or has refused; the lock is let go meanwhile. */
void mf_preload_keeper_tell (mf_preload_file *file, bool wait);
/* In the child of a fork: the keeper is not there, its descriptors are the parent's. */
void mf_preload_keeper_forget (mf_preload_file *file);

/* Monotonic. */
int64_t mf_preload_now_msec (void);

typedef enum {
  MF_PRELOAD_LINK_DONE,
  MF_PRELOAD_LINK_REFUSED,
  MF_PRELOAD_LINK_BROKEN, /* no answer, or one that makes no sense: the service is dying; try again */
} mf_preload_link_result;

#define MF_PRELOAD_REASON_BYTES 256

/* Connects and hands over: on success file->link and file->uffds are set. REFUSED: `reason` says why. */
mf_preload_link_result mf_preload_link_open (mf_preload_file *file, const mf_preload_ranges *ranges,
                                             char reason[MF_PRELOAD_REASON_BYTES]);
/* Tells of changed ranges on an open link. */
mf_preload_link_result mf_preload_link_update (mf_preload_file *file, const mf_preload_ranges *ranges,
                                               char reason[MF_PRELOAD_REASON_BYTES]);
void mf_preload_link_close (mf_preload_file *file);
