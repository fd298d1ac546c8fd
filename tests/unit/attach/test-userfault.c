/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "attach-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB  UINT64_C (0x100000)
#define SEED 77

/* A region of which nothing is here, a program that maps it, and a remote; `size_bytes` of which. */
typedef struct {
  attach_fixture *f;
  memory_source source;
  MfUserfault *userfault;
  uint64_t n_pages;
} scene;

static bool
scene_open (scene *s, const char *root, uint64_t size_bytes)
{
  *s = (scene){ .f = attach_fixture_new (root, size_bytes) };
  if (!s->f)
    return false;
  s->n_pages = mf_region_n_pages (s->f->region);
  memory_source_init (&s->source, size_bytes, s->f->page_bytes, SEED);
  attach_fixture_make_empty (s->f);
  attach_fixture_start_service (s->f);
  attach_fixture_start_program (s->f, PROGRAM_PLAIN);
  attach_fixture_ask (s->f, "ok", "map 0 %" G_GUINT64_FORMAT, s->n_pages);
  s->userfault = attach_fixture_userfault (s->f);
  return true;
}

static void
scene_open_lane (scene *s)
{
  mf_userfault_set_lane (s->userfault, memory_source_open (&s->source));
}

static void
scene_close (scene *s)
{
  if (!s->f)
    return;
  g_clear_pointer (&s->userfault, mf_userfault_unref);
  g_clear_pointer (&s->f, attach_fixture_free);
  memory_source_clear (&s->source);
}

/* Brings `run` as a puller does. */
static void
pull (scene *s, mf_run run)
{
  const uint32_t page_bytes = s->f->page_bytes;
  g_autofree uint8_t *bytes = g_malloc (run.count * page_bytes);
  g_autofree uint64_t *holes = g_new0 (uint64_t, run.count / 64 + 1);
  g_autoptr (GError) error = NULL;

  mf_page_map_apply_run (mf_region_map (s->f->region), run, MF_PAGE_CLAIM, NULL);
  for (uint64_t i = 0; i < run.count; i++) {
    pattern_fill (bytes + i * page_bytes, page_bytes, SEED, run.first + i);
    if (memory_source_is_hole (&s->source, run.first + i))
      holes[i / 64] |= UINT64_C (1) << (i % 64);
  }
  mf_region_put (s->f->region, run, bytes, holes, MF_PUT_KEEP, &error);
  g_assert_no_error (error);
}

typedef struct {
  scene *s;
  uint64_t first, step;
} pull_share;

static gpointer
pull_all (gpointer data)
{
  pull_share *share = data;

  for (uint64_t page = share->first; page < share->s->n_pages; page += share->step)
    pull (share->s, (mf_run){ page, MIN (16, share->s->n_pages - page) });
  return NULL;
}

/* Waits until that many threads of the program stand still in a fault. */
static void
wait_for_waiting (scene *s, guint waiting)
{
  const gint64 deadline = g_get_monotonic_time () + 60 * G_USEC_PER_SEC;
  mf_fault_stats stats;

  do {
    g_assert_cmpint (g_get_monotonic_time (), <, deadline);
    g_thread_yield ();
    mf_userfault_get_stats (s->userfault, &stats);
  } while (stats.waiting != waiting);
}

/* The program may be faster than the thread that marks what it has put down. */
static void
assert_complete (scene *s)
{
  wait_for_waiting (s, 0);
  g_assert_cmpuint (mf_page_map_count (mf_region_map (s->f->region), MF_PAGE_PRESENT), ==, s->n_pages);
}

static void
test_pages_come_as_they_are_touched (void)
{
  g_autoptr (GError) error = NULL;
  mf_fault_stats stats;
  scene s;

  if (!scene_open (&s, NULL, 8 * MIB))
    return;
  scene_open_lane (&s);
  attach_fixture_ask (s.f, "ok", "check 5 1 %d", SEED);
  g_assert_false (mf_userfault_finish (s.userfault, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_BUSY);
  attach_fixture_ask (s.f, "ok", "check 0 %" G_GUINT64_FORMAT " %d", s.n_pages, SEED);
  attach_fixture_assert_store (s.f, 0, s.n_pages, SEED);
  assert_complete (&s);

  mf_userfault_get_stats (s.userfault, &stats);
  g_assert_cmpuint (stats.faults, ==, s.n_pages);
  g_assert_cmpuint (s.source.asked, ==, s.n_pages);
  g_assert_cmpuint (stats.already_there + stats.zero + stats.waiting, ==, 0);
  g_assert_cmpuint (stats.p50_usec, <=, stats.p90_usec);
  g_assert_cmpuint (stats.p99_usec, <=, stats.max_usec);
  g_assert_true (mf_userfault_finish (s.userfault, NULL));
  attach_fixture_ask (s.f, "ok", "write 0 %" G_GUINT64_FORMAT " 5", s.n_pages);
  attach_fixture_assert_store (s.f, 0, s.n_pages, 5);
  scene_close (&s);
}

static void
test_the_kernel_faults_too (void)
{
  scene s;

  if (!scene_open (&s, NULL, MIB))
    return;
  scene_open_lane (&s);
  for (guint page = 0; page < s.n_pages; page++)
    attach_fixture_ask (s.f, "ok", "pipe %u %d", page, SEED);
  scene_close (&s);
}

static void
test_holes_are_zeroes (void)
{
  mf_fault_stats stats;
  scene s;

  if (!scene_open (&s, NULL, MIB))
    return;
  s.source.hole_every = 3;
  scene_open_lane (&s);
  /* The first half by faults, the second by a put. */
  pull (&s, (mf_run){ s.n_pages / 2, s.n_pages / 2 });
  for (guint page = 0; page < s.n_pages; page++)
    attach_fixture_ask (s.f, "ok", "check %u 1 %d", page, page % 3 == 0 ? 0 : SEED);
  assert_complete (&s);
  mf_userfault_get_stats (s.userfault, &stats);
  g_assert_cmpuint (stats.zero, ==, (s.n_pages + 2) / 3);
  scene_close (&s);
}

/* A page that came as a hole is PRESENT but nowhere; who waits for it must be let go on. */
static void
test_who_waits_for_a_hole_goes_on (void)
{
  scene s;

  if (!scene_open (&s, NULL, MIB))
    return;
  s.source.hole_every = 1;
  s.source.hold = true;
  scene_open_lane (&s);
  attach_fixture_send (s.f, "check 7 1 0");
  wait_for_waiting (&s, 1);
  pull (&s, (mf_run){ 0, s.n_pages });
  attach_fixture_expect (s.f, "ok");
  s.source.hold = false;
  memory_source_kick (&s.source);
  attach_fixture_ask (s.f, "ok", "check 0 %" G_GUINT64_FORMAT " 0", s.n_pages);
  scene_close (&s);
}

static void
test_a_short_last_page (void)
{
  g_autofree uint8_t *page = g_malloc0 (65536);
  scene s;

  if (!scene_open (&s, NULL, MIB + 4))
    return;
  scene_open_lane (&s);
  attach_fixture_ask (s.f, "ok", "check 0 %" G_GUINT64_FORMAT " %d", s.n_pages - 1, SEED);
  /* Only 4 bytes of it are the region's. */
  attach_fixture_ask (s.f, "bad", "check %" G_GUINT64_FORMAT " 1 %d", s.n_pages - 1, SEED);
  assert_complete (&s);
  pattern_fill (page, s.f->page_bytes, SEED, s.n_pages - 1);
  g_assert_true (mf_store_read (s.f->store, MIB, page + s.f->page_bytes, 4, NULL));
  g_assert_cmpmem (page, 4, page + s.f->page_bytes, 4);
  scene_close (&s);
}

/* Threads of the program check and write pages while others are put down and pulled all around them: not one write may be lost, and
 * not one page be read before it is there. */
static void
test_nothing_overwrites_the_program (void)
{
  pull_share shares[3];
  GThread *threads[3];
  scene s;

  if (!scene_open (&s, NULL, 64 * MIB))
    return;
  scene_open_lane (&s);
  attach_fixture_ask (s.f, "ok", "churn 3 %d", SEED);
  for (guint i = 0; i < G_N_ELEMENTS (shares); i++) {
    /* The shares overlap: what a faster one has put down is put again. */
    shares[i] = (pull_share){ &s, i * 5, 16 };
    threads[i] = g_thread_new ("pull", pull_all, &shares[i]);
  }
  for (guint i = 0; i < G_N_ELEMENTS (shares); i++)
    g_thread_join (threads[i]);
  attach_fixture_ask (s.f, "ok", "halt");
  assert_complete (&s);
  g_assert_true (mf_userfault_finish (s.userfault, NULL));
  scene_close (&s);
}

/* Every page that a put finds there is reported as kept, and only those. */
static void
test_a_put_tells_what_it_kept (void)
{
  scene s;

  if (!scene_open (&s, NULL, MIB))
    return;
  scene_open_lane (&s);
  attach_fixture_ask (s.f, "ok", "write 0 1 9");
  attach_fixture_ask (s.f, "ok", "write 20 1 9");
  attach_fixture_ask (s.f, "ok", "write 31 1 9");
  pull (&s, (mf_run){ 0, 64 });
  attach_fixture_ask (s.f, "ok", "check 0 1 9");
  attach_fixture_ask (s.f, "ok", "check 1 19 %d", SEED);
  attach_fixture_ask (s.f, "ok", "check 20 1 9");
  attach_fixture_ask (s.f, "ok", "check 21 10 %d", SEED);
  attach_fixture_ask (s.f, "ok", "check 31 1 9");
  attach_fixture_ask (s.f, "ok", "check 32 32 %d", SEED);
  g_assert_cmpuint (s.source.asked, ==, 3);
  scene_close (&s);
}

static void
test_a_lost_lane_is_replaced (void)
{
  scene s;

  if (!scene_open (&s, NULL, MIB))
    return;
  /* Before there is one at all. */
  attach_fixture_send (s.f, "check 0 2 %d", SEED);
  wait_for_waiting (&s, 1);
  scene_open_lane (&s);
  attach_fixture_expect (s.f, "ok");

  for (guint i = 1; i <= 3; i++) {
    s.source.hold = true;
    attach_fixture_send (s.f, "check %u 2 %d", 10 * i, SEED);
    wait_for_waiting (&s, 1);
    s.source.broken = true;
    memory_source_kick (&s.source);
    attach_fixture_wait (s.f, &s.f->lost, i);
    wait_for_waiting (&s, 1);
    s.source.hold = false;
    scene_open_lane (&s);
    attach_fixture_expect (s.f, "ok");
  }
  /* A request that fails on a lane that lives is asked again. */
  s.source.fail_pages = 3;
  attach_fixture_ask (s.f, "ok", "check 200 1 %d", SEED);
  g_assert_cmpint (s.source.fail_pages, ==, 0);
  scene_close (&s);
}

static void
test_what_is_discarded_is_zeroes (void)
{
  scene s;

  if (!scene_open (&s, NULL, MIB))
    return;
  scene_open_lane (&s);
  attach_fixture_ask (s.f, "ok", "check 0 32 %d", SEED);
  attach_fixture_ask (s.f, "ok", "discard 4 8");
  attach_fixture_ask (s.f, "ok", "check 4 8 0");
  attach_fixture_ask (s.f, "ok", "discard 16 1");
  attach_fixture_ask (s.f, "ok", "write 16 1 3");
  attach_fixture_ask (s.f, "ok", "check 16 1 3");
  attach_fixture_ask (s.f, "ok", "check 12 4 %d", SEED);
  g_assert_cmpuint (s.source.asked, ==, 32);
  scene_close (&s);
}

/* Parts of the mapping go and others come; what nothing shows goes into the store itself. */
static void
test_mappings_change_meanwhile (void)
{
  scene s;

  if (!scene_open (&s, NULL, MIB))
    return;
  scene_open_lane (&s);
  attach_fixture_ask (s.f, "ok", "check 0 10 %d", SEED);
  attach_fixture_ask (s.f, "ok", "unmap 5 20");
  pull (&s, (mf_run){ 0, 64 });
  attach_fixture_assert_store (s.f, 0, 64, SEED);
  /* The same pages at another place, while the rest stays. */
  attach_fixture_ask (s.f, "ok", "map 0 %" G_GUINT64_FORMAT, s.n_pages);
  attach_fixture_ask (s.f, "ok", "check 0 %" G_GUINT64_FORMAT " %d", s.n_pages, SEED);
  attach_fixture_ask (s.f, "ok", "write 0 %" G_GUINT64_FORMAT " 4", s.n_pages);
  attach_fixture_assert_store (s.f, 0, s.n_pages, 4);
  g_assert_cmpuint (attach_fixture_count (s.f, &s.f->attached), ==, 1);
  scene_close (&s);
}

static void
test_puts_go_on_when_the_program_is_gone (void)
{
  scene s;

  if (!scene_open (&s, NULL, MIB))
    return;
  scene_open_lane (&s);
  attach_fixture_ask (s.f, "ok", "write 3 1 8");
  attach_fixture_end_program (s.f);
  attach_fixture_wait (s.f, &s.f->detached, 1);
  pull (&s, (mf_run){ 0, s.n_pages });
  attach_fixture_assert_store (s.f, 0, 3, SEED);
  attach_fixture_assert_store (s.f, 3, 1, 8);
  attach_fixture_assert_store (s.f, 4, s.n_pages - 4, SEED);
  scene_close (&s);
}

/* A file system of `options` in a mount namespace of the test's own; NULL, and the test skipped: not allowed. */
static char *
mount_own (const char *type, const char *options)
{
  g_autofree char *at = g_strdup ("/tmp/mf-mount-XXXXXX");

  g_assert_nonnull (g_mkdtemp (at));
  if (mount (type, at, type, 0, options) == 0) {
    g_assert_cmpint (g_chmod (at, 0755), ==, 0);
    return g_steal_pointer (&at);
  }
  g_rmdir (at);
  g_test_skip ("May not mount a file system");
  return NULL;
}

static void
unmount_own (char *at)
{
  g_assert_cmpint (umount2 (at, MNT_DETACH), ==, 0);
  g_rmdir (at);
  g_free (at);
}

static void
test_a_full_store_makes_the_program_wait (void)
{
  char *root = mount_own ("tmpfs", "size=2M");
  scene s;

  if (!root)
    return;
  if (mf_userfault_check (NULL, NULL))
    g_test_expect_message ("memferry", G_LOG_LEVEL_WARNING, "*its store has no room*");
  if (scene_open (&s, root, 8 * MIB)) {
    scene_open_lane (&s);
    attach_fixture_send (s.f, "check 0 %" G_GUINT64_FORMAT " %d", s.n_pages, SEED);
    /* It stands still when 512 pages are there, and does so for longer than a second attempt takes. */
    while (mf_page_map_count (mf_region_map (s.f->region), MF_PAGE_PRESENT) < 500)
      g_thread_yield ();
    wait_for_waiting (&s, 1);
    g_assert_cmpint (poll (&(struct pollfd){ .fd = s.f->from_program, .events = POLLIN }, 1, 150), ==, 0);
    g_assert_cmpint (mount ("tmpfs", root, "tmpfs", MS_REMOUNT, "size=16M"), ==, 0);
    attach_fixture_expect (s.f, "ok");
    g_test_assert_expected_messages ();
    assert_complete (&s);
    scene_close (&s);
  }
  unmount_own (root);
}

/* So many huge pages more; false when the kernel hasn't got them. */
static bool
get_huge_pages (guint count, char **before)
{
  static const char path[] = "/proc/sys/vm/nr_hugepages";
  g_autofree char *wanted = NULL, *got = NULL;

  if (!g_file_get_contents (path, before, NULL, NULL))
    return false;
  wanted = g_strdup_printf ("%u\n", count + (guint) atoi (*before));
  return g_file_set_contents_full (path, wanted, -1, G_FILE_SET_CONTENTS_NONE, 0644, NULL) &&
         g_file_get_contents (path, &got, NULL, NULL) && atoi (got) >= atoi (wanted);
}

static void
test_huge_pages (void)
{
  g_autofree char *before = NULL;
  char *root = NULL;
  scene s;

  if (!get_huge_pages (8, &before))
    g_test_skip ("No huge pages to be had");
  else
    root = mount_own ("hugetlbfs", NULL);
  if (root && scene_open (&s, root, 16 * MIB)) {
    g_assert_cmpuint (s.f->page_bytes, ==, 2 * MIB);
    s.source.hole_every = 4;
    scene_open_lane (&s);
    attach_fixture_ask (s.f, "ok", "check 0 1 0");
    attach_fixture_ask (s.f, "ok", "check 1 3 %d", SEED);
    attach_fixture_ask (s.f, "ok", "write 2 1 6");
    pull (&s, (mf_run){ 0, 8 });
    attach_fixture_ask (s.f, "ok", "check 1 1 %d", SEED);
    attach_fixture_ask (s.f, "ok", "check 2 1 6");
    attach_fixture_ask (s.f, "ok", "check 4 1 0");
    attach_fixture_ask (s.f, "ok", "check 5 3 %d", SEED);
    assert_complete (&s);
    g_assert_true (mf_userfault_finish (s.userfault, NULL));
    scene_close (&s);
  }
  if (root)
    unmount_own (root);
  if (before)
    g_file_set_contents_full ("/proc/sys/vm/nr_hugepages", before, -1, G_FILE_SET_CONTENTS_NONE, 0644, NULL);
}

static void
test_states (void)
{
  g_autoptr (GError) error = NULL;
  mf_tracker *tracker;
  scene s;

  if (!scene_open (&s, NULL, MIB))
    return;
  tracker = mf_userfault_new_tracker (s.userfault);
  g_assert_false (mf_userfault_serve (s.userfault, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_BUSY);
  g_clear_error (&error);
  g_assert_false (tracker->ops->start (tracker, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_BUSY);
  g_clear_error (&error);

  pull (&s, (mf_run){ 0, s.n_pages });
  g_assert_true (mf_userfault_finish (s.userfault, NULL));
  g_assert_true (mf_userfault_finish (s.userfault, NULL));
  g_assert_true (tracker->ops->start (tracker, &error));
  g_assert_false (mf_userfault_serve (s.userfault, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_BUSY);
  g_clear_error (&error);
  tracker->ops->stop (tracker);
  g_assert_true (mf_userfault_serve (s.userfault, NULL));
  mf_userfault_abandon (s.userfault);
  g_assert_true (tracker->ops->start (tracker, NULL));
  tracker->ops->free (tracker);
  attach_fixture_ask (s.f, "ok", "check 0 %" G_GUINT64_FORMAT " %d", s.n_pages, SEED);
  scene_close (&s);
}

/* In a mount namespace of its own, where `hide` was done to /dev. */
static int
check_without_device (void (*hide) (void), MfError expected)
{
  const pid_t pid = fork ();
  int status;

  if (pid == 0) {
    g_autoptr (GError) error = NULL;

    if (unshare (CLONE_NEWNS) < 0 || mount ("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
      _exit (77);
    hide ();
    _exit (!mf_userfault_check (NULL, &error) && g_error_matches (error, MF_ERROR, (gint) expected) &&
                   strstr (error->message, "/dev/userfaultfd")
               ? 0
               : 1);
  }
  g_assert_cmpint (waitpid (pid, &status, 0), ==, pid);
  return WIFEXITED (status) ? WEXITSTATUS (status) : -1;
}

static void
hide_by_an_empty_folder (void)
{
  if (mount ("tmpfs", "/dev", "tmpfs", 0, NULL) < 0)
    _exit (77);
}

static void
hide_by_another_device (void)
{
  if (mount ("/dev/null", "/dev/userfaultfd", NULL, MS_BIND, NULL) < 0)
    _exit (77);
}

static void
hide_by_rights (void)
{
  if (setgid (65534) < 0 || setuid (65534) < 0)
    _exit (77);
}

static void
test_what_is_missing_is_said (void)
{
  g_autoptr (MfStore) on_disk = NULL;
  g_autofree char *path = g_build_filename (g_get_user_runtime_dir (), "x", NULL);
  int result = check_without_device (hide_by_an_empty_folder, MF_ERROR_NOT_SUPPORTED);

  if (result == 77) {
    g_test_skip ("May not make a mount namespace");
    return;
  }
  g_assert_cmpint (result, ==, 0);
  g_assert_cmpint (check_without_device (hide_by_rights, MF_ERROR_PERMISSION), ==, 0);
  result = check_without_device (hide_by_another_device, MF_ERROR_FAILED);
  if (result != 77)
    g_assert_cmpint (result, ==, 0);
}

static void
test_a_store_on_a_disk_is_refused (void)
{
  g_autofree char *path = g_strdup_printf ("/var/tmp/mf-attach-%d", (int) getpid ());
  g_autoptr (MfStore) store = mf_store_create (path, MIB, NULL);
  g_autoptr (GError) error = NULL;

  if (!store || mf_store_kind (store) != MF_STORE_FILE || !mf_userfault_check (NULL, NULL))
    g_test_skip ("No disk file here, or no userfaultfd");
  else {
    g_assert_false (mf_userfault_check (store, &error));
    g_assert_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED);
  }
  g_unlink (path);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  /* So that what the tests mount is theirs alone, also when they crash. */
  if (unshare (CLONE_NEWNS) == 0)
    mount ("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
  g_test_add_func ("/userfault/pages-come-as-they-are-touched", test_pages_come_as_they_are_touched);
  g_test_add_func ("/userfault/the-kernel-faults-too", test_the_kernel_faults_too);
  g_test_add_func ("/userfault/holes-are-zeroes", test_holes_are_zeroes);
  g_test_add_func ("/userfault/who-waits-for-a-hole-goes-on", test_who_waits_for_a_hole_goes_on);
  g_test_add_func ("/userfault/a-short-last-page", test_a_short_last_page);
  g_test_add_func ("/userfault/nothing-overwrites-the-program", test_nothing_overwrites_the_program);
  g_test_add_func ("/userfault/a-put-tells-what-it-kept", test_a_put_tells_what_it_kept);
  g_test_add_func ("/userfault/a-lost-lane-is-replaced", test_a_lost_lane_is_replaced);
  g_test_add_func ("/userfault/what-is-discarded-is-zeroes", test_what_is_discarded_is_zeroes);
  g_test_add_func ("/userfault/mappings-change-meanwhile", test_mappings_change_meanwhile);
  g_test_add_func ("/userfault/puts-go-on-when-the-program-is-gone", test_puts_go_on_when_the_program_is_gone);
  g_test_add_func ("/userfault/a-full-store-makes-the-program-wait", test_a_full_store_makes_the_program_wait);
  g_test_add_func ("/userfault/huge-pages", test_huge_pages);
  g_test_add_func ("/userfault/states", test_states);
  g_test_add_func ("/userfault/what-is-missing-is-said", test_what_is_missing_is_said);
  g_test_add_func ("/userfault/a-store-on-a-disk-is-refused", test_a_store_on_a_disk_is_refused);
  return g_test_run ();
}
