/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "link/mf-peer-address.h"

#include <string.h>
#include <sys/un.h>

#define UNIX_PATH_MAX_BYTES (sizeof (((struct sockaddr_un *) NULL)->sun_path) - 1)

static mf_peer_address *
invalid (const char *text, const char *why, GError **error)
{
  g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "peer \"%s\": %s (it is unix:PATH or tcp://HOST[:PORT])", text, why);
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

static mf_peer_address *
parse_tcp (const char *text, const char *rest, GError **error)
{
  g_autofree char *host = NULL;
  gboolean in_brackets = *rest == '[';
  guint64 port = MF_LINK_DEFAULT_PORT;
  mf_peer_address *address;
  const char *end;

  if (in_brackets) {
    end = strchr (++rest, ']');
    if (end == NULL)
      return invalid (text, "the ] is missing", error);
  } else {
    end = rest + strcspn (rest, ":");
  }
  host = g_strndup (rest, end - rest);
  if (!is_host (host, in_brackets))
    return invalid (text, *host == '\0' ? "the host is missing" : "that is no host (IPv6: tcp://[ADDRESS]:PORT)",
                    error);
  if (in_brackets)
    end++;
  if (*end == ':') {
    if (!g_ascii_string_to_unsigned (end + 1, 10, 0, 65535, &port, NULL))
      return invalid (text, "the port is no number from 0 to 65535 (IPv6: tcp://[ADDRESS]:PORT)", error);
  } else if (*end != '\0') {
    return invalid (text, "something follows the host", error);
  }

  address = new_address (MF_PEER_TCP, text);
  address->host = g_steal_pointer (&host);
  address->port = port;
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
  if (g_str_has_prefix (text, "tls://") || g_str_has_prefix (text, "ssh://")) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED,
                 "peer \"%s\": this build has no %.3s: use tcp:// or unix:", text, text);
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
