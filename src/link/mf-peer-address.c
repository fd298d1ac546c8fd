/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "link/mf-peer-address.h"
#include "link/mf-link-ssh.h"

#include <string.h>
#include <sys/un.h>

#define UNIX_PATH_MAX_BYTES (sizeof (((struct sockaddr_un *) NULL)->sun_path) - 1)

static mf_peer_address *
invalid (const char *text, const char *why, GError **error)
{
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
               "peer \"%s\": %s (it is ssh://[USER@]HOST[:PORT][/SOCKET], tcp://HOST[:PORT] or unix:PATH)", text, why);
  return NULL;
}

static mf_peer_address *
new_address (mf_peer_kind kind, const char *text)
{
  mf_peer_address *address = g_new0 (mf_peer_address, 1);

  address->kind = kind;
  address->text = g_strdup (text);
  return address;
}

static mf_peer_address *
parse_unix (const char *text, const char *path, GError **error)
{
  mf_peer_address *address;

  if (*path == '\0')
    return invalid (text, "the path is missing", error);
  if (strlen (path) > UNIX_PATH_MAX_BYTES)
    return invalid (text, "the path is longer than the 107 bytes that a socket's may have", error);
  address = new_address (MF_PEER_UNIX, text);
  address->path = g_strdup (path);
  return address;
}

/* What may stand in a host name or a numeric address; '%' for the zone of a link-local one. */
static gboolean
is_host (const char *host, gboolean in_brackets)
{
  for (const char *c = host; *c != '\0'; c++)
    if (!g_ascii_isalnum (*c) && strchr (in_brackets ? ":.%-_" : ".-_", *c) == NULL)
      return FALSE;
  return *host != '\0';
}

/* HOST[:PORT]; `port` stays as it is when there is none. NULL with an error. */
static char *
parse_host (const char *text, const char *rest, guint64 *port, GError **error)
{
  g_autofree char *host = NULL;
  gboolean in_brackets = *rest == '[';
  const char *end;

  if (in_brackets) {
    end = strchr (++rest, ']');
    if (end == NULL) {
      invalid (text, "the ] is missing", error);
      return NULL;
    }
  } else {
    end = rest + strcspn (rest, ":");
  }
  host = g_strndup (rest, end - rest);
  if (!is_host (host, in_brackets)) {
    invalid (text, *host == '\0' ? "the host is missing" : "that is no host (IPv6: [ADDRESS]:PORT)", error);
    return NULL;
  }
  if (in_brackets)
    end++;
  if (*end == ':' && !g_ascii_string_to_unsigned (end + 1, 10, 0, 65535, port, NULL)) {
    invalid (text, "the port is no number from 0 to 65535 (IPv6: [ADDRESS]:PORT)", error);
    return NULL;
  }
  if (*end != ':' && *end != '\0') {
    invalid (text, "something follows the host", error);
    return NULL;
  }
  return g_steal_pointer (&host);
}

static mf_peer_address *
parse_tcp (const char *text, const char *rest, GError **error)
{
  guint64 port = MF_LINK_DEFAULT_PORT;
  g_autofree char *host = parse_host (text, rest, &port, error);
  mf_peer_address *address;

  if (host == NULL)
    return NULL;
  address = new_address (MF_PEER_TCP, text);
  address->host = g_steal_pointer (&host);
  address->port = (guint16) port;
  return address;
}

/* What may stand in a user's name. */
static gboolean
is_user (const char *user)
{
  for (const char *c = user; *c != '\0'; c++)
    if (!g_ascii_isalnum (*c) && strchr (".-_$", *c) == NULL)
      return FALSE;
  return *user != '\0' && *user != '-';
}

/* [USER@]HOST[:PORT][/SOCKET] */
static mf_peer_address *
parse_ssh (const char *text, const char *rest, GError **error)
{
  const char *slash = strchr (rest, '/');
  g_autofree char *where = slash != NULL ? g_strndup (rest, slash - rest) : g_strdup (rest);
  char *at = strchr (where, '@');
  g_autofree char *host = NULL;
  mf_peer_address *address;
  guint64 port = 0;

  if (at != NULL)
    *at = '\0';
  if (at != NULL && !is_user (where))
    return invalid (text, "that is no user", error);
  host = parse_host (text, at != NULL ? at + 1 : where, &port, error);
  if (host == NULL)
    return NULL;
  if (slash != NULL && slash[1] == '\0')
    slash = NULL;
  if (slash != NULL && strlen (slash) > UNIX_PATH_MAX_BYTES)
    return invalid (text, "the path is longer than the 107 bytes that a socket's may have", error);
  address = new_address (MF_PEER_SSH, text);
  address->user = at != NULL ? g_strdup (where) : NULL;
  address->host = g_steal_pointer (&host);
  address->port = (guint16) port;
  address->path = g_strdup (slash != NULL ? slash : MF_LINK_SSH_SOCKET);
  return address;
}

mf_peer_address *
mf_peer_address_parse (const char *text, GError **error)
{
  g_return_val_if_fail (text != NULL, NULL);

  if (!g_utf8_validate (text, -1, NULL))
    return invalid ("(not UTF-8)", "that is no text", error);
  if (g_str_has_prefix (text, "unix:"))
    return parse_unix (text, text + strlen ("unix:"), error);
  if (g_str_has_prefix (text, "tcp://"))
    return parse_tcp (text, text + strlen ("tcp://"), error);
  if (g_str_has_prefix (text, "ssh://"))
    return parse_ssh (text, text + strlen ("ssh://"), error);
  if (g_str_has_prefix (text, "tls://")) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED,
                 "peer \"%s\": there is no tls yet: use ssh://, tcp:// or unix:", text);
    return NULL;
  }
  return invalid (text, "unknown form", error);
}

void
mf_peer_address_free (mf_peer_address *address)
{
  if (address == NULL)
    return;
  g_free (address->text);
  g_free (address->path);
  g_free (address->user);
  g_free (address->host);
  g_free (address);
}

const char *
mf_peer_address_text (const mf_peer_address *address)
{
  return address->text;
}

socklen_t
mf_peer_address_to_unix (const mf_peer_address *address, struct sockaddr_storage *out)
{
  struct sockaddr_un un = { .sun_family = AF_UNIX };

  memcpy (un.sun_path, address->path, strlen (address->path));
  memcpy (out, &un, sizeof un);
  return sizeof un;
}
