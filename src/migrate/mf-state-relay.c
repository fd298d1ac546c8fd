/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two flows between two sockets, each with a buffer: `in`, from the stream to the program, is the one that a target holds; `out` goes the other way.
 *
 * A flow reads while its buffer has room, writes while it may, and passes the end of its source on by shutting its destination's writing side down, so
 * that neither program waits for ever. A held flow buffers up to MF_STATE_RELAY_MAX_BYTES, because what comes early must not stop the sender; one that
 * isn't held needs little.
 *
 * The source's relay (the one that doesn't hold) must never be the reason why its program's stream breaks: a QEMU whose migration fails
 * after it was released lets its guest run again, and by then the target may run it. So when the stream to the target is gone, the source's
 * relay goes on reading what its program writes, to the end, and throws it away; and the end of the return path isn't passed on. Only freeing it closes the program's side.
 *
 * The target's relay, once it has been let go, gives its program all that has come, even if the stream is gone: that may be the whole state, and then the program
 * runs. What the program says to nobody any more is thrown away.
 *
 * The return path is a sequence of messages: big-endian 16-bit type, 16-bit length of what follows. Type 7 with nothing in it is the acknowledgement that a program
 * with switchover-ack gives; it is looked for message by message, for the four bytes may stand in another one's payload. Type 1, with 32 bits that are 0
 * when all is well, is its last word. A source's program gets whole messages only, so that its last word can be said for a stream that broke in the middle of one.
 */
#include "migrate/mf-state-relay.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_BYTES        (256u << 10)
#define FLOW_MAX_BYTES    (1u << 20)
#define RETURN_HEAD_BYTES 4
#define RETURN_SHUT_TYPE  1
#define RETURN_ACK_TYPE   7

typedef struct {
  int from, to;
  GByteArray *buffer;
  gsize sent; /* of the buffer's beginning */
  gboolean held;
  gboolean ended;    /* nothing more to read */
  gboolean closed;   /* the end has been passed on */
  gboolean discards; /* who it is for is gone: what comes is thrown away */
} flow;

/* Where in the return path's messages we are. */
typedef struct {
  guint8 head[RETURN_HEAD_BYTES];
  guint head_bytes; /* of the message that isn't whole yet */
  guint payload_left;
  guint part_bytes; /* of it, with its head */
} return_reader;

struct _mf_state_relay {
  int program_fd, stream_fd;
  int wake_fd;
  mf_state_relay_flags flags;
  GThread *thread;

  gint released;    /* atomic */
  gint leaves;      /* atomic: the program's socket is closed, and not shut down */
  gint ends_return; /* atomic: the last word is to be said */
  gint stopping;    /* atomic */
  GMutex lock;      /* the two below */
  guint64 bytes;
  GError *error;

  /* Only the thread. */
  flow in, out;
  return_reader reader;
  gboolean acknowledged;
  gboolean return_ended; /* the last word has been taken in */
  guint8 *scratch;
};

static gsize
flow_left (const flow *f)
{
  return f->buffer->len - f->sent;
}

/* What may be written: of a source's return path what is whole. */
static gsize
flow_ready (const mf_state_relay *relay, const flow *f)
{
  gboolean is_return = (relay->flags & MF_STATE_RELAY_RETURN) && f == &relay->in;

  return flow_left (f) - (is_return ? MIN (relay->reader.part_bytes, flow_left (f)) : 0);
}

static void
flow_init (flow *f, int from, int to)
{
  f->from = from;
  f->to = to;
  f->buffer = g_byte_array_new ();
}

static void
fail (mf_state_relay *relay, MfError code, const char *what)
{
  g_mutex_lock (&relay->lock);
  if (relay->error == NULL)
    relay->error = g_error_new (MF_ERROR, code, "the device state: %s", what);
  g_mutex_unlock (&relay->lock);
}

static gboolean
is_source (const mf_state_relay *relay)
{
  return !(relay->flags & MF_STATE_RELAY_HOLD);
}

/* The way that the device state takes. */
static flow *
state_flow (mf_state_relay *relay)
{
  return is_source (relay) ? &relay->out : &relay->in;
}

static void
discard (flow *f)
{
  f->discards = TRUE;
  f->sent = 0;
  g_byte_array_set_size (f->buffer, 0);
}

/* `f` could not be read or written. TRUE: the other flow goes on. */
static gboolean
flow_failed (mf_state_relay *relay, flow *f, gboolean was_reading, int errnum)
{
  gboolean is_program = was_reading == (f == &relay->out);

  fail (relay, MF_ERROR_CONNECTION, g_strerror (errnum));
  /* A source's program that can't be read is gone; nothing else ends it. */
  if (is_source (relay) ? is_program && was_reading : is_program || !g_atomic_int_get (&relay->released))
    return FALSE;
  if (!is_source (relay) && was_reading) {
    f->ended = TRUE;
    return TRUE;
  }
  discard (f);
  f->ended = f->ended || was_reading;
  return TRUE;
}

/* Whether a message of `type` ends in the bytes. */
static gboolean
find_message (return_reader *reader, guint type, const guint8 *bytes, gsize length)
{
  gboolean found = FALSE;

  while (length > 0) {
    gsize step = 1;

    if (reader->head_bytes < RETURN_HEAD_BYTES) {
      reader->head[reader->head_bytes++] = *bytes;
      if (reader->head_bytes == RETURN_HEAD_BYTES)
        reader->payload_left = (guint) reader->head[2] << 8 | reader->head[3];
    } else {
      step = MIN (length, reader->payload_left);
      reader->payload_left -= (guint) step;
    }
    reader->part_bytes += (guint) step;
    if (reader->head_bytes == RETURN_HEAD_BYTES && reader->payload_left == 0) {
      found |= ((guint) reader->head[0] << 8 | reader->head[1]) == type;
      reader->head_bytes = reader->part_bytes = 0;
    }
    bytes += step;
    length -= step;
  }
  return found;
}

/* What came of the return path. */
static void
read_return (mf_state_relay *relay, const guint8 *bytes, gsize length)
{
  if (relay->flags & MF_STATE_RELAY_ACK)
    relay->acknowledged |= find_message (&relay->reader, RETURN_ACK_TYPE, bytes, length);
  else if (relay->flags & MF_STATE_RELAY_RETURN)
    relay->return_ended |= find_message (&relay->reader, RETURN_SHUT_TYPE, bytes, length);
}

/* The other side's last word, if it didn't come. */
static void
end_return (mf_state_relay *relay)
{
  static const guint8 last[] = { 0, RETURN_SHUT_TYPE, 0, 4, 0, 0, 0, 0 };
  flow *f = &relay->in;

  if (relay->return_ended || !(relay->flags & MF_STATE_RELAY_RETURN))
    return;
  g_byte_array_set_size (f->buffer, f->buffer->len - (guint) MIN (relay->reader.part_bytes, flow_left (f)));
  g_byte_array_append (f->buffer, last, sizeof last);
  relay->reader = (return_reader){ 0 };
  relay->return_ended = f->ended = TRUE;
}

/* FALSE: the other end is gone in a way that ends everything. */
static gboolean
flow_read (mf_state_relay *relay, flow *f)
{
  ssize_t got = recv (f->from, relay->scratch, READ_BYTES, MSG_DONTWAIT);

  if (got < 0 && (errno == EAGAIN || errno == EINTR))
    return TRUE;
  if (got < 0)
    return flow_failed (relay, f, TRUE, errno);
  if (got == 0) {
    f->ended = TRUE;
    return TRUE;
  }
  if (!f->discards)
    g_byte_array_append (f->buffer, relay->scratch, (guint) got);
  if (f == state_flow (relay)) {
    g_mutex_lock (&relay->lock);
    relay->bytes += (guint64) got;
    g_mutex_unlock (&relay->lock);
  } else {
    read_return (relay, relay->scratch, (gsize) got);
  }
  return TRUE;
}

static gboolean
flow_write (mf_state_relay *relay, flow *f)
{
  ssize_t put;

  while (flow_ready (relay, f) > 0) {
    put = send (f->to, f->buffer->data + f->sent, flow_ready (relay, f), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR)
      continue;
    if (put < 0 && errno == EAGAIN)
      return TRUE;
    if (put < 0)
      return flow_failed (relay, f, FALSE, errno);
    f->sent += (gsize) put;
  }
  g_byte_array_remove_range (f->buffer, 0, (guint) f->sent);
  f->sent = 0;
  if (f->ended && !f->closed) {
    if (!f->discards && !(is_source (relay) && f == &relay->in))
      shutdown (f->to, SHUT_WR);
    f->closed = TRUE;
  }
  return TRUE;
}

/* Whether `in` is to be held back now. Before the acknowledgement its head goes through, and what the program has been given by then it has. */
static gboolean
must_hold (mf_state_relay *relay)
{
  if (!(relay->flags & MF_STATE_RELAY_HOLD) || g_atomic_int_get (&relay->released))
    return FALSE;
  return !(relay->flags & MF_STATE_RELAY_ACK) || relay->acknowledged;
}

static gboolean
wants_read (const flow *f)
{
  return !f->ended && flow_left (f) < (f->held ? MF_STATE_RELAY_MAX_BYTES : FLOW_MAX_BYTES);
}

static gboolean
step (mf_state_relay *relay)
{
  struct pollfd fds[3] = { { .fd = relay->program_fd },
                           { .fd = relay->stream_fd },
                           { .fd = relay->wake_fd, .events = POLLIN } };
  struct pollfd *program = &fds[0], *stream = &fds[1];
  uint64_t count;

  relay->in.held = must_hold (relay);
  if (relay->in.held && flow_left (&relay->in) >= MF_STATE_RELAY_MAX_BYTES) {
    fail (relay, MF_ERROR_NO_SPACE, "more of it comes than can be kept while it is held");
    return FALSE;
  }
  if (wants_read (&relay->in))
    stream->events |= POLLIN;
  if (wants_read (&relay->out))
    program->events |= POLLIN;
  if (!relay->in.held && flow_ready (relay, &relay->in) > 0)
    program->events |= POLLOUT;
  if (flow_left (&relay->out) > 0)
    stream->events |= POLLOUT;
  /* A socket that nothing is wanted of would report its hang-up again and again. */
  if (program->events == 0)
    program->fd = -1;
  if (stream->events == 0)
    stream->fd = -1;
  if (poll (fds, G_N_ELEMENTS (fds), -1) < 0)
    return errno == EINTR;

  if (fds[2].revents != 0 && read (relay->wake_fd, &count, sizeof count) < 0 && errno != EAGAIN)
    return FALSE;
  if ((stream->events & POLLIN) && stream->revents != 0 && !flow_read (relay, &relay->in))
    return FALSE;
  if ((program->events & POLLIN) && program->revents != 0 && !flow_read (relay, &relay->out))
    return FALSE;
  if (g_atomic_int_get (&relay->ends_return))
    end_return (relay);
  relay->in.held = must_hold (relay);
  if (!relay->in.held && !flow_write (relay, &relay->in))
    return FALSE;
  return flow_write (relay, &relay->out);
}

static gpointer
run (gpointer data)
{
  mf_state_relay *relay = data;

  while (!g_atomic_int_get (&relay->stopping) && !(relay->in.closed && relay->out.closed) && step (relay))
    ;
  if (g_atomic_int_get (&relay->ends_return)) {
    end_return (relay);
    flow_write (relay, &relay->in);
  }
  /* One that failed is over for both sides at once. */
  if (!g_atomic_int_get (&relay->leaves))
    shutdown (relay->program_fd, SHUT_RDWR);
  shutdown (relay->stream_fd, SHUT_RDWR);
  return NULL;
}

mf_state_relay *
mf_state_relay_new (int program_fd, int stream_fd, mf_state_relay_flags flags, GError **error)
{
  mf_state_relay *relay;
  int wake_fd = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);

  if (wake_fd < 0) {
    mf_error_from_errno (error, errno, "making an eventfd");
    close (program_fd);
    close (stream_fd);
    return NULL;
  }
  relay = g_new0 (mf_state_relay, 1);
  relay->program_fd = program_fd;
  relay->stream_fd = stream_fd;
  relay->wake_fd = wake_fd;
  relay->flags = flags;
  relay->scratch = g_malloc (READ_BYTES);
  g_mutex_init (&relay->lock);
  flow_init (&relay->in, stream_fd, program_fd);
  flow_init (&relay->out, program_fd, stream_fd);
  relay->thread = g_thread_new ("mf-state", run, relay);
  return relay;
}

static void
wake (mf_state_relay *relay)
{
  uint64_t one = 1;

  if (write (relay->wake_fd, &one, sizeof one) < 0)
    g_warning ("waking the state relay: %s", g_strerror (errno));
}

void
mf_state_relay_release (mf_state_relay *relay)
{
  g_atomic_int_set (&relay->released, 1);
  wake (relay);
}

void
mf_state_relay_leave_program (mf_state_relay *relay)
{
  g_atomic_int_set (&relay->leaves, 1);
}

void
mf_state_relay_end_return (mf_state_relay *relay)
{
  g_atomic_int_set (&relay->ends_return, 1);
  wake (relay);
}

guint64
mf_state_relay_get_bytes (mf_state_relay *relay)
{
  guint64 bytes;

  g_mutex_lock (&relay->lock);
  bytes = relay->bytes;
  g_mutex_unlock (&relay->lock);
  return bytes;
}

GError *
mf_state_relay_get_error (mf_state_relay *relay)
{
  GError *error;

  g_mutex_lock (&relay->lock);
  error = relay->error ? g_error_copy (relay->error) : NULL;
  g_mutex_unlock (&relay->lock);
  return error;
}

void
mf_state_relay_free (mf_state_relay *relay)
{
  g_atomic_int_set (&relay->stopping, 1);
  wake (relay);
  g_thread_join (relay->thread);
  close (relay->program_fd);
  close (relay->stream_fd);
  close (relay->wake_fd);
  g_byte_array_unref (relay->in.buffer);
  g_byte_array_unref (relay->out.buffer);
  g_clear_error (&relay->error);
  g_mutex_clear (&relay->lock);
  g_free (relay->scratch);
  g_free (relay);
}
