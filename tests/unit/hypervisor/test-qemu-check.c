/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the driver finds out about a QEMU, and what it refuses: before anything is changed, and with the reason. */
#include "guest-fixture.h"
#include "mf-wait.h"
#include "monitor-fixture.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

static void
assert_line (const char *text, const char *line)
{
  g_auto (GStrv) lines = g_strsplit (text, "\n", -1);

  if (!g_strv_contains ((const char *const *) lines, line))
    g_error ("\"%s\" is not in:\n%s", line, text);
}

static void
test_info (void)
{
  static const char *const args[] = {
    "-device", "virtio-rng-pci,id=rng,addr=5", "-device", "virtio-balloon-pci", "-name", "web1", NULL
  };
  g_autoptr (Guest) guest = NULL;
  g_autofree char *pid = NULL;

  if (!qemu_is_there ())
    return;
  guest = guest_new (&(GuestOptions){ .args = args });
  guest_assert_check (guest, TRUE);
  g_test_message ("%s:\n%s", guest->info.description, guest->info.signature);
  g_assert_true (guest->info.is_running);
  g_assert_false (guest->info.drains_for_scans);
  g_assert_false (guest->info.switchover_ack);
  pid = g_strdup_printf (" \"web1\", pid %s", g_subprocess_get_identifier (guest->qemu->process));
  g_assert_true (g_str_has_prefix (guest->info.description, "QEMU "));
  g_assert_true (g_str_has_suffix (guest->info.description, pid));
  assert_line (guest->info.signature, "number of CPUs=1");
  assert_line (guest->info.signature, "RAM \"mem\"=67108864 bytes, region number 1");
  assert_line (guest->info.signature, "device \"rng\"=virtio-rng-pci on pcie.0 at 05.0");
  assert_line (guest->info.signature, "device \"device[0]\"=virtio-balloon-pci on pcie.0 at 01.0");
  assert_line (guest->info.signature, "capability switchover-ack=off");
  guest_end_program (guest);
  guest_assert_untouched (guest);
}

/* Source and target of the same make say the same, whatever their state. */
static void
test_signatures (void)
{
  static const char *const other[] = { "-device", "virtio-rng-pci", NULL };
  g_autoptr (Guest) source = NULL;
  g_autoptr (Guest) target = NULL;
  g_autoptr (Guest) different = NULL;

  if (!qemu_is_there ())
    return;
  source = guest_new (NULL);
  target = guest_new (&(GuestOptions){ .is_target = TRUE });
  different = guest_new (&(GuestOptions){ .is_target = TRUE, .args = other });
  guest_assert_check (source, TRUE);
  guest_assert_check (target, FALSE);
  guest_assert_check (different, FALSE);
  g_assert_cmpstr (source->info.signature, ==, target->info.signature);
  g_assert_cmpstr (source->info.signature, !=, different->info.signature);
}

static void
test_paused_guest (void)
{
  g_autoptr (Guest) guest = NULL;

  if (!qemu_is_there ())
    return;
  guest = guest_new (NULL);
  guest_do (guest, "stop");
  guest_assert_check (guest, TRUE);
  g_assert_false (guest->info.is_running);
}

/* --- RAM --- */

static void
test_refused_backends (void)
{
  static const struct {
    const char *backend, *part;
  } cases[] = {
    { "memory-backend-ram,id=mem,size=64M", "not a named file but memory-backend-ram" },
    { "memory-backend-ram,id=mem,size=64M,share=on", "not a named file but memory-backend-ram" },
    { "memory-backend-memfd,id=mem,size=64M", "not a named file but memory-backend-memfd" },
    { "memory-backend-file,id=mem,size=64M,mem-path=%s", "private to QEMU (share=off)" },
    { "memory-backend-file,id=mem,size=64M,mem-path=%s,share=off", "private to QEMU (share=off)" },
    { "memory-backend-file,id=mem,size=64M,mem-path=%s.other,share=on", "not of a region that is to move" },
  };

  if (!qemu_is_there ())
    return;
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    g_autoptr (Guest) guest = guest_new (&(GuestOptions){ .backend = cases[i].backend });
    g_autofree char *other = g_strconcat (guest->ram_path, ".other", NULL);

    guest_assert_refused (guest, TRUE, MF_ERROR_PROGRAM, cases[i].part);
    guest_assert_untouched (guest);
    g_unlink (other);
  }
}

static void
test_plain_ram (void)
{
  static const char *const args[] = { "-machine", "q35", "-m", "64M", NULL };
  g_autoptr (Guest) guest = NULL;
  Qemu *plain;

  if (!qemu_is_there ())
    return;
  guest = guest_new (NULL);
  plain = qemu_start (args);
  guest->program->ops->free (guest->program);
  guest->program = mf_qemu_new (plain->qmp_path, &guest->region, 1);
  guest_assert_refused (guest, TRUE, MF_ERROR_PROGRAM, "\"pc.ram\" is not a named file");
  qemu_free (plain);
}

static void
test_other_size (void)
{
  static const char *const args[] = { "-m", "32M", NULL };
  g_autoptr (Guest) guest = NULL;

  if (!qemu_is_there ())
    return;
  guest = guest_new (
      &(GuestOptions){ .backend = "memory-backend-file,id=mem,size=32M,mem-path=%s,share=on", .args = args });
  guest_assert_refused (guest, TRUE, MF_ERROR_PROGRAM, "has 33554432 bytes, but region guest has 67108864");
}

static void
test_more_ram (void)
{
  static const char *const args[] = { "-object", "memory-backend-ram,id=more,size=1M", NULL };
  g_autoptr (Guest) guest = NULL;

  if (!qemu_is_there ())
    return;
  guest = guest_new (&(GuestOptions){ .args = args });
  guest_assert_refused (guest, TRUE, MF_ERROR_PROGRAM, "the guest's RAM \"more\" is not a named file");
}

static void
test_region_of_nobody (void)
{
  g_autoptr (Guest) guest = NULL;
  g_autoptr (Guest) other = NULL;
  MfRegion *both[2];

  if (!qemu_is_there ())
    return;
  guest = guest_new (NULL);
  other = guest_new_region ();
  both[0] = other->region;
  both[1] = guest->region;
  guest->program->ops->free (guest->program);
  guest->program = mf_qemu_new (guest->qemu->qmp_path, both, 2);
  guest_assert_refused (guest, TRUE, MF_ERROR_PROGRAM, "region guest is not RAM of this guest");
}

/* The file was removed and made anew since QEMU started: the path is right, the memory is not. */
static void
test_replaced_file (void)
{
  g_autoptr (Guest) guest = NULL;
  g_autoptr (MfStore) store = NULL;
  g_autoptr (GError) error = NULL;

  if (!qemu_is_there ())
    return;
  guest = guest_new (NULL);
  g_assert_cmpint (g_unlink (guest->ram_path), ==, 0);
  store = mf_store_create (guest->ram_path, GUEST_BYTES, &error);
  g_assert_no_error (error);
  g_clear_object (&guest->region);
  guest->region = mf_region_new ("guest", store, &error);
  g_assert_no_error (error);
  guest_renew_program (guest);
  guest_assert_refused (guest, TRUE, MF_ERROR_PROGRAM, "is another file than the one that is at");
}

/* --- devices --- */

/* A real vhost-user disk: its process writes to the guest's memory itself. */
static void
test_vhost_user_disk (void)
{
  g_autofree char *daemon = g_find_program_in_path ("qemu-storage-daemon");
  g_autofree char *folder = g_dir_make_tmp ("memferry-vhost-XXXXXX", NULL);
  g_autofree char *path = g_build_filename (folder, "disk", NULL);
  g_autofree char *export = g_strdup_printf ("type=vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path=%s", path);
  g_autofree char *chardev = g_strdup_printf ("socket,id=vu,path=%s", path);
  const char *const args[] = { "-chardev", chardev, "-device", "vhost-user-blk-pci,chardev=vu,id=fast", NULL };
  const char *const storage[] = { daemon,     "--blockdev", "driver=null-co,node-name=n,size=1048576",
                                  "--export", export,       NULL };
  g_autoptr (GSubprocess) process = NULL;
  gint64 deadline_usec = mf_deadline_after (20 * G_USEC_PER_SEC);

  if (!qemu_is_there ())
    return;
  if (daemon == NULL) {
    g_test_skip ("no qemu-storage-daemon here");
    return;
  }
  process = spawn (storage);
  while (!g_file_test (path, G_FILE_TEST_EXISTS)) {
    g_assert_cmpint (g_get_monotonic_time (), <, deadline_usec);
    mf_wait_fd (-1, 0, mf_deadline_after (5000), NULL, NULL);
  }
  {
    g_autoptr (Guest) guest = guest_new (&(GuestOptions){ .args = args });

    guest_assert_refused (guest, TRUE, MF_ERROR_NOT_SUPPORTED, "device \"fast\" (vhost-user-blk-pci)");
    guest_assert_untouched (guest);
  }
  g_subprocess_force_exit (process);
  g_subprocess_wait (process, NULL, NULL);
  g_unlink (path);
  g_rmdir (folder);
}

static void
test_vhost_user_object (void)
{
  g_autoptr (Guest) guest = guest_new_region ();
  g_autofree char *path = g_build_filename (guest->folder, "vu", NULL);
  g_autofree char *chardev = g_strdup_printf ("socket,id=vu,path=%s,server=on,wait=off", path);
  const char *const args[] = { "-chardev", chardev, "-object", "cryptodev-vhost-user,id=crypt,chardev=vu", NULL };

  if (qemu_is_there ()) {
    guest_start (guest, &(GuestOptions){ .args = args });
    guest_assert_refused (guest, TRUE, MF_ERROR_NOT_SUPPORTED, "device \"crypt\" (cryptodev-vhost-user)");
  }
  g_unlink (path);
}

/* --- what QEMU would say of devices that this machine can't have --- */

#define CAPABILITIES                                                                                                   \
  "{\"return\": [{\"capability\": \"x-ignore-shared\", \"state\": false}, {\"capability\": \"events\", \"state\": "    \
  "false}, {\"capability\": \"pause-before-switchover\", \"state\": false}], \"id\": @}\n"
#define EMPTY "{\"return\": [], \"id\": @}\n"
/* Up to the devices, of a guest without RAM. */
#define RUNNING "{\"return\": {\"status\": \"running\", \"running\": true}, \"id\": @}\n"
#define MACHINE "{\"return\": \"test-machine\", \"id\": @}\n"
/* clang-format off */
#define UP_TO_DEVICES \
  HELLO, { "query-migrate\"", OK }, { "query-status", RUNNING }, { "query-migrate-parameters", OK }, \
  { "query-migrate-capabilities", CAPABILITIES }, { "qom-get", MACHINE }, { "query-cpus-fast", EMPTY }, \
  { "query-memdev", EMPTY }
/* clang-format on */

static void
assert_monitor_refused (const MonitorStep *script, int code, const char *part)
{
  g_autoptr (Monitor) monitor = monitor_new (script, FALSE);
  mf_program *program = mf_qemu_new (monitor_path (monitor), NULL, 0);
  g_autoptr (GError) error = NULL;
  mf_program_info info;

  g_assert_false (program->ops->check (program, TRUE, &info, NULL, &error));
  g_assert_error (error, MF_ERROR, code);
  g_test_message ("%s", error->message);
  g_assert_nonnull (strstr (error->message, part));
  program->ops->clean_up (program);
  program->ops->free (program);
}

static void
test_devices_of_others (void)
{
  static const MonitorStep vfio[] = {
    UP_TO_DEVICES,
    { "/machine/peripheral\"",
      "{\"return\": [{\"name\": \"type\", \"type\": \"string\"}, {\"name\": \"gpu\", \"type\": "
      "\"child<vfio-pci>\"}], \"id\": @}\n" },
    { NULL, NULL },
  };
  static const MonitorStep network[] = {
    UP_TO_DEVICES,
    { "/machine/peripheral\"", EMPTY },
    { "/machine/peripheral-anon", EMPTY },
    { "/machine/unattached", EMPTY },
    { "/objects", EMPTY },
    { "info network", "{\"return\": \"virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci\\r\\n \\\\ net7: "
                      "index=0,type=vhost-user,vhost-user0 to chr\\r\\n\", \"id\": @}\n" },
    { NULL, NULL },
  };
  static const MonitorStep disk[] = {
    UP_TO_DEVICES,
    { "/machine/peripheral\"", EMPTY },
    { "/machine/peripheral-anon", EMPTY },
    { "/machine/unattached", EMPTY },
    { "/objects", EMPTY },
    { "info network", "{\"return\": \"\", \"id\": @}\n" },
    { "query-named-block-nodes", "{\"return\": [{\"node-name\": \"d\", \"drv\": \"nvme\"}], \"id\": @}\n" },
    { NULL, NULL },
  };

  assert_monitor_refused (vfio, MF_ERROR_NOT_SUPPORTED, "device \"gpu\" (vfio-pci)");
  assert_monitor_refused (network, MF_ERROR_NOT_SUPPORTED, "device \"net7\" (vhost-user)");
  assert_monitor_refused (disk, MF_ERROR_NOT_SUPPORTED, "device \"d\" (nvme)");
}

static void
test_old_qemu (void)
{
  static const MonitorStep script[] = {
    HELLO,
    { "query-migrate\"", OK },
    { "query-status", RUNNING },
    { "query-migrate-parameters", OK },
    { "query-migrate-capabilities", EMPTY },
    { NULL, NULL },
  };

  assert_monitor_refused (script, MF_ERROR_NOT_SUPPORTED, "does not know the migration capability x-ignore-shared");
}

/* A guest that QEMU itself would not migrate. */
static void
test_blocked (void)
{
  static const MonitorStep script[] = {
    HELLO,
    { "query-migrate\"", "{\"return\": {\"blocked-reasons\": [\"it is made of glass\"]}, \"id\": @}\n" },
    { NULL, NULL },
  };

  assert_monitor_refused (script, MF_ERROR_PROGRAM, "can't be migrated: it is made of glass");
}

/* A QEMU to come, whose capabilities are parameters. */
static void
test_capabilities_as_parameters (void)
{
  static const char refused[] = "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"gone\"}, \"id\": @}\n";
  static const char parameters[] =
      "{\"return\": {\"x-ignore-shared\": false, \"events\": false, \"pause-before-switchover\": false, "
      "\"max-bandwidth\": 5, \"downtime-limit\": 6}, \"id\": @}\n";
  static const MonitorStep script[] = {
    HELLO,
    { "query-migrate\"", OK },
    { "query-status", RUNNING },
    { "query-migrate-parameters", parameters },
    { "query-migrate-capabilities", refused },
    { "qom-get", MACHINE },
    { "query-cpus-fast", EMPTY },
    { "query-memdev", EMPTY },
    { "qom-list", EMPTY },
    { "qom-list", EMPTY },
    { "qom-list", EMPTY },
    { "qom-list", EMPTY },
    { "info network", "{\"return\": \"\", \"id\": @}\n" },
    { "query-named-block-nodes", EMPTY },
    { "qom-list", EMPTY },
    { "qom-list", EMPTY },
    { "query-name", OK },
    { "query-migrate-parameters", parameters },
    { "\"downtime-limit\":", OK },
    { "migrate-set-capabilities", refused },
    { "\"x-ignore-shared\":true", OK },
    { "migrate-set-capabilities", refused },
    { "\"x-ignore-shared\":false", OK },
    { "\"max-bandwidth\":5,\"downtime-limit\":6", OK },
    { NULL, NULL },
  };
  g_autoptr (Monitor) monitor = monitor_new (script, FALSE);
  mf_program *program = mf_qemu_new (monitor_path (monitor), NULL, 0);
  g_autoptr (GError) error = NULL;
  mf_program_info info;

  program->ops->check (program, TRUE, &info, NULL, &error);
  g_assert_no_error (error);
  program->ops->prepare (program, TRUE, NULL, &error);
  g_assert_no_error (error);
  program->ops->clean_up (program);
  program->ops->free (program);
  g_free (info.description);
  g_free (info.signature);
  monitor_await_script (monitor);
}

/* --- disks --- */

static void
test_direct_disks (void)
{
  static const char *const buffered[] = { "-blockdev", "driver=null-co,node-name=n", NULL };
  static const char *const direct[] = { "-blockdev", "driver=null-co,node-name=n,cache.direct=on", NULL };
  static const char *const nested[] = {
    "-blockdev", "driver=raw,node-name=top,file.driver=null-co,file.cache.direct=on,file.node-name=below", NULL
  };
  static const struct {
    const char *const *args;
    gboolean drains;
  } cases[] = { { buffered, FALSE }, { direct, TRUE }, { nested, TRUE } };

  if (!qemu_is_there ())
    return;
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    g_autoptr (Guest) guest = guest_new (&(GuestOptions){ .args = cases[i].args });

    guest_assert_check (guest, TRUE);
    g_assert_cmpint (guest->info.drains_for_scans, ==, cases[i].drains);
  }
}

/* --- states --- */

static void
test_wrong_roles (void)
{
  g_autoptr (Guest) source = NULL;
  g_autoptr (Guest) target = NULL;
  g_autoptr (Guest) listening = NULL;
  g_autofree char *path = NULL;
  g_autofree char *uri = NULL;
  const char *args[] = { "-incoming", NULL, NULL };

  if (!qemu_is_there ())
    return;
  source = guest_new (NULL);
  target = guest_new (&(GuestOptions){ .is_target = TRUE });
  guest_assert_refused (source, FALSE, MF_ERROR_PROGRAM, "does not wait for a migration (it is running)");
  guest_assert_refused (target, TRUE, MF_ERROR_PROGRAM, "waiting for a migration itself");

  listening = guest_new_region ();
  path = g_build_filename (listening->folder, "incoming", NULL);
  uri = g_strdup_printf ("unix:%s", path);
  args[1] = uri;
  guest_start (listening, &(GuestOptions){ .args = args });
  guest_assert_refused (listening, FALSE, MF_ERROR_PROGRAM, "start the destination with -incoming defer");
  g_unlink (path);
}

static void
test_migrating_already (void)
{
  g_autoptr (Guest) guest = NULL;
  mf_program *second;
  g_autoptr (GError) error = NULL;
  mf_program_info info;
  int fd;

  if (!qemu_is_there ())
    return;
  guest = guest_new (NULL);
  guest_assert_check (guest, TRUE);
  guest_assert_prepare (guest, TRUE);
  fd = guest_assert_stop_and_send (guest, NULL);
  /* At the witness's monitor, which serves one client at a time too. */
  g_clear_pointer (&guest->witness, mf_qmp_free);
  second = mf_qemu_new (guest->qemu->witness_path, &guest->region, 1);
  g_assert_false (second->ops->check (second, TRUE, &info, NULL, &error));
  g_test_message ("%s", error->message);
  g_assert_nonnull (strstr (error->message, "migrating already (pre-switchover)"));
  second->ops->clean_up (second);
  second->ops->free (second);
  close (fd);
}

static void
test_no_qemu (void)
{
  mf_program *program = mf_qemu_new ("/nonexistent/qmp", NULL, 0);
  g_autoptr (GError) error = NULL;
  mf_program_info info;

  g_assert_false (program->ops->check (program, TRUE, &info, NULL, &error));
  g_assert_error (error, MF_ERROR, MF_ERROR_PROGRAM);
  program->ops->clean_up (program);
  program->ops->free (program);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/qemu-check/info", test_info);
  g_test_add_func ("/qemu-check/signatures", test_signatures);
  g_test_add_func ("/qemu-check/paused-guest", test_paused_guest);
  g_test_add_func ("/qemu-check/refused-backends", test_refused_backends);
  g_test_add_func ("/qemu-check/plain-ram", test_plain_ram);
  g_test_add_func ("/qemu-check/other-size", test_other_size);
  g_test_add_func ("/qemu-check/more-ram", test_more_ram);
  g_test_add_func ("/qemu-check/region-of-nobody", test_region_of_nobody);
  g_test_add_func ("/qemu-check/replaced-file", test_replaced_file);
  g_test_add_func ("/qemu-check/vhost-user-disk", test_vhost_user_disk);
  g_test_add_func ("/qemu-check/vhost-user-object", test_vhost_user_object);
  g_test_add_func ("/qemu-check/devices-of-others", test_devices_of_others);
  g_test_add_func ("/qemu-check/old-qemu", test_old_qemu);
  g_test_add_func ("/qemu-check/blocked", test_blocked);
  g_test_add_func ("/qemu-check/capabilities-as-parameters", test_capabilities_as_parameters);
  g_test_add_func ("/qemu-check/direct-disks", test_direct_disks);
  g_test_add_func ("/qemu-check/wrong-roles", test_wrong_roles);
  g_test_add_func ("/qemu-check/migrating-already", test_migrating_already);
  g_test_add_func ("/qemu-check/no-qemu", test_no_qemu);
  return g_test_run ();
}
