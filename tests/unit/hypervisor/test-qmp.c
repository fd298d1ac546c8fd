/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hypervisor/mf-qmp.h"
#include "mf-wait.h"
#include "monitor-fixture.h"
#include "qemu-fixture.h"

#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE_USEC (20 * G_USEC_PER_SEC)
#define SHORT_USEC    (200 * 1000)

static const char *const kept[] = { "STOP", "RESUME", "MIGRATION", "DEVICE_DELETED", NULL };

static mf_qmp *
connect_to (const char *path)
{
  g_autoptr (GError) error = NULL;
  mf_qmp *qmp = mf_qmp_connect (path, kept, PATIENCE_USEC, NULL, &error);

  g_assert_no_error (error);
  return qmp;
}

static void
assert_no_connection (const char *path, gint64 timeout_usec, int code, const char *part)
{
  g_autoptr (GError) error = NULL;

  g_assert_null (mf_qmp_connect (path, kept, timeout_usec, NULL, &error));
  g_assert_error (error, MF_ERROR, code);
  g_test_message ("%s", error->message);
  g_assert_nonnull (strstr (error->message, part));
  g_assert_null (strchr (error->message, '\n'));
}

static void
assert_done (mf_qmp *qmp, const char *command)
{
  g_autoptr (GError) error = NULL;

  mf_qmp_do (qmp, command, NULL, PATIENCE_USEC, NULL, &error);
  g_assert_no_error (error);
}

static void
assert_not_done (mf_qmp *qmp, const char *command, gint64 timeout_usec, int code, const char *part)
{
  g_autoptr (GError) error = NULL;

  g_assert_false (mf_qmp_do (qmp, command, NULL, timeout_usec, NULL, &error));
  g_assert_error (error, MF_ERROR, code);
  g_test_message ("%s", error->message);
  g_assert_nonnull (strstr (error->message, part));
}

/* --- A monitor that follows a script --- */

static void
test_greeting (void)
{
  static const MonitorStep script[] = { HELLO, { NULL, NULL } };
  g_autoptr (Monitor) monitor = monitor_new (script, FALSE);
  g_autoptr (mf_qmp) qmp = connect_to (monitor_path (monitor));

  g_assert_cmpstr (mf_qmp_version (qmp), ==, "42.99.1");
  g_assert_cmpint (mf_qmp_pid (qmp), ==, getpid ());
}

/* Each says something else than QMP, and is told apart. */
static void
test_no_greeting (void)
{
  static const MonitorStep hmp[] = { { NULL, "QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) " },
                                     { NULL, NULL } };
  static const MonitorStep http[] = { { NULL, "HTTP/1.1 400 Bad Request\r\n\r\n" }, { NULL, NULL } };
  static const MonitorStep other_json[] = { { NULL, "{\"hello\": 1}\n" }, { NULL, NULL } };
  static const MonitorStep bad_json[] = { { NULL, "{\"QMP\": ]}}\n" }, { NULL, NULL } };
  static const MonitorStep array[] = { { NULL, "[1, 2]\n" }, { NULL, NULL } };
  static const MonitorStep silent[] = { { NULL, NULL } };
  static const MonitorStep half[] = { { NULL, "{\"QMP\": " }, { NULL, NULL } };
  static const struct {
    const MonitorStep *script;
    gboolean closes;
    int code;
    const char *part;
  } cases[] = {
    { hmp, FALSE, MF_ERROR_PROTOCOL, "start QEMU with -qmp" },
    { http, FALSE, MF_ERROR_PROTOCOL, "that is not QMP (it says \"HTTP/1.1 400" },
    { other_json, FALSE, MF_ERROR_PROTOCOL, "does not greet" },
    { bad_json, FALSE, MF_ERROR_PROTOCOL, "not QMP" },
    { array, FALSE, MF_ERROR_PROTOCOL, "not QMP" },
    { silent, FALSE, MF_ERROR_TIMED_OUT, "another client" },
    { silent, TRUE, MF_ERROR_PROGRAM, "closed the connection" },
    { half, FALSE, MF_ERROR_TIMED_OUT, "another client" },
    { half, TRUE, MF_ERROR_PROGRAM, "closed the connection" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    g_autoptr (Monitor) monitor = monitor_new (cases[i].script, cases[i].closes);

    assert_no_connection (monitor_path (monitor), cases[i].code == MF_ERROR_TIMED_OUT ? SHORT_USEC : PATIENCE_USEC,
                          cases[i].code, cases[i].part);
  }
}

static void
test_nobody_there (void)
{
  g_autofree char *long_path = g_strnfill (200, 'x');

  assert_no_connection ("/nonexistent/qmp", PATIENCE_USEC, MF_ERROR_PROGRAM, "no QEMU serves QMP at /nonexistent/qmp");
  assert_no_connection (long_path, PATIENCE_USEC, MF_ERROR_INVALID, "longer");
}

/* Answers cut into pieces, on several lines, several in one piece, with braces in strings. */
static void
test_pieces (void)
{
  static const MonitorStep script[] = {
    HELLO,
    { "\"first\"", "{\"retu" },
    { NULL, "rn\": {\"text\": \"}{\\\"}\\\\\"}, \"id\"" },
    { NULL, ": @}" },
    { "\"second\"", "\r\n\n  {\r\n    \"return\": [\r\n    ],\r\n    \"id\": @\r\n  }\r\n" },
    { "\"third\"", "{\"event\": \"STOP\"}{\"return\": {}, \"id\": @}{\"event\": \"RESUME\"}\n" },
    { "\"fourth\"", OK },
    { NULL, NULL },
  };
  g_autoptr (Monitor) monitor = monitor_new (script, FALSE);
  g_autoptr (mf_qmp) qmp = connect_to (monitor_path (monitor));
  g_autoptr (GError) error = NULL;
  g_autoptr (JsonNode) first = mf_qmp_call (qmp, "first", NULL, PATIENCE_USEC, NULL, &error);
  g_autoptr (JsonNode) second = mf_qmp_call (qmp, "second", NULL, PATIENCE_USEC, NULL, &error);
  mf_qmp_event *event;

  g_assert_no_error (error);
  g_assert_cmpstr (mf_json_string (mf_json_node_object (first), "text"), ==, "}{\"}\\");
  g_assert_nonnull (mf_json_node_array (second));
  assert_done (qmp, "third");
  assert_done (qmp, "fourth");
  event = mf_qmp_take (qmp, mf_qmp_filter_name, (gpointer) "RESUME");
  g_assert_nonnull (event);
  mf_qmp_event_free (event);
  event = mf_qmp_take (qmp, mf_qmp_filter_name, (gpointer) "STOP");
  g_assert_nonnull (event);
  mf_qmp_event_free (event);
}

static void
test_refusals (void)
{
  static const MonitorStep script[] = {
    HELLO,
    { "\"nope\"", "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no such thing\"}, \"id\": @}\n" },
    { "\"bad\"", "{\"error\": {\"class\": \"GenericError\", \"desc\": \"it hurts\"}, \"id\": @}\n" },
    { "\"good\"", OK },
    { NULL, NULL },
  };
  g_autoptr (Monitor) monitor = monitor_new (script, FALSE);
  g_autoptr (mf_qmp) qmp = connect_to (monitor_path (monitor));

  g_assert_null (mf_qmp_error_class (qmp));
  assert_not_done (qmp, "nope", PATIENCE_USEC, MF_ERROR_NOT_SUPPORTED, "QEMU refused nope: no such thing");
  g_assert_cmpstr (mf_qmp_error_class (qmp), ==, "CommandNotFound");
  assert_not_done (qmp, "bad", PATIENCE_USEC, MF_ERROR_PROGRAM, "it hurts");
  g_assert_cmpstr (mf_qmp_error_class (qmp), ==, "GenericError");
  g_assert_cmpstr (mf_qmp_error_desc (qmp), ==, "it hurts");
  assert_done (qmp, "good");
}

/* An answer that comes when its caller has given up is nobody's, least of all the next command's. */
static void
test_late_answer (void)
{
  static const MonitorStep script[] = {
    HELLO,
    { "\"slow\"", NULL },
    { "\"next\"", "{\"return\": {\"of\": \"slow\"}, \"id\": 2}\n{\"return\": {\"of\": \"next\"}, \"id\": @}\n" },
    { "\"sent\"", NULL },
    { "\"last\"", "{\"error\": {\"class\": \"GenericError\", \"desc\": \"of sent\"}, \"id\": 4}\n" OK },
    { NULL, NULL },
  };
  g_autoptr (Monitor) monitor = monitor_new (script, FALSE);
  g_autoptr (mf_qmp) qmp = connect_to (monitor_path (monitor));
  g_autoptr (GError) error = NULL;
  g_autoptr (JsonNode) next = NULL;

  assert_not_done (qmp, "slow", SHORT_USEC, MF_ERROR_TIMED_OUT, "does not answer slow");
  next = mf_qmp_call (qmp, "next", NULL, PATIENCE_USEC, NULL, &error);
  g_assert_no_error (error);
  g_assert_cmpstr (mf_json_string (mf_json_node_object (next), "of"), ==, "next");
  g_assert_true (mf_qmp_send (qmp, "sent", NULL, NULL));
  assert_done (qmp, "last");
}

static void
test_broken_off (void)
{
  static const MonitorStep ends[] = { HELLO, { "\"die\"", "{\"event\": \"STOP\"}\n" }, { NULL, NULL } };
  static const MonitorStep garbage[] = { HELLO, { "\"die\"", "oops\n" }, { NULL, NULL } };
  static const MonitorStep wrong_id[] = { HELLO, { "\"die\"", "{\"return\": {}, \"id\": 77}\n" }, { NULL, NULL } };
  static const MonitorStep no_id[] = { HELLO, { "\"die\"", "{\"return\": {}}\n" }, { NULL, NULL } };
  static const MonitorStep neither[] = { HELLO, { "\"die\"", "{\"id\": @}\n" }, { NULL, NULL } };
  static const struct {
    const MonitorStep *script;
    gboolean closes;
    int code;
    const char *part;
  } cases[] = {
    { ends, TRUE, MF_ERROR_PROGRAM, "closed the connection" },
    { garbage, FALSE, MF_ERROR_PROTOCOL, "not QMP" },
    { wrong_id, FALSE, MF_ERROR_PROTOCOL, "nobody asked for" },
    { no_id, FALSE, MF_ERROR_PROTOCOL, "nobody asked for" },
    { neither, FALSE, MF_ERROR_PROTOCOL, "answer that is none" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    g_autoptr (Monitor) monitor = monitor_new (cases[i].script, cases[i].closes);
    g_autoptr (mf_qmp) qmp = connect_to (monitor_path (monitor));

    assert_not_done (qmp, "die", PATIENCE_USEC, cases[i].code, cases[i].part);
    /* It stays broken, and says the same. */
    assert_not_done (qmp, "again", PATIENCE_USEC, cases[i].code, cases[i].part);
    /* What had come before is not lost. */
    if (cases[i].script == ends) {
      g_autoptr (mf_qmp_event) event = mf_qmp_wait (qmp, mf_qmp_filter_name, (gpointer) "STOP", -1, NULL, NULL);

      g_assert_nonnull (event);
    }
  }
}

/* A QEMU that has gone mad can't eat our memory or our stack. */
static void
test_limits (void)
{
  g_autofree char *long_text = g_strnfill (MF_QMP_MAX_MESSAGE_BYTES + 1, 'x');
  g_autofree char *deep_text = g_strnfill (100000, '[');
  g_autofree char *long_answer = g_strconcat ("{\"return\": \"", long_text, NULL);
  g_autofree char *deep_answer = g_strconcat ("{\"return\": ", deep_text, NULL);
  const MonitorStep too_long[] = { HELLO, { "\"die\"", long_answer }, { NULL, NULL } };
  const MonitorStep too_deep[] = { HELLO, { "\"die\"", deep_answer }, { NULL, NULL } };
  g_autoptr (Monitor) first = monitor_new (too_long, FALSE);
  g_autoptr (Monitor) second = monitor_new (too_deep, FALSE);
  g_autoptr (mf_qmp) a = connect_to (monitor_path (first));
  g_autoptr (mf_qmp) b = connect_to (monitor_path (second));

  assert_not_done (a, "die", PATIENCE_USEC, MF_ERROR_PROTOCOL, "a message of more than");
  assert_not_done (b, "die", PATIENCE_USEC, MF_ERROR_PROTOCOL, "not QMP");
}

/* Only what was subscribed to is kept, so that a flood of other events costs nothing. */
static void
test_flood_of_events (void)
{
  GString *flood = g_string_new (NULL);
  g_autofree char *text = NULL;
  g_autoptr (GError) error = NULL;

  for (guint i = 0; i < MF_QMP_MAX_EVENTS + 10; i++)
    g_string_append_printf (flood, "{\"event\": \"MIGRATION_PASS\", \"data\": {\"pass\": %u}}\n", i);
  g_string_append (flood, "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}\n");
  text = g_string_free (flood, FALSE);
  {
    const MonitorStep script[] = { HELLO, { NULL, text }, { NULL, NULL } };
    g_autoptr (Monitor) monitor = monitor_new (script, FALSE);
    g_autoptr (mf_qmp) qmp = connect_to (monitor_path (monitor));
    g_autoptr (mf_qmp_event) event =
        mf_qmp_wait (qmp, mf_qmp_filter_name, (gpointer) "MIGRATION", mf_deadline_after (PATIENCE_USEC), NULL, &error);

    g_assert_no_error (error);
    g_assert_cmpstr (mf_json_string (event->data, "status"), ==, "completed");
  }
}

static gboolean
filter_status (const mf_qmp_event *event, gpointer status)
{
  return g_strcmp0 (mf_json_string (event->data, "status"), status) == 0;
}

static void
test_events_wait_for_their_takers (void)
{
  static const MonitorStep script[] = {
    HELLO,
    { "\"go\"", "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\n"
                "{\"event\": \"NOT_KEPT\"}\n"
                "{\"event\": \"STOP\"}\n" OK "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"active\"}}\n" },
    { NULL, NULL },
  };
  static const char *const order[] = { "active", "setup" };
  g_autoptr (Monitor) monitor = monitor_new (script, FALSE);
  g_autoptr (mf_qmp) qmp = connect_to (monitor_path (monitor));
  g_autoptr (GError) error = NULL;

  assert_done (qmp, "go");
  for (guint i = 0; i < G_N_ELEMENTS (order); i++) {
    g_autoptr (mf_qmp_event) event =
        mf_qmp_wait (qmp, filter_status, (gpointer) order[i], mf_deadline_after (PATIENCE_USEC), NULL, &error);

    g_assert_no_error (error);
    g_assert_cmpstr (event->name, ==, "MIGRATION");
  }
  g_assert_null (mf_qmp_wait (qmp, filter_status, (gpointer) "setup", mf_deadline_after (SHORT_USEC), NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_TIMED_OUT);
  mf_qmp_forget_events (qmp);
  g_assert_null (mf_qmp_take (qmp, mf_qmp_filter_name, (gpointer) "STOP"));
}

static void *
cancel_thread (void *cancellable)
{
  mf_wait_fd (-1, 0, mf_deadline_after (SHORT_USEC / 4), NULL, NULL);
  g_cancellable_cancel (cancellable);
  return NULL;
}

static void
test_cancel (void)
{
  static const MonitorStep script[] = {
    HELLO, { "\"slow\"", NULL }, { "\"next\"", "{\"return\": {}, \"id\": 2}\n" OK }, { NULL, NULL }
  };
  g_autoptr (Monitor) monitor = monitor_new (script, FALSE);
  g_autoptr (mf_qmp) qmp = connect_to (monitor_path (monitor));
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  g_autoptr (GError) error = NULL;
  pthread_t thread;

  g_assert_cmpint (pthread_create (&thread, NULL, cancel_thread, cancellable), ==, 0);
  g_assert_false (mf_qmp_do (qmp, "slow", NULL, -1, cancellable, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_CANCELLED);
  pthread_join (thread, NULL);
  assert_done (qmp, "next");
}

/* QEMU would drop what it has not begun if the client were gone; so it stays until all is answered. */
static void
test_free_when_answered (void)
{
  static const MonitorStep script[] = { HELLO, { "\"one\"", NULL }, { "\"two\"", NULL }, { NULL, NULL } };
  g_autoptr (Monitor) monitor = monitor_new (script, FALSE);
  mf_qmp *qmp = connect_to (monitor_path (monitor));

  assert_not_done (qmp, "one", SHORT_USEC, MF_ERROR_TIMED_OUT, "one");
  g_assert_true (mf_qmp_send (qmp, "two", NULL, NULL));
  mf_qmp_free_when_answered (qmp);
  monitor_await_script (monitor);
  monitor_say (monitor, "{\"return\": {}, \"id\": 2}\n");
  g_assert_false (monitor_await_client_end (monitor, SHORT_USEC));
  monitor_say (monitor, "{\"return\": {}, \"id\": 3}\n");
  g_assert_true (monitor_await_client_end (monitor, PATIENCE_USEC));
}

static void
test_free_when_idle (void)
{
  static const MonitorStep script[] = { HELLO, { NULL, NULL } };
  g_autoptr (Monitor) monitor = monitor_new (script, FALSE);
  mf_qmp *qmp = connect_to (monitor_path (monitor));

  monitor_await_script (monitor);
  mf_qmp_free_when_answered (qmp);
  g_assert_true (monitor_await_client_end (monitor, PATIENCE_USEC));
}

/* --- A real QEMU --- */

static const char *const small[] = { "-machine", "none", NULL };

static void
test_real (void)
{
  g_autoptr (Qemu) qemu = NULL;
  g_autoptr (mf_qmp) qmp = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (JsonNode) status = NULL;

  if (!qemu_is_there ())
    return;
  qemu = qemu_start (small);
  qmp = connect_to (qemu->qmp_path);
  g_test_message ("QEMU %s", mf_qmp_version (qmp));
  g_assert_cmpint (mf_qmp_pid (qmp), ==, atoi (g_subprocess_get_identifier (qemu->process)));
  status = mf_qmp_call (qmp, "query-status", NULL, PATIENCE_USEC, NULL, &error);
  g_assert_no_error (error);
  g_assert_nonnull (mf_json_string (mf_json_node_object (status), "status"));
  assert_not_done (qmp, "no-such-command", PATIENCE_USEC, MF_ERROR_NOT_SUPPORTED, "no-such-command");
  assert_not_done (qmp, "qom-get", PATIENCE_USEC, MF_ERROR_PROGRAM, "path");
}

/* QMP serves one client; the second is told so. */
static void
test_real_second_client (void)
{
  g_autoptr (Qemu) qemu = NULL;
  g_autoptr (mf_qmp) first = NULL;

  if (!qemu_is_there ())
    return;
  qemu = qemu_start (small);
  first = connect_to (qemu->qmp_path);
  assert_no_connection (qemu->qmp_path, SHORT_USEC, MF_ERROR_TIMED_OUT, "another client");
  assert_done (first, "query-status");
  g_clear_pointer (&first, mf_qmp_free);
  first = connect_to (qemu->qmp_path);
}

static void
test_real_events (void)
{
  g_autoptr (Qemu) qemu = NULL;
  g_autoptr (mf_qmp) qmp = NULL;
  g_autoptr (mf_qmp_event) event = NULL;
  g_autoptr (GError) error = NULL;
  gint64 begin;

  if (!qemu_is_there ())
    return;
  qemu = qemu_start (small);
  qmp = connect_to (qemu->qmp_path);
  begin = g_get_monotonic_time ();
  assert_done (qmp, "stop");
  event = mf_qmp_wait (qmp, mf_qmp_filter_name, (gpointer) "STOP", mf_deadline_after (PATIENCE_USEC), NULL, &error);
  g_assert_no_error (error);
  g_assert_cmpint (event->arrived_usec, >=, begin);
  /* QEMU's clock is read at another moment than ours; a millisecond for that. */
  g_assert_cmpint (event->when_usec, >=, begin - 1000);
  g_assert_cmpint (event->when_usec, <=, event->arrived_usec + 1000);
}

static void
test_real_fd (void)
{
  g_autoptr (Qemu) qemu = NULL;
  g_autoptr (mf_qmp) qmp = NULL;
  g_autoptr (JsonNode) answer = NULL;
  g_autoptr (GError) error = NULL;
  int pair[2];

  if (!qemu_is_there ())
    return;
  qemu = qemu_start (small);
  qmp = connect_to (qemu->qmp_path);
  g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
  assert_not_done (qmp, "getfd", PATIENCE_USEC, MF_ERROR_PROGRAM, "fdname");
  answer =
      mf_qmp_call_with_fd (qmp, "getfd", mf_qmp_string_argument ("fdname", "x"), pair[1], PATIENCE_USEC, NULL, &error);
  g_assert_no_error (error);
  close (pair[0]);
  close (pair[1]);
}

static void
test_real_end (void)
{
  g_autoptr (Qemu) qemu = NULL;
  g_autoptr (mf_qmp) qmp = NULL;
  g_autoptr (GError) error = NULL;

  if (!qemu_is_there ())
    return;
  qemu = qemu_start (small);
  qmp = connect_to (qemu->qmp_path);
  g_subprocess_force_exit (qemu->process);
  g_assert_null (mf_qmp_wait (qmp, mf_qmp_filter_name, (gpointer) "STOP", -1, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_PROGRAM);
}

static void *
talk_thread (void *path)
{
  g_autoptr (mf_qmp) qmp = connect_to (path);

  for (guint i = 0; i < 200; i++)
    assert_done (qmp, i % 2 == 0 ? "stop" : "cont");
  return NULL;
}

/* Two monitors in one process know nothing of each other. */
static void
test_real_several (void)
{
  Qemu *qemus[2];
  pthread_t threads[2];

  if (!qemu_is_there ())
    return;
  for (guint i = 0; i < 2; i++) {
    qemus[i] = qemu_start (small);
    g_assert_cmpint (pthread_create (&threads[i], NULL, talk_thread, qemus[i]->qmp_path), ==, 0);
  }
  for (guint i = 0; i < 2; i++) {
    pthread_join (threads[i], NULL);
    qemu_free (qemus[i]);
  }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/qmp/greeting", test_greeting);
  g_test_add_func ("/qmp/no-greeting", test_no_greeting);
  g_test_add_func ("/qmp/nobody-there", test_nobody_there);
  g_test_add_func ("/qmp/pieces", test_pieces);
  g_test_add_func ("/qmp/refusals", test_refusals);
  g_test_add_func ("/qmp/late-answer", test_late_answer);
  g_test_add_func ("/qmp/broken-off", test_broken_off);
  g_test_add_func ("/qmp/limits", test_limits);
  g_test_add_func ("/qmp/flood-of-events", test_flood_of_events);
  g_test_add_func ("/qmp/events-wait-for-their-takers", test_events_wait_for_their_takers);
  g_test_add_func ("/qmp/cancel", test_cancel);
  g_test_add_func ("/qmp/free-when-answered", test_free_when_answered);
  g_test_add_func ("/qmp/free-when-idle", test_free_when_idle);
  g_test_add_func ("/qmp/real", test_real);
  g_test_add_func ("/qmp/real-second-client", test_real_second_client);
  g_test_add_func ("/qmp/real-events", test_real_events);
  g_test_add_func ("/qmp/real-fd", test_real_fd);
  g_test_add_func ("/qmp/real-end", test_real_end);
  g_test_add_func ("/qmp/real-several", test_real_several);
  return g_test_run ();
}
