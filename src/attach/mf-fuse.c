/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define FUSE_USE_VERSION 312
#include "mf-fuse.h"
#include "mf-fuse-place.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * The file is the root: there is one inode, and nothing to look up.
 *
 * A worker's request has a cancellable, one for each thread, used again and again: FUSE's interrupt cancels it, and so does the end of the attachment. It is
 * in `waiting` while the request is being answered, and reset when it is taken out.
 */

#define THREADS_MAX 8
#define TIMEOUT_SEC 86400.0 /* nobody else changes what the kernel knows of the file */
#define READ_MAX    (1u << 20)

struct _mf_fuse {
  const mf_file_ops *ops;
  gpointer file;
  char *path;
  gboolean made;
  uint64_t size_bytes;
  gboolean read_only, changes_elsewhere;
  void (*ended) (gpointer user_data);
  gpointer user_data;

  struct timespec since;
  struct fuse_session *session;
  gboolean mounted;
  GThread *thread;

  GMutex lock; /* protects what follows */
  gboolean stopping;
  GPtrArray *waiting; /* of GCancellable */
};

/* --- Requests that may wait --- */

typedef struct {
  GCancellable *cancellable;
  uint8_t *buffer; /* READ_MAX */
} Worker;

static void
worker_free (gpointer data)
{
  Worker *worker = data;

  g_object_unref (worker->cancellable);
  g_free (worker->buffer);
  g_free (worker);
}

static Worker *
worker_get (void)
{
  static GPrivate per_thread = G_PRIVATE_INIT (worker_free);
  Worker *worker = g_private_get (&per_thread);

  if (worker == NULL) {
    worker = g_new0 (Worker, 1);
    worker->cancellable = g_cancellable_new ();
    worker->buffer = g_malloc (READ_MAX);
    g_private_set (&per_thread, worker);
  }
  return worker;
}

static void
on_interrupt (fuse_req_t request, void *cancellable)
{
  g_cancellable_cancel (cancellable);
}

/* FALSE: nothing is answered any more. */
static gboolean
begin (mf_fuse *fuse, fuse_req_t request, Worker *worker)
{
  gboolean stopping;

  g_mutex_lock (&fuse->lock);
  stopping = fuse->stopping;
  if (!stopping)
    g_ptr_array_add (fuse->waiting, worker->cancellable);
  g_mutex_unlock (&fuse->lock);
  if (stopping)
    fuse_reply_err (request, EIO);
  else
    fuse_req_interrupt_func (request, on_interrupt, worker->cancellable);
  return !stopping;
}

static void
end (mf_fuse *fuse, fuse_req_t request, Worker *worker)
{
  fuse_req_interrupt_func (request, NULL, NULL);
  g_mutex_lock (&fuse->lock);
  g_ptr_array_remove_fast (fuse->waiting, worker->cancellable);
  g_mutex_unlock (&fuse->lock);
  g_cancellable_reset (worker->cancellable);
}

static int
errno_of (const GError *error)
{
  if (error->domain != MF_ERROR)
    return EIO;
  switch ((MfError) error->code) {
  case MF_ERROR_CANCELLED:
    return EINTR;
  case MF_ERROR_TIMED_OUT:
    return ETIMEDOUT;
  case MF_ERROR_NO_SPACE:
    return ENOSPC;
  case MF_ERROR_INVALID:
    return EINVAL;
  case MF_ERROR_PERMISSION:
    return EPERM;
  case MF_ERROR_FAILED:
  case MF_ERROR_EXISTS:
  case MF_ERROR_NOT_FOUND:
  case MF_ERROR_BUSY:
  case MF_ERROR_NOT_SUPPORTED:
  case MF_ERROR_PROTOCOL:
  case MF_ERROR_VERSION:
  case MF_ERROR_CONNECTION:
  case MF_ERROR_PROGRAM:
  case MF_ERROR_NOT_CONVERGING:
  case MF_ERROR_IO:
    break;
  }
  return EIO;
}

static void
reply (fuse_req_t request, gboolean ok, const GError *error)
{
  fuse_reply_err (request, ok ? 0 : errno_of (error));
}

/* --- Operations --- */

static struct stat
attributes (mf_fuse *fuse)
{
  return (struct stat){
    .st_ino = FUSE_ROOT_ID,
    .st_mode = S_IFREG | (fuse->read_only ? 0400 : 0600),
    .st_nlink = 1,
    .st_uid = geteuid (),
    .st_gid = getegid (),
    .st_size = (off_t) fuse->size_bytes,
    .st_blksize = 4096,
    .st_blocks = (blkcnt_t) ((fuse->size_bytes + 511) / 512),
    .st_atim = fuse->since,
    .st_mtim = fuse->since,
    .st_ctim = fuse->since,
  };
}

static void
op_init (void *user_data, struct fuse_conn_info *connection)
{
  connection->max_readahead = MIN (connection->max_readahead, READ_MAX);
  connection->want |= connection->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS);
  /* What is written goes out at once: a program that is told that a write is done finds it with us. */
  connection->want &= ~(unsigned) FUSE_CAP_WRITEBACK_CACHE;
}

static void
op_getattr (fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
  struct stat st = attributes (fuse_req_userdata (request));

  fuse_reply_attr (request, &st, TIMEOUT_SEC);
}

/* Its size is what it is; its times and its mode nobody keeps. */
static void
op_setattr (fuse_req_t request, fuse_ino_t inode, struct stat *wanted, int what, struct fuse_file_info *info)
{
  mf_fuse *fuse = fuse_req_userdata (request);
  struct stat st = attributes (fuse);
  const int times = FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_CTIME | FUSE_SET_ATTR_ATIME_NOW |
                    FUSE_SET_ATTR_MTIME_NOW;

  if ((what & FUSE_SET_ATTR_SIZE) != 0 && wanted->st_size == st.st_size)
    what &= ~FUSE_SET_ATTR_SIZE;
  if ((what & ~times) != 0)
    fuse_reply_err (request, EPERM);
  else
    fuse_reply_attr (request, &st, TIMEOUT_SEC);
}

static void
op_open (fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
  mf_fuse *fuse = fuse_req_userdata (request);

  if (fuse->read_only && (info->flags & O_ACCMODE) != O_RDONLY) {
    fuse_reply_err (request, EROFS);
    return;
  }
  info->keep_cache = !fuse->changes_elsewhere;
  info->noflush = 1;
  fuse_reply_open (request, info);
}

static void
op_read (fuse_req_t request, fuse_ino_t inode, size_t length, off_t offset, struct fuse_file_info *info)
{
  mf_fuse *fuse = fuse_req_userdata (request);
  Worker *worker = worker_get ();
  g_autoptr (GError) error = NULL;
  gboolean ok;

  if (offset < 0 || (uint64_t) offset >= fuse->size_bytes) {
    fuse_reply_buf (request, NULL, 0);
    return;
  }
  length = MIN (MIN (length, READ_MAX), fuse->size_bytes - (uint64_t) offset);
  if (!begin (fuse, request, worker))
    return;
  ok = fuse->ops->read (fuse->file, (uint64_t) offset, worker->buffer, length, worker->cancellable, &error);
  end (fuse, request, worker);
  if (ok)
    fuse_reply_buf (request, (const char *) worker->buffer, length);
  else
    reply (request, FALSE, error);
}

static void
op_write (fuse_req_t request, fuse_ino_t inode, const char *bytes, size_t length, off_t offset,
          struct fuse_file_info *info)
{
  mf_fuse *fuse = fuse_req_userdata (request);
  Worker *worker = worker_get ();
  g_autoptr (GError) error = NULL;
  gboolean ok;

  if (offset < 0 || (uint64_t) offset >= fuse->size_bytes) {
    fuse_reply_err (request, ENOSPC);
    return;
  }
  length = MIN (length, fuse->size_bytes - (uint64_t) offset);
  if (!begin (fuse, request, worker))
    return;
  ok = fuse->ops->write (fuse->file, (uint64_t) offset, bytes, length, worker->cancellable, &error);
  end (fuse, request, worker);
  if (ok)
    fuse_reply_write (request, length);
  else
    reply (request, FALSE, error);
}

static void
op_fallocate (fuse_req_t request, fuse_ino_t inode, int mode, off_t offset, off_t length, struct fuse_file_info *info)
{
  mf_fuse *fuse = fuse_req_userdata (request);
  const int kind = mode & ~FALLOC_FL_KEEP_SIZE;
  Worker *worker = worker_get ();
  g_autoptr (GError) error = NULL;
  gboolean ok;

  if (kind != 0 && kind != FALLOC_FL_PUNCH_HOLE && kind != FALLOC_FL_ZERO_RANGE) {
    fuse_reply_err (request, EOPNOTSUPP);
    return;
  }
  if (offset < 0 || length <= 0 || (uint64_t) offset > fuse->size_bytes) {
    fuse_reply_err (request, EINVAL);
    return;
  }
  if ((uint64_t) length > fuse->size_bytes - (uint64_t) offset) {
    /* Beyond the end there is no room, and nothing to make zero. */
    if (kind != FALLOC_FL_PUNCH_HOLE) {
      fuse_reply_err (request, ENOSPC);
      return;
    }
    length = (off_t) (fuse->size_bytes - (uint64_t) offset);
  }
  if (kind == 0 || length == 0) {
    fuse_reply_err (request, 0);
    return;
  }
  if (!begin (fuse, request, worker))
    return;
  ok = fuse->ops->zero (fuse->file, (uint64_t) offset, (uint64_t) length, kind == FALLOC_FL_PUNCH_HOLE,
                        worker->cancellable, &error);
  end (fuse, request, worker);
  reply (request, ok, error);
}

static void
op_fsync (fuse_req_t request, fuse_ino_t inode, int data_only, struct fuse_file_info *info)
{
  mf_fuse *fuse = fuse_req_userdata (request);
  Worker *worker = worker_get ();
  g_autoptr (GError) error = NULL;
  gboolean ok;

  if (!begin (fuse, request, worker))
    return;
  ok = fuse->ops->sync (fuse->file, worker->cancellable, &error);
  end (fuse, request, worker);
  reply (request, ok, error);
}

static const struct fuse_lowlevel_ops operations = {
  .init = op_init,
  .getattr = op_getattr,
  .setattr = op_setattr,
  .open = op_open,
  .read = op_read,
  .write = op_write,
  .fsync = op_fsync,
  .fallocate = op_fallocate,
};

/* --- Mounting --- */

static GMutex log_lock;
static char *log_line; /* what libfuse said last; log_lock */

static void
take_log (enum fuse_log_level level, const char *format, va_list args)
{
  g_autofree char *line = NULL;

  if (level > FUSE_LOG_ERR)
    return;
  line = g_strstrip (g_strdup_vprintf (format, args));
  g_mutex_lock (&log_lock);
  g_free (log_line);
  log_line = g_strdelimit (g_steal_pointer (&line), "\n\r", ' ');
  g_mutex_unlock (&log_lock);
}

static gboolean
fail (const char *path, int errnum, GError **error)
{
  MfError code = errnum != 0 ? mf_error_code_from_errno (errnum) : MF_ERROR_FAILED;

  g_mutex_lock (&log_lock);
  g_set_error (error, MF_ERROR, code, "mounting at %s: %s", path,
               log_line != NULL ? log_line : g_strerror (errnum != 0 ? errnum : EIO));
  g_mutex_unlock (&log_lock);
  return FALSE;
}

/* "fsname=SOURCE,...", with the commas of SOURCE out of the way. */
static char *
mount_options (const mf_fuse_options *options)
{
  GString *text = g_string_new ("fsname=");

  for (const char *at = options->source; *at != '\0'; at++) {
    if (*at == ',' || *at == '\\')
      g_string_append_c (text, '\\');
    g_string_append_c (text, *at);
  }
  g_string_append_printf (text, ",subtype=memferry,%s", options->read_only ? "ro" : "rw");
  return g_string_free (text, FALSE);
}

static gpointer
run_session (gpointer data)
{
  mf_fuse *fuse = data;
  struct fuse_loop_config *config = fuse_loop_cfg_create ();
  gboolean stopping;

  fuse_loop_cfg_set_max_threads (config, THREADS_MAX);
  fuse_loop_cfg_set_idle_threads (config, THREADS_MAX);
  fuse_loop_cfg_set_clone_fd (config, 1);
  fuse_session_loop_mt (fuse->session, config);
  fuse_loop_cfg_destroy (config);
  g_mutex_lock (&fuse->lock);
  stopping = fuse->stopping;
  g_mutex_unlock (&fuse->lock);
  if (!stopping && fuse->ended != NULL)
    fuse->ended (fuse->user_data);
  return NULL;
}

static gboolean
mount_session (mf_fuse *fuse, const mf_fuse_options *options, GError **error)
{
  g_autofree char *text = mount_options (options);
  char *words[] = { (char *) "memferry", (char *) "-o", text, NULL };
  struct fuse_args arguments = FUSE_ARGS_INIT (3, words);

  fuse_set_log_func (take_log);
  fuse->session = fuse_session_new (&arguments, &operations, sizeof operations, fuse);
  fuse_opt_free_args (&arguments);
  if (fuse->session == NULL)
    return fail (options->path, 0, error);
  errno = 0;
  if (fuse_session_mount (fuse->session, options->path) != 0)
    return fail (options->path, errno, error);
  fuse->mounted = TRUE;
  return TRUE;
}

mf_fuse *
mf_fuse_new (const mf_fuse_options *options, const mf_file_ops *ops, gpointer file, GError **error)
{
  g_autoptr (mf_fuse) fuse = g_new0 (mf_fuse, 1);

  fuse->ops = ops;
  fuse->file = file;
  fuse->size_bytes = options->size_bytes;
  fuse->read_only = options->read_only;
  fuse->changes_elsewhere = options->changes_elsewhere;
  fuse->ended = options->ended;
  fuse->user_data = options->user_data;
  g_mutex_init (&fuse->lock);
  fuse->waiting = g_ptr_array_new ();
  clock_gettime (CLOCK_REALTIME, &fuse->since);
  fuse->path = g_canonicalize_filename (options->path, NULL);
  if (!mf_fuse_place_prepare (fuse->path, &fuse->made, error) || !mount_session (fuse, options, error))
    return NULL;
  fuse->thread = g_thread_new ("mf-fuse", run_session, fuse);
  return g_steal_pointer (&fuse);
}

gboolean
mf_fuse_flush (mf_fuse *fuse, GError **error)
{
  int fd = open (fuse->path, O_RDONLY | O_CLOEXEC);
  gboolean ok;

  if (fd < 0)
    return mf_error_from_errno (error, errno, "opening %s", fuse->path);
  ok = sync_file_range (fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER) ==
           0 ||
       mf_error_from_errno (error, errno, "flushing %s", fuse->path);
  close (fd);
  return ok;
}

void
mf_fuse_stop (mf_fuse *fuse)
{
  g_mutex_lock (&fuse->lock);
  fuse->stopping = TRUE;
  for (guint i = 0; i < fuse->waiting->len; i++)
    g_cancellable_cancel (g_ptr_array_index (fuse->waiting, i));
  g_mutex_unlock (&fuse->lock);
}

void
mf_fuse_free (mf_fuse *fuse)
{
  if (fuse == NULL)
    return;
  mf_fuse_stop (fuse);
  if (fuse->mounted) {
    fuse_session_exit (fuse->session);
    fuse_session_unmount (fuse->session);
  }
  if (fuse->thread != NULL)
    g_thread_join (fuse->thread);
  if (fuse->session != NULL)
    fuse_session_destroy (fuse->session);
  if (fuse->made)
    g_unlink (fuse->path);
  g_ptr_array_unref (fuse->waiting);
  g_mutex_clear (&fuse->lock);
  g_free (fuse->path);
  g_free (fuse);
}
