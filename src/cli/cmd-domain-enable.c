/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memferry domain enable and disable: the same but for what they do to the definition.
 */
#include "cli/cmd-domain.h"
#include "cli/mf-cli-diff.h"
#include "cli/mf-cli-options.h"
#include "cli/mf-cli-place.h"
#include "cli/mf-cli-service.h"
#include "hypervisor/mf-domain-registry.h"
#include "link/mf-peer-address.h"

typedef struct {
  char *socket;
  char *uri;
  char *peer;
  gboolean dry_run;
  gboolean disables;
} change_words;

static void
change_words_clear (change_words *words)
{
  g_free (words->socket);
  g_free (words->uri);
  g_free (words->peer);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (change_words, change_words_clear)

/* The place of the daemon that is asked. */
static gboolean
find_place (const change_words *words, const mf_domain_registry *registry, mf_cli_place *place, GError **error)
{
  g_autoptr (GDBusConnection) connection = NULL;
  g_autoptr (MfDbusManager1) manager = NULL;

  /* Another host's service can't be asked: its libvirt's socket is not its service's. */
  if (mf_domain_registry_is_local (registry))
    connection = mf_cli_connect (words->socket, NULL);
  if (connection)
    manager = mf_cli_manager (connection, NULL);
  if (manager ? !mf_cli_place_ask (place, manager, error) : !mf_cli_place_guess (place, words->socket, error))
    return FALSE;
  if (words->peer) {
    g_free (place->peer);
    place->peer = g_strdup (words->peer);
  }
  return TRUE;
}

static gboolean
change (const change_words *words, mf_domain_registry *registry, mf_domain *domain, GError **error)
{
  g_auto (mf_cli_place) place = { NULL };
  mf_domain_place got;

  if (words->disables) {
    mf_domain_disable (domain);
    return TRUE;
  }
  if (!find_place (words, registry, &place, error))
    return FALSE;
  got = mf_cli_place_get (&place);
  if (mf_domain_enable (domain, &got, error))
    return TRUE;
  g_prefix_error (error, "%s can't be enabled: ", mf_domain_get_name (domain));
  return FALSE;
}

static void
say (const change_words *words, const char *name, gboolean changed, gboolean runs)
{
  const char *word = words->disables ? "disabled" : "enabled";

  if (!changed)
    g_print ("%s is %s already\n", name, word);
  else if (runs)
    g_print (
        "%s is %s: this takes effect when it is started next (shut it down and start it; a reboot is not enough)\n",
        name, word);
  else
    g_print ("%s is %s\n", name, word);
}

static gboolean
change_domain (const change_words *words, const char *name, GError **error)
{
  g_autoptr (mf_domain_registry) registry = mf_domain_registry_open (words->uri, error);
  g_autoptr (mf_domain_entry) entry = registry ? mf_domain_registry_find (registry, name, error) : NULL;
  g_autoptr (mf_domain) domain = NULL;
  g_autofree char *before = NULL, *after = NULL, *shown = NULL;

  if (!entry)
    return FALSE;
  if (!entry->definition) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED,
                 "%s has no persistent definition that could be changed: define it (virsh define) first", entry->name);
    return FALSE;
  }
  domain = mf_domain_parse (entry->definition, error);
  if (!domain)
    return FALSE;
  before = mf_domain_to_xml (domain);
  if (!change (words, registry, domain, error))
    return FALSE;
  after = mf_domain_to_xml (domain);
  shown = mf_cli_diff (before, after);
  if (words->dry_run) {
    g_print ("%s", shown);
    return mf_cli_flush (error);
  }
  if (*shown && !mf_domain_registry_define (registry, after, error))
    return FALSE;
  say (words, entry->name, *shown != '\0', entry->live != NULL);
  return mf_cli_flush (error);
}

static gboolean
check_peer (const char *peer, GError **error)
{
  g_autoptr (mf_peer_address) address = peer ? mf_peer_address_parse (peer, error) : NULL;

  return !peer || address;
}

static int
run (const mf_cli_usage *usage, change_words *words, int argc, char **argv)
{
  g_autoptr (GError) error = NULL;

  if (!mf_cli_parse (usage, &argc, &argv, &words->socket, &error) ||
      !mf_cli_check_words (argc, 1, 1, "DOMAIN", &error) || !check_peer (words->peer, &error) ||
      !change_domain (words, argv[1], &error))
    return mf_cli_fail (error);
  return 0;
}

int
mf_cmd_domain_enable (int argc, char **argv)
{
  g_auto (change_words) words = { NULL };
  const GOptionEntry entries[] = {
    { "connect", 'c', 0, G_OPTION_ARG_STRING, &words.uri, "The libvirt daemon; qemu:///system if left out", "URI" },
    { "dry-run", 'n', 0, G_OPTION_ARG_NONE, &words.dry_run, "Only show what would be changed", NULL },
    { "peer", 0, 0, G_OPTION_ARG_STRING, &words.peer, "Where the domain's host listens for other services", "PEER" },
    G_OPTION_ENTRY_NULL
  };
  const mf_cli_usage usage = {
    .parameters = "DOMAIN",
    .summary = "Changes a domain's definition so that its memory is carried by memferry.",
    .entries = entries,
    .uses_service = TRUE,
  };

  return run (&usage, &words, argc, argv);
}

int
mf_cmd_domain_disable (int argc, char **argv)
{
  g_auto (change_words) words = { .disables = TRUE };
  const GOptionEntry entries[] = {
    { "connect", 'c', 0, G_OPTION_ARG_STRING, &words.uri, "The libvirt daemon; qemu:///system if left out", "URI" },
    { "dry-run", 'n', 0, G_OPTION_ARG_NONE, &words.dry_run, "Only show what would be changed", NULL },
    G_OPTION_ENTRY_NULL
  };
  const mf_cli_usage usage = {
    .parameters = "DOMAIN",
    .summary = "Takes what memferry needs out of a domain's definition and restores what was there before.",
    .entries = entries,
    .uses_service = TRUE,
  };

  return run (&usage, &words, argc, argv);
}
