/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memferry mount: shows the bytes of a backend as a file. Needs no service.
 */
#include "attach/mf-fuse.h"
#include "cli/mf-cli-options.h"
#include "cli/mf-command.h"
#include "cli/mf-quantity.h"
#include "core/mf-size.h"
#include "mount/mf-mount.h"
#include <glib-unix.h>
#include <string.h>
#include <unistd.h>

#define PUSH_INTERVAL_SECONDS 5
#define TIMEOUT_SECONDS       60
#define SECONDS_MAX           86400

typedef struct {
  gboolean direct, read_only;
  char **pull_first;
  char *cache;
  double push_interval, timeout; /* seconds */
} mount_words;

static void
mount_words_clear (mount_words *words)
{
  g_strfreev (words->pull_first);
  g_free (words->cache);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (mount_words, mount_words_clear)

static gboolean
check_seconds (const char *option, double seconds, GError **error)
{
  if (seconds >= 0 && seconds <= SECONDS_MAX)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s takes seconds, 0 to %d", option, SECONDS_MAX);
  return FALSE;
}

static gboolean
parse (int *argc, char ***argv, mount_words *words, GError **error)
{
  const GOptionEntry entries[] = {
    { "direct", 0, 0, G_OPTION_ARG_NONE, &words->direct, "Keep nothing here: every access goes to the backend", NULL },
    { "read-only", 0, 0, G_OPTION_ARG_NONE, &words->read_only, "Refuse writes", NULL },
    { "pull-first", 0, 0, G_OPTION_ARG_STRING_ARRAY, &words->pull_first,
      "What to bring before the rest: OFFSET+LENGTH; may be given several times", "RANGE" },
    { "cache", 0, 0, G_OPTION_ARG_FILENAME, &words->cache,
      "Keep the bytes in this file, so that they are here again at the next start", "FILE" },
    { "push-interval", 0, 0, G_OPTION_ARG_DOUBLE, &words->push_interval,
      "How often what was written is sent to the backend (5; 0: only by fsync and at the end)", "SECONDS" },
    { "timeout", 0, 0, G_OPTION_ARG_DOUBLE, &words->timeout,
      "How long a request waits for a backend that can't be reached (60; 0: without end)", "SECONDS" },
    G_OPTION_ENTRY_NULL
  };
  const mf_cli_usage usage = {
    .parameters = "BACKEND PATH",
    .summary = "Shows the bytes of a backend as the file PATH, until ^C.",
    .entries = entries,
  };

  words->push_interval = PUSH_INTERVAL_SECONDS;
  words->timeout = TIMEOUT_SECONDS;
  if (!mf_cli_parse (&usage, argc, argv, NULL, error) || !mf_cli_check_words (*argc, 2, 2, "BACKEND PATH", error) ||
      !check_seconds ("--push-interval", words->push_interval, error) ||
      !check_seconds ("--timeout", words->timeout, error))
    return FALSE;
  if (!words->direct || (words->pull_first == NULL && words->cache == NULL))
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s and --direct don't go together: nothing is kept here",
               words->cache != NULL ? "--cache" : "--pull-first");
  return FALSE;
}

/* OFFSET+LENGTH */
static gboolean
parse_range (const char *text, mf_byte_range *range, GError **error)
{
  const char *rest;

  if (mf_size_parse (text, &range->offset, &rest) && *rest == '+' && mf_size_parse (rest + 1, &range->length, &rest) &&
      *rest == '\0' && range->length > 0)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
               "%s is not a range: give OFFSET+LENGTH, each in bytes or with K, M, G or T", text);
  return FALSE;
}

static GArray *
parse_ranges (char **texts, GError **error)
{
  g_autoptr (GArray) ranges = g_array_new (FALSE, FALSE, sizeof (mf_byte_range));

  for (guint i = 0; texts != NULL && texts[i] != NULL; i++) {
    mf_byte_range range;

    if (!parse_range (texts[i], &range, error))
      return NULL;
    g_array_append_val (ranges, range);
  }
  return g_steal_pointer (&ranges);
}

/* --- Running --- */

typedef struct {
  GMainLoop *loop;
  guint signals;
  GCancellable *hurry; /* a second signal */
} Running;

static gboolean
on_signal (gpointer data)
{
  Running *running = data;

  if (running->signals++ > 0)
    g_cancellable_cancel (running->hurry);
  else
    g_main_loop_quit (running->loop);
  return G_SOURCE_CONTINUE;
}

static gboolean
quit (gpointer loop)
{
  g_main_loop_quit (loop);
  return G_SOURCE_REMOVE;
}

/* From the loop itself: it may not have begun to run. */
static void
on_unmounted (gpointer data)
{
  g_idle_add (quit, ((Running *) data)->loop);
}

static void
tell (const char *line, gpointer unused)
{
  g_printerr ("memferry mount: %s\n", line);
}

/* The end goes on in a thread of its own, so that a second signal is still heard. */
typedef struct {
  mf_mount *mount;
  Running *running;
  gboolean ok;
  GError *error;

  GMutex lock;
  mf_fuse *fuse; /* NULL once it is being freed; lock */
} Ending;

static gpointer
end_mount (gpointer data)
{
  Ending *ending = data;
  g_autoptr (GError) kernel = NULL;
  gboolean flushed = mf_fuse_flush (ending->fuse, &kernel);
  mf_fuse *fuse;

  g_mutex_lock (&ending->lock);
  fuse = g_steal_pointer (&ending->fuse);
  g_mutex_unlock (&ending->lock);
  mf_fuse_free (fuse);
  ending->ok = mf_mount_close (ending->mount, ending->running->hurry, &ending->error);
  /* What the kernel could not hand over is in no page of ours, so that the sync knows nothing of it. */
  if (ending->ok && !flushed) {
    ending->ok = FALSE;
    ending->error = g_steal_pointer (&kernel);
  }
  g_idle_add (quit, ending->running->loop);
  return NULL;
}

static void
on_hurry (GCancellable *hurry, gpointer data)
{
  Ending *ending = data;

  g_mutex_lock (&ending->lock);
  if (ending->fuse != NULL)
    mf_fuse_stop (ending->fuse);
  g_mutex_unlock (&ending->lock);
}

static gboolean
finish (mf_fuse *fuse, mf_mount *mount, Running *running, GError **error)
{
  Ending ending = { .fuse = fuse, .mount = mount, .running = running };
  GThread *thread;
  gulong handler;

  /* Unmounted by somebody else: so is a signal that comes now the second. */
  running->signals = MAX (running->signals, 1);
  g_mutex_init (&ending.lock);
  handler = g_cancellable_connect (running->hurry, G_CALLBACK (on_hurry), &ending, NULL);
  thread = g_thread_new ("mf-end", end_mount, &ending);
  g_main_loop_run (running->loop);
  g_thread_join (thread);
  g_cancellable_disconnect (running->hurry, handler);
  g_mutex_clear (&ending.lock);
  if (!ending.ok)
    g_propagate_error (error, ending.error);
  return ending.ok;
}

static gboolean
file_read (gpointer mount, uint64_t offset, void *buffer, size_t length, GCancellable *cancellable, GError **error)
{
  return mf_mount_read (mount, offset, buffer, length, cancellable, error);
}

static gboolean
file_write (gpointer mount, uint64_t offset, const void *buffer, size_t length, GCancellable *cancellable,
            GError **error)
{
  return mf_mount_write (mount, offset, buffer, length, cancellable, error);
}

static gboolean
file_zero (gpointer mount, uint64_t offset, uint64_t length, gboolean punch, GCancellable *cancellable, GError **error)
{
  return mf_mount_zero (mount, offset, length, punch, cancellable, error);
}

static gboolean
file_sync (gpointer mount, GCancellable *cancellable, GError **error)
{
  return mf_mount_sync (mount, cancellable, error);
}

static const mf_file_ops file_ops = { .read = file_read, .write = file_write, .zero = file_zero, .sync = file_sync };

static gboolean
show (const char *backend, const char *path, const mf_mount_options *options, Running *running, GError **error)
{
  g_autoptr (mf_mount) mount = mf_mount_new (backend, options, error);
  mf_fuse_options place = { .path = path, .source = backend, .ended = on_unmounted, .user_data = running };
  mf_fuse *fuse;

  if (mount == NULL)
    return FALSE;
  place.size_bytes = mf_mount_size (mount);
  place.read_only = mf_mount_is_read_only (mount);
  place.changes_elsewhere = options->direct;
  fuse = mf_fuse_new (&place, &file_ops, mount, error);
  if (fuse == NULL)
    return FALSE;
  if (isatty (STDOUT_FILENO)) {
    g_autofree char *size = mf_quantity_format_size (place.size_bytes);

    g_print ("%s (%s) is at %s; ^C ends it\n", backend, size, path);
  }
  g_main_loop_run (running->loop);
  return finish (fuse, mount, running, error);
}

int
mf_cmd_mount (int argc, char **argv)
{
  g_auto (mount_words) words = { 0 };
  g_autoptr (GError) error = NULL;
  g_autoptr (GArray) ranges = NULL;
  Running running = { 0 };
  gboolean ok;

  if (!parse (&argc, &argv, &words, &error))
    return mf_cli_fail (error);
  ranges = parse_ranges (words.pull_first, &error);
  if (ranges == NULL)
    return mf_cli_fail (error);

  const mf_mount_options options = {
    .direct = words.direct,
    .read_only = words.read_only,
    .pull_first = (const mf_byte_range *) (void *) ranges->data,
    .n_pull_first = ranges->len,
    .cache = words.cache,
    .push_interval_usec = (gint64) (words.push_interval * G_USEC_PER_SEC),
    .limit_usec = words.timeout > 0 ? (gint64) (words.timeout * G_USEC_PER_SEC) : -1,
    .tell = tell,
  };

  running.loop = g_main_loop_new (NULL, FALSE);
  running.hurry = g_cancellable_new ();
  g_unix_signal_add (SIGINT, on_signal, &running);
  g_unix_signal_add (SIGTERM, on_signal, &running);
  ok = show (argv[1], argv[2], &options, &running, &error);
  g_main_loop_unref (running.loop);
  g_object_unref (running.hurry);
  return ok ? 0 : mf_cli_fail (error);
}
