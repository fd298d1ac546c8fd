/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "service/mf-service.h"

#include "attach/mf-handover.h"
#include "hypervisor/mf-libvirt.h"
#include "hypervisor/mf-qemu.h"
#include "link/mf-link.h"
#include "migrate/mf-host.h"
#include "service/mf-manager-object.h"
#include "service/mf-region-object.h"
#include "service/mf-region-set.h"
#include "service/mf-service-admit.h"
#include "service/mf-service-folder.h"
#include "service/mf-service-private.h"
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

/* In the order in which they are made; they go in the opposite one. */
struct _MfService {
  mf_service_config config;
  mf_service_folder *runtime_folder;
  mf_service_folder *store_folder;
  MfRegionSet *regions;
  MfServiceBus *bus;
  MfJobList *jobs;
  GHashTable *objects; /* region's name -> MfDbusObjectSkeleton */
  MfManagerObject *manager;
  MfHost *host;
  MfHandover *handover;
  char *handover_path;
  GError *no_handover; /* why programs can't be taken over on this machine */
  MfLinkListener *listener;
  GPtrArray *listening; /* of char *, NULL-terminated once all are there */
};

/* --- Regions on the bus --- */

void
mf_service_show_region (MfService *service, const char *name)
{
  MfDbusObjectSkeleton *object = g_hash_table_lookup (service->objects, name);
  g_autofree char *control = mf_region_set_dup_control (service->regions, name);
  MfJobObject *job = mf_job_list_of_region (service->jobs, name);
  const mf_region_facts facts = {
    .state = mf_region_role_name (mf_host_region_role (service->host, name)),
    .pid = mf_region_set_pid (service->regions, name),
    .control = control,
    .job = job ? mf_job_object_path (job) : NULL,
  };

  if (object)
    mf_region_object_update (object, &facts);
}

static void
export_region (MfService *service, const char *name)
{
  g_autoptr (MfRegion) region = mf_region_set_find (service->regions, name, NULL);
  MfDbusObjectSkeleton *object;

  if (!region)
    return;
  object = mf_region_object_new (region);
  g_hash_table_insert (service->objects, g_strdup (name), object);
  mf_service_show_region (service, name);
  mf_service_bus_export (service->bus, G_DBUS_OBJECT_SKELETON (object));
}

static void
unexport_region (MfService *service, const char *name)
{
  MfDbusObjectSkeleton *object = g_hash_table_lookup (service->objects, name);

  if (object)
    mf_service_bus_unexport (service->bus, G_DBUS_OBJECT_SKELETON (object));
  g_hash_table_remove (service->objects, name);
}

/* --- Jobs --- */

static void
job_changed (MfJobObject *job, gpointer user_data)
{
  MfService *service = user_data;
  const char *const *names = mf_migration_get_regions (mf_job_object_migration (job));

  for (; *names; names++) {
    mf_service_show_region (service, *names);
    mf_service_settle_domain (service, *names);
  }
}

static void
client_gone (GDBusConnection *client, gpointer user_data)
{
  MfService *service = user_data;

  if (service->jobs)
    mf_job_list_client_gone (service->jobs, client);
}

/* --- What migrations ask of this host; from their threads --- */

static MfRegion *
host_find_region (const char *name, GError **error, gpointer user_data)
{
  MfService *service = user_data;

  return mf_region_set_find (service->regions, name, error);
}

static MfUserfault *
host_find_attachment (MfRegion *region, GError **error, gpointer user_data)
{
  MfService *service = user_data;
  const char *name = mf_region_get_name (region);
  MfUserfault *userfault = mf_region_set_attachment (service->regions, name);

  if (!userfault)
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND,
                 "region %s: no program has it mapped: start it with memferry run --region %s", name, name);
  return userfault;
}

static mf_program *
host_new_program (MfRegion *const *regions, guint n_regions, const mf_program_choice *choice, GError **error,
                  gpointer user_data)
{
  MfService *service = user_data;
  const char *control = choice->control;
  g_autofree char *remembered = NULL;

  for (guint i = 0; i < n_regions && !control && !remembered; i++)
    remembered = mf_region_set_dup_control (service->regions, mf_region_get_name (regions[i]));
  if (!control && !remembered) {
    g_set_error (
        error, MF_ERROR, MF_ERROR_INVALID,
        "region %s: the QMP socket of its program is not known: name it when the program is started (memferry run "
        "--qmp) or when it is moved (memferry migrate --qmp, --peer-qmp)",
        mf_region_get_name (regions[0]));
    return NULL;
  }
  if (!choice->kind)
    return mf_qemu_new (control ? control : remembered, regions, n_regions);
  if (g_str_equal (choice->kind, "libvirt") && choice->state)
    return mf_libvirt_new (control ? control : remembered, choice->state, regions, n_regions);
  g_set_error (error, MF_ERROR, MF_ERROR_NOT_SUPPORTED,
               "region %s: a program of the kind \"%s\" can't be moved by this version",
               mf_region_get_name (regions[0]), choice->kind);
  return NULL;
}

/* In the main context, where all objects on the bus live: a migration has made the region, or wants it gone. */
typedef struct {
  MfService *service;
  char *name;
} region_news;

static gboolean
region_came (gpointer user_data)
{
  region_news *news = user_data;

  if (!g_hash_table_contains (news->service->objects, news->name))
    export_region (news->service, news->name);
  return G_SOURCE_REMOVE;
}

static gboolean
region_is_to_go (gpointer user_data)
{
  region_news *news = user_data;
  g_autoptr (GError) error = NULL;

  if (!mf_service_remove_region (news->service, news->name, FALSE, &error))
    g_debug ("%s", error->message);
  return G_SOURCE_REMOVE;
}

static void
region_news_free (gpointer user_data)
{
  region_news *news = user_data;

  g_free (news->name);
  g_free (news);
}

static void
tell_main_context (MfService *service, const char *name, GSourceFunc func)
{
  g_autoptr (GSource) source = g_idle_source_new ();
  region_news *news = g_new0 (region_news, 1);

  news->service = service;
  news->name = g_strdup (name);
  g_source_set_priority (source, G_PRIORITY_DEFAULT);
  g_source_set_callback (source, func, news, region_news_free);
  g_source_attach (source, NULL);
}

static MfRegion *
host_make_region (const char *name, guint64 size, gboolean *is_new, GError **error, gpointer user_data)
{
  MfService *service = user_data;
  g_autoptr (MfRegion) there = mf_region_set_find (service->regions, name, NULL);

  *is_new = FALSE;
  if (there && mf_region_get_size (there) != size && mf_region_set_pid (service->regions, name) == 0 &&
      mf_host_region_role (service->host, name) == MF_REGION_AWAY) {
    /* History, of a program that has been given more or less memory since. */
    g_clear_object (&there);
    if (!mf_region_set_remove (service->regions, name, error))
      return NULL;
  }
  if (there)
    return g_steal_pointer (&there);
  if (!mf_region_set_create (service->regions, name, size, geteuid (), error))
    return NULL;
  *is_new = TRUE;
  tell_main_context (service, name, region_came);
  return mf_region_set_find (service->regions, name, error);
}

static void
host_drop_region (const char *name, gpointer user_data)
{
  tell_main_context (user_data, name, region_is_to_go);
}

/* In the main context. */
static void
host_appeared (MfMigration *migration, gpointer user_data)
{
  MfService *service = user_data;

  mf_job_list_add (service->jobs, migration, NULL);
}

/* --- Programs --- */

/* One program has a region: a second one's faults and writes nobody would see. One that has ended may not have been noticed yet. */
gboolean
mf_service_is_taken (MfService *service, const char *name, pid_t pid, GError **error)
{
  pid_t owner = mf_region_set_pid (service->regions, name);

  if (owner == 0 || owner == pid || (kill (owner, 0) != 0 && errno == ESRCH))
    return FALSE;
  g_set_error (error, MF_ERROR, MF_ERROR_BUSY, "region %s: process %d has it mapped already", name, (int) owner);
  return TRUE;
}

static MfRegion *
handover_find_region (int fd, pid_t pid, GError **error, gpointer user_data)
{
  MfService *service = user_data;
  g_autoptr (MfRegion) region = mf_region_set_find_file (service->regions, fd, error);

  if (!region || mf_service_is_taken (service, mf_region_get_name (region), pid, error))
    return NULL;
  return g_steal_pointer (&region);
}

static void
handover_attached (MfUserfault *userfault, gboolean again, gpointer user_data)
{
  MfService *service = user_data;
  g_autoptr (MfUserfault) passed = userfault;
  const char *name = mf_region_get_name (mf_userfault_region (userfault));

  g_message ("region %s: process %d has it mapped%s", name, (int) mf_userfault_pid (userfault), again ? ", again" : "");
  mf_region_set_attach (service->regions, mf_userfault_region (userfault), userfault);
  mf_service_domain_attached (service, name, mf_userfault_pid (userfault));
  mf_host_attached (service->host, userfault);
  mf_service_show_region (service, name);
}

static void
handover_detached (MfUserfault *userfault, gpointer user_data)
{
  MfService *service = user_data;
  MfRegion *region = mf_userfault_region (userfault);
  g_autoptr (MfUserfault) current = mf_region_set_attachment (service->regions, mf_region_get_name (region));

  /* An older one of a program that has been handed over again since. */
  if (current != userfault)
    return;
  g_message ("region %s: process %d has let it go", mf_region_get_name (region), (int) mf_userfault_pid (userfault));
  mf_region_set_attach (service->regions, region, NULL);
  mf_host_detached (service->host, userfault);
  mf_service_show_region (service, mf_region_get_name (region));
}

/* --- Beginning --- */

static void
copy_config (mf_service_config *to, const mf_service_config *from)
{
  to->runtime_dir = g_strdup (from->runtime_dir);
  to->store_dir = g_strdup (from->store_dir);
  to->group = g_strdup (from->group);
  to->listen = g_strdupv (from->listen);
}

static gboolean
take_folders (MfService *service, GError **error)
{
  service->runtime_folder = mf_service_folder_take (service->config.runtime_dir, 0755, "--runtime-dir", error);
  if (!service->runtime_folder)
    return FALSE;
  /* Programs of other users open their file by its name, but don't see the others. */
  service->store_folder = mf_service_folder_take (service->config.store_dir, 0711, "--store-dir", error);
  return service->store_folder != NULL;
}

static gboolean
open_bus (MfService *service, mf_kept_sockets *kept, GError **error)
{
  g_autofree char *path = g_build_filename (service->config.runtime_dir, "memferry.sock", NULL);

  service->bus = mf_service_bus_new (path, mf_kept_sockets_take_path (kept, path), service->config.group, client_gone,
                                     service, error);
  return service->bus != NULL;
}

static gboolean
recover (MfService *service, GError **error)
{
  static const mf_host_callbacks callbacks = {
    .find_region = host_find_region,
    .find_attachment = host_find_attachment,
    .new_program = host_new_program,
    .make_region = host_make_region,
    .drop_region = host_drop_region,
    .requested = mf_service_request_domain,
    .appeared = host_appeared,
  };
  g_auto (GStrv) names = NULL;

  service->jobs = mf_job_list_new (service->bus, job_changed, service);
  service->host = mf_host_new (service->config.store_dir, service->config.runtime_dir, &callbacks, service);
  names = mf_region_set_names (service->regions);
  for (char **name = names; *name; name++)
    export_region (service, *name);
  if (!mf_host_recover (service->host, error))
    return FALSE;
  for (char **name = names; *name; name++) {
    mf_service_show_region (service, *name);
    mf_service_recover_domain (service, *name);
    mf_service_settle_domain (service, *name);
  }
  return TRUE;
}

static gboolean
open_handover (MfService *service, mf_kept_sockets *kept, GError **error)
{
  static const mf_handover_callbacks callbacks = {
    .find_region = handover_find_region,
    .attached = handover_attached,
    .detached = handover_detached,
  };

  service->handover_path = g_build_filename (service->config.runtime_dir, "handover.sock", NULL);
  service->handover = mf_handover_new_on (mf_kept_sockets_take_path (kept, service->handover_path),
                                          service->handover_path, &callbacks, service, &service->no_handover);
  if (service->handover)
    return TRUE;
  /* A machine that can't do it, or a user who may not: regions can be made and looked at all the same, and who wants to run a program is told. */
  if (g_error_matches (service->no_handover, MF_ERROR, MF_ERROR_NOT_SUPPORTED) ||
      g_error_matches (service->no_handover, MF_ERROR, MF_ERROR_PERMISSION)) {
    g_warning ("no program can be moved from or to here: %s", service->no_handover->message);
    return TRUE;
  }
  g_propagate_error (error, g_steal_pointer (&service->no_handover));
  return FALSE;
}

static gboolean
listen_at (MfService *service, const char *peer, GError **error)
{
  g_autoptr (mf_peer_address) address = mf_peer_address_parse (peer, error);

  if (!address || !mf_link_listener_add (service->listener, address, error))
    return FALSE;
  g_ptr_array_add (service->listening, g_strdup (mf_peer_address_text (address)));
  return TRUE;
}

static gboolean
open_links (MfService *service, mf_kept_sockets *kept, GError **error)
{
  g_autofree char *own = g_strdup_printf ("unix:%s/peer.sock", service->config.runtime_dir);

  service->listening = g_ptr_array_new_with_free_func (g_free);
  service->listener = mf_link_listener_new (mf_host_accept, service->host);
  mf_link_listener_use_kept (service->listener, kept);
  if (!listen_at (service, own, error))
    return FALSE;
  if (chown (own + strlen ("unix:"), (uid_t) -1, mf_service_bus_group (service->bus)) != 0)
    return mf_error_from_errno (error, errno, "giving %s to its group", own);
  for (char **peer = service->config.listen; *peer; peer++)
    if (!listen_at (service, *peer, error))
      return FALSE;
  g_ptr_array_add (service->listening, NULL);
  mf_link_listener_use_kept (service->listener, NULL);
  return TRUE;
}

MfService *
mf_service_new (const mf_service_config *config, mf_kept_sockets *kept, GError **error)
{
  g_autoptr (MfService) service = g_new0 (MfService, 1);

  copy_config (&service->config, config);
  if (!take_folders (service, error))
    return NULL;
  service->regions = mf_region_set_new (service->config.store_dir);
  service->objects = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_object_unref);
  if (!mf_region_set_scan (service->regions, error) || !open_bus (service, kept, error) || !recover (service, error) ||
      !open_handover (service, kept, error) || !open_links (service, kept, error))
    return NULL;
  service->manager = mf_manager_object_new (service);
  mf_service_bus_export (service->bus, G_DBUS_OBJECT_SKELETON (mf_manager_object_skeleton (service->manager)));
  mf_service_bus_start (service->bus);
  return g_steal_pointer (&service);
}

void
mf_service_free (MfService *service)
{
  /* No new migrations, then the end of those that there are, which may still need the programs. */
  g_clear_pointer (&service->listener, mf_link_listener_free);
  /* What ends in here is shown, and the host asked for it, until the last of them has ended. */
  if (service->host)
    mf_host_free (service->host);
  service->host = NULL;
  g_clear_pointer (&service->handover, mf_handover_free);
  g_clear_pointer (&service->jobs, mf_job_list_free);
  g_clear_pointer (&service->manager, mf_manager_object_free);
  g_clear_pointer (&service->bus, mf_service_bus_free);
  g_clear_pointer (&service->objects, g_hash_table_unref);
  g_clear_pointer (&service->regions, mf_region_set_free);
  g_clear_pointer (&service->listening, g_ptr_array_unref);
  g_free (service->handover_path);
  g_clear_error (&service->no_handover);
  g_clear_pointer (&service->store_folder, mf_service_folder_free);
  g_clear_pointer (&service->runtime_folder, mf_service_folder_free);
  mf_service_config_clear (&service->config);
  g_free (service);
}

MfRegionSet *
mf_service_regions (MfService *service)
{
  return service->regions;
}

MfHost *
mf_service_host (MfService *service)
{
  return service->host;
}

const mf_service_config *
mf_service_get_config (MfService *service)
{
  return &service->config;
}

const char *const *
mf_service_get_listening (MfService *service)
{
  return (const char *const *) service->listening->pdata;
}

/* --- What clients ask for --- */

gboolean
mf_service_remember_control (MfService *service, const char *name, const char *qmp, GError **error)
{
  if (!qmp)
    return TRUE;
  if (!g_path_is_absolute (qmp)) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID, "%s is not the full path of a QMP socket", qmp);
    return FALSE;
  }
  return mf_region_set_control (service->regions, name, qmp, error);
}

gboolean
mf_service_create_region (MfService *service, const char *name, guint64 size, const mf_service_client *client,
                          GError **error)
{
  g_autoptr (MfRegion) there = mf_region_set_find (service->regions, name, NULL);

  if (there) {
    g_set_error (error, MF_ERROR, MF_ERROR_EXISTS, "region %s is there already", name);
    return FALSE;
  }
  if (!mf_region_set_create (service->regions, name, size, client->uid, error))
    return FALSE;
  if (!mf_service_remember_control (service, name, client->qmp, error)) {
    mf_region_set_remove (service->regions, name, NULL);
    return FALSE;
  }
  export_region (service, name);
  return TRUE;
}

gboolean
mf_service_remove_region (MfService *service, const char *name, gboolean force, GError **error)
{
  g_autoptr (MfRegion) region = mf_region_set_find (service->regions, name, error);
  pid_t pid;

  if (!region)
    return FALSE;
  pid = mf_region_set_pid (service->regions, name);
  if (pid && !force) {
    g_set_error (error, MF_ERROR, MF_ERROR_BUSY,
                 "region %s: process %d has it mapped: end it first, or --force to remove the region only", name,
                 (int) pid);
    return FALSE;
  }
  if (!mf_host_forget (service->host, name, error))
    return FALSE;
  mf_region_set_attach (service->regions, region, NULL);
  unexport_region (service, name);
  return mf_region_set_remove (service->regions, name, error);
}

/* The region that a program is to run on: made if it may be and isn't there. */
static MfRegion *
region_to_run (MfService *service, const char *name, guint64 size, const mf_service_client *client, GError **error)
{
  g_autoptr (MfRegion) region = mf_region_set_find (service->regions, name, NULL);

  if (!region && size == 0) {
    g_set_error (error, MF_ERROR, MF_ERROR_NOT_FOUND, "%s: there is no such region; give --size to make it", name);
    return NULL;
  }
  if (!region) {
    if (!mf_service_create_region (service, name, size, client, error))
      return NULL;
    return mf_region_set_find (service->regions, name, error);
  }
  if (size && mf_region_get_size (region) != size) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
                 "region %s is there already, with %" G_GUINT64_FORMAT " bytes and not %" G_GUINT64_FORMAT, name,
                 (guint64) mf_region_get_size (region), size);
    return NULL;
  }
  return mf_service_remember_control (service, name, client->qmp, error) ? g_steal_pointer (&region) : NULL;
}

gboolean
mf_service_check_programs (MfService *service, MfStore *store, GError **error)
{
  if (!service->no_handover)
    return mf_userfault_check (store, error);
  g_propagate_error (error, g_error_copy (service->no_handover));
  return FALSE;
}

gboolean
mf_service_prepare_run (MfService *service, const char *name, guint64 size, const mf_service_client *client,
                        mf_service_run *run, GError **error)
{
  g_autoptr (MfRegion) region = NULL;

  /* What the kernel lacks is lacking whatever the region: before one is made for nothing. */
  if (!mf_service_check_programs (service, NULL, error))
    return FALSE;
  if (mf_service_is_taken (service, name, 0, error))
    return FALSE;
  if (mf_host_region_role (service->host, name) == MF_REGION_SERVING) {
    g_set_error (
        error, MF_ERROR, MF_ERROR_BUSY,
        "region %s: its program runs on another host and still reads from here; memferry jobs shows how far it is",
        name);
    return FALSE;
  }
  region = region_to_run (service, name, size, client, error);
  if (!region || !mf_userfault_check (mf_region_store (region), error))
    return FALSE;
  mf_service_show_region (service, name);
  run->handover = g_strdup (service->handover_path);
  run->file = g_strdup (mf_store_path (mf_region_store (region)));
  return TRUE;
}

MfJobObject *
mf_service_migrate (MfService *service, const char *const *regions, const char *peer, const mf_program_choice *program,
                    const mf_program_choice *peer_program, const mf_migrate_options *options, GDBusConnection *client,
                    GError **error)
{
  g_autoptr (MfMigration) migration = NULL;

  migration = mf_host_migrate (service->host, regions, peer, program, peer_program, options, error);
  return migration ? mf_job_list_add (service->jobs, migration, client) : NULL;
}

MfJobObject *
mf_service_fetch (MfService *service, const char *const *regions, const char *peer, const mf_program_choice *program,
                  const mf_program_choice *peer_program, const mf_migrate_options *options, GDBusConnection *client,
                  GError **error)
{
  g_autoptr (MfMigration) migration =
      mf_host_fetch (service->host, regions, peer, program, peer_program, options, error);

  return migration ? mf_job_list_add (service->jobs, migration, client) : NULL;
}
