/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libvirt tells a QEMU to migrate, and memferry waits for it to come: what it says and when it comes may be seen in either order, and what goes elsewhere is caught. */
#include "hypervisor/mf-libvirt-private.h"
#include "monitor-fixture.h"
#include "mf-wait.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PATIENCE_USEC (20 * G_USEC_PER_SEC)
/* Long enough for several looks. */
#define LOOKS_USEC (100 * 1000)

#define EVENT(name, data)                                                                                              \
  "{\"event\": \"" name "\", \"data\": {" data "}, \"timestamp\": {\"seconds\": 1, \"microseconds\": 0}}\r\n"
#define MIGRATION(status) EVENT ("MIGRATION", "\"status\": \"" status "\"")
/* A guest that runs is ready to be migrated; what is said then comes with the last answer. */
#define READY(said)                                                                                                    \
  { "query-status", "{\"return\": {\"status\": \"running\", \"running\": true}, \"id\": @}\r\n" },                     \
      { "pause-before-switchover", OK },                                                                               \
  {                                                                                                                    \
    "x-ignore-shared", OK said                                                                                         \
  }
/* What is asked when somebody has come. */
#define LOOKED_AT                                                                                                      \
  { "query-migrate-parameters", OK },                                                                                  \
  {                                                                                                                    \
    "query-migrate-capabilities",                                                                                      \
        "{\"return\": [{\"capability\": \"x-ignore-shared\", \"state\": true}, {\"capability\": "                      \
        "\"pause-before-switchover\", \"state\": true}], \"id\": @}\r\n"                                               \
  }
#define END                                                                                                            \
  {                                                                                                                    \
    NULL, NULL                                                                                                         \
  }

/* A migration that is ready. */
typedef struct {
  Monitor *monitor;
  mf_program *program;
  char *state_path;
  mf_program_info info;
} Ready;

static Ready *
ready_new_with (const MonitorStep *script, gboolean is_armed)
{
  Ready *ready = g_new0 (Ready, 1);
  g_autofree char *folder = NULL;
  g_autoptr (GError) error = NULL;

  ready->monitor = monitor_new (script, FALSE);
  folder = g_path_get_dirname (monitor_path (ready->monitor));
  ready->state_path = g_build_filename (folder, "state", NULL);
  ready->program = mf_libvirt_new (monitor_path (ready->monitor), ready->state_path, NULL, 0);
  mf_qemu_connect (mf_libvirt_qemu (ready->program), PATIENCE_USEC, NULL, &error);
  g_assert_no_error (error);
  ready->program->ops->open_sender (ready->program, NULL, &error);
  g_assert_no_error (error);
  if (is_armed)
    ready->program->ops->arm (ready->program, TRUE, NULL, &error);
  g_assert_no_error (error);
  return ready;
}

/* The target's QEMU has been started. */
static Ready *
ready_new (const MonitorStep *script)
{
  return ready_new_with (script, TRUE);
}

static void
ready_free (Ready *ready)
{
  ready->program->ops->free (ready->program);
  monitor_free (ready->monitor);
  mf_program_info_clear (&ready->info);
  g_free (ready->state_path);
  g_free (ready);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Ready, ready_free)

/* As libvirt, or a QEMU, connects. */
static int
come (Ready *ready)
{
  struct sockaddr_un name = { .sun_family = AF_UNIX };
  int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

  g_strlcpy (name.sun_path, ready->state_path, sizeof name.sun_path);
  g_assert_cmpint (connect (fd, (struct sockaddr *) &name, sizeof name), ==, 0);
  return fd;
}

static int
await (Ready *ready, gint64 usec, GError **error)
{
  return ready->program->ops->await_sender (ready->program, mf_deadline_after (usec), &ready->info, NULL, error);
}

static void
assert_waits (Ready *ready)
{
  g_autoptr (GError) error = NULL;

  g_assert_cmpint (await (ready, LOOKS_USEC, &error), ==, -1);
  g_assert_error (error, MF_ERROR, MF_ERROR_TIMED_OUT);
}

/* It comes, and is taken in. */
static void
assert_taken (Ready *ready)
{
  g_autoptr (GError) error = NULL;
  int theirs = come (ready), ours = await (ready, PATIENCE_USEC, &error);

  g_assert_no_error (error);
  g_assert_cmpint (ours, >=, 0);
  g_assert_cmpint (write (theirs, "s", 1), ==, 1);
  g_assert_true (mf_wait_fd (ours, POLLIN, mf_deadline_after (PATIENCE_USEC), NULL, NULL));
  close (theirs);
  close (ours);
  monitor_await_script (ready->monitor);
}

/* QEMU says that it begins, is heard, and connects only then. */
static void
test_says_before_it_comes (void)
{
  static const MonitorStep script[] = { HELLO, READY (MIGRATION ("setup")), LOOKED_AT, END };
  g_autoptr (Ready) ready = ready_new (script);

  assert_waits (ready);
  assert_taken (ready);
  g_assert_true (ready->info.is_running);
}

/* It has come, and got as far as to stop the guest, when somebody looks. */
static void
test_comes_before_it_is_heard (void)
{
  static const MonitorStep script[] = {
    HELLO, READY (MIGRATION ("setup") MIGRATION ("active") EVENT ("STOP", "") MIGRATION ("pre-switchover")), LOOKED_AT,
    END
  };
  g_autoptr (Ready) ready = ready_new (script);

  assert_taken (ready);
  g_assert_true (ready->info.is_running);
}

/* Its user pauses it while it is ready: so it is to stand on the other side. */
static void
test_paused_when_ready (void)
{
  static const MonitorStep script[] = { HELLO, READY (EVENT ("STOP", "") MIGRATION ("setup")), LOOKED_AT, END };
  g_autoptr (Ready) ready = ready_new (script);

  assert_waits (ready);
  assert_taken (ready);
  g_assert_false (ready->info.is_running);
}

/* What found nowhere to go has moved nothing, and the next one may come. */
static void
test_goes_nowhere (void)
{
  static const MonitorStep script[] = { HELLO, READY (MIGRATION ("setup") MIGRATION ("failed")), LOOKED_AT, END };
  g_autoptr (Ready) ready = ready_new (script);

  assert_waits (ready);
  assert_taken (ready);
}

/* It moves, and not to here. */
static void
test_goes_elsewhere (void)
{
  static const MonitorStep script[] = {
    HELLO, READY (MIGRATION ("setup") MIGRATION ("active")), { "migrate_cancel", OK }, END
  };
  g_autoptr (Ready) ready = ready_new (script);
  g_autoptr (GError) error = NULL;

  g_assert_cmpint (await (ready, PATIENCE_USEC, &error), ==, -1);
  g_assert_error (error, MF_ERROR, MF_ERROR_PROGRAM);
  g_assert_nonnull (strstr (error->message, "was to be saved"));
  monitor_await_script (ready->monitor);
}

/* Nobody waits for it on the target yet: what moves takes its memory along. It is let go, and the migration stays ready. */
static void
test_saved_when_ready (void)
{
  static const MonitorStep script[] = {
    HELLO,
    { "query-status", "{\"return\": {\"status\": \"running\", \"running\": true}, \"id\": @}\r\n" MIGRATION ("setup")
                          MIGRATION ("active") MIGRATION ("completed") },
    END
  };
  g_autoptr (Ready) ready = ready_new_with (script, FALSE);

  assert_waits (ready);
  monitor_await_script (ready->monitor);
}

/* Told to migrate although nobody waits for it: it is not taken in, for all of its memory would come. */
static void
test_comes_too_early (void)
{
  static const MonitorStep script[] = {
    HELLO, { "query-status", "{\"return\": {\"status\": \"running\", \"running\": true}, \"id\": @}\r\n" }, END
  };
  g_autoptr (Ready) ready = ready_new_with (script, FALSE);
  g_autoptr (GError) error = NULL;
  int theirs = come (ready);
  char byte;

  g_assert_cmpint (await (ready, PATIENCE_USEC, &error), ==, -1);
  g_assert_error (error, MF_ERROR, MF_ERROR_PROGRAM);
  g_assert_nonnull (strstr (error->message, "mapped"));
  g_assert_cmpint (read (theirs, &byte, 1), ==, 0);
  close (theirs);
  monitor_await_script (ready->monitor);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/libvirt-source/says-before-it-comes", test_says_before_it_comes);
  g_test_add_func ("/libvirt-source/comes-before-it-is-heard", test_comes_before_it_is_heard);
  g_test_add_func ("/libvirt-source/paused-when-ready", test_paused_when_ready);
  g_test_add_func ("/libvirt-source/goes-nowhere", test_goes_nowhere);
  g_test_add_func ("/libvirt-source/goes-elsewhere", test_goes_elsewhere);
  g_test_add_func ("/libvirt-source/saved-when-ready", test_saved_when_ready);
  g_test_add_func ("/libvirt-source/comes-too-early", test_comes_too_early);
  return g_test_run ();
}
