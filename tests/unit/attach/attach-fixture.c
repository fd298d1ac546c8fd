/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "attach-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <grp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEADLINE_SECONDS 60
#define NOBODY           65534

static void
copy_file (const char *from, const char *to)
{
  g_autofree char *bytes = NULL;
  gsize length;

  g_assert_true (g_file_get_contents (from, &bytes, &length, NULL));
  g_assert_true (g_file_set_contents (to, bytes, (gssize) length, NULL));
  g_assert_cmpint (g_chmod (to, 0755), ==, 0);
}

attach_fixture *
attach_fixture_new (const char *root, uint64_t size_bytes)
{
  g_autoptr (GError) error = NULL;
  attach_fixture *f;

  if (!mf_userfault_check (NULL, &error)) {
    g_test_skip (error->message);
    return NULL;
  }
  f = g_new0 (attach_fixture, 1);
  f->dir = g_build_filename (root ? root : "/dev/shm", "mf-attach-XXXXXX", NULL);
  g_assert_nonnull (g_mkdtemp_full (f->dir, 0755));
  f->region_path = g_build_filename (f->dir, "region", NULL);
  f->store = mf_store_create (f->region_path, size_bytes, &error);
  g_assert_no_error (error);
  f->region = mf_region_new ("test", f->store, &error);
  g_assert_no_error (error);
  f->page_bytes = mf_region_page_bytes (f->region);

  /* Not on hugetlbfs: these are written to. */
  g_free (f->dir);
  f->dir = g_strdup ("/tmp/mf-attach-XXXXXX");
  g_assert_nonnull (g_mkdtemp_full (f->dir, 0755));
  f->socket_path = g_build_filename (f->dir, "handover", NULL);
  f->stderr_path = g_build_filename (f->dir, "stderr", NULL);
  f->preload = g_build_filename (f->dir, "libmemferry-preload.so", NULL);
  f->scribble = g_build_filename (f->dir, "scribble", NULL);
  copy_file (MF_TEST_PRELOAD, f->preload);
  copy_file (MF_TEST_SCRIBBLE, f->scribble);
  g_mutex_init (&f->lock);
  g_cond_init (&f->changed);
  f->to_program = f->from_program = -1;
  return f;
}

static void
remove_beside (const char *path)
{
  g_autofree char *dir = g_path_get_dirname (path);

  g_unlink (path);
  g_rmdir (dir);
}

void
attach_fixture_free (attach_fixture *f)
{
  attach_fixture_stop_service (f);
  if (f->pid > 0) {
    kill (f->pid, SIGKILL);
    waitpid (f->pid, NULL, 0);
  }
  if (f->to_program >= 0)
    close (f->to_program);
  if (f->from_program >= 0)
    close (f->from_program);
  g_clear_pointer (&f->userfault, mf_userfault_unref);
  g_object_unref (f->region);
  mf_store_unref (f->store);
  remove_beside (f->region_path);
  g_unlink (f->stderr_path);
  g_unlink (f->scribble);
  remove_beside (f->preload);
  g_mutex_clear (&f->lock);
  g_cond_clear (&f->changed);
  g_free (f->dir);
  g_free (f->region_path);
  g_free (f->socket_path);
  g_free (f->stderr_path);
  g_free (f->preload);
  g_free (f->scribble);
  g_free (f);
}

static MfRegion *
find_region (int fd, pid_t pid, GError **error, gpointer user_data)
{
  attach_fixture *f = user_data;

  if (mf_store_is_fd (f->store, fd))
    return g_object_ref (f->region);
  g_set_error_literal (error, MF_ERROR, MF_ERROR_NOT_FOUND, "it is the file of no region");
  return NULL;
}

static void
lane_lost (MfUserfault *userfault, const GError *error, gpointer user_data)
{
  attach_fixture *f = user_data;

  g_mutex_lock (&f->lock);
  f->lost++;
  g_cond_broadcast (&f->changed);
  g_mutex_unlock (&f->lock);
}

static void
attached (MfUserfault *userfault, gboolean again, gpointer user_data)
{
  attach_fixture *f = user_data;
  g_autoptr (GError) error = NULL;

  mf_userfault_set_lost (userfault, lane_lost, f);
  if (f->serve)
    mf_userfault_serve (userfault, &error);
  g_assert_no_error (error);
  g_mutex_lock (&f->lock);
  g_clear_pointer (&f->userfault, mf_userfault_unref);
  f->userfault = userfault;
  f->attached++;
  f->again += again;
  g_cond_broadcast (&f->changed);
  g_mutex_unlock (&f->lock);
}

static void
detached (MfUserfault *userfault, gpointer user_data)
{
  attach_fixture *f = user_data;

  g_mutex_lock (&f->lock);
  if (f->userfault == userfault)
    g_clear_pointer (&f->userfault, mf_userfault_unref);
  f->detached++;
  g_cond_broadcast (&f->changed);
  g_mutex_unlock (&f->lock);
}

static gpointer
service (gpointer data)
{
  static const mf_handover_callbacks callbacks = { find_region, attached, detached };
  attach_fixture *f = data;
  g_autoptr (GError) error = NULL;

  g_main_context_push_thread_default (f->context);
  f->handover = mf_handover_new (f->socket_path, &callbacks, f, &error);
  g_assert_no_error (error);
  g_main_loop_run (f->loop);
  mf_handover_free (f->handover);
  g_main_context_pop_thread_default (f->context);
  return NULL;
}

void
attach_fixture_start_service (attach_fixture *f)
{
  f->context = g_main_context_new ();
  f->loop = g_main_loop_new (f->context, FALSE);
  f->thread = g_thread_new ("service", service, f);
}

static gboolean
quit (gpointer user_data)
{
  g_main_loop_quit (user_data);
  return G_SOURCE_REMOVE;
}

void
attach_fixture_stop_service (attach_fixture *f)
{
  if (!f->thread)
    return;
  g_main_context_invoke (f->context, quit, f->loop);
  g_thread_join (g_steal_pointer (&f->thread));
  g_main_loop_unref (f->loop);
  g_main_context_unref (f->context);
  g_clear_pointer (&f->userfault, mf_userfault_unref);
}

void
attach_fixture_make_empty (attach_fixture *f)
{
  g_autoptr (GError) error = NULL;

  mf_region_reset (f->region, &error);
  g_assert_no_error (error);
  f->serve = TRUE;
}

void
attach_fixture_wait (attach_fixture *f, const guint *counter, guint value)
{
  const gint64 deadline = g_get_monotonic_time () + DEADLINE_SECONDS * G_USEC_PER_SEC;

  g_mutex_lock (&f->lock);
  while (*counter < value)
    g_assert_true (g_cond_wait_until (&f->changed, &f->lock, deadline));
  g_mutex_unlock (&f->lock);
}

guint
attach_fixture_count (attach_fixture *f, const guint *counter)
{
  guint value;

  g_mutex_lock (&f->lock);
  value = *counter;
  g_mutex_unlock (&f->lock);
  return value;
}

MfUserfault *
attach_fixture_userfault (attach_fixture *f)
{
  MfUserfault *userfault;

  g_mutex_lock (&f->lock);
  g_assert_nonnull (f->userfault);
  userfault = mf_userfault_ref (f->userfault);
  g_mutex_unlock (&f->lock);
  return userfault;
}

/* Whatever this starts goes when the test does. */
void
attach_fixture_tie (gpointer user_data)
{
  prctl (PR_SET_PDEATHSIG, SIGKILL);
}

static void
become_nobody (gpointer user_data)
{
  const gid_t group = NOBODY;

  if (prctl (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || setgroups (1, &group) < 0 || setgid (NOBODY) < 0 ||
      setuid (NOBODY) < 0)
    _exit (126);
  attach_fixture_tie (NULL);
}

void
attach_fixture_start_program (attach_fixture *f, program_flags flags)
{
  g_autofree char *page = g_strdup_printf ("%u", f->page_bytes);
  g_autofree char *script = g_strdup_printf ("exec %s \"$@\" 2>>%s", f->scribble, f->stderr_path);
  const char *argv[] = { "/bin/sh", "-c", script, "sh", f->region_path, page, NULL };
  g_auto (GStrv) environment = g_get_environ ();
  g_autoptr (GError) error = NULL;

  environment = g_environ_setenv (environment, "MEMFERRY_HANDOVER", f->socket_path, TRUE);
  environment = g_environ_setenv (environment, "MEMFERRY_REGION_FILE", f->region_path, TRUE);
  if (!(flags & PROGRAM_ALONE))
    environment = g_environ_setenv (environment, "LD_PRELOAD", f->preload, TRUE);
  if (flags & PROGRAM_AS_NOBODY) {
    g_assert_cmpint (chown (f->region_path, NOBODY, NOBODY), ==, 0);
    g_assert_true (g_file_set_contents (f->stderr_path, "", 0, NULL));
    g_assert_cmpint (chown (f->stderr_path, NOBODY, NOBODY), ==, 0);
  }
  g_spawn_async_with_pipes (NULL, (char **) argv, environment, G_SPAWN_DO_NOT_REAP_CHILD,
                            flags & PROGRAM_AS_NOBODY ? become_nobody : attach_fixture_tie, NULL, &f->pid,
                            &f->to_program, &f->from_program, NULL, &error);
  g_assert_no_error (error);
}

void
attach_fixture_end_program (attach_fixture *f)
{
  int status;

  close (f->to_program);
  close (f->from_program);
  f->to_program = f->from_program = -1;
  g_assert_cmpint (waitpid (f->pid, &status, 0), ==, f->pid);
  f->pid = 0;
  g_assert_cmpint (status, ==, 0);
}

static void
send_args (attach_fixture *f, const char *format, va_list args)
{
  g_autofree char *text = g_strdup_vprintf (format, args);
  g_autofree char *line = g_strconcat (text, "\n", NULL);

  g_assert_cmpint (write (f->to_program, line, strlen (line)), ==, strlen (line));
}

void
attach_fixture_send (attach_fixture *f, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  send_args (f, format, args);
  va_end (args);
}

char *
attach_fixture_receive (attach_fixture *f)
{
  const gint64 deadline = g_get_monotonic_time () + DEADLINE_SECONDS * G_USEC_PER_SEC;
  GString *line = g_string_new (NULL);

  for (;;) {
    struct pollfd ready = { .fd = f->from_program, .events = POLLIN };
    const gint64 left = (deadline - g_get_monotonic_time ()) / 1000;
    char byte;

    if (left <= 0 || poll (&ready, 1, (int) left) <= 0)
      g_error ("The program does not answer; so far: \"%s\"", line->str);
    if (read (f->from_program, &byte, 1) != 1)
      g_error ("The program has ended; so far: \"%s\"", line->str);
    if (byte == '\n')
      return g_string_free (line, FALSE);
    g_string_append_c (line, byte);
  }
}

void
attach_fixture_ask (attach_fixture *f, const char *expected, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  send_args (f, format, args);
  va_end (args);
  attach_fixture_expect (f, expected);
}

void
attach_fixture_expect (attach_fixture *f, const char *expected)
{
  g_autofree char *got = attach_fixture_receive (f);

  if (!strchr (expected, ' ') && strchr (got, ' '))
    *strchr (got, ' ') = '\0';
  g_assert_cmpstr (got, ==, expected);
}

char *
attach_fixture_stderr (attach_fixture *f)
{
  char *text = NULL;

  g_assert_true (g_file_get_contents (f->stderr_path, &text, NULL, NULL));
  return text;
}

void
attach_fixture_assert_store (attach_fixture *f, uint64_t first, uint64_t count, uint32_t seed)
{
  g_autofree uint8_t *page = g_malloc (f->page_bytes);

  for (uint64_t i = first; i < first + count; i++) {
    g_assert_true (mf_store_read (f->store, i * f->page_bytes, page, f->page_bytes, NULL));
    if (!pattern_holds (page, f->page_bytes, seed, i))
      g_error ("page %" G_GUINT64_FORMAT " does not hold what it must", i);
  }
}
