/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The client reads into `input` and cuts it into messages by counting braces, so that pretty-printed QMP (one message on
 * several lines) is read as well. Commands have ids that count up; QEMU executes them in order, so an answer with a smaller id than the one that is waited for is
 * that of a command whose caller has given up.
 */
#include "hypervisor/mf-qmp.h"
#include "hypervisor/mf-qmp-message.h"
#include "mf-wait.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define READ_BYTES 65536
/* QEMU's clock and this one's may differ by what a step of the real-time clock between the two readings makes; beyond this, the stamp is not believed. */
#define MAX_STAMP_AGE_USEC (60 * G_USEC_PER_SEC)

struct _mf_qmp {
  char *path;
  int fd;
  pid_t pid;
  char *version;
  char **wanted_events;
  mf_qmp_splitter *splitter;
  GQueue events;
  gint64 last_id;     /* of the command sent last */
  gint64 answered_id; /* of the last answer that came */
  GError *broken;     /* why nothing can be sent or received any more */
  char *error_class, *error_desc;
};

void
mf_qmp_event_free (mf_qmp_event *event)
{
  if (event == NULL)
    return;
  g_free (event->name);
  json_object_unref (event->data);
  g_free (event);
}

void
mf_qmp_free (mf_qmp *qmp)
{
  if (qmp == NULL)
    return;
  if (qmp->fd >= 0)
    close (qmp->fd);
  g_queue_clear_full (&qmp->events, (GDestroyNotify) mf_qmp_event_free);
  mf_qmp_splitter_free (qmp->splitter);
  g_strfreev (qmp->wanted_events);
  g_clear_error (&qmp->broken);
  g_free (qmp->error_class);
  g_free (qmp->error_desc);
  g_free (qmp->version);
  g_free (qmp->path);
  g_free (qmp);
}

gboolean
mf_qmp_is_usable (const mf_qmp *qmp)
{
  return qmp->broken == NULL;
}

const char *
mf_qmp_version (const mf_qmp *qmp)
{
  return qmp->version;
}

pid_t
mf_qmp_pid (const mf_qmp *qmp)
{
  return qmp->pid;
}

const char *
mf_qmp_error_class (const mf_qmp *qmp)
{
  return qmp->error_class;
}

const char *
mf_qmp_error_desc (const mf_qmp *qmp)
{
  return qmp->error_desc;
}

/* Nothing more can be done with the connection: the same error from here on. */
static gboolean
break_off (mf_qmp *qmp, MfError code, const char *what, GError **error)
{
  if (qmp->broken == NULL)
    g_set_error (&qmp->broken, MF_ERROR, code, "QMP at %s: %s", qmp->path, what);
  if (error != NULL)
    *error = g_error_copy (qmp->broken);
  return FALSE;
}

static gboolean
check_usable (mf_qmp *qmp, GError **error)
{
  if (qmp->broken == NULL)
    return TRUE;
  if (error != NULL)
    *error = g_error_copy (qmp->broken);
  return FALSE;
}

/* --- receiving --- */

/* Its stamp is of the real-time clock; turned into the monotonic one by what the two say now. */
static gint64
time_of_event (JsonObject *message, gint64 arrived_usec)
{
  JsonObject *stamp = mf_json_object (message, "timestamp");
  gint64 real_usec, age_usec;

  if (stamp == NULL)
    return arrived_usec;
  real_usec = mf_json_int (stamp, "seconds") * G_USEC_PER_SEC + mf_json_int (stamp, "microseconds");
  age_usec = g_get_real_time () - real_usec;
  if (age_usec < 0 || age_usec > MAX_STAMP_AGE_USEC)
    return arrived_usec;
  return g_get_monotonic_time () - age_usec;
}

static gboolean
keep_event (mf_qmp *qmp, const char *name, JsonObject *message, GError **error)
{
  JsonObject *data = mf_json_object (message, "data");
  mf_qmp_event *event;

  if (!g_strv_contains ((const char *const *) qmp->wanted_events, name))
    return TRUE;
  if (g_queue_get_length (&qmp->events) >= MF_QMP_MAX_EVENTS)
    return break_off (qmp, MF_ERROR_PROTOCOL, "more events than can be kept", error);
  event = g_new0 (mf_qmp_event, 1);
  event->name = g_strdup (name);
  event->data = data != NULL ? json_object_ref (data) : json_object_new ();
  event->arrived_usec = g_get_monotonic_time ();
  event->when_usec = time_of_event (message, event->arrived_usec);
  g_queue_push_tail (&qmp->events, event);
  return TRUE;
}

/* Reads what is there; FALSE when the connection has ended. */
static gboolean
read_some (mf_qmp *qmp, GError **error)
{
  char buffer[READ_BYTES];
  ssize_t n = read (qmp->fd, buffer, sizeof buffer);

  if (n < 0 && (errno == EINTR || errno == EAGAIN))
    return TRUE;
  if (n < 0)
    return break_off (qmp, MF_ERROR_PROGRAM, g_strerror (errno), error);
  if (n == 0)
    return break_off (qmp, MF_ERROR_PROGRAM, "QEMU has closed the connection or has ended: see its output", error);
  mf_qmp_splitter_add (qmp->splitter, buffer, n);
  return TRUE;
}

/* The next message that has come whole, as an object; NULL without error when there is none. */
static JsonNode *
next_message (mf_qmp *qmp, GError **error)
{
  g_autoptr (GError) failure = NULL;
  JsonNode *message = mf_qmp_splitter_next (qmp->splitter, &failure);

  if (failure != NULL)
    break_off (qmp, MF_ERROR_PROTOCOL, failure->message, error);
  return message;
}

/* Waits for a message that is not an event. (transfer full) */
static JsonNode *
read_answer (mf_qmp *qmp, gint64 deadline_usec, GCancellable *cancellable, GError **error)
{
  for (;;) {
    g_autoptr (GError) failure = NULL;
    g_autoptr (JsonNode) message = next_message (qmp, &failure);
    const char *name;

    if (message == NULL) {
      if (failure == NULL && mf_wait_fd (qmp->fd, POLLIN, deadline_usec, cancellable, &failure) &&
          read_some (qmp, &failure))
        continue;
      g_propagate_error (error, g_steal_pointer (&failure));
      return NULL;
    }
    name = mf_json_string (mf_json_node_object (message), "event");
    if (name == NULL)
      return g_steal_pointer (&message);
    if (!keep_event (qmp, name, mf_json_node_object (message), error))
      return NULL;
  }
}

/* --- sending --- */

static ssize_t
send_with_fd (mf_qmp *qmp, const char *bytes, size_t n_bytes, int fd)
{
  struct iovec piece = { .iov_base = (char *) bytes, .iov_len = n_bytes };
  union {
    char bytes[CMSG_SPACE (sizeof (int))];
    struct cmsghdr aligned;
  } control = { 0 };
  struct msghdr header = { .msg_iov = &piece, .msg_iovlen = 1 };

  if (fd >= 0) {
    struct cmsghdr *cmsg;

    header.msg_control = control.bytes;
    header.msg_controllen = sizeof control.bytes;
    cmsg = CMSG_FIRSTHDR (&header);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN (sizeof (int));
    memcpy (CMSG_DATA (cmsg), &fd, sizeof fd);
  }
  return sendmsg (qmp->fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* A command that was sent only in part can't be taken back, so the connection is of no use after that. */
static gboolean
send_command_text (mf_qmp *qmp, const char *text, int fd, gint64 deadline_usec, GCancellable *cancellable,
                   GError **error)
{
  size_t n_bytes = strlen (text), sent = 0;

  while (sent < n_bytes) {
    ssize_t n = send_with_fd (qmp, text + sent, n_bytes - sent, sent == 0 ? fd : -1);

    if (n > 0) {
      sent += n;
    } else if (n < 0 && errno != EINTR && errno != EAGAIN) {
      return break_off (qmp, MF_ERROR_PROGRAM, g_strerror (errno), error);
    } else if (!mf_wait_fd (qmp->fd, POLLOUT, deadline_usec, cancellable, error)) {
      if (sent > 0)
        break_off (qmp, MF_ERROR_PROGRAM, "a command could not be sent whole", NULL);
      return FALSE;
    }
  }
  return TRUE;
}

/* Takes `arguments`. */
static gboolean
send_command (mf_qmp *qmp, const char *command, JsonNode *arguments, int fd, gint64 deadline_usec,
              GCancellable *cancellable, GError **error)
{
  g_autoptr (JsonNode) owned = arguments;
  g_autoptr (JsonNode) root = json_node_new (JSON_NODE_OBJECT);
  JsonObject *object = json_object_new ();
  g_autofree char *body = NULL;
  g_autofree char *text = NULL;

  json_node_take_object (root, object);
  json_object_set_string_member (object, "execute", command);
  if (owned != NULL)
    json_object_set_member (object, "arguments", g_steal_pointer (&owned));
  json_object_set_int_member (object, "id", qmp->last_id + 1);
  body = json_to_string (root, FALSE);
  text = g_strconcat (body, "\n", NULL);
  if (!check_usable (qmp, error) || !send_command_text (qmp, text, fd, deadline_usec, cancellable, error))
    return FALSE;
  qmp->last_id++;
  return TRUE;
}

gboolean
mf_qmp_send (mf_qmp *qmp, const char *command, JsonNode *arguments, GError **error)
{
  return send_command (qmp, command, arguments, -1, 0, NULL, error);
}

/* --- calls --- */

static JsonNode *
judge_answer (mf_qmp *qmp, const char *command, JsonNode *message, GError **error)
{
  JsonObject *object = mf_json_node_object (message);
  JsonObject *refusal = mf_json_object (object, "error");

  if (refusal == NULL) {
    JsonNode *value = json_object_has_member (object, "return") ? json_object_get_member (object, "return") : NULL;

    if (value != NULL)
      return json_node_copy (value);
    break_off (qmp, MF_ERROR_PROTOCOL, "an answer that is none", error);
    return NULL;
  }
  g_free (qmp->error_class);
  g_free (qmp->error_desc);
  qmp->error_class = g_strdup (mf_json_string (refusal, "class"));
  qmp->error_desc = g_strdup (mf_json_string (refusal, "desc"));
  g_set_error (error, MF_ERROR,
               g_strcmp0 (qmp->error_class, "CommandNotFound") == 0 ? MF_ERROR_NOT_SUPPORTED : MF_ERROR_PROGRAM,
               "QEMU refused %s: %s", command, qmp->error_desc != NULL ? qmp->error_desc : "no reason given");
  return NULL;
}

static JsonNode *
await_answer (mf_qmp *qmp, gint64 id, gint64 deadline_usec, GCancellable *cancellable, GError **error)
{
  for (;;) {
    g_autoptr (JsonNode) message = read_answer (qmp, deadline_usec, cancellable, error);
    JsonObject *object;
    gint64 got;

    if (message == NULL)
      return NULL;
    object = mf_json_node_object (message);
    got = mf_json_int (object, "id");
    qmp->answered_id = MAX (qmp->answered_id, got);
    if (got == id)
      return g_steal_pointer (&message);
    if (got <= 0 || got > id) {
      break_off (qmp, MF_ERROR_PROTOCOL, "an answer that nobody asked for", error);
      return NULL;
    }
  }
}

JsonNode *
mf_qmp_call_with_fd (mf_qmp *qmp, const char *command, JsonNode *arguments, int fd, gint64 timeout_usec,
                     GCancellable *cancellable, GError **error)
{
  gint64 deadline_usec = mf_deadline_after (timeout_usec);
  g_autoptr (GError) failure = NULL;
  g_autoptr (JsonNode) message = NULL;

  if (send_command (qmp, command, arguments, fd, deadline_usec, cancellable, &failure))
    message = await_answer (qmp, qmp->last_id, deadline_usec, cancellable, &failure);
  if (message != NULL)
    return judge_answer (qmp, command, message, error);
  if (g_error_matches (failure, MF_ERROR, MF_ERROR_TIMED_OUT))
    g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT, "QEMU does not answer %s", command);
  else
    g_propagate_prefixed_error (error, g_steal_pointer (&failure), "%s: ", command);
  return NULL;
}

JsonNode *
mf_qmp_call (mf_qmp *qmp, const char *command, JsonNode *arguments, gint64 timeout_usec, GCancellable *cancellable,
             GError **error)
{
  return mf_qmp_call_with_fd (qmp, command, arguments, -1, timeout_usec, cancellable, error);
}

gboolean
mf_qmp_do (mf_qmp *qmp, const char *command, JsonNode *arguments, gint64 timeout_usec, GCancellable *cancellable,
           GError **error)
{
  g_autoptr (JsonNode) answer = mf_qmp_call (qmp, command, arguments, timeout_usec, cancellable, error);

  return answer != NULL;
}

/* --- events --- */

mf_qmp_event *
mf_qmp_take (mf_qmp *qmp, mf_qmp_filter filter, gpointer user_data)
{
  for (GList *l = qmp->events.head; l != NULL; l = l->next) {
    mf_qmp_event *event = l->data;

    if (filter (event, user_data)) {
      g_queue_delete_link (&qmp->events, l);
      return event;
    }
  }
  return NULL;
}

mf_qmp_event *
mf_qmp_wait (mf_qmp *qmp, mf_qmp_filter filter, gpointer user_data, gint64 deadline_usec, GCancellable *cancellable,
             GError **error)
{
  for (;;) {
    g_autoptr (GError) failure = NULL;
    g_autoptr (JsonNode) message = next_message (qmp, &failure);
    mf_qmp_event *event;

    if (message != NULL) {
      JsonObject *object = mf_json_node_object (message);
      const char *name = mf_json_string (object, "event");

      if (name == NULL)
        qmp->answered_id = MAX (qmp->answered_id, mf_json_int (object, "id"));
      else if (!keep_event (qmp, name, object, error))
        return NULL;
    }
    event = mf_qmp_take (qmp, filter, user_data);
    if (event != NULL)
      return event;
    if (message != NULL)
      continue;
    if (failure == NULL && check_usable (qmp, &failure) &&
        mf_wait_fd (qmp->fd, POLLIN, deadline_usec, cancellable, &failure) && read_some (qmp, &failure))
      continue;
    g_propagate_error (error, g_steal_pointer (&failure));
    return NULL;
  }
}

gboolean
mf_qmp_filter_name (const mf_qmp_event *event, gpointer name)
{
  return g_str_equal (event->name, name);
}

static gboolean
filter_none (const mf_qmp_event *event, gpointer user_data)
{
  return FALSE;
}

void
mf_qmp_forget_events (mf_qmp *qmp)
{
  /* Nothing passes, so this ends when there is nothing to read. */
  mf_qmp_event_free (mf_qmp_wait (qmp, filter_none, NULL, 0, NULL, NULL));
  g_queue_clear_full (&qmp->events, (GDestroyNotify) mf_qmp_event_free);
}

/* --- beginning and end --- */

static int
connect_to (const char *path, gint64 deadline_usec, GCancellable *cancellable, GError **error)
{
  struct sockaddr_un name = { .sun_family = AF_UNIX };
  int fd;

  if (strlen (path) >= sizeof name.sun_path) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "QMP at %s: the path is longer than a socket's may be", path);
    return -1;
  }
  g_strlcpy (name.sun_path, path, sizeof name.sun_path);
  fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) {
    mf_error_from_errno (error, errno, "QMP at %s", path);
    return -1;
  }
  /* EAGAIN: the queue is full, with clients that wait for the one that QEMU serves. */
  if (connect (fd, (struct sockaddr *) &name, sizeof name) == 0)
    return fd;
  if (errno == EAGAIN)
    g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "QMP at %s: other clients use it", path);
  else if (errno == ENOENT || errno == ECONNREFUSED)
    g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM, "no QEMU serves QMP at %s: %s", path, g_strerror (errno));
  else
    mf_error_from_errno (error, errno, "QMP at %s", path);
  close (fd);
  return -1;
}

static pid_t
pid_of_peer (int fd)
{
  struct ucred credentials = { 0 };
  socklen_t size = sizeof credentials;

  return getsockopt (fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0 ? credentials.pid : 0;
}

static gboolean
read_greeting (mf_qmp *qmp, gint64 deadline_usec, GCancellable *cancellable, GError **error)
{
  g_autoptr (GError) failure = NULL;
  g_autoptr (JsonNode) message = read_answer (qmp, deadline_usec, cancellable, &failure);
  JsonObject *greeting = message != NULL ? mf_json_object (mf_json_node_object (message), "QMP") : NULL;
  JsonObject *version = mf_json_object (mf_json_object (greeting, "version"), "qemu");

  if (message == NULL) {
    if (g_error_matches (failure, MF_ERROR, MF_ERROR_TIMED_OUT))
      g_set_error (error, MF_ERROR, MF_ERROR_TIMED_OUT, "QMP at %s: QEMU says nothing: is another client connected?",
                   qmp->path);
    else
      g_propagate_error (error, g_steal_pointer (&failure));
    return FALSE;
  }
  if (greeting == NULL)
    return break_off (qmp, MF_ERROR_PROTOCOL, "what answers there does not greet as QMP does", error);
  qmp->version =
      g_strdup_printf ("%" G_GINT64_FORMAT ".%" G_GINT64_FORMAT ".%" G_GINT64_FORMAT, mf_json_int (version, "major"),
                       mf_json_int (version, "minor"), mf_json_int (version, "micro"));
  return TRUE;
}

mf_qmp *
mf_qmp_connect (const char *path, const char *const *events, gint64 timeout_usec, GCancellable *cancellable,
                GError **error)
{
  gint64 deadline_usec = mf_deadline_after (timeout_usec);
  int fd = connect_to (path, deadline_usec, cancellable, error);
  mf_qmp *qmp;

  if (fd < 0)
    return NULL;
  qmp = g_new0 (mf_qmp, 1);
  qmp->path = g_strdup (path);
  qmp->fd = fd;
  qmp->pid = pid_of_peer (fd);
  qmp->wanted_events = g_strdupv ((char **) events);
  qmp->splitter = mf_qmp_splitter_new (MF_QMP_MAX_MESSAGE_BYTES);
  g_queue_init (&qmp->events);
  if (read_greeting (qmp, deadline_usec, cancellable, error) &&
      mf_qmp_do (qmp, "qmp_capabilities", NULL, timeout_usec, cancellable, error))
    return qmp;
  mf_qmp_free (qmp);
  return NULL;
}

static void *
linger_thread (void *data)
{
  mf_qmp *qmp = data;
  g_autoptr (JsonNode) answer = NULL;

  /* Nobody takes events any more. */
  g_strfreev (qmp->wanted_events);
  qmp->wanted_events = g_new0 (char *, 1);
  answer = await_answer (qmp, qmp->last_id, -1, NULL, NULL);
  mf_qmp_free (qmp);
  return NULL;
}

void
mf_qmp_free_when_answered (mf_qmp *qmp)
{
  pthread_attr_t attr;
  pthread_t thread;
  int result;

  if (qmp == NULL)
    return;
  mf_qmp_forget_events (qmp);
  if (qmp->broken != NULL || qmp->answered_id >= qmp->last_id) {
    mf_qmp_free (qmp);
    return;
  }
  pthread_attr_init (&attr);
  pthread_attr_setdetachstate (&attr, PTHREAD_CREATE_DETACHED);
  result = pthread_create (&thread, &attr, linger_thread, qmp);
  pthread_attr_destroy (&attr);
  if (result != 0) {
    g_warning ("QMP at %s: commands that QEMU has not begun are lost: %s", qmp->path, g_strerror (result));
    mf_qmp_free (qmp);
  }
}
