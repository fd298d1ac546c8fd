/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The hooked functions. What matters is that the service knows of a mapping before the program can touch it: so mmap() returns only when
 * the service has answered. That it no longer knows of one that has gone is only a matter of tidiness: the kernel answers ENOENT there.
 *
 * A mapping is marked MADV_DONTFORK: in a child its missing pages would be zeroes, and being shared they would stay zeroes for the
 * parent. A child that touches it gets a SIGSEGV instead. For the same reason mremap() of it is refused: the kernel lets go of a range that moves.
 *
 * LD_PRELOAD stays in the environment: wrapper scripts need it, and a child that maps the file without it would read zeroes.
 */
#undef _FILE_OFFSET_BITS /* both mmap() and mmap64() are defined here */
#include "mf-preload.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HOOK __attribute__ ((visibility ("default")))

pthread_mutex_t mf_preload_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t mf_preload_changed = PTHREAD_COND_INITIALIZER;

static mf_preload_file files[MF_PRELOAD_FILES];
static unsigned n_files;
static const char *socket_path;
static char *paths; /* what files[].path point into */
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Every range is within [lowest, highest): lets the hot paths of munmap() and mmap() pass without the lock. Only grows. */
static _Atomic uintptr_t lowest = UINTPTR_MAX, highest = 0;

const char *
mf_preload_socket_path (void)
{
  return socket_path;
}

void
mf_preload_say (const char *format, ...)
{
  char line[512] = "memferry: ";
  const size_t prefix = strlen (line);
  va_list args;
  int length;

  va_start (args, format);
  length = vsnprintf (line + prefix, sizeof (line) - prefix - 1, format, args);
  va_end (args);
  if (length < 0)
    return;
  length = (int) strlen (line);
  line[length++] = '\n';
  if (write (STDERR_FILENO, line, (size_t) length) < 0) {
    /* The program has closed it: then nobody is there to be told. */
  }
}

static void
before_fork (void)
{
  pthread_mutex_lock (&mf_preload_lock);
}

static void
after_fork_in_parent (void)
{
  pthread_mutex_unlock (&mf_preload_lock);
}

static void
after_fork_in_child (void)
{
  for (unsigned i = 0; i < n_files; i++)
    mf_preload_keeper_forget (&files[i]);
  mf_preload_changed = (pthread_cond_t) PTHREAD_COND_INITIALIZER;
  pthread_mutex_unlock (&mf_preload_lock);
}

static void
read_environment (void)
{
  const char *list = getenv ("MEMFERRY_REGION_FILE");
  char *rest = NULL;

  socket_path = getenv ("MEMFERRY_HANDOVER");
  if (!socket_path || !*socket_path || !list || !*list)
    return;
  /* Copies: the program may change its environment. */
  socket_path = strdup (socket_path);
  paths = strdup (list);
  if (!socket_path || !paths) {
    mf_preload_say ("%s", strerror (ENOMEM));
    return;
  }
  for (char *path = strtok_r (paths, ":", &rest); path; path = strtok_r (NULL, ":", &rest)) {
    if (n_files == MF_PRELOAD_FILES) {
      mf_preload_say ("MEMFERRY_REGION_FILE names more than %d files: %s and what follows is ignored", MF_PRELOAD_FILES,
                      path);
      break;
    }
    files[n_files++] = (mf_preload_file){ .path = path, .file = -1, .kick = -1, .link = -1, .uffds = { -1, -1 } };
  }
  pthread_atfork (before_fork, after_fork_in_parent, after_fork_in_child);
}

/* The next definition of a hooked function. NULL while the dynamic linker itself is at work on the answer, or when there is none:
 * then the caller makes the system call. */
static void *
next_function (_Atomic (void *) *cache, const char *name)
{
  static _Thread_local bool looking __attribute__ ((tls_model ("initial-exec")));
  void *function = atomic_load_explicit (cache, memory_order_relaxed);

  if (function || looking)
    return function;
  looking = true;
  function = dlsym (RTLD_NEXT, name);
  looking = false;
  atomic_store_explicit (cache, function, memory_order_relaxed);
  return function;
}

static void *
real_mmap (void *address, size_t length, int protection, int flags, int fd, off64_t offset)
{
  static _Atomic (void *) cache;
  void *(*function) (void *, size_t, int, int, int, off64_t) = next_function (&cache, "mmap64");

  if (function)
    return function (address, length, protection, flags, fd, offset);
#ifdef SYS_mmap2
  return (void *) syscall (SYS_mmap2, address, length, protection, flags, fd, offset / 4096);
#else
  return (void *) syscall (SYS_mmap, address, length, protection, flags, fd, offset);
#endif
}

static int
real_munmap (void *address, size_t length)
{
  static _Atomic (void *) cache;
  int (*function) (void *, size_t) = next_function (&cache, "munmap");

  return function ? function (address, length) : (int) syscall (SYS_munmap, address, length);
}

static size_t
whole_pages (size_t length)
{
  const size_t page = (size_t) sysconf (_SC_PAGESIZE);

  return (length + page - 1) / page * page;
}

static bool
is_near (const void *address, size_t length)
{
  return (uintptr_t) address < atomic_load_explicit (&highest, memory_order_acquire) &&
         (uintptr_t) address + whole_pages (length) > atomic_load_explicit (&lowest, memory_order_acquire);
}

/* Which region file `fd` is; NULL: none. Looked up by path every time, since the service may make the file after the program's start. */
static mf_preload_file *
find_file (int fd)
{
  struct stat64 mapped, named;

  pthread_once (&once, read_environment);
  if (n_files == 0 || fstat64 (fd, &mapped) < 0 || !S_ISREG (mapped.st_mode))
    return NULL;
  for (unsigned i = 0; i < n_files; i++) {
    if (stat64 (files[i].path, &named) == 0 && named.st_dev == mapped.st_dev && named.st_ino == mapped.st_ino)
      return &files[i];
  }
  return NULL;
}

/* With the lock held: [address, address + length) is not what it was. */
static void
forget_range (const void *address, size_t length)
{
  for (unsigned i = 0; i < n_files; i++) {
    mf_preload_file *file = &files[i];

    if (!mf_preload_ranges_cut (&file->ranges, (uintptr_t) address, whole_pages (length)))
      continue;
    file->version++;
    mf_preload_keeper_tell (file, false);
  }
}

/* With the lock held: `fd` was mapped. Returns when the service knows, or has refused. */
static void
note_mapping (mf_preload_file *file, int fd, void *address, size_t length, uint64_t offset)
{
  const mf_preload_range range = { (uintptr_t) address, whole_pages (length), offset };

  if (file->state == MF_PRELOAD_REFUSED)
    return;
  if (!mf_preload_ranges_add (&file->ranges, range)) {
    mf_preload_say ("%s is mapped more than %d times: this mapping is not looked after", file->path, MF_PRELOAD_RANGES);
    return;
  }
  if (range.address < atomic_load (&lowest))
    atomic_store (&lowest, range.address);
  if (range.address + range.length > atomic_load (&highest))
    atomic_store (&highest, range.address + range.length);
  if (file->file < 0)
    file->file = fcntl (fd, F_DUPFD_CLOEXEC, 0);
  madvise (address, length, MADV_DONTFORK);
  file->version++;
  mf_preload_keeper_tell (file, true);
  if (file->state == MF_PRELOAD_REFUSED)
    madvise (address, length, MADV_DOFORK);
}

static void *
map (void *address, size_t length, int protection, int flags, int fd, off64_t offset)
{
  const bool shared = (flags & MAP_TYPE) == MAP_SHARED || (flags & MAP_TYPE) == MAP_SHARED_VALIDATE;
  mf_preload_file *file = fd >= 0 && !(flags & MAP_ANONYMOUS) ? find_file (fd) : NULL;
  const bool replaces = (flags & MAP_FIXED) && is_near (address, length);
  void *result;
  int error;

  if (file && !shared) {
    mf_preload_say ("%s is mapped privately: that mapping shows what is in the file now, not what is still to come",
                    file->path);
    file = NULL;
  }
  if (!file && !replaces)
    return real_mmap (address, length, protection, flags, fd, offset);

  pthread_mutex_lock (&mf_preload_lock);
  result = real_mmap (address, length, protection, flags, fd, offset);
  error = errno;
  if (result != MAP_FAILED) {
    forget_range (result, length);
    if (file)
      note_mapping (file, fd, result, length, (uint64_t) offset);
  }
  pthread_mutex_unlock (&mf_preload_lock);
  errno = error;
  return result;
}

HOOK void *
mmap64 (void *address, size_t length, int protection, int flags, int fd, off64_t offset)
{
  return map (address, length, protection, flags, fd, offset);
}

HOOK void *
mmap (void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
  return map (address, length, protection, flags, fd, offset);
}

HOOK int
munmap (void *address, size_t length)
{
  int result, error;

  if (!is_near (address, length))
    return real_munmap (address, length);

  pthread_mutex_lock (&mf_preload_lock);
  result = real_munmap (address, length);
  error = errno;
  if (result == 0)
    forget_range (address, length);
  pthread_mutex_unlock (&mf_preload_lock);
  errno = error;
  return result;
}

/* With the lock held. */
static bool
is_looked_after (const void *address, size_t length)
{
  for (unsigned i = 0; i < n_files; i++) {
    if (files[i].state != MF_PRELOAD_REFUSED &&
        mf_preload_ranges_overlap (&files[i].ranges, (uintptr_t) address, whole_pages (length)))
      return true;
  }
  return false;
}

HOOK void *
mremap (void *old_address, size_t old_length, size_t new_length, int flags, ...)
{
  static _Atomic (void *) cache;
  void *(*function) (void *, size_t, size_t, int, ...) = next_function (&cache, "mremap");
  void *new_address = NULL;
  bool refuse = false;

  if (flags & MREMAP_FIXED) {
    va_list args;

    va_start (args, flags);
    new_address = va_arg (args, void *);
    va_end (args);
  }
  if (is_near (old_address, old_length) || (new_address && is_near (new_address, new_length))) {
    pthread_mutex_lock (&mf_preload_lock);
    refuse = is_looked_after (old_address, old_length) || (new_address && is_looked_after (new_address, new_length));
    pthread_mutex_unlock (&mf_preload_lock);
  }
  if (refuse) {
    mf_preload_say ("mremap of a region's mapping is refused: it would lose what has not come yet");
    errno = EINVAL;
    return MAP_FAILED;
  }
  if (function)
    return function (old_address, old_length, new_length, flags, new_address);
  return (void *) syscall (SYS_mremap, old_address, old_length, new_length, flags, new_address);
}
