/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memferry domain list: what each domain still needs before it can be moved.
 */
#include "cli/cmd-domain.h"
#include "cli/mf-cli-options.h"
#include "cli/mf-cli-service.h"
#include "cli/mf-cli-table.h"
#include "cli/mf-domain-verdict.h"
#include "hypervisor/mf-domain-registry.h"
#include "hypervisor/mf-domain.h"
#include <json-glib/json-glib.h>

/* --- Output --- */

static void
add_row (mf_cli_table *table, const mf_domain_verdict *v)
{
  char **cells = g_new0 (char *, 5);

  cells[0] = g_strdup (v->name);
  cells[1] = g_strdup (v->runs ? "running" : "shut off");
  cells[2] = g_strdup (v->ready ? "yes" : "no");
  cells[3] = g_strdup (v->reason ? v->reason : "");
  mf_cli_table_add (table, cells);
}

static char *
as_json (const mf_domain_verdict *v)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  g_autoptr (JsonGenerator) generator = json_generator_new ();
  g_autoptr (JsonNode) root = NULL;

  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "name");
  json_builder_add_string_value (builder, v->name);
  json_builder_set_member_name (builder, "running");
  json_builder_add_boolean_value (builder, v->runs);
  json_builder_set_member_name (builder, "enabled");
  json_builder_add_boolean_value (builder, v->enabled);
  json_builder_set_member_name (builder, "ready");
  json_builder_add_boolean_value (builder, v->ready);
  json_builder_set_member_name (builder, "reason");
  if (v->reason)
    json_builder_add_string_value (builder, v->reason);
  else
    json_builder_add_null_value (builder);
  json_builder_end_object (builder);
  root = json_builder_get_root (builder);
  json_generator_set_root (generator, root);
  return json_generator_to_data (generator, NULL);
}

typedef struct {
  char *socket;
  char *uri;
  gboolean as_json;
  gboolean quiet;
} list_words;

static void
list_words_clear (list_words *words)
{
  g_free (words->socket);
  g_free (words->uri);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (list_words, list_words_clear)

static void
print_all (const list_words *words, GPtrArray *entries, GDBusObjectManager *objects)
{
  static const char *const titles[] = { "NAME", "STATE", "READY", "REASON", NULL };
  g_autoptr (mf_cli_table) table = mf_cli_table_new (titles);

  for (guint i = 0; i < entries->len; i++) {
    g_autofree char *json = NULL;
    g_auto (mf_domain_verdict) v = { NULL };

    mf_domain_verdict_init (&v, entries->pdata[i], objects);
    json = words->as_json ? as_json (&v) : NULL;
    if (json || words->quiet)
      g_print ("%s\n", json ? json : v.name);
    else
      add_row (table, &v);
  }
  if (!words->as_json && !words->quiet)
    mf_cli_table_print (table);
}

static gboolean
list (const list_words *words, GError **error)
{
  g_autoptr (mf_domain_registry) registry = mf_domain_registry_open (words->uri, error);
  g_autoptr (GPtrArray) entries = registry ? mf_domain_registry_list (registry, error) : NULL;
  g_autoptr (GDBusConnection) connection = NULL;
  g_autoptr (GDBusObjectManager) objects = NULL;

  if (!entries)
    return FALSE;
  if (mf_domain_registry_is_local (registry) && !words->quiet) {
    connection = mf_cli_connect (words->socket, error);
    objects = connection ? mf_cli_objects (connection, error) : NULL;
    if (!objects)
      return FALSE;
  }
  print_all (words, entries, objects);
  return mf_cli_flush (error);
}

int
mf_cmd_domain_list (int argc, char **argv)
{
  g_auto (list_words) words = { NULL };
  g_autoptr (GError) error = NULL;
  const GOptionEntry entries[] = {
    { "connect", 'c', 0, G_OPTION_ARG_STRING, &words.uri, "The libvirt daemon; qemu:///system if left out", "URI" },
    { "json", 0, 0, G_OPTION_ARG_NONE, &words.as_json, "One JSON object a line", NULL },
    { "quiet", 'q', 0, G_OPTION_ARG_NONE, &words.quiet, "Only the names, one a line", NULL },
    G_OPTION_ENTRY_NULL
  };
  const mf_cli_usage usage = {
    .summary = "Shows libvirt's domains, which of them can be moved by memferry, and why the others can't.",
    .entries = entries,
    .uses_service = TRUE,
  };

  if (!mf_cli_parse (&usage, &argc, &argv, &words.socket, &error) || !mf_cli_check_words (argc, 0, 0, "", &error) ||
      !list (&words, &error))
    return mf_cli_fail (error);
  return 0;
}
