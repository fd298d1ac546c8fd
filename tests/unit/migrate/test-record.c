/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "migrate/mf-record.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

static const uint8_t session[MF_SESSION_BYTES] = { 0, 1, 2, 0xff, 0x80 };
static const char *const regions[] = { "vm1", "vm1-node1", NULL };

typedef struct {
  char *dir;
} Fixture;

static void
set_up (Fixture *f, gconstpointer unused)
{
  f->dir = g_dir_make_tmp ("mf-record-XXXXXX", NULL);
  g_assert_nonnull (f->dir);
}

static void
tear_down (Fixture *f, gconstpointer unused)
{
  g_autoptr (GDir) dir = g_dir_open (f->dir, 0, NULL);
  const char *name;

  while ((name = g_dir_read_name (dir)) != NULL) {
    g_autofree char *path = g_build_filename (f->dir, name, NULL);

    g_assert_cmpint (g_unlink (path), ==, 0);
  }
  g_assert_cmpint (g_rmdir (f->dir), ==, 0);
  g_free (f->dir);
}

static GPtrArray *
load (Fixture *f, guint expected)
{
  g_autoptr (GError) error = NULL;
  GPtrArray *records = mf_record_load_all (f->dir, &error);

  g_assert_no_error (error);
  g_assert_cmpuint (records->len, ==, expected);
  return records;
}

static void
write_file (Fixture *f, const char *name, const char *text)
{
  g_autofree char *path = g_build_filename (f->dir, name, NULL);

  g_assert_true (g_file_set_contents (path, text, -1, NULL));
}

/* Every phase survives the service that wrote it, and a later phase replaces the one before. */
static void
test_phases (Fixture *f, gconstpointer unused)
{
  g_autoptr (mf_record) record = mf_record_new (session, regions, "tcp://other", "/run/vm1.qmp");

  record->bandwidth = G_GUINT64_CONSTANT (12500000000);
  for (guint phase = MF_PHASE_INCOMING; phase <= MF_PHASE_COMPLETE; phase++) {
    g_autoptr (GPtrArray) records = NULL;
    g_autoptr (GError) error = NULL;
    mf_record *back;

    record->running = phase % 2;
    record->target_dials = phase % 2;
    g_assert_true (mf_record_write (record, f->dir, phase, &error));
    g_assert_no_error (error);
    records = load (f, 1);
    back = g_ptr_array_index (records, 0);
    g_assert_cmpmem (back->session, MF_SESSION_BYTES, session, MF_SESSION_BYTES);
    g_assert_cmpint (back->phase, ==, phase);
    g_assert_cmpint (back->running, ==, phase % 2);
    g_assert_cmpint (back->target_dials, ==, phase % 2);
    g_assert_true (g_strv_equal ((const char *const *) back->regions, regions));
    g_assert_cmpstr (back->peer, ==, "tcp://other");
    g_assert_cmpstr (back->control, ==, "/run/vm1.qmp");
    g_assert_cmpuint (back->bandwidth, ==, record->bandwidth);
  }
  mf_record_remove (record, f->dir);
  g_ptr_array_unref (load (f, 0));
  mf_record_remove (record, f->dir); /* harmless */
}

/* A record that could not be written is not in force: the phase stays what it was. */
static void
test_unwritable (Fixture *f, gconstpointer unused)
{
  g_autoptr (mf_record) record = mf_record_new (session, regions, NULL, NULL);
  g_autofree char *nowhere = g_build_filename (f->dir, "nowhere", NULL);
  g_autoptr (GError) error = NULL;

  g_assert_true (mf_record_write (record, f->dir, MF_PHASE_LEAVING, &error));
  g_assert_false (mf_record_write (record, nowhere, MF_PHASE_HANDED, &error));
  g_assert_nonnull (error);
  g_assert_cmpint (record->phase, ==, MF_PHASE_LEAVING);
}

/* What can't be read is left where it is, and the others are read. */
static void
test_unreadable (Fixture *f, gconstpointer unused)
{
  g_autoptr (mf_record) record = mf_record_new (session, regions, NULL, NULL);
  g_autoptr (GPtrArray) records = NULL;

  g_assert_true (mf_record_write (record, f->dir, MF_PHASE_TAKEN, NULL));
  write_file (f, ".session-00000000000000000000000000000001", "garbage");
  write_file (f, ".session-00000000000000000000000000000002",
              "[memferry session]\nversion=99\nphase=taken\nregions=a;\n");
  write_file (f, ".session-00000000000000000000000000000003",
              "[memferry session]\nversion=1\nphase=gone\nregions=a;\n");
  write_file (f, ".session-0000000000000000000000000000000g",
              "[memferry session]\nversion=1\nphase=taken\nregions=a;\n");
  for (guint i = 0; i < 4; i++)
    g_test_expect_message ("memferry", G_LOG_LEVEL_WARNING, "*.session-*can't be used*");
  /* Half-written files of a service that was killed, and other people's. */
  write_file (f, ".session-00000000000000000000000000000004.ABCDEF", "");
  write_file (f, "vm1", "RAM");
  records = load (f, 1);
  g_test_assert_expected_messages ();
  g_assert_cmpint (((mf_record *) g_ptr_array_index (records, 0))->phase, ==, MF_PHASE_TAKEN);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add ("/record/phases", Fixture, NULL, set_up, test_phases, tear_down);
  g_test_add ("/record/unwritable", Fixture, NULL, set_up, test_unwritable, tear_down);
  g_test_add ("/record/unreadable", Fixture, NULL, set_up, test_unreadable, tear_down);
  return g_test_run ();
}
