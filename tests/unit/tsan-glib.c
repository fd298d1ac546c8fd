/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shows ThreadSanitizer what GLib's locks order. GLib is not built with it, and a GMutex is a futex that only GLib touches, so every
 * use of one would look like a race. The linker's --wrap brings our calls here; calls inside GLib are not seen.
 */
#include <glib-object.h>
#include <sanitizer/tsan_interface.h>

/* Visible, because the linker takes the calls of shared libraries for wrapped, too (they are not). */
#pragma GCC visibility push(default)

#define WRAP(type, name, args)                                                                                         \
  type __real_##name args;                                                                                             \
  type __wrap_##name args;                                                                                             \
  type __wrap_##name args

WRAP (void, g_mutex_lock, (GMutex * mutex))
{
  __tsan_mutex_pre_lock (mutex, 0);
  __real_g_mutex_lock (mutex);
  __tsan_mutex_post_lock (mutex, 0, 0);
}

WRAP (gboolean, g_mutex_trylock, (GMutex * mutex))
{
  gboolean locked;

  __tsan_mutex_pre_lock (mutex, __tsan_mutex_try_lock);
  locked = __real_g_mutex_trylock (mutex);
  __tsan_mutex_post_lock (mutex, __tsan_mutex_try_lock | (locked ? 0 : __tsan_mutex_try_lock_failed), 0);
  return locked;
}

WRAP (void, g_mutex_unlock, (GMutex * mutex))
{
  __tsan_mutex_pre_unlock (mutex, 0);
  __real_g_mutex_unlock (mutex);
  __tsan_mutex_post_unlock (mutex, 0);
}

/* GLib makes these of the C library's, but calls from inside of it do not count (tsan.supp). */
WRAP (void, g_rw_lock_writer_lock, (GRWLock * lock))
{
  __tsan_mutex_pre_lock (lock, 0);
  __real_g_rw_lock_writer_lock (lock);
  __tsan_mutex_post_lock (lock, 0, 0);
}

WRAP (void, g_rw_lock_writer_unlock, (GRWLock * lock))
{
  __tsan_mutex_pre_unlock (lock, 0);
  __real_g_rw_lock_writer_unlock (lock);
  __tsan_mutex_post_unlock (lock, 0);
}

WRAP (void, g_rw_lock_reader_lock, (GRWLock * lock))
{
  __tsan_mutex_pre_lock (lock, __tsan_mutex_read_lock);
  __real_g_rw_lock_reader_lock (lock);
  __tsan_mutex_post_lock (lock, __tsan_mutex_read_lock, 0);
}

WRAP (void, g_rw_lock_reader_unlock, (GRWLock * lock))
{
  __tsan_mutex_pre_unlock (lock, __tsan_mutex_read_lock);
  __real_g_rw_lock_reader_unlock (lock);
  __tsan_mutex_post_unlock (lock, __tsan_mutex_read_lock);
}

WRAP (void, g_cond_wait, (GCond * cond, GMutex *mutex))
{
  __tsan_mutex_pre_unlock (mutex, 0);
  __tsan_mutex_post_unlock (mutex, 0);
  __real_g_cond_wait (cond, mutex);
  __tsan_mutex_pre_lock (mutex, 0);
  __tsan_mutex_post_lock (mutex, 0, 0);
}

WRAP (gboolean, g_cond_wait_until, (GCond * cond, GMutex *mutex, gint64 end_time))
{
  gboolean signalled;

  __tsan_mutex_pre_unlock (mutex, 0);
  __tsan_mutex_post_unlock (mutex, 0);
  signalled = __real_g_cond_wait_until (cond, mutex, end_time);
  __tsan_mutex_pre_lock (mutex, 0);
  __tsan_mutex_post_lock (mutex, 0, 0);
  return signalled;
}

#undef g_once_init_leave
WRAP (void, g_once_init_leave, (volatile void *location, gsize result))
{
  /* Who finds the value there has acquired it with an atomic load of our own code. */
  __tsan_release ((void *) location);
  __real_g_once_init_leave (location, result);
}

#undef g_atomic_ref_count_dec
WRAP (gboolean, g_atomic_ref_count_dec, (gatomicrefcount * count))
{
  gboolean last;

  /* Whoever lets go last frees what the others wrote. */
  __tsan_release (count);
  last = __real_g_atomic_ref_count_dec (count);
  if (last)
    __tsan_acquire (count);
  return last;
}

WRAP (void, g_object_unref, (gpointer object))
{
  __tsan_release (object);
  __tsan_acquire (object);
  __real_g_object_unref (object);
}
