/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "service/mf-manager-object.h"

#include "mf-config.h"
#include "service/mf-region-object.h"
#include "service/mf-service-admit.h"
#include "service/mf-service-private.h"
#include <string.h>
#include <unistd.h>

struct _MfManagerObject {
  MfService *service;
  MfDbusObjectSkeleton *object;
  MfDbusManager1 *interface; /* the object's */
};

/* --- Options --- */

typedef struct {
  const char *key;
  const char *type;
} option;

/* What is not known, or of another type, is refused: a client must not believe that it was heeded. */
static gboolean
check_options (GVariant *options, const option *known, guint n_known, GError **error)
{
  GVariantIter iter;
  const char *key;
  GVariant *value;

  g_variant_iter_init (&iter, options);
  while (g_variant_iter_next (&iter, "{&sv}", &key, &value)) {
    g_autoptr (GVariant) owned = value;
    const option *found = NULL;

    for (guint i = 0; i < n_known && !found; i++)
      if (strcmp (known[i].key, key) == 0)
        found = &known[i];
    if (!found) {
      g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "there is no option %s", key);
      return FALSE;
    }
    if (strcmp (g_variant_get_type_string (owned), found->type) != 0) {
      g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "the option %s is of type %s, not %s", key, found->type,
                   g_variant_get_type_string (owned));
      return FALSE;
    }
  }
  return TRUE;
}

static gboolean
check_run_options (GVariant *options, GError **error)
{
  static const option known[] = { { "qmp", "s" } };

  return check_options (options, known, G_N_ELEMENTS (known), error);
}

/* Who calls; what of `options` is about the program. */
static mf_service_client
client_of (GDBusMethodInvocation *invocation, GVariant *options)
{
  GDBusConnection *connection = g_dbus_method_invocation_get_connection (invocation);
  GCredentials *credentials = g_dbus_connection_get_peer_credentials (connection);
  mf_service_client client = { .uid = geteuid () };
  uid_t uid = credentials ? g_credentials_get_unix_user (credentials, NULL) : (uid_t) -1;

  if (uid != (uid_t) -1 && uid != 0)
    client.uid = uid;
  g_variant_lookup (options, "qmp", "&s", &client.qmp);
  return client;
}

/* --- Calls --- */

static gboolean
handle_create_region (MfDbusManager1 *interface, GDBusMethodInvocation *invocation, const char *name, guint64 size,
                      GVariant *options, gpointer user_data)
{
  MfManagerObject *manager = user_data;
  const mf_service_client client = client_of (invocation, options);
  g_autofree char *path = NULL;
  g_autoptr (GError) error = NULL;

  if (!check_run_options (options, &error) ||
      !mf_service_create_region (manager->service, name, size, &client, &error)) {
    g_dbus_method_invocation_return_gerror (invocation, error);
    return G_DBUS_METHOD_INVOCATION_HANDLED;
  }
  path = mf_region_object_path (name);
  mf_dbus_manager1_complete_create_region (interface, invocation, path);
  return G_DBUS_METHOD_INVOCATION_HANDLED;
}

static gboolean
handle_remove_region (MfDbusManager1 *interface, GDBusMethodInvocation *invocation, const char *name, gboolean force,
                      gpointer user_data)
{
  MfManagerObject *manager = user_data;
  g_autoptr (GError) error = NULL;

  if (!mf_service_remove_region (manager->service, name, force, &error))
    g_dbus_method_invocation_return_gerror (invocation, error);
  else
    mf_dbus_manager1_complete_remove_region (interface, invocation);
  return G_DBUS_METHOD_INVOCATION_HANDLED;
}

static gboolean
handle_prepare_run (MfDbusManager1 *interface, GDBusMethodInvocation *invocation, const char *region, guint64 size,
                    GVariant *options, gpointer user_data)
{
  MfManagerObject *manager = user_data;
  const mf_service_client client = client_of (invocation, options);
  mf_service_run run = { NULL };
  g_autoptr (GError) error = NULL;
  GVariantDict environment;

  if (!check_run_options (options, &error) ||
      !mf_service_prepare_run (manager->service, region, size, &client, &run, &error)) {
    g_dbus_method_invocation_return_gerror (invocation, error);
    return G_DBUS_METHOD_INVOCATION_HANDLED;
  }
  g_variant_dict_init (&environment, NULL);
  g_variant_dict_insert (&environment, "handover", "s", run.handover);
  g_variant_dict_insert (&environment, "file", "s", run.file);
  g_variant_dict_insert (&environment, "preload", "s", MF_PRELOAD_PATH);
  mf_dbus_manager1_complete_prepare_run (interface, invocation, g_variant_dict_end (&environment));
  g_free (run.handover);
  g_free (run.file);
  return G_DBUS_METHOD_INVOCATION_HANDLED;
}

/* What is done in the name of libvirt, which hands files over to other users. */
static gboolean
check_is_root (GDBusMethodInvocation *invocation, GError **error)
{
  GDBusConnection *connection = g_dbus_method_invocation_get_connection (invocation);
  GCredentials *credentials = g_dbus_connection_get_peer_credentials (connection);
  uid_t uid = credentials ? g_credentials_get_unix_user (credentials, NULL) : (uid_t) -1;

  if (uid == 0 || uid == geteuid ())
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_PERMISSION, "only root, as libvirt's hook, may do this");
  return FALSE;
}

static char **
prepare_domain (MfService *service, const char *name, GVariant *regions, GVariant *options, GError **error)
{
  static const option known[] = { { "owner", "u" }, { "qmp", "s" } };
  g_autoptr (GArray) memory = g_array_new (FALSE, FALSE, sizeof (mf_service_memory));
  mf_service_domain wish = { .name = name, .owner = geteuid () };
  mf_service_memory each;
  GVariantIter iter;
  guint32 owner;
  char **files = NULL;

  if (!check_options (options, known, G_N_ELEMENTS (known), error))
    return NULL;
  g_variant_iter_init (&iter, regions);
  while (g_variant_iter_next (&iter, "(&st)", &each.region, &each.size_bytes))
    g_array_append_val (memory, each);
  if (g_variant_lookup (options, "owner", "u", &owner))
    wish.owner = owner;
  g_variant_lookup (options, "qmp", "&s", &wish.qmp);
  wish.memory = (const mf_service_memory *) memory->data;
  wish.n_memory = memory->len;
  return mf_service_prepare_domain (service, &wish, &files, error) ? files : NULL;
}

/* A call that waits for a migration's source. */
typedef struct {
  MfDbusManager1 *interface;
  GDBusMethodInvocation *invocation;
  char **files;
} preparation;

static void
answer_preparation (const GError *error, gpointer user_data)
{
  preparation *self = user_data;

  if (error)
    g_dbus_method_invocation_return_gerror (self->invocation, error);
  else
    mf_dbus_manager1_complete_prepare_domain (self->interface, self->invocation, (const char *const *) self->files);
  g_object_unref (self->interface);
  g_strfreev (self->files);
  g_free (self);
}

/* With files, and so with a region. */
static void
answer_when_expected (MfManagerObject *manager, GDBusMethodInvocation *invocation, GVariant *regions, char **files)
{
  preparation *self = g_new0 (preparation, 1);
  MfHost *host = mf_service_host (manager->service);
  const char *first;

  self->interface = g_object_ref (manager->interface);
  self->invocation = invocation;
  self->files = files;
  if (!host || g_variant_n_children (regions) == 0) {
    answer_preparation (NULL, self);
    return;
  }
  g_variant_get_child (regions, 0, "(&st)", &first, NULL);
  mf_host_expect (host, first, answer_preparation, self);
}

static gboolean
handle_prepare_domain (MfDbusManager1 *interface, GDBusMethodInvocation *invocation, const char *name,
                       GVariant *regions, GVariant *options, gpointer user_data)
{
  MfManagerObject *manager = user_data;
  g_autoptr (GError) error = NULL;
  char **files = NULL;

  if (check_is_root (invocation, &error))
    files = prepare_domain (manager->service, name, regions, options, &error);
  if (files)
    answer_when_expected (manager, invocation, regions, files);
  else
    g_dbus_method_invocation_return_gerror (invocation, error);
  return G_DBUS_METHOD_INVOCATION_HANDLED;
}

static gboolean
handle_release_domain (MfDbusManager1 *interface, GDBusMethodInvocation *invocation, const char *name,
                       gpointer user_data)
{
  MfManagerObject *manager = user_data;
  g_autoptr (GError) error = NULL;

  if (check_is_root (invocation, &error)) {
    mf_service_release_domain (manager->service, name);
    mf_dbus_manager1_complete_release_domain (interface, invocation);
  } else {
    g_dbus_method_invocation_return_gerror (invocation, error);
  }
  return G_DBUS_METHOD_INVOCATION_HANDLED;
}

static gboolean
handle_admit_domain (MfDbusManager1 *interface, GDBusMethodInvocation *invocation, const char *name, const char *peer,
                     GVariant *options, gpointer user_data)
{
  MfManagerObject *manager = user_data;
  g_autoptr (GError) error = NULL;

  if (check_is_root (invocation, &error) && check_options (options, NULL, 0, &error))
    mf_service_admit_domain (manager->service, name, peer, invocation);
  else
    g_dbus_method_invocation_return_gerror (invocation, error);
  return G_DBUS_METHOD_INVOCATION_HANDLED;
}

static gboolean
parse_migrate_options (GVariant *options, mf_migrate_options *parsed, GError **error)
{
  static const option known[] = {
    { "qmp", "s" },       { "peer-qmp", "s" },  { "mode", "s" },         { "max-downtime", "t" },
    { "bandwidth", "t" }, { "max-pause", "t" }, { "max-pauses", "u" },   { "live-scans", "b" },
    { "detach", "b" },    { "program", "s" },   { "state-socket", "s" }, { "peer-state-socket", "s" },
  };
  const char *mode = NULL;

  if (!check_options (options, known, G_N_ELEMENTS (known), error))
    return FALSE;
  if (g_variant_lookup (options, "mode", "&s", &mode) && !mf_job_mode_parse (mode, &parsed->mode, error))
    return FALSE;
  g_variant_lookup (options, "max-downtime", "t", &parsed->max_downtime_usec);
  g_variant_lookup (options, "bandwidth", "t", &parsed->bandwidth);
  g_variant_lookup (options, "max-pause", "t", &parsed->max_pause_usec);
  g_variant_lookup (options, "max-pauses", "u", &parsed->max_pauses);
  g_variant_lookup (options, "live-scans", "b", &parsed->live_scans);
  return TRUE;
}

/* libvirt's guests have the same paths on both hosts, unless somebody says otherwise. */
static void
read_programs (GVariant *options, mf_program_choice *here, mf_program_choice *there)
{
  g_variant_lookup (options, "program", "&s", &here->kind);
  g_variant_lookup (options, "qmp", "&s", &here->control);
  g_variant_lookup (options, "state-socket", "&s", &here->state);
  there->kind = here->kind;
  if (here->kind) {
    there->control = here->control;
    there->state = here->state;
  }
  g_variant_lookup (options, "peer-qmp", "&s", &there->control);
  g_variant_lookup (options, "peer-state-socket", "&s", &there->state);
}

/* A call that begins a migration. Its texts are those of the call's options. */
typedef struct {
  mf_migrate_options options;
  mf_program_choice here, there;
  GDBusConnection *client; /* when it ends the migration is cancelled; NULL: it goes on */
} migration_call;

static gboolean
read_call (GDBusMethodInvocation *invocation, GVariant *options, migration_call *call, GError **error)
{
  gboolean detach = FALSE;

  if (!parse_migrate_options (options, &call->options, error))
    return FALSE;
  read_programs (options, &call->here, &call->there);
  g_variant_lookup (options, "detach", "b", &detach);
  call->client = detach ? NULL : g_dbus_method_invocation_get_connection (invocation);
  return TRUE;
}

static gboolean
check_program (const mf_program_choice *program, GError **error)
{
  if (!program->kind)
    return TRUE;
  if (!g_str_equal (program->kind, "libvirt"))
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s is not a kind of program: libvirt", program->kind);
  else if (!program->state || !g_path_is_absolute (program->state))
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "program libvirt needs state-socket, a full path");
  else
    return TRUE;
  return FALSE;
}

static gboolean
handle_migrate (MfDbusManager1 *interface, GDBusMethodInvocation *invocation, const char *const *regions,
                const char *peer, GVariant *options, gpointer user_data)
{
  MfManagerObject *manager = user_data;
  migration_call call = { .options.mode = MF_MODE_AUTO };
  MfJobObject *job = NULL;
  g_autoptr (GError) error = NULL;

  if (read_call (invocation, options, &call, &error) && check_program (&call.here, &error))
    job = mf_service_migrate (manager->service, regions, peer, &call.here, &call.there, &call.options, call.client,
                              &error);
  if (job)
    mf_dbus_manager1_complete_migrate (interface, invocation, mf_job_object_path (job));
  else
    g_dbus_method_invocation_return_gerror (invocation, error);
  return G_DBUS_METHOD_INVOCATION_HANDLED;
}

/* Who drives the program from outside does so at its source. */
static gboolean
check_has_no_driver (GVariant *options, GError **error)
{
  static const char *const drivers[] = { "program", "state-socket", "peer-state-socket" };

  for (guint i = 0; i < G_N_ELEMENTS (drivers); i++) {
    g_autoptr (GVariant) value = g_variant_lookup_value (options, drivers[i], NULL);

    if (!value)
      continue;
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "the option %s is for a migration that is begun at its source",
                 drivers[i]);
    return FALSE;
  }
  return TRUE;
}

static gboolean
handle_fetch (MfDbusManager1 *interface, GDBusMethodInvocation *invocation, const char *const *regions,
              const char *peer, GVariant *options, gpointer user_data)
{
  MfManagerObject *manager = user_data;
  migration_call call = { .options.mode = MF_MODE_AUTO };
  MfJobObject *job = NULL;
  g_autoptr (GError) error = NULL;

  if (read_call (invocation, options, &call, &error) && check_has_no_driver (options, &error))
    job =
        mf_service_fetch (manager->service, regions, peer, &call.here, &call.there, &call.options, call.client, &error);
  if (job)
    mf_dbus_manager1_complete_fetch (interface, invocation, mf_job_object_path (job));
  else
    g_dbus_method_invocation_return_gerror (invocation, error);
  return G_DBUS_METHOD_INVOCATION_HANDLED;
}

MfManagerObject *
mf_manager_object_new (MfService *service)
{
  MfManagerObject *manager = g_new0 (MfManagerObject, 1);
  const mf_service_config *config = mf_service_get_config (service);

  manager->service = service;
  manager->object = mf_dbus_object_skeleton_new (MF_SERVICE_PATH "/manager");
  manager->interface = mf_dbus_manager1_skeleton_new ();
  mf_dbus_manager1_set_version (manager->interface, MF_VERSION);
  mf_dbus_manager1_set_hostname (manager->interface, g_get_host_name ());
  mf_dbus_manager1_set_runtime_dir (manager->interface, config->runtime_dir);
  mf_dbus_manager1_set_store_dir (manager->interface, config->store_dir);
  mf_dbus_manager1_set_listening (manager->interface, mf_service_get_listening (service));
  g_signal_connect (manager->interface, "handle-create-region", G_CALLBACK (handle_create_region), manager);
  g_signal_connect (manager->interface, "handle-remove-region", G_CALLBACK (handle_remove_region), manager);
  g_signal_connect (manager->interface, "handle-prepare-run", G_CALLBACK (handle_prepare_run), manager);
  g_signal_connect (manager->interface, "handle-prepare-domain", G_CALLBACK (handle_prepare_domain), manager);
  g_signal_connect (manager->interface, "handle-release-domain", G_CALLBACK (handle_release_domain), manager);
  g_signal_connect (manager->interface, "handle-admit-domain", G_CALLBACK (handle_admit_domain), manager);
  g_signal_connect (manager->interface, "handle-migrate", G_CALLBACK (handle_migrate), manager);
  g_signal_connect (manager->interface, "handle-fetch", G_CALLBACK (handle_fetch), manager);
  mf_dbus_object_skeleton_set_manager1 (manager->object, manager->interface);
  return manager;
}

void
mf_manager_object_free (MfManagerObject *manager)
{
  g_signal_handlers_disconnect_by_data (manager->interface, manager);
  g_object_unref (manager->interface);
  g_object_unref (manager->object);
  g_free (manager);
}

MfDbusObjectSkeleton *
mf_manager_object_skeleton (MfManagerObject *manager)
{
  return manager->object;
}
