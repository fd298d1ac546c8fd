/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding plugins: those that are linked in, and shared objects in a folder.
 *
 * A shared object stays loaded until the process ends: it may have threads, and destructors, that nobody here knows of.
 */
#include "mf-backend.h"
#include "mf-config.h"

#include <dlfcn.h>
#include <string.h>

/* plugins/ */
const memferry_backend *mf_plugin_dir (void);
const memferry_backend *mf_plugin_file (void);
const memferry_backend *mf_plugin_memory (void);

static const memferry_backend *
find_linked (const char *scheme)
{
  const memferry_backend *linked[] = { mf_plugin_file (), mf_plugin_memory (), mf_plugin_dir () };

  for (guint i = 0; i < G_N_ELEMENTS (linked); i++) {
    if (strcmp (linked[i]->name, scheme) == 0)
      return linked[i];
  }
  return NULL;
}

/* The struct may end before the last fields that we know, and they are then NULL; so the first version's are all there is to ask for. */
gboolean
mf_backend_check_plugin (const memferry_backend *plugin, const char *origin, GError **error)
{
  const char *what = NULL;

  if (plugin == NULL)
    what = "it has nothing to show";
  else if (plugin->api != MEMFERRY_BACKEND_API)
    what = "it is for another version of memferry";
  else if (plugin->struct_size < sizeof (memferry_backend))
    what = "its struct_size is too small";
  else if (plugin->name == NULL || plugin->open == NULL || plugin->close == NULL || plugin->read == NULL)
    what = "it has not got a name, open, close and read";
  if (what == NULL)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_VERSION, "the backend plugin %s can't be used: %s", origin, what);
  return FALSE;
}

static const memferry_backend *
load (const char *path, const char *scheme, GError **error)
{
  const memferry_backend *(*init) (void);
  void *handle = dlopen (path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  const memferry_backend *plugin;

  if (handle == NULL) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "the backend plugin %s can't be loaded: %s", path, dlerror ());
    return NULL;
  }
  *(void **) &init = dlsym (handle, MEMFERRY_BACKEND_SYMBOL);
  if (init == NULL) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "the backend plugin %s can't be used: it has no %s", path,
                 MEMFERRY_BACKEND_SYMBOL);
    return NULL;
  }
  plugin = init ();
  if (!mf_backend_check_plugin (plugin, path, error))
    return NULL;
  if (strcmp (plugin->name, scheme) != 0) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "the backend plugin %s can't be used: it calls itself %s", path,
                 plugin->name);
    return NULL;
  }
  return plugin;
}

const memferry_backend *
mf_backend_find_plugin (const char *scheme, GError **error)
{
  const memferry_backend *linked = find_linked (scheme);
  const char *named = g_getenv ("MEMFERRY_BACKENDS");
  const char *folders[] = { named, MF_BACKEND_DIR };
  g_autofree char *file = g_strdup_printf ("memferry-backend-%s.so", scheme);

  if (linked != NULL)
    return linked;
  for (guint i = 0; i < G_N_ELEMENTS (folders); i++) {
    g_autofree char *path = folders[i] != NULL ? g_build_filename (folders[i], file, NULL) : NULL;

    if (path != NULL && g_file_test (path, G_FILE_TEST_EXISTS))
      return load (path, scheme, error);
  }
  return NULL;
}
