/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memferry drain: empties a host. Each guest is moved by a `memferry domain migrate` of its own, a child process, so many at a time: one that hangs or
 * fails is no other's trouble, and ^C reaches all of them.
 */
#include "cli/mf-cli-options.h"
#include "cli/mf-cli-progress.h"
#include "cli/mf-cli-service.h"
#include "cli/mf-command.h"
#include "cli/mf-domain-verdict.h"
#include "cli/mf-drain-plan.h"
#include "cli/mf-quantity.h"
#include "hypervisor/mf-domain.h"
#include <gio/gio.h>
#include <glib-unix.h>
#include <json-glib/json-glib.h>
#include <string.h>
#include <unistd.h>

#define PARALLEL 2
/* What a link is taken to carry when no bandwidth was said: only the order depends on it. */
#define ASSUMED_RATE (G_GUINT64_CONSTANT (1) << 30)

typedef struct {
  char *socket, *uri, *mode, *max_downtime, *bandwidth;
  int parallel, timeout;
  gboolean p2p, persistent, undefine, unsafe, dry_run, as_json;
  guint64 rate; /* 0: no limit */
} drain_words;

static void
drain_words_clear (drain_words *words)
{
  g_free (words->socket);
  g_free (words->uri);
  g_free (words->mode);
  g_free (words->max_downtime);
  g_free (words->bandwidth);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (drain_words, drain_words_clear)

typedef struct {
  const drain_words *words;
  char **destinations;
  guint n_destinations;
  guint64 bytes[MF_DRAIN_MAX_DESTINATIONS]; /* of the guests that went there */
  GPtrArray *waiting;                       /* of mf_drain_guest: in order */
  GPtrArray *moving;                        /* of mover */
  guint moved, failed;
  gboolean stopping;
} drain;

/* A guest that is being moved. */
typedef struct {
  drain *owner;
  mf_drain_guest *guest; /* NULL: it waits again */
  int destination;
  GSubprocess *process;
  GDataInputStream *output;
  gint64 began_usec;
  char *stage;
  guint64 bytes, total, rate, downtime_usec;
} mover;

/* --- telling --- */

static gboolean
has_progress (const drain *self)
{
  return !self->words->as_json && isatty (STDOUT_FILENO);
}

static void
tell (const drain *self, const char *event, const mf_drain_guest *guest, const char *destination, const char *text)
{
  g_autoptr (JsonBuilder) builder = NULL;
  g_autoptr (JsonGenerator) generator = NULL;
  g_autoptr (JsonNode) root = NULL;
  g_autofree char *line = NULL;

  if (has_progress (self))
    mf_cli_progress_clear ();
  if (!self->words->as_json) {
    g_print ("%s: %s\n", guest->name, text);
    return;
  }
  builder = json_builder_new ();
  generator = json_generator_new ();
  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "event");
  json_builder_add_string_value (builder, event);
  json_builder_set_member_name (builder, "domain");
  json_builder_add_string_value (builder, guest->name);
  json_builder_set_member_name (builder, "destination");
  if (destination)
    json_builder_add_string_value (builder, destination);
  else
    json_builder_add_null_value (builder);
  json_builder_set_member_name (builder, "message");
  json_builder_add_string_value (builder, text);
  json_builder_end_object (builder);
  root = json_builder_get_root (builder);
  json_generator_set_root (generator, root);
  line = json_generator_to_data (generator, NULL);
  g_print ("%s\n", line);
}

static void
show_progress (const drain *self)
{
  g_autoptr (GString) line = g_string_new (NULL);

  if (!has_progress (self))
    return;
  for (guint i = 0; i < self->moving->len; i++) {
    const mover *m = self->moving->pdata[i];
    g_autofree char *rate = mf_quantity_format_rate (m->rate);

    g_string_append_printf (line, "%s %s %u%% %s; ", m->guest->name, m->stage ? m->stage : "begins",
                            m->total ? (guint) (100 * MIN (m->bytes, m->total) / m->total) : 0, rate);
  }
  g_string_append_printf (line, "%u to go, %u moved", self->waiting->len, self->moved);
  mf_cli_progress_show (line->str);
}

/* --- moving --- */

static void begin_more (drain *self);

static void
mover_free (mover *m)
{
  g_clear_pointer (&m->guest, mf_drain_guest_free);
  g_clear_object (&m->process);
  g_clear_object (&m->output);
  g_free (m->stage);
  g_free (m);
}

static void
take_status (mover *m, const char *line)
{
  g_autoptr (JsonNode) root = json_from_string (line, NULL);
  JsonObject *job = root && JSON_NODE_HOLDS_OBJECT (root) ? json_node_get_object (root) : NULL;

  if (!job)
    return;
  g_free (m->stage);
  m->stage = g_strdup (json_object_get_string_member_with_default (job, "stage", ""));
  m->bytes = (guint64) json_object_get_int_member_with_default (job, "bytes", 0);
  m->total = (guint64) json_object_get_int_member_with_default (job, "total_bytes", 0);
  m->rate = (guint64) json_object_get_int_member_with_default (job, "rate", 0);
  if (json_object_has_member (job, "downtime_usec") && !json_object_get_null_member (job, "downtime_usec"))
    m->downtime_usec = (guint64) json_object_get_int_member (job, "downtime_usec");
}

static char *
error_of (GSubprocess *process)
{
  GInputStream *stream = g_subprocess_get_stderr_pipe (process);
  char text[4096];
  gsize length = 0;
  const char *colon;

  g_input_stream_read_all (stream, text, sizeof text - 1, &length, NULL, NULL);
  text[length] = '\0';
  g_strchomp (text);
  /* "memferry domain migrate: why" */
  colon = g_str_has_prefix (text, "memferry") ? strstr (text, ": ") : NULL;
  return g_strdup (colon ? colon + 2 : *text ? text : "it was ended");
}

static void
note_moved (mover *m)
{
  drain *self = m->owner;
  g_autofree char *time = mf_quantity_format_usec ((guint64) (g_get_monotonic_time () - m->began_usec));
  g_autofree char *downtime = mf_quantity_format_usec (m->downtime_usec);
  g_autofree char *text =
      g_strdup_printf ("moved to %s in %s, downtime %s", self->destinations[m->destination], time, downtime);

  self->moved++;
  self->bytes[m->destination] += m->guest->size_bytes;
  tell (self, "moved", m->guest, self->destinations[m->destination], text);
}

/* Another destination may take it. */
static void
note_failed (mover *m)
{
  drain *self = m->owner;
  g_autofree char *why = error_of (m->process);
  g_autofree char *text = g_strdup_printf ("not moved to %s: %s", self->destinations[m->destination], why);

  tell (self, "failed", m->guest, self->destinations[m->destination], text);
  m->guest->tried |= G_GUINT64_CONSTANT (1) << m->destination;
  if (!self->stopping && mf_drain_choose (m->guest, self->bytes, self->n_destinations) >= 0)
    g_ptr_array_insert (self->waiting, 0, g_steal_pointer (&m->guest));
  else
    self->failed++;
}

static void
on_ended (GObject *source, GAsyncResult *result, gpointer user_data)
{
  mover *m = user_data;
  drain *self = m->owner;

  g_subprocess_wait_finish (G_SUBPROCESS (source), result, NULL);
  g_ptr_array_remove_fast (self->moving, m);
  if (g_subprocess_get_successful (m->process))
    note_moved (m);
  else
    note_failed (m);
  mover_free (m);
  begin_more (self);
}

static void
on_line (GObject *source, GAsyncResult *result, gpointer user_data)
{
  mover *m = user_data;
  g_autofree char *line = g_data_input_stream_read_line_finish (G_DATA_INPUT_STREAM (source), result, NULL, NULL);

  /* The end of its output is its end, or about to be. */
  if (!line) {
    g_subprocess_wait_async (m->process, NULL, on_ended, m);
    return;
  }
  take_status (m, line);
  show_progress (m->owner);
  g_data_input_stream_read_line_async (m->output, G_PRIORITY_DEFAULT, NULL, on_line, m);
}

/* ^C on a terminal goes to a whole process group; the children get theirs from here, once. */
static void
leave_group (gpointer user_data)
{
  setpgid (0, 0);
}

static GPtrArray *
command_of (const drain *self, const mf_drain_guest *guest, const char *destination)
{
  const drain_words *words = self->words;
  GPtrArray *command = g_ptr_array_new_with_free_func (g_free);

  g_ptr_array_add (command, g_file_read_link ("/proc/self/exe", NULL));
  g_ptr_array_add (command, g_strdup ("domain"));
  g_ptr_array_add (command, g_strdup ("migrate"));
  g_ptr_array_add (command, g_strdup ("--json"));
  g_ptr_array_add (command, g_strdup_printf ("--socket=%s", words->socket));
  if (words->uri)
    g_ptr_array_add (command, g_strdup_printf ("--connect=%s", words->uri));
  if (words->mode)
    g_ptr_array_add (command, g_strdup_printf ("--mode=%s", words->mode));
  if (words->max_downtime)
    g_ptr_array_add (command, g_strdup_printf ("--max-downtime=%s", words->max_downtime));
  if (words->rate)
    g_ptr_array_add (command,
                     g_strdup_printf ("--bandwidth=%" G_GUINT64_FORMAT, MAX (words->rate / words->parallel, 1)));
  if (words->timeout > 0)
    g_ptr_array_add (command, g_strdup_printf ("--timeout=%d", words->timeout));
  if (words->p2p)
    g_ptr_array_add (command, g_strdup ("--p2p"));
  if (words->persistent)
    g_ptr_array_add (command, g_strdup ("--persistent"));
  if (words->undefine)
    g_ptr_array_add (command, g_strdup ("--undefine-source"));
  if (words->unsafe)
    g_ptr_array_add (command, g_strdup ("--unsafe"));
  g_ptr_array_add (command, g_strdup ("--"));
  g_ptr_array_add (command, g_strdup (guest->name));
  g_ptr_array_add (command, g_strdup (destination));
  g_ptr_array_add (command, NULL);
  return command;
}

static void
begin (drain *self, mf_drain_guest *guest)
{
  const int destination = mf_drain_choose (guest, self->bytes, self->n_destinations);
  g_autoptr (GPtrArray) command = command_of (self, guest, self->destinations[destination]);
  g_autoptr (GSubprocessLauncher) launcher =
      g_subprocess_launcher_new (G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE);
  g_autofree char *size = mf_quantity_format_size (guest->size_bytes);
  g_autofree char *rate = mf_quantity_format_rate (guest->dirty_rate);
  g_autofree char *text = g_strdup_printf ("moving to %s: %s, writes %s", self->destinations[destination], size, rate);
  g_autoptr (GError) error = NULL;
  mover *m = g_new0 (mover, 1);

  m->owner = self;
  m->guest = guest;
  m->destination = destination;
  m->began_usec = g_get_monotonic_time ();
  g_subprocess_launcher_set_child_setup (launcher, leave_group, NULL, NULL);
  m->process = g_subprocess_launcher_spawnv (launcher, (const char *const *) command->pdata, &error);
  if (!m->process) {
    tell (self, "failed", guest, self->destinations[destination], error->message);
    self->failed++;
    mover_free (m);
    return;
  }
  tell (self, "moving", guest, self->destinations[destination], text);
  m->output = g_data_input_stream_new (g_subprocess_get_stdout_pipe (m->process));
  g_ptr_array_add (self->moving, m);
  g_data_input_stream_read_line_async (m->output, G_PRIORITY_DEFAULT, NULL, on_line, m);
}

static void
begin_more (drain *self)
{
  while (!self->stopping && self->waiting->len > 0 && self->moving->len < (guint) self->words->parallel)
    begin (self, g_ptr_array_steal_index (self->waiting, 0));
  show_progress (self);
}

static gboolean
on_signal (gpointer user_data)
{
  drain *self = user_data;

  self->stopping = TRUE;
  for (guint i = 0; i < self->moving->len; i++)
    g_subprocess_send_signal (((mover *) self->moving->pdata[i])->process, SIGINT);
  return G_SOURCE_CONTINUE;
}

static void
run (drain *self)
{
  const guint signals[] = { g_unix_signal_add (SIGINT, on_signal, self), g_unix_signal_add (SIGTERM, on_signal, self) };

  begin_more (self);
  while (self->moving->len > 0)
    g_main_context_iteration (NULL, TRUE);
  for (guint i = 0; i < G_N_ELEMENTS (signals); i++)
    g_source_remove (signals[i]);
  if (has_progress (self))
    mf_cli_progress_clear ();
}

/* --- which --- */

static guint64
size_of (const mf_domain_entry *entry)
{
  g_autoptr (mf_domain) domain = mf_domain_parse (entry->live, NULL);
  g_autoptr (GArray) memory = domain ? mf_domain_list_memory (domain, NULL) : NULL;
  guint64 bytes = 0;

  for (guint i = 0; memory && i < memory->len; i++)
    bytes += g_array_index (memory, mf_domain_memory, i).size_bytes;
  return bytes;
}

/* Every running domain: those that can be moved, and those that stay, of whom it is told why. */
static gboolean
find_guests (drain *self, guint *staying, GError **error)
{
  g_autoptr (mf_domain_registry) registry = mf_domain_registry_open (self->words->uri, error);
  g_autoptr (GPtrArray) entries = registry ? mf_domain_registry_list (registry, error) : NULL;
  g_autoptr (GDBusConnection) connection = entries ? mf_cli_connect (self->words->socket, error) : NULL;
  g_autoptr (GDBusObjectManager) objects = connection ? mf_cli_objects (connection, error) : NULL;
  g_autoptr (GStrvBuilder) builder = g_strv_builder_new ();
  g_auto (GStrv) names = NULL;
  g_autofree guint64 *rates = NULL;

  if (!objects)
    return FALSE;
  for (guint i = 0; i < entries->len; i++) {
    const mf_domain_entry *entry = entries->pdata[i];
    g_auto (mf_domain_verdict) verdict = { NULL };
    mf_drain_guest *guest;

    mf_domain_verdict_init (&verdict, entry, objects);
    if (!verdict.runs)
      continue;
    guest = g_new0 (mf_drain_guest, 1);
    guest->name = g_strdup (entry->name);
    if (!verdict.ready) {
      g_autofree char *text = g_strdup_printf ("stays: %s", verdict.reason);

      tell (self, "stays", guest, NULL, text);
      mf_drain_guest_free (guest);
      (*staying)++;
      continue;
    }
    guest->size_bytes = size_of (entry);
    g_ptr_array_add (self->waiting, guest);
    g_strv_builder_add (builder, guest->name);
  }
  names = g_strv_builder_end (builder);
  rates = g_new0 (guint64, self->waiting->len + 1);
  mf_domain_registry_measure (registry, (const char *const *) names, rates);
  for (guint i = 0; i < self->waiting->len; i++)
    ((mf_drain_guest *) self->waiting->pdata[i])->dirty_rate = rates[i];
  mf_drain_sort (self->waiting, self->words->rate ? MAX (self->words->rate / self->words->parallel, 1) : ASSUMED_RATE);
  return TRUE;
}

static void
show_plan (const drain *self)
{
  for (guint i = 0; i < self->waiting->len; i++) {
    const mf_drain_guest *guest = self->waiting->pdata[i];
    g_autofree char *size = mf_quantity_format_size (guest->size_bytes);
    g_autofree char *rate = mf_quantity_format_rate (guest->dirty_rate);
    g_autofree char *text = g_strdup_printf ("would be moved: %s, writes %s", size, rate);

    tell (self, "would-move", guest, NULL, text);
  }
}

static gboolean
sum_up (const drain *self, guint staying, GError **error)
{
  const guint left = self->failed + self->waiting->len;

  if (!self->words->as_json)
    g_print ("%u moved, %u not moved, %u can't be\n", self->moved, left, staying);
  if (!mf_cli_flush (error))
    return FALSE;
  if (self->stopping)
    g_set_error (error, MF_ERROR, MF_ERROR_CANCELLED, "cancelled: %u guests have not been moved", left);
  else if (left + staying > 0)
    g_set_error (error, MF_ERROR, MF_ERROR_FAILED, "%u guests still run here", left + staying);
  return !self->stopping && left + staying == 0;
}

static gboolean
drain_host (const drain_words *words, char **destinations, GError **error)
{
  g_autoptr (GPtrArray) waiting = g_ptr_array_new_with_free_func ((GDestroyNotify) mf_drain_guest_free);
  g_autoptr (GPtrArray) moving = g_ptr_array_new ();
  drain self = { .words = words,
                 .destinations = destinations,
                 .n_destinations = g_strv_length (destinations),
                 .waiting = waiting,
                 .moving = moving };
  guint staying = 0;

  if (!find_guests (&self, &staying, error))
    return FALSE;
  if (words->dry_run) {
    show_plan (&self);
    return mf_cli_flush (error);
  }
  run (&self);
  return sum_up (&self, staying, error);
}

static gboolean
parse (int *argc, char ***argv, drain_words *words, GError **error)
{
  const GOptionEntry entries[] = {
    { "connect", 'c', 0, G_OPTION_ARG_STRING, &words->uri, "The libvirt daemon; qemu:///system if left out", "URI" },
    { "parallel", 'j', 0, G_OPTION_ARG_INT, &words->parallel, "How many at a time; 2 if left out", "N" },
    { "bandwidth", 0, 0, G_OPTION_ARG_STRING, &words->bandwidth, "Bytes a second for all together, with K, M, G",
      "RATE" },
    { "mode", 0, 0, G_OPTION_ARG_STRING, &words->mode, "auto, precopy or postcopy", "MODE" },
    { "max-downtime", 0, 0, G_OPTION_ARG_STRING, &words->max_downtime, "How long each guest may stand", "MS" },
    { "timeout", 0, 0, G_OPTION_ARG_INT, &words->timeout, "Cancel one that has not moved by then", "SECONDS" },
    { "p2p", 0, 0, G_OPTION_ARG_NONE, &words->p2p, "libvirt's daemons talk to each other by themselves", NULL },
    { "persistent", 0, 0, G_OPTION_ARG_NONE, &words->persistent, "The domains stay defined there", NULL },
    { "undefine-source", 0, 0, G_OPTION_ARG_NONE, &words->undefine, "They are not defined here any more", NULL },
    { "unsafe", 0, 0, G_OPTION_ARG_NONE, &words->unsafe, "Also where libvirt doubts that disks are shared", NULL },
    { "dry-run", 0, 0, G_OPTION_ARG_NONE, &words->dry_run, "Only tell which, and in which order", NULL },
    { "json", 0, 0, G_OPTION_ARG_NONE, &words->as_json, "What happens as one JSON object a line", NULL },
    G_OPTION_ENTRY_NULL
  };
  const mf_cli_usage usage = {
    .parameters = "DEST-URI...",
    .summary =
        "Moves every running domain that memferry can move away from this host, the quickest first, each to the\n"
        "destination that has got the least so far, and tells what is left. ^C cancels those under way.",
    .entries = entries,
    .uses_service = TRUE,
  };

  if (!mf_cli_parse (&usage, argc, argv, &words->socket, error) ||
      !mf_cli_check_words (*argc, 1, MF_DRAIN_MAX_DESTINATIONS, "DEST-URI", error))
    return FALSE;
  if (words->parallel < 1) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "--parallel: at least 1");
    return FALSE;
  }
  if (words->bandwidth && !mf_quantity_parse_rate (words->bandwidth, &words->rate, error)) {
    g_prefix_error (error, "--bandwidth: ");
    return FALSE;
  }
  return TRUE;
}

int
mf_cmd_drain (int argc, char **argv)
{
  g_auto (drain_words) words = { .parallel = PARALLEL };
  g_autoptr (GError) error = NULL;

  if (!parse (&argc, &argv, &words, &error) || !drain_host (&words, argv + 1, &error))
    return mf_cli_fail (error);
  return 0;
}
