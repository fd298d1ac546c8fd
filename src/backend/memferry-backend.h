/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * How to write a backend for memferry: a place where a region's bytes come from and go to.
 *
 * A backend is a shared object memferry-backend-NAME.so in memferry's folder of backends, or in a folder that
 * MEMFERRY_BACKENDS names. It needs this header and nothing else of memferry, and exports one function:
 *
 *     static const memferry_backend plugin = { .struct_size = sizeof plugin, .api = MEMFERRY_BACKEND_API, ... };
 *     MEMFERRY_BACKEND (plugin)
 *
 * Then NAME:OPTIONS is a BACKEND of every command that takes one. The structs here only ever grow at their end, and
 * struct_size says how much of one is there: a backend that is older or newer than memferry works.
 *
 * What memferry promises: open() comes first and close() last, after all other calls have returned. read(), write(),
 * zero() and flush() come from any thread, at most `concurrency` of them at once. Offset and length are multiples of
 * block_bytes, but for the last block, which ends at the size; no call passes the size, and none is longer than
 * request_bytes. A read and a write of the same bytes, or two writes, may overlap in time only if the user's did.
 *
 * What a backend promises: a call does all that is asked, or fails. What was never written reads as zeroes. After a
 * flush, what was written (or zeroed) before it began survives the end of the process. Calls return 0 or an errno
 * value, and may say more in `reason`. EAGAIN says that the place can't be reached now: memferry tries again later.
 */
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MEMFERRY_BACKEND_API 1u

/* From read(): there is nothing here, all of it is zeroes. The buffer need not be filled. */
#define MEMFERRY_BACKEND_ABSENT (-1)

/* Of open(): nothing will be written. */
#define MEMFERRY_BACKEND_OPEN_READ_ONLY 1u

/* How the user writes it: NAME:VALUE,OPTION=VALUE,... . The first option of the table may come without its name. A
 * comma in a text is written twice. */
typedef enum {
  MEMFERRY_OPTION_TEXT = 0,
  MEMFERRY_OPTION_PATH = 1,   /* a text that is not empty, made absolute */
  MEMFERRY_OPTION_SIZE = 2,   /* bytes, more than 0; takes K, M, G and T, powers of 1024 */
  MEMFERRY_OPTION_NUMBER = 3, /* 0 or more */
  MEMFERRY_OPTION_FLAG = 4,   /* "yes", "no", or the name alone */
} memferry_option_type;

/* A table of these ends with one whose name is NULL. */
typedef struct {
  const char *name;
  memferry_option_type type;
  int required;
  const char *summary; /* one line, for people */
} memferry_option;

typedef struct {
  int given;
  const char *text; /* TEXT and PATH, valid until open() returns; otherwise NULL */
  uint64_t number;  /* the others; 1 or 0 of a flag */
} memferry_value;

/* What open() finds out. memferry has set it to zeroes, but for struct_size: what it knows of the struct. */
typedef struct {
  size_t struct_size;
  uint64_t size_bytes;    /* not 0 */
  uint32_t block_bytes;   /* a power of two up to 32 MiB; 0 or 1: any offset and length will do */
  uint32_t request_bytes; /* a multiple of block_bytes; 0: no limit */
  uint32_t concurrency;   /* calls at once; 0: as many as there are, 1: one after the other */
  int read_only;
} memferry_limits;

/* Room for why a call failed: a line for people, without what and where, which memferry knows. */
typedef struct {
  size_t struct_size;
  char text[256];
} memferry_reason;

typedef struct {
  size_t struct_size; /* sizeof (memferry_backend) */
  uint32_t api;       /* MEMFERRY_BACKEND_API */
  const char *name;   /* a-z, 0-9 and dashes: as in the file's name */
  const char *summary;
  const memferry_option *options;

  /* `values` has one for each entry of the table. `context` is passed to all other calls. */
  int (*open) (const memferry_value *values, unsigned flags, void **context, memferry_limits *limits,
               memferry_reason *reason);
  void (*close) (void *context);
  int (*read) (void *context, void *buffer, uint32_t length, uint64_t offset, memferry_reason *reason);
  /* NULL: the backend can only be read. */
  int (*write) (void *context, const void *buffer, uint32_t length, uint64_t offset, memferry_reason *reason);
  /* NULL: zeroes are written. */
  int (*zero) (void *context, uint32_t length, uint64_t offset, memferry_reason *reason);
  /* NULL: what was written is safe when write() returns. */
  int (*flush) (void *context, memferry_reason *reason);
} memferry_backend;

#define MEMFERRY_BACKEND_SYMBOL "memferry_backend_init"

/* Those that are part of memferry itself are linked in, each by a name of its own. */
#ifdef MEMFERRY_BACKEND_LINKED
#  define MEMFERRY_BACKEND(plugin)                                                                                     \
    const memferry_backend *MEMFERRY_BACKEND_LINKED (void);                                                            \
    const memferry_backend *MEMFERRY_BACKEND_LINKED (void)                                                             \
    {                                                                                                                  \
      return &plugin;                                                                                                  \
    }
#else
#  define MEMFERRY_BACKEND(plugin)                                                                                     \
    __attribute__ ((visibility ("default"))) const memferry_backend *memferry_backend_init (void);                     \
    const memferry_backend *memferry_backend_init (void)                                                               \
    {                                                                                                                  \
      return &plugin;                                                                                                  \
    }
#endif

#ifdef __cplusplus
}
#endif
