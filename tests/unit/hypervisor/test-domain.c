/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Definitions of domains as libvirt writes them, and what becomes of them. */
#include "hypervisor/mf-domain.h"

#include <string.h>

static const mf_domain_place host_a = {
  .preload = "/usr/lib/memferry/libmemferry-preload.so",
  .handover = "/run/memferry/handover.sock",
  .store_dir = "/dev/shm/memferry",
  .peer = "tcp://a",
};

static char *
read_file (const char *name)
{
  g_autofree char *path = g_test_build_filename (G_TEST_DIST, "domains", name, NULL);
  g_autoptr (GError) error = NULL;
  char *text = NULL;

  g_file_get_contents (path, &text, NULL, &error);
  g_assert_no_error (error);
  return text;
}

static mf_domain *
parse (const char *xml)
{
  g_autoptr (GError) error = NULL;
  mf_domain *domain = mf_domain_parse (xml, &error);

  g_assert_no_error (error);
  return domain;
}

static mf_domain *
parse_file (const char *name)
{
  g_autofree char *xml = read_file (name);

  return parse (xml);
}

static void
enable (mf_domain *domain, const mf_domain_place *place)
{
  g_autoptr (GError) error = NULL;

  mf_domain_enable (domain, place, &error);
  g_assert_no_error (error);
}

static void
assert_xml (mf_domain *domain, const char *expected)
{
  g_autofree char *xml = mf_domain_to_xml (domain);

  g_assert_cmpstr (xml, ==, expected);
}

/* The file with `from` replaced by `to`, which must be in it. */
static mf_domain *
parse_changed (const char *name, const char *from, const char *to)
{
  g_autofree char *xml = read_file (name);
  g_auto (GStrv) parts = g_strsplit (xml, from, 2);
  g_autofree char *changed = NULL;

  g_assert_cmpuint (g_strv_length (parts), ==, 2);
  changed = g_strconcat (parts[0], to, parts[1], NULL);
  return parse (changed);
}

static void
test_what_is_put_in (void)
{
  g_autoptr (mf_domain) domain = parse_file ("plain.xml");
  g_autofree char *expected = read_file ("plain-enabled.xml"), *peer = NULL;

  g_assert_false (mf_domain_is_enabled (domain));
  enable (domain, &host_a);
  assert_xml (domain, expected);
  g_assert_true (mf_domain_is_enabled (domain));
  peer = mf_domain_dup_peer (domain);
  g_assert_cmpstr (peer, ==, "tcp://a");
}

static void
test_twice_is_once (void)
{
  g_autoptr (mf_domain) domain = parse_file ("plain-enabled.xml");
  g_autofree char *expected = read_file ("plain-enabled.xml");

  enable (domain, &host_a);
  assert_xml (domain, expected);
}

/* What was there comes back, whatever was there. */
static void
test_undone (void)
{
  static const char *const files[] = { "plain.xml", "numa.xml" };

  for (guint i = 0; i < G_N_ELEMENTS (files); i++) {
    g_autoptr (mf_domain) untouched = parse_file (files[i]), domain = parse_file (files[i]);
    g_autofree char *before = mf_domain_to_xml (untouched), *after = NULL;
    const char *declared = " xmlns:qemu=\"http://libvirt.org/schemas/domain/qemu/1.0\"";
    const char *place;

    mf_domain_disable (domain);
    assert_xml (domain, before);
    enable (domain, &host_a);
    mf_domain_disable (domain);
    after = mf_domain_to_xml (domain);
    /* The declaration stays, which says nothing; libvirt leaves it out when nothing needs it. */
    place = strstr (after, declared);
    if (!strstr (before, declared) && place)
      memmove ((char *) place, place + strlen (declared), strlen (place + strlen (declared)) + 1);
    g_assert_cmpstr (after, ==, before);
  }
}

static void
test_numa (void)
{
  g_autoptr (mf_domain) domain = parse_file ("numa.xml");
  g_autoptr (GError) error = NULL;
  g_autoptr (GArray) memory = mf_domain_list_memory (domain, &error);
  g_autofree char *xml = NULL;
  static const char *const parts[] = {
    "<source type=\"file\"/>",
    "<access mode=\"shared\"/>",
    "<cell id=\"0\" cpus=\"0\" memory=\"1\" unit=\"GiB\" memAccess=\"shared\"/>",
    "<cell id=\"1\" cpus=\"1\" memory=\"2097152\" unit=\"KiB\" memAccess=\"shared\"/>",
    "value=\"/usr/lib/libtheirs.so:/usr/lib/memferry/libmemferry-preload.so\"",
    "value=\"/dev/shm/memferry/db.node0:/dev/shm/memferry/db.node1\"",
    "<memferry:before backing=\"yes\" source=\"memfd\" access=\"private\" cells=\"private -\"/>",
    "text  with   space",
  };

  g_assert_no_error (error);
  g_assert_cmpuint (memory->len, ==, 2);
  for (guint i = 0; i < memory->len; i++) {
    const mf_domain_memory *m = &g_array_index (memory, mf_domain_memory, i);

    g_assert_cmpstr (m->file, ==, i == 0 ? "ram-node0" : "ram-node1");
    g_assert_cmpstr (m->region, ==, i == 0 ? "db.node0" : "db.node1");
    g_assert_cmpuint (m->size_bytes, ==, (guint64) (i + 1) << 30);
  }
  g_assert_cmpuint (mf_domain_get_id (domain), ==, 7);
  enable (domain, &host_a);
  xml = mf_domain_to_xml (domain);
  for (guint i = 0; i < G_N_ELEMENTS (parts); i++)
    if (!strstr (xml, parts[i]))
      g_error ("%s is not in %s", parts[i], xml);
}

/* What somebody has changed since is theirs. */
static void
test_changed_since (void)
{
  g_autoptr (mf_domain) domain = parse_changed ("plain-enabled.xml", "<access mode=\"shared\"/>",
                                                "<access mode=\"private\"/>\n    <nosharepages/>");
  g_auto (GStrv) gaps = mf_domain_find_gaps (domain);
  g_autofree char *xml = NULL;

  g_assert_cmpstr (gaps[0], ==, "its memory is not shared");
  g_assert_null (gaps[1]);
  mf_domain_disable (domain);
  xml = mf_domain_to_xml (domain);
  g_assert_nonnull (strstr (xml, "<access mode=\"private\"/>"));
  g_assert_nonnull (strstr (xml, "<nosharepages/>"));
  g_assert_null (strstr (xml, "<source type=\"file\"/>"));
  g_assert_null (strstr (xml, "memferry"));
}

static void
test_gaps (void)
{
  static const struct {
    const char *from, *to, *gap;
  } holes[] = {
    { "<source type=\"file\"/>", "", "its memory is not in a file" },
    { "name=\"LD_PRELOAD\"", "name=\"OTHER\"", "the preload library is not in QEMU's environment" },
    { "name=\"MEMFERRY_HANDOVER\"", "name=\"OTHER\"", "the preload library is not in QEMU's environment" },
    { "id=mfqmp", "id=other", "QEMU has no monitor for memferry" },
    { "mode=control", "mode=readline", "QEMU has no monitor for memferry" },
  };
  g_autoptr (mf_domain) whole = parse_file ("plain-enabled.xml");
  g_auto (GStrv) none = mf_domain_find_gaps (whole);

  g_assert_cmpuint (g_strv_length (none), ==, 0);
  for (guint i = 0; i < G_N_ELEMENTS (holes); i++) {
    g_autoptr (mf_domain) domain = parse_changed ("plain-enabled.xml", holes[i].from, holes[i].to);
    g_auto (GStrv) gaps = mf_domain_find_gaps (domain);

    g_assert_cmpuint (g_strv_length (gaps), ==, 1);
    g_assert_cmpstr (gaps[0], ==, holes[i].gap);
  }
}

/* On another host its files are elsewhere; the rest stays. */
static void
test_settled (void)
{
  static const mf_domain_place host_b = {
    .preload = "/opt/libmemferry-preload.so",
    .handover = "/run/b/handover.sock",
    .store_dir = "/dev/shm/b",
  };
  g_autoptr (mf_domain) domain = parse_file ("plain-enabled.xml"), plain = parse_file ("plain.xml");
  g_autofree char *expected = NULL, *peer = NULL, *xml = NULL;
  g_autoptr (GError) error = NULL;

  g_assert_true (mf_domain_settle (domain, &host_b, &error));
  g_assert_no_error (error);
  peer = mf_domain_dup_peer (domain);
  g_assert_null (peer);
  xml = mf_domain_to_xml (domain);
  g_assert_nonnull (strstr (xml, "name=\"LD_PRELOAD\" value=\"/opt/libmemferry-preload.so\""));
  g_assert_nonnull (strstr (xml, "name=\"MEMFERRY_HANDOVER\" value=\"/run/b/handover.sock\""));
  g_assert_nonnull (strstr (xml, "name=\"MEMFERRY_REGION_FILE\" value=\"/dev/shm/b/web_1\""));
  mf_domain_settle (domain, &host_a, &error);
  g_assert_no_error (error);
  expected = read_file ("plain-enabled.xml");
  assert_xml (domain, expected);
  g_assert_false (mf_domain_settle (plain, &host_b, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_INVALID);
}

/* A clone has the definition of the original, and must not take its socket. */
static void
test_renamed (void)
{
  g_autoptr (mf_domain) original = parse_file ("plain-enabled.xml");
  g_autoptr (mf_domain) clone = parse_changed ("plain-enabled.xml", "web 1", "web 2");
  g_auto (GStrv) gaps = mf_domain_find_gaps (clone), none = NULL;
  g_autofree char *xml = NULL;

  g_assert_false (mf_domain_is_of_another_name (original));
  g_assert_true (mf_domain_is_of_another_name (clone));
  g_assert_cmpstr (gaps[0], ==, "it was enabled under another name");
  enable (clone, &host_a);
  g_assert_false (mf_domain_is_of_another_name (clone));
  none = mf_domain_find_gaps (clone);
  g_assert_null (none[0]);
  xml = mf_domain_to_xml (clone);
  g_assert_null (strstr (xml, "web_1"));
}

/* What libvirt is given to replace our element: it adds the namespace to the outer one. */
static void
test_metadata (void)
{
  g_autoptr (mf_domain) domain = parse_file ("plain-enabled.xml");
  g_autofree char *element = mf_domain_dup_metadata (domain, "tcp://b");

  g_assert_cmpstr (element, ==,
                   "<domain peer=\"tcp://b\"><memferry:before xmlns:memferry=\"https://memferry.org/libvirt/1.0\" "
                   "backing=\"no\" source=\"-\" access=\"-\"/></domain>");
}

static void
test_obstacles (void)
{
  static const struct {
    const char *from, *to, *reason;
  } bad[] = {
    { "<memballoon model='none'/>", "<hostdev mode='subsystem' type='pci'/>", "<hostdev>: VFIO" },
    { "<memballoon model='none'/>", "<hostdev mode='subsystem' type='mdev'/>", "<hostdev>: VFIO" },
    { "<interface type='network'>", "<interface type='hostdev'>", "<interface>: VFIO" },
    { "<interface type='network'>", "<interface type='vhostuser'><alias name='net7'/>",
      "<interface> net7: vhost-user" },
    { "<interface type='network'>", "<interface type='vdpa'>", "<interface>: vDPA" },
    { "<disk type='file'", "<disk type='vhostuser'", "<disk> vda: vhost-user" },
    { "<disk type='file'", "<disk type='nvme'", "<disk> vda: VFIO" },
    { "<memballoon model='none'/>", "<filesystem type='mount'><driver type='virtiofs'/></filesystem>", "virtiofs" },
    { "<memballoon model='none'/>", "<video><driver name='vhostuser'/></video>", "<video>: vhost-user" },
    { "<memballoon model='none'/>", "<memory model='dimm'/>", "<memory> dimm: memory that can be plugged" },
    { "<memballoon model='none'/>", "<shmem name='x'/>", "<shmem>: its memory is shared" },
    { "<features>", "<memoryBacking><hugepages/></memoryBacking><features>", "<hugepages>" },
    { "<features>", "<memoryBacking><locked/></memoryBacking><features>", "<locked>" },
    { "<features>", "<memoryBacking><discard/></memoryBacking><features>", "<discard>" },
    { "<features>", "<memoryBacking><allocation mode='immediate'/></memoryBacking><features>", "<allocation" },
    { "<features>", "<cpu><numa><cell id='3' memory='1' discard='yes'/></numa></cpu><features>", "NUMA cell 3" },
    { "<features>", "<launchSecurity type='sev'/><features>", "<launchSecurity>" },
    { "type='kvm'", "type='xen'", "it is of type xen" },
    { "arch='x86_64'", "arch='s390x'", "its architecture is s390x" },
    { "machine='pc-q35-7.2'", "machine='microvm'", "its machine is microvm" },
    { "web 1", "a.region", "its name has .region" },
    { "web 1", "0123456789012345678901234567890123456789012345678901234567890123456789", "its name is too long" },
    { ">196608</memory>", ">much</memory>", "\"much KiB\" is not a size" },
    { ">196608</memory>", ">99999999999999999999</memory>", "is not a size" },
    { "unit='KiB'>196608</memory>", "unit='furlong'>1</memory>", "\"1 furlong\" is not a size" },
  };
  g_autoptr (mf_domain) good = parse_file ("plain.xml");
  g_auto (GStrv) none = mf_domain_find_obstacles (good);

  g_assert_cmpuint (g_strv_length (none), ==, 0);
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++) {
    g_autoptr (mf_domain) domain = parse_changed ("plain.xml", bad[i].from, bad[i].to);
    g_auto (GStrv) found = mf_domain_find_obstacles (domain);
    g_autoptr (GError) error = NULL;
    g_autofree char *before = mf_domain_to_xml (domain);

    g_assert_cmpuint (g_strv_length (found), ==, 1);
    if (!strstr (found[0], bad[i].reason))
      g_error ("\"%s\" is not in \"%s\"", bad[i].reason, found[0]);
    g_assert_false (mf_domain_enable (domain, &host_a, &error));
    g_assert_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED);
    assert_xml (domain, before);
  }
}

static void
test_too_many_cells (void)
{
  GString *cells = g_string_new ("<cpu><numa>");
  g_autoptr (mf_domain) domain = NULL;
  g_auto (GStrv) found = NULL;

  for (guint i = 0; i < 9; i++)
    g_string_append_printf (cells, "<cell id='%u' memory='1024'/>", i);
  g_string_append (cells, "</numa></cpu><features>");
  domain = parse_changed ("plain.xml", "<features>", cells->str);
  found = mf_domain_find_obstacles (domain);
  g_assert_cmpstr (found[0], ==, "it has 9 NUMA cells: at most 8 can be moved");
  g_string_free (cells, TRUE);
}

static void
test_names (void)
{
  static const struct {
    const char *name, *stem;
  } names[] = { { "vm", "vm" }, { "web 1", "web_1" }, { ".x,y=z", "_x_y_z" }, { "ü", "__" }, { "a&amp;b", "a_b" } };

  for (guint i = 0; i < G_N_ELEMENTS (names); i++) {
    g_autoptr (mf_domain) domain = parse_changed ("plain.xml", "web 1", names[i].name);
    g_autofree char *stem = mf_domain_dup_stem (domain), *qmp = mf_domain_dup_qmp_path (domain);
    g_autofree char *expected = g_strdup_printf ("/var/lib/libvirt/qemu/memferry-%s.qmp", names[i].stem);

    g_assert_cmpstr (stem, ==, names[i].stem);
    g_assert_cmpstr (qmp, ==, expected);
    enable (domain, &host_a);
  }
}

static void
test_not_a_domain (void)
{
  static const char *const texts[] = {
    "",
    "text",
    "<domain",
    "<network><name>x</name></network>",
    "<domain/>",
    "<domain><name> </name></domain>",
    "<domain xmlns='urn:x'><name>x</name></domain>",
  };

  for (guint i = 0; i < G_N_ELEMENTS (texts); i++) {
    g_autoptr (GError) error = NULL;

    g_assert_null (mf_domain_parse (texts[i], &error));
    g_assert_error (error, MF_ERROR, MF_ERROR_INVALID);
  }
}

/* Whatever is missing in a definition is no reason to crash. */
static void
test_nearly_empty (void)
{
  g_autoptr (mf_domain) domain = parse ("<domain type='kvm'><name>x</name><os><type arch='x86_64'/></os>"
                                        "<memory>1024</memory></domain>");
  g_auto (GStrv) gaps = mf_domain_find_gaps (domain);

  g_assert_cmpuint (g_strv_length (gaps), ==, 4);
  enable (domain, &host_a);
  g_assert_true (mf_domain_is_enabled (domain));
  mf_domain_disable (domain);
  g_assert_false (mf_domain_is_enabled (domain));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/domain/what-is-put-in", test_what_is_put_in);
  g_test_add_func ("/domain/twice-is-once", test_twice_is_once);
  g_test_add_func ("/domain/undone", test_undone);
  g_test_add_func ("/domain/numa", test_numa);
  g_test_add_func ("/domain/changed-since", test_changed_since);
  g_test_add_func ("/domain/gaps", test_gaps);
  g_test_add_func ("/domain/settled", test_settled);
  g_test_add_func ("/domain/renamed", test_renamed);
  g_test_add_func ("/domain/metadata", test_metadata);
  g_test_add_func ("/domain/obstacles", test_obstacles);
  g_test_add_func ("/domain/too-many-cells", test_too_many_cells);
  g_test_add_func ("/domain/names", test_names);
  g_test_add_func ("/domain/not-a-domain", test_not_a_domain);
  g_test_add_func ("/domain/nearly-empty", test_nearly_empty);
  return g_test_run ();
}
