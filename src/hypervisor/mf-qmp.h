/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A client of QMP, QEMU's control protocol. Only src/hypervisor knows it.
 *
 * All calls block, with a time limit and a cancellable, and read the socket themselves: there is no thread behind them, so that an event wakes up whoever
 * waits for it and nobody else. An mf_qmp belongs to one thread at a time; several of them are independent of each other.
 *
 * Events that were subscribed to are kept, from whatever call read them, until somebody takes or forgets them.
 */
#include "mf-error.h"
#include <gio/gio.h>
#include <json-glib/json-glib.h>

G_BEGIN_DECLS

typedef struct _mf_qmp mf_qmp;

typedef struct {
  char *name;
  JsonObject *data;    /* never NULL */
  gint64 when_usec;    /* monotonic: QEMU's own time stamp, or that of the arrival where that is impossible */
  gint64 arrived_usec; /* monotonic: when it was read here */
} mf_qmp_event;

void mf_qmp_event_free (mf_qmp_event *event);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_qmp_event, mf_qmp_event_free)

/* How much one message of QEMU may hold, and how many events are kept at most. */
#define MF_QMP_MAX_MESSAGE_BYTES (16u << 20)
#define MF_QMP_MAX_EVENTS        65536

/* Connects to the UNIX socket `path` and negotiates. `events`: the names of those to keep, NULL-terminated. MF_ERROR_PROGRAM: nobody listens there;
 * _TIMED_OUT: QEMU says nothing (a QMP socket serves one client at a time); _PROTOCOL: it isn't QMP; _CANCELLED. */
mf_qmp *mf_qmp_connect (const char *path, const char *const *events, gint64 timeout_usec, GCancellable *cancellable,
                        GError **error);
/* Closes the connection. QEMU drops commands that it has not begun by then: see mf_qmp_free_when_answered(). */
void mf_qmp_free (mf_qmp *qmp);
/* The same, but, where answers are outstanding, later and in a thread of its own: when QEMU has given them or is gone. */
void mf_qmp_free_when_answered (mf_qmp *qmp);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (mf_qmp, mf_qmp_free)

/* FALSE once the connection has broken: everything fails from then on, and nothing can be said about QEMU any more. */
gboolean mf_qmp_is_usable (const mf_qmp *qmp);
/* As in the greeting: "7.2.22". */
const char *mf_qmp_version (const mf_qmp *qmp);
/* Of the process that listens at the socket, as seen from here; 0 when it can't be known. */
pid_t mf_qmp_pid (const mf_qmp *qmp);

/* Executes a command. `arguments` (nullable, transfer full) is an object. Returns what QEMU returns, usually an object (transfer full), or NULL:
 * MF_ERROR_NOT_SUPPORTED: QEMU doesn't know the command; MF_ERROR_PROGRAM: QEMU refused, and its reason is in the message, or QEMU is gone (never
 * MF_ERROR_CONNECTION, which is for the link between two hosts); MF_ERROR_TIMED_OUT, MF_ERROR_CANCELLED: the answer did not come in time. In the last two cases QEMU executes it all the same, when it gets
 * there, and its answer is thrown away. */
JsonNode *mf_qmp_call (mf_qmp *qmp, const char *command, JsonNode *arguments, gint64 timeout_usec,
                       GCancellable *cancellable, GError **error);
/* The same with a descriptor (which stays the caller's) passed along. */
JsonNode *mf_qmp_call_with_fd (mf_qmp *qmp, const char *command, JsonNode *arguments, int fd, gint64 timeout_usec,
                               GCancellable *cancellable, GError **error);
/* The same, when nothing but success matters. */
gboolean mf_qmp_do (mf_qmp *qmp, const char *command, JsonNode *arguments, gint64 timeout_usec,
                    GCancellable *cancellable, GError **error);
/* Sends a command and doesn't wait: it is executed after all that was sent before, and its answer is thrown away. */
gboolean mf_qmp_send (mf_qmp *qmp, const char *command, JsonNode *arguments, GError **error);
/* QMP's class ("GenericError", "CommandNotFound", ...) and description of the last error that QEMU answered with; NULL before. */
const char *mf_qmp_error_class (const mf_qmp *qmp);
const char *mf_qmp_error_desc (const mf_qmp *qmp);

typedef gboolean (*mf_qmp_filter) (const mf_qmp_event *event, gpointer user_data);

/* Takes the oldest kept event that passes `filter`, or waits for it. The others stay. `deadline_usec`: monotonic, -1: none. */
mf_qmp_event *mf_qmp_wait (mf_qmp *qmp, mf_qmp_filter filter, gpointer user_data, gint64 deadline_usec,
                           GCancellable *cancellable, GError **error);
/* Takes the oldest that is kept already; NULL when none is. Reads nothing. */
mf_qmp_event *mf_qmp_take (mf_qmp *qmp, mf_qmp_filter filter, gpointer user_data);
/* A filter: user_data is the event's name. */
gboolean mf_qmp_filter_name (const mf_qmp_event *event, gpointer name);
/* Reads what has come and forgets all events that are kept. What happens afterwards is new. */
void mf_qmp_forget_events (mf_qmp *qmp);

/* Arguments with one member. (transfer full) */
JsonNode *mf_qmp_string_argument (const char *name, const char *value);
/* Members of an answer; what isn't there, or is of another type, reads as NULL, 0 or FALSE, so that no answer can crash us. */
const char *mf_json_string (JsonObject *object, const char *name);
gint64 mf_json_int (JsonObject *object, const char *name);
gboolean mf_json_bool (JsonObject *object, const char *name);
JsonObject *mf_json_object (JsonObject *object, const char *name);
JsonArray *mf_json_array (JsonObject *object, const char *name);
/* The object that a node is, or NULL; element `i` of an array as an object, or NULL. */
JsonObject *mf_json_node_object (JsonNode *node);
JsonArray *mf_json_node_array (JsonNode *node);
JsonObject *mf_json_element (JsonArray *array, guint i);

G_END_DECLS
