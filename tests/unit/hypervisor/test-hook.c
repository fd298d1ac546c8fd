/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where libvirt keeps the memory of a domain, and what the hook puts there. */
#include "hypervisor/mf-hook.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

typedef struct {
  char *root;
  char *base; /* where libvirt makes the folders */
  char *conf;
} Fixture;

static void
fixture_set_up (Fixture *f, gconstpointer data)
{
  g_autofree char *text = NULL;

  f->root = g_dir_make_tmp ("mf-hook-XXXXXX", NULL);
  f->base = g_build_filename (f->root, "libvirt", "qemu", NULL);
  f->conf = g_build_filename (f->root, "qemu.conf", NULL);
  g_assert_cmpint (g_mkdir_with_parents (f->base, 0755), ==, 0);
  text = g_strdup_printf (
      "# memory_backing_dir = \"/nowhere\"\nuser = \"root\"\n  memory_backing_dir = \"%s\" # here\n", f->root);
  g_assert_true (g_file_set_contents (f->conf, text, -1, NULL));
}

static void
fixture_tear_down (Fixture *f, gconstpointer data)
{
  g_autofree char *command = g_strdup_printf ("rm -rf %s", f->root);

  g_assert_true (g_spawn_command_line_sync (command, NULL, NULL, NULL, NULL));
  g_free (f->root);
  g_free (f->base);
  g_free (f->conf);
}

static void
make (Fixture *f, const char *name)
{
  g_autofree char *path = g_build_filename (f->base, name, NULL);

  g_assert_cmpint (g_mkdir (path, 0700), ==, 0);
}

static mf_domain *
domain_of (const char *id, const char *name)
{
  g_autofree char *xml = g_strdup_printf ("<domain id='%s'><name>%s</name></domain>", id, name);
  mf_domain *domain = mf_domain_parse (xml, NULL);

  g_assert_nonnull (domain);
  return domain;
}

/* `expected` NULL: none is found. */
static void
assert_found (Fixture *f, const char *id, const char *name, const char *expected)
{
  g_autoptr (mf_domain) domain = domain_of (id, name);
  g_autoptr (GError) error = NULL;
  uid_t owner = 4711;
  g_autofree char *path = mf_hook_find_folder (domain, f->conf, &owner, &error);
  g_autofree char *whole = expected ? g_build_filename (f->base, expected, NULL) : NULL;

  g_assert_cmpstr (path, ==, whole);
  if (expected) {
    g_assert_no_error (error);
    g_assert_cmpuint (owner, ==, geteuid ());
  } else {
    g_assert_error (error, MF_ERROR, MF_ERROR_NOT_FOUND);
    g_assert_nonnull (strstr (error->message, f->base));
  }
}

static void
test_folder (Fixture *f, gconstpointer data)
{
  assert_found (f, "1", "vm", NULL);
  make (f, "1-vm");
  make (f, "11-vm");
  make (f, "2-vm1");
  assert_found (f, "1", "vm", "1-vm");
  assert_found (f, "11", "vm", "11-vm");
  assert_found (f, "3", "vm", NULL);
  /* Another one's, whose name begins in the same way. */
  assert_found (f, "1", "vm1", NULL);
  assert_found (f, "2", "vm", NULL);
}

/* libvirt takes 20 characters of a name. */
static void
test_long_name (Fixture *f, gconstpointer data)
{
  make (f, "1-a-name-of-more-than-");
  make (f, "2-a-name-of-more-than-2");
  make (f, "3-äöüäöüäöüäöüäöüäöüäö");
  assert_found (f, "1", "a-name-of-more-than-20-characters", "1-a-name-of-more-than-");
  assert_found (f, "2", "a-name-of-more-than-20-characters", NULL);
  assert_found (f, "3", "äöüäöüäöüäöüäöüäöüäöüäöü", "3-äöüäöüäöüäöüäöüäöüäö");
}

static void
test_not_a_folder (Fixture *f, gconstpointer data)
{
  g_autofree char *file = g_build_filename (f->base, "5-vm", NULL), *link = g_build_filename (f->base, "6-vm", NULL);
  mf_domain *domains[] = { domain_of ("5", "vm"), domain_of ("6", "vm") };

  g_assert_true (g_file_set_contents (file, "", 0, NULL));
  g_assert_cmpint (symlink (f->root, link), ==, 0);
  for (guint i = 0; i < G_N_ELEMENTS (domains); i++) {
    g_autoptr (GError) error = NULL;
    uid_t owner;

    g_assert_null (mf_hook_find_folder (domains[i], f->conf, &owner, &error));
    mf_domain_free (domains[i]);
    g_assert_error (error, MF_ERROR, MF_ERROR_NOT_FOUND);
  }
}

static void
test_link (Fixture *f, gconstpointer data)
{
  g_autofree char *path = g_build_filename (f->root, "pc.ram", NULL), *target = NULL;
  g_autoptr (GError) error = NULL;

  g_assert_true (mf_hook_link (f->root, "pc.ram", "/dev/shm/first", &error));
  g_assert_true (mf_hook_link (f->root, "pc.ram", "/dev/shm/second", &error));
  g_assert_no_error (error);
  target = g_file_read_link (path, NULL);
  g_assert_cmpstr (target, ==, "/dev/shm/second");
  /* What is no link is memory of somebody's. */
  g_assert_cmpint (unlink (path), ==, 0);
  g_assert_true (g_file_set_contents (path, "memory", -1, NULL));
  g_assert_false (mf_hook_link (f->root, "pc.ram", "/dev/shm/third", &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_EXISTS);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add ("/hook/folder", Fixture, NULL, fixture_set_up, test_folder, fixture_tear_down);
  g_test_add ("/hook/long-name", Fixture, NULL, fixture_set_up, test_long_name, fixture_tear_down);
  g_test_add ("/hook/not-a-folder", Fixture, NULL, fixture_set_up, test_not_a_folder, fixture_tear_down);
  g_test_add ("/hook/link", Fixture, NULL, fixture_set_up, test_link, fixture_tear_down);
  return g_test_run ();
}
