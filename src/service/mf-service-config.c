/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "service/mf-service-config.h"

#include "mf-config.h"
#include <string.h>

/* All that a key file may say. */
static const struct {
  const char *group;
  const char *key;
} known[] = {
  { "listen", "addresses" },
  { "store", "dir" },
  { "service", "runtime-dir" },
  { "service", "group" },
};

void
mf_service_config_clear (mf_service_config *config)
{
  g_clear_pointer (&config->runtime_dir, g_free);
  g_clear_pointer (&config->store_dir, g_free);
  g_clear_pointer (&config->group, g_free);
  g_clear_pointer (&config->listen, g_strfreev);
}

static gboolean
is_known (const char *group, const char *key)
{
  for (guint i = 0; i < G_N_ELEMENTS (known); i++)
    if (strcmp (known[i].group, group) == 0 && (key == NULL || strcmp (known[i].key, key) == 0))
      return TRUE;
  return FALSE;
}

static gboolean
check_words (GKeyFile *key_file, GError **error)
{
  g_auto (GStrv) groups = g_key_file_get_groups (key_file, NULL);

  for (char **group = groups; *group; group++) {
    g_auto (GStrv) keys = g_key_file_get_keys (key_file, *group, NULL, NULL);

    if (!is_known (*group, NULL)) {
      g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "there is no group [%s]", *group);
      return FALSE;
    }
    for (char **key = keys; keys && *key; key++) {
      if (!is_known (*group, *key)) {
        g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "there is no key %s in [%s]", *key, *group);
        return FALSE;
      }
    }
  }
  return TRUE;
}

static void
take_string (GKeyFile *key_file, const char *group, const char *key, char **value)
{
  if (*value == NULL)
    *value = g_key_file_get_string (key_file, group, key, NULL);
}

gboolean
mf_service_config_read (mf_service_config *config, const char *file, gboolean required, GError **error)
{
  g_autoptr (GKeyFile) key_file = g_key_file_new ();
  g_autoptr (GError) wrong = NULL;

  if (!g_key_file_load_from_file (key_file, file, G_KEY_FILE_NONE, &wrong)) {
    if (!required && g_error_matches (wrong, G_FILE_ERROR, G_FILE_ERROR_NOENT))
      return TRUE;
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s: %s", file, wrong->message);
    return FALSE;
  }
  if (!check_words (key_file, error)) {
    g_prefix_error (error, "%s: ", file);
    return FALSE;
  }
  take_string (key_file, "service", "runtime-dir", &config->runtime_dir);
  take_string (key_file, "service", "group", &config->group);
  take_string (key_file, "store", "dir", &config->store_dir);
  if (config->listen == NULL)
    config->listen = g_key_file_get_string_list (key_file, "listen", "addresses", NULL, NULL);
  return TRUE;
}

static void
make_absolute (char **path, const char *otherwise)
{
  g_autofree char *given = g_steal_pointer (path);

  *path = g_canonicalize_filename (given ? given : otherwise, NULL);
}

void
mf_service_config_complete (mf_service_config *config)
{
  make_absolute (&config->runtime_dir, MF_RUNTIME_DIR);
  make_absolute (&config->store_dir, MF_STORE_DIR);
  if (config->listen == NULL)
    config->listen = g_new0 (char *, 1);
}
