/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memferry hook: what libvirt's hook calls, with the domain's XML on standard input.
 *
 * libvirt holds the domain's lock at prepare, start, started, stopped and release: so no call of libvirt here, and only short waits. At migrate it
 * holds none, and waits as long as it takes.
 *
 * Where the memory would be wrong, the hook fails and so does what libvirt was doing. Where it would only be impossible to move, it does not:
 * a host whose memferryd doesn't run still starts its guests.
 */
#include "cli/mf-cli-options.h"
#include "cli/mf-cli-place.h"
#include "cli/mf-cli-service.h"
#include "cli/mf-command.h"
#include "hypervisor/mf-domain-registry.h"
#include "hypervisor/mf-hook.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What the service may take while libvirt holds a lock. */
#define LOCKED_MSEC (10 * 1000)

#define MAX_XML_BYTES (8u << 20)
#define QEMU_CONF     "/etc/libvirt/qemu.conf"

typedef struct {
  const char *socket;
  mf_domain *domain;
} hook;

/* --- Service --- */

static MfDbusManager1 *
ask_service (const hook *h, GError **error)
{
  g_autoptr (GDBusConnection) connection = mf_cli_connect_within (h->socket, LOCKED_MSEC, error);
  MfDbusManager1 *manager = connection ? mf_cli_manager (connection, error) : NULL;

  if (manager)
    g_dbus_proxy_set_default_timeout (G_DBUS_PROXY (manager), LOCKED_MSEC);
  return manager;
}

/* --- start --- */

static GVariant *
describe_memory (GArray *memory)
{
  GVariantBuilder builder;

  g_variant_builder_init (&builder, G_VARIANT_TYPE ("a(st)"));
  for (guint i = 0; i < memory->len; i++) {
    const mf_domain_memory *m = &g_array_index (memory, mf_domain_memory, i);

    g_variant_builder_add (&builder, "(st)", m->region, m->size_bytes);
  }
  return g_variant_builder_end (&builder);
}

static char **
prepare (const hook *h, MfDbusManager1 *manager, GArray *memory, uid_t owner, GError **error)
{
  g_autofree char *qmp = mf_domain_dup_qmp_path (h->domain);
  g_autoptr (GError) remote = NULL;
  GVariantDict options;
  char **files = NULL;

  g_variant_dict_init (&options, NULL);
  g_variant_dict_insert (&options, "owner", "u", (guint32) owner);
  g_variant_dict_insert (&options, "qmp", "s", qmp);
  if (!mf_dbus_manager1_call_prepare_domain_sync (manager, mf_domain_get_name (h->domain), describe_memory (memory),
                                                  g_variant_dict_end (&options), &files, NULL, &remote)) {
    mf_cli_take_error (error, g_steal_pointer (&remote));
    return NULL;
  }
  if (g_strv_length (files) == memory->len)
    return files;
  g_strfreev (files);
  g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "the service names other files than it was asked for");
  return NULL;
}

static gboolean
start (const hook *h, GError **error)
{
  g_autoptr (GError) silence = NULL;
  g_autoptr (MfDbusManager1) manager = ask_service (h, &silence);
  g_autoptr (GArray) memory = NULL;
  g_autofree char *folder = NULL;
  g_auto (GStrv) files = NULL;
  uid_t owner = 0;

  if (mf_domain_is_of_another_name (h->domain)) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED,
                 "it was enabled under another name, and renamed or cloned since: memferry domain enable %s",
                 mf_domain_get_name (h->domain));
    return FALSE;
  }
  if (!manager) {
    /* Then QEMU makes a file of its own, and the preload library finds nothing to do. A migration to here has failed before, at migrate. */
    g_printerr ("memferry hook: %s starts without memferry, and can't be moved by it: %s\n",
                mf_domain_get_name (h->domain), silence->message);
    return TRUE;
  }
  memory = mf_domain_list_memory (h->domain, error);
  folder = memory ? mf_hook_find_folder (h->domain, QEMU_CONF, &owner, error) : NULL;
  files = folder ? prepare (h, manager, memory, owner, error) : NULL;
  if (!files)
    return FALSE;
  for (guint i = 0; i < memory->len; i++)
    if (!mf_hook_link (folder, g_array_index (memory, mf_domain_memory, i).file, files[i], error))
      return FALSE;
  return TRUE;
}

/* --- started --- */

static void
leave_session (gpointer user_data)
{
  setsid ();
}

/* The definition names the service of the host that it was enabled on, or came from last. That can only be changed through libvirt, which holds the domain's
 * lock until this hook has ended: so another process does it, and waits. What libvirt runs must not keep its pipes open. */
static void
settle_later (const hook *h)
{
  char *words[] = { (char *) "/proc/self/exe", (char *) "hook",  (char *) "--", (char *) mf_domain_get_name (h->domain),
                    (char *) "settle",         (char *) "begin", NULL };
  g_autoptr (MfDbusManager1) manager = ask_service (h, NULL);
  g_auto (mf_cli_place) place = { NULL };
  g_autofree char *named = mf_domain_dup_peer (h->domain);
  g_autoptr (GError) error = NULL;

  if (!manager || !mf_cli_place_ask (&place, manager, NULL) || !place.peer || g_strcmp0 (place.peer, named) == 0)
    return;
  if (!g_spawn_async ("/", words, NULL, G_SPAWN_STDOUT_TO_DEV_NULL | G_SPAWN_STDERR_TO_DEV_NULL, leave_session, NULL,
                      NULL, &error))
    g_printerr ("memferry hook: %s: %s\n", mf_domain_get_name (h->domain), error->message);
}

static gboolean
started (const hook *h, GError **error)
{
  g_auto (GStrv) gaps = mf_domain_find_gaps (h->domain);

  /* Somebody has taken out what it was enabled with, the monitor perhaps: a guest without it runs all the same, and none comes to here. */
  if (!*gaps && !mf_hook_receive (h->domain, error))
    return FALSE;
  settle_later (h);
  return TRUE;
}

/* What settle_later() starts; without XML. */
static gboolean
settle (const char *socket, const char *name, GError **error)
{
  const hook h = { socket, NULL };
  g_autoptr (MfDbusManager1) manager = ask_service (&h, error);
  g_autoptr (mf_domain_registry) registry = NULL;
  g_auto (mf_cli_place) place = { NULL };

  if (!manager || !mf_cli_place_ask (&place, manager, error))
    return FALSE;
  if (!place.peer)
    return TRUE;
  registry = mf_domain_registry_open (NULL, error);
  return registry && mf_domain_registry_set_peer (registry, name, place.peer, error);
}

/* --- release --- */

static gboolean
release (const hook *h, GError **error)
{
  g_autoptr (MfDbusManager1) manager = ask_service (h, error);
  g_autoptr (GError) remote = NULL;

  if (!manager)
    return FALSE;
  if (!mf_dbus_manager1_call_release_domain_sync (manager, mf_domain_get_name (h->domain), NULL, &remote))
    return mf_cli_take_error (error, g_steal_pointer (&remote));
  return TRUE;
}

/* --- migrate, restore --- */

/* The definition with this host's files in it, on standard output. */
static gboolean
rewrite (const hook *h, MfDbusManager1 *manager, GError **error)
{
  g_auto (mf_cli_place) place = { NULL };
  g_autofree char *xml = NULL;
  mf_domain_place got;

  if (!mf_cli_place_ask (&place, manager, error))
    return FALSE;
  got = mf_cli_place_get (&place);
  if (!mf_domain_settle (h->domain, &got, error))
    return FALSE;
  xml = mf_domain_to_xml (h->domain);
  g_print ("%s", xml);
  return mf_cli_flush (error);
}

/* Returns when the memory is as good as here. No lock is held, and it takes as long as the memory takes. */
static gboolean
admit (const hook *h, MfDbusManager1 *manager, GError **error)
{
  g_autofree char *peer = mf_domain_dup_peer (h->domain);
  g_autoptr (GError) remote = NULL;

  g_dbus_proxy_set_default_timeout (G_DBUS_PROXY (manager), G_MAXINT);
  if (mf_dbus_manager1_call_admit_domain_sync (manager, mf_domain_get_name (h->domain), peer ? peer : "",
                                               g_variant_new ("a{sv}", NULL), NULL, &remote))
    return TRUE;
  mf_cli_take_error (error, g_steal_pointer (&remote));
  /* The other host's service has no memory of it. Most likely it doesn't run, and only its definition is moved (--offline), which can't be told from the XML.
   * If it does, QEMU is looked at when it is started here. */
  if (!error || !g_error_matches (*error, MF_ERROR, MF_ERROR_NOT_FOUND))
    return FALSE;
  g_printerr ("memferry hook: %s\n", (*error)->message);
  g_clear_error (error);
  return TRUE;
}

static gboolean
migrate (const hook *h, GError **error)
{
  g_auto (GStrv) gaps = mf_domain_find_gaps (h->domain);
  g_autoptr (MfDbusManager1) manager = NULL;

  if (*gaps) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED, "%s: memferry domain enable it again, and start it anew",
                 *gaps);
    return FALSE;
  }
  manager = ask_service (h, error);
  return manager && admit (h, manager, error) && rewrite (h, manager, error);
}

static gboolean
restore (const hook *h, GError **error)
{
  g_autoptr (MfDbusManager1) manager = ask_service (h, NULL);

  return !manager || rewrite (h, manager, error);
}

/* --- All of them --- */

static const struct {
  const char *operation, *part;
  gboolean (*run) (const hook *h, GError **error);
} steps[] = {
  { "start", "begin", start },     { "started", "begin", started }, { "release", "end", release },
  { "migrate", "begin", migrate }, { "restore", "begin", restore },
};

static gboolean
read_definition (GString *xml, GError **error)
{
  char buffer[16384];
  ssize_t length;

  while ((length = read (STDIN_FILENO, buffer, sizeof buffer)) != 0) {
    if (length < 0 && errno == EINTR)
      continue;
    if (length < 0)
      return mf_error_from_errno (error, errno, "standard input");
    g_string_append_len (xml, buffer, length);
    if (xml->len > MAX_XML_BYTES) {
      g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "standard input is too long for the XML of a domain");
      return FALSE;
    }
  }
  return TRUE;
}

static gboolean
run (const char *socket, char **words, GError **error)
{
  g_autoptr (GString) xml = g_string_new (NULL);
  g_autoptr (mf_domain) domain = NULL;
  hook h = { socket, NULL };

  if (strcmp (words[1], "settle") == 0)
    return settle (socket, words[0], error);
  for (guint i = 0; i < G_N_ELEMENTS (steps); i++) {
    if (strcmp (words[1], steps[i].operation) != 0 || strcmp (words[2], steps[i].part) != 0)
      continue;
    if (!read_definition (xml, error) || !(domain = mf_domain_parse (xml->str, error)))
      return FALSE;
    h.domain = domain;
    if (!mf_domain_is_enabled (domain) || steps[i].run (&h, error))
      return TRUE;
    g_prefix_error (error, "%s: ", words[0]);
    return FALSE;
  }
  /* Nothing is to be done, above all not at reconnect, where a failure would end the guest. */
  return TRUE;
}

int
mf_cmd_hook (int argc, char **argv)
{
  g_autofree char *socket = NULL;
  g_autoptr (GError) error = NULL;
  const mf_cli_usage usage = {
    .parameters = "GUEST OPERATION SUB-OPERATION EXTRA",
    .summary = "Does what libvirt's hook has to do; the domain's XML is read from standard input.",
    .uses_service = TRUE,
    .stops_at_words = TRUE,
  };

  if (!mf_cli_parse (&usage, &argc, &argv, &socket, &error) || !mf_cli_check_words (argc, 3, 4, "GUEST", &error) ||
      !run (socket, argv + 1, &error))
    return mf_cli_fail (error);
  return 0;
}
