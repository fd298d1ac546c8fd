/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guest-fixture.h"
#include "mf-wait.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE_USEC (60 * G_USEC_PER_SEC)
#define STEP_USEC     (2 * 1000)
/* How long a guest is watched that must not count; one that runs counts within microseconds. */
#define LOOK_USEC (100 * 1000)

#define DEFAULT_BACKEND "memory-backend-file,id=mem,size=64M,mem-path=%s,share=on"

/* xor ax,ax; mov ds,ax; again: inc dword [0x8000]; jmp again */
static const guint8 counting_sector[] = { 0x31, 0xc0, 0x8e, 0xd8, 0x66, 0xff, 0x06, 0x00, 0x80, 0xeb, 0xf9 };

/* A disk of a single sector has no geometry that the firmware could boot from. */
#define DISK_BYTES (1 << 20)

static void
write_disk (const char *path)
{
  guint8 sector[512] = { 0 };

  memcpy (sector, counting_sector, sizeof counting_sector);
  sector[510] = 0x55;
  sector[511] = 0xaa;
  g_assert_true (g_file_set_contents (path, (const char *) sector, sizeof sector, NULL));
  g_assert_cmpint (truncate (path, DISK_BYTES), ==, 0);
}

Guest *
guest_new_region (void)
{
  Guest *guest = g_new0 (Guest, 1);
  g_autoptr (GError) error = NULL;
  g_autoptr (MfStore) store = NULL;

  guest->folder = g_mkdtemp (g_strdup ("/dev/shm/memferry-guest-XXXXXX"));
  g_assert_nonnull (guest->folder);
  guest->ram_path = g_build_filename (guest->folder, "ram", NULL);
  store = mf_store_create (guest->ram_path, GUEST_BYTES, &error);
  g_assert_no_error (error);
  guest->region = mf_region_new ("guest", store, &error);
  g_assert_no_error (error);
  return guest;
}

void
guest_start (Guest *guest, const GuestOptions *options)
{
  g_autoptr (GPtrArray) args = g_ptr_array_new_with_free_func (g_free);
  const char *backend = options != NULL && options->backend != NULL ? options->backend : DEFAULT_BACKEND;
  g_autofree char *disk = g_build_filename (guest->folder, "disk", NULL);
  g_auto (GStrv) parts = g_strsplit (backend, "%s", -1);
  g_autoptr (GError) error = NULL;

  write_disk (disk);
  g_ptr_array_add (args, g_strdup ("-machine"));
  g_ptr_array_add (args, g_strdup ("q35,memory-backend=mem"));
  g_ptr_array_add (args, g_strdup ("-object"));
  g_ptr_array_add (args, g_strjoinv (guest->ram_path, parts));
  g_ptr_array_add (args, g_strdup ("-m"));
  g_ptr_array_add (args, g_strdup ("64M"));
  g_ptr_array_add (args, g_strdup ("-drive"));
  g_ptr_array_add (args, g_strdup_printf ("file=%s,format=raw,if=ide", disk));
  for (guint i = 0; options != NULL && options->args != NULL && options->args[i] != NULL; i++)
    g_ptr_array_add (args, g_strdup (options->args[i]));
  if (options != NULL && options->is_target) {
    g_ptr_array_add (args, g_strdup ("-incoming"));
    g_ptr_array_add (args, g_strdup ("defer"));
  }
  g_ptr_array_add (args, NULL);
  guest->qemu = qemu_start ((const char *const *) args->pdata);
  guest->witness = mf_qmp_connect (guest->qemu->witness_path, (const char *const[]){ "STOP", "RESUME", NULL },
                                   PATIENCE_USEC, NULL, &error);
  g_assert_no_error (error);
  guest_renew_program (guest);
}

Guest *
guest_new (const GuestOptions *options)
{
  Guest *guest = guest_new_region ();

  guest_start (guest, options);
  return guest;
}

static void
clear_info (Guest *guest)
{
  g_clear_pointer (&guest->info.description, g_free);
  g_clear_pointer (&guest->info.signature, g_free);
}

void
guest_renew_program (Guest *guest)
{
  if (guest->program != NULL)
    guest->program->ops->free (guest->program);
  guest->program = mf_qemu_new (guest->qemu->qmp_path, &guest->region, 1);
}

void
guest_end_program (Guest *guest)
{
  guest->program->ops->clean_up (guest->program);
  guest_renew_program (guest);
}

void
guest_free (Guest *guest)
{
  static const char *const files[] = { "ram", "disk" };

  if (guest->program != NULL)
    guest->program->ops->free (guest->program);
  g_clear_pointer (&guest->witness, mf_qmp_free);
  g_clear_pointer (&guest->qemu, qemu_free);
  clear_info (guest);
  g_clear_object (&guest->region);
  for (guint i = 0; i < G_N_ELEMENTS (files); i++) {
    g_autofree char *path = g_build_filename (guest->folder, files[i], NULL);

    g_unlink (path);
  }
  g_assert_cmpint (g_rmdir (guest->folder), ==, 0);
  g_free (guest->ram_path);
  g_free (guest->folder);
  g_free (guest);
}

/* --- the driver --- */

void
guest_assert_check (Guest *guest, gboolean is_source)
{
  g_autoptr (GError) error = NULL;

  clear_info (guest);
  guest->program->ops->check (guest->program, is_source, &guest->info, NULL, &error);
  g_assert_no_error (error);
}

void
guest_assert_refused (Guest *guest, gboolean is_source, int code, const char *part)
{
  g_autoptr (GError) error = NULL;
  mf_program_info info = { 0 };

  g_assert_false (guest->program->ops->check (guest->program, is_source, &info, NULL, &error));
  g_assert_error (error, MF_ERROR, code);
  g_test_message ("%s", error->message);
  g_assert_nonnull (strstr (error->message, part));
  g_assert_null (strchr (error->message, '\n'));
  g_assert_null (info.description);
  g_assert_null (info.signature);
  guest_end_program (guest);
}

void
guest_assert_prepare (Guest *guest, gboolean is_source)
{
  g_autoptr (GError) error = NULL;

  guest->program->ops->prepare (guest->program, is_source, NULL, &error);
  g_assert_no_error (error);
}

int
guest_assert_stop_and_send (Guest *guest, gint64 *stopped_usec)
{
  g_autoptr (GError) error = NULL;
  gint64 stopped;
  int ends[2];

  g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
  guest->program->ops->stop_and_send (guest->program, ends[1], ends[0], stopped_usec != NULL ? stopped_usec : &stopped,
                                      NULL, &error);
  g_assert_no_error (error);
  return ends[0];
}

void
guest_assert_roll_back (Guest *guest)
{
  g_autoptr (GError) error = NULL;

  guest->program->ops->roll_back (guest->program, &error);
  g_assert_no_error (error);
}

/* --- the witness --- */

static JsonNode *
ask (Guest *guest, const char *command)
{
  g_autoptr (GError) error = NULL;
  JsonNode *answer = mf_qmp_call (guest->witness, command, NULL, PATIENCE_USEC, NULL, &error);

  g_assert_no_error (error);
  return answer;
}

void
guest_do (Guest *guest, const char *command)
{
  json_node_free (ask (guest, command));
}

char *
guest_run_state (Guest *guest)
{
  g_autoptr (JsonNode) answer = ask (guest, "query-status");

  return g_strdup (mf_json_string (mf_json_node_object (answer), "status"));
}

void
guest_await_run_state (Guest *guest, const char *state)
{
  gint64 deadline_usec = mf_deadline_after (PATIENCE_USEC);
  g_autofree char *now = guest_run_state (guest);

  while (!g_str_equal (now, state)) {
    if (g_get_monotonic_time () > deadline_usec)
      g_assert_cmpstr (now, ==, state);
    mf_wait_fd (-1, 0, mf_deadline_after (STEP_USEC), NULL, NULL);
    g_free (now);
    now = guest_run_state (guest);
  }
}

gboolean
guest_capability (Guest *guest, const char *name)
{
  g_autoptr (JsonNode) answer = ask (guest, "query-migrate-capabilities");
  JsonArray *array = mf_json_node_array (answer);

  for (guint i = 0; i < json_array_get_length (array); i++)
    if (g_str_equal (mf_json_string (mf_json_element (array, i), "capability"), name))
      return mf_json_bool (mf_json_element (array, i), "state");
  g_assert_not_reached ();
}

gboolean
guest_set_capability (Guest *guest, const char *name, gboolean on)
{
  g_autofree char *text =
      g_strdup_printf ("{\"capabilities\": [{\"capability\": \"%s\", \"state\": %s}]}", name, on ? "true" : "false");

  return mf_qmp_do (guest->witness, "migrate-set-capabilities", json_from_string (text, NULL), PATIENCE_USEC, NULL,
                    NULL);
}

gint64
guest_parameter (Guest *guest, const char *name)
{
  g_autoptr (JsonNode) answer = ask (guest, "query-migrate-parameters");

  return mf_json_int (mf_json_node_object (answer), name);
}

void
guest_assert_untouched (Guest *guest)
{
  g_autoptr (JsonNode) answer = ask (guest, "query-migrate");
  const char *status = mf_json_string (mf_json_node_object (answer), "status");

  g_assert_false (guest_capability (guest, "x-ignore-shared"));
  g_assert_false (guest_capability (guest, "pause-before-switchover"));
  g_assert_false (guest_capability (guest, "events"));
  g_assert_cmpint (guest_parameter (guest, "downtime-limit"), ==, 300);
  g_assert_cmpint (guest_parameter (guest, "max-bandwidth"), ==, 128 << 20);
  g_assert_true (status == NULL || g_str_equal (status, "cancelled") || g_str_equal (status, "failed") ||
                 g_str_equal (status, "completed"));
}

/* --- the guest --- */

guint32
guest_counter (Guest *guest)
{
  guint32 value = 0;
  int fd = open (guest->ram_path, O_RDONLY | O_CLOEXEC);

  g_assert_cmpint (pread (fd, &value, sizeof value, COUNTER_OFFSET), ==, sizeof value);
  close (fd);
  return GUINT32_FROM_LE (value);
}

void
guest_await_counting (Guest *guest)
{
  gint64 deadline_usec = mf_deadline_after (PATIENCE_USEC);
  guint32 first = guest_counter (guest);

  while (guest_counter (guest) == first) {
    g_assert_cmpint (g_get_monotonic_time (), <, deadline_usec);
    mf_wait_fd (-1, 0, mf_deadline_after (STEP_USEC), NULL, NULL);
  }
}

void
guest_assert_not_counting (Guest *guest)
{
  guint32 first = guest_counter (guest);
  gint64 end_usec = mf_deadline_after (LOOK_USEC);

  while (g_get_monotonic_time () < end_usec) {
    g_assert_cmpuint (guest_counter (guest), ==, first);
    mf_wait_fd (-1, 0, mf_deadline_after (STEP_USEC), NULL, NULL);
  }
}

void
guest_copy_ram (Guest *from, Guest *to)
{
  g_autofree char *bytes = NULL;
  gsize n_bytes;
  int fd = open (to->ram_path, O_WRONLY | O_CLOEXEC);

  g_assert_true (g_file_get_contents (from->ram_path, &bytes, &n_bytes, NULL));
  for (gsize done = 0; done < n_bytes;) {
    ssize_t n = pwrite (fd, bytes + done, n_bytes - done, done);

    g_assert_cmpint (n, >, 0);
    done += n;
  }
  close (fd);
}
