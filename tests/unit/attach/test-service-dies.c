/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "attach-fixture.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB  UINT64_C (0x100000)
#define SEED 123

typedef struct {
  GPid pid;
  int output;
} service;

static service
start_service (attach_fixture *f, int die_at, bool fill)
{
  g_autofree char *seed = g_strdup_printf ("%d", SEED), *die = g_strdup_printf ("%d", die_at);
  const char *argv[] = { MF_TEST_FERRYMAN, f->socket_path, f->region_path, seed, die, fill ? "1" : "0", NULL };
  g_autoptr (GError) error = NULL;
  service s;

  g_spawn_async_with_pipes (NULL, (char **) argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, attach_fixture_tie, NULL, &s.pid,
                            NULL, &s.output, NULL, &error);
  g_assert_no_error (error);
  return s;
}

static void
wait_for_attached (service *s)
{
  char byte;

  g_assert_cmpint (poll (&(struct pollfd){ .fd = s->output, .events = POLLIN }, 1, 60000), ==, 1);
  g_assert_cmpint (read (s->output, &byte, 1), ==, 1);
}

/* Waits for its end, which must be that signal. */
static void
wait_for_death (service *s, int signal)
{
  int status;

  g_assert_cmpint (waitpid (s->pid, &status, 0), ==, s->pid);
  g_assert_true (WIFSIGNALED (status));
  g_assert_cmpint (WTERMSIG (status), ==, signal);
  close (s->output);
}

static void
stop_service (service *s)
{
  kill (s->pid, SIGKILL);
  wait_for_death (s, SIGKILL);
}

/* The fault that was read is not in the kernel's queue any more: only a wake brings it back. */
static void
test_dead_between_question_and_answer (void)
{
  g_autoptr (attach_fixture) f = attach_fixture_new (NULL, 4 * MIB);
  gint64 began;
  service s;

  if (!f)
    return;
  s = start_service (f, 1, false);
  attach_fixture_start_program (f, PROGRAM_PLAIN);
  attach_fixture_ask (f, "ok", "map 0 1024");
  attach_fixture_send (f, "check 0 1024 %d", SEED);
  wait_for_death (&s, SIGKILL);

  began = g_get_monotonic_time ();
  s = start_service (f, 0, false);
  attach_fixture_expect (f, "ok");
  g_test_message ("all was there %" G_GINT64_FORMAT " us after the next service's start",
                  g_get_monotonic_time () - began);
  attach_fixture_assert_store (f, 0, 1024, SEED);
  attach_fixture_end_program (f);
  stop_service (&s);
}

static void
test_one_after_the_other_dies (void)
{
  g_autoptr (attach_fixture) f = attach_fixture_new (NULL, 16 * MIB);
  service s;

  if (!f)
    return;
  s = start_service (f, 7, false);
  attach_fixture_start_program (f, PROGRAM_PLAIN);
  attach_fixture_ask (f, "ok", "map 0 4096");
  attach_fixture_ask (f, "ok", "churn 3 %d", SEED);
  for (int i = 1; i <= 11; i++) {
    wait_for_death (&s, SIGKILL);
    s = start_service (f, 11 * i, i % 2 == 0);
  }
  wait_for_death (&s, SIGKILL);
  s = start_service (f, 0, true);
  wait_for_attached (&s);
  attach_fixture_ask (f, "ok", "halt");
  attach_fixture_end_program (f);
  stop_service (&s);
}

/* Killed from outside, whatever they are doing just then. */
static void
test_killed_at_any_time (void)
{
  g_autoptr (attach_fixture) f = attach_fixture_new (NULL, 64 * MIB);
  g_autoptr (GRand) random = g_rand_new_with_seed (1);
  service s;

  if (!f)
    return;
  s = start_service (f, 0, true);
  attach_fixture_start_program (f, PROGRAM_PLAIN);
  attach_fixture_ask (f, "ok", "map 0 16384");
  attach_fixture_ask (f, "ok", "churn 3 %d", SEED);
  for (guint i = 0; i < 15; i++) {
    wait_for_attached (&s);
    g_assert_cmpint (poll (NULL, 0, g_rand_int_range (random, 0, 8)), ==, 0);
    stop_service (&s);
    s = start_service (f, 0, true);
  }
  attach_fixture_ask (f, "ok", "halt");
  attach_fixture_end_program (f);
  stop_service (&s);
}

/* It ends in good order: the program's faults must go on waiting, and not read zeroes. */
static void
test_a_polite_end_lets_faults_wait (void)
{
  g_autoptr (attach_fixture) f = attach_fixture_new (NULL, MIB);
  service s;

  if (!f)
    return;
  attach_fixture_make_empty (f);
  attach_fixture_start_service (f);
  attach_fixture_start_program (f, PROGRAM_PLAIN);
  attach_fixture_ask (f, "ok", "map 0 256");
  attach_fixture_send (f, "check 0 256 %d", SEED);
  attach_fixture_stop_service (f);
  g_assert_cmpint (poll (&(struct pollfd){ .fd = f->from_program, .events = POLLIN }, 1, 300), ==, 0);
  s = start_service (f, 0, false);
  attach_fixture_expect (f, "ok");
  attach_fixture_end_program (f);
  stop_service (&s);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/service-dies/between-question-and-answer", test_dead_between_question_and_answer);
  g_test_add_func ("/service-dies/one-after-the-other", test_one_after_the_other_dies);
  g_test_add_func ("/service-dies/killed-at-any-time", test_killed_at_any_time);
  g_test_add_func ("/service-dies/a-polite-end-lets-faults-wait", test_a_polite_end_lets_faults_wait);
  return g_test_run ();
}
