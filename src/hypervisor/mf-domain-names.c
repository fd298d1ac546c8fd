/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hypervisor/mf-domain-names.h"

#include <string.h>

#define NODE ".node"

char *
mf_domain_stem (const char *name)
{
  char *stem = g_strdup (name);

  for (char *c = stem; *c; c++)
    if (!g_ascii_isalnum (*c) && !strchr ("._-", *c))
      *c = '_';
  if (*stem == '.')
    *stem = '_';
  return stem;
}

gboolean
mf_domain_owns_region (const char *name, const char *region)
{
  g_autofree char *stem = mf_domain_stem (name);
  const char *rest = region + strlen (stem);

  if (!g_str_has_prefix (region, stem))
    return FALSE;
  if (!*rest)
    return TRUE;
  if (!g_str_has_prefix (rest, NODE))
    return FALSE;
  rest += strlen (NODE);
  return *rest && strspn (rest, "0123456789") == strlen (rest);
}

static char *
socket_path (const char *name, const char *ending)
{
  g_autofree char *stem = mf_domain_stem (name);

  return g_strdup_printf (MF_DOMAIN_SOCKET_DIR "/memferry-%s.%s", stem, ending);
}

char *
mf_domain_qmp_path (const char *name)
{
  return socket_path (name, "qmp");
}

char *
mf_domain_state_path (const char *name)
{
  return socket_path (name, "sock");
}
