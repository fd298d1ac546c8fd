/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "service/mf-service-objects.h"

#include <string.h>

#define OBJECT_MANAGER "org.freedesktop.DBus.ObjectManager"

typedef struct {
  GDBusConnection *connection;
  guint registration; /* of the object manager */
} peer;

struct _MfServiceObjects {
  char *root;
  GDBusNodeInfo *info;
  GPtrArray *objects; /* of GDBusObjectSkeleton */
  GArray *peers;
};

static const char introspection[] = "<node>"
                                    "  <interface name='" OBJECT_MANAGER "'>"
                                    "    <method name='GetManagedObjects'>"
                                    "      <arg type='a{oa{sa{sv}}}' name='objects' direction='out'/>"
                                    "    </method>"
                                    "    <signal name='InterfacesAdded'>"
                                    "      <arg type='o' name='object'/>"
                                    "      <arg type='a{sa{sv}}' name='interfaces'/>"
                                    "    </signal>"
                                    "    <signal name='InterfacesRemoved'>"
                                    "      <arg type='o' name='object'/>"
                                    "      <arg type='as' name='interfaces'/>"
                                    "    </signal>"
                                    "  </interface>"
                                    "</node>";

static const char *
path_of (GDBusObjectSkeleton *object)
{
  return g_dbus_object_get_object_path (G_DBUS_OBJECT (object));
}

/* Calls `each` for every interface of the object. */
static void
for_interfaces (GDBusObjectSkeleton *object, void (*each) (GDBusInterfaceSkeleton *, gpointer), gpointer data)
{
  GList *interfaces = g_dbus_object_get_interfaces (G_DBUS_OBJECT (object));

  for (GList *l = interfaces; l; l = l->next)
    each (l->data, data);
  g_list_free_full (interfaces, g_object_unref);
}

/* --- What is told of objects --- */

static void
add_properties (GDBusInterfaceSkeleton *interface, gpointer builder)
{
  g_autoptr (GVariant) properties = g_dbus_interface_skeleton_get_properties (interface);

  g_variant_builder_add (builder, "{s@a{sv}}", g_dbus_interface_skeleton_get_info (interface)->name, properties);
}

static GVariant *
describe (GDBusObjectSkeleton *object)
{
  GVariantBuilder builder;

  g_variant_builder_init (&builder, G_VARIANT_TYPE ("a{sa{sv}}"));
  for_interfaces (object, add_properties, &builder);
  return g_variant_builder_end (&builder);
}

static void
add_name (GDBusInterfaceSkeleton *interface, gpointer builder)
{
  g_variant_builder_add (builder, "s", g_dbus_interface_skeleton_get_info (interface)->name);
}

static GVariant *
interface_names (GDBusObjectSkeleton *object)
{
  GVariantBuilder builder;

  g_variant_builder_init (&builder, G_VARIANT_TYPE_STRING_ARRAY);
  for_interfaces (object, add_name, &builder);
  return g_variant_builder_end (&builder);
}

static GVariant *
describe_all (MfServiceObjects *objects)
{
  GVariantBuilder builder;

  g_variant_builder_init (&builder, G_VARIANT_TYPE ("a{oa{sa{sv}}}"));
  for (guint i = 0; i < objects->objects->len; i++)
    g_variant_builder_add (&builder, "{o@a{sa{sv}}}", path_of (objects->objects->pdata[i]),
                           describe (objects->objects->pdata[i]));
  return g_variant_builder_end (&builder);
}

static void
tell (MfServiceObjects *objects, const char *signal, GDBusObjectSkeleton *object, GVariant *about)
{
  g_autoptr (GVariant) arguments = g_variant_ref_sink (g_variant_new ("(o@*)", path_of (object), about));

  /* A connection that is being closed takes it without a word. */
  for (guint i = 0; i < objects->peers->len; i++)
    g_dbus_connection_emit_signal (g_array_index (objects->peers, peer, i).connection, NULL, objects->root,
                                   OBJECT_MANAGER, signal, arguments, NULL);
}

static void
handle_call (GDBusConnection *connection, const char *sender, const char *path, const char *interface,
             const char *method, GVariant *arguments, GDBusMethodInvocation *invocation, gpointer user_data)
{
  g_dbus_method_invocation_return_value (invocation, g_variant_new ("(@a{oa{sa{sv}}})", describe_all (user_data)));
}

/* --- Objects on connections --- */

typedef struct {
  GDBusConnection *connection;
  const char *path;
} place;

static void
export_interface (GDBusInterfaceSkeleton *interface, gpointer data)
{
  const place *where = data;
  g_autoptr (GError) error = NULL;

  if (!g_dbus_interface_skeleton_export (interface, where->connection, where->path, &error))
    g_warning ("showing %s: %s", where->path, error->message);
}

static void
unexport_interface (GDBusInterfaceSkeleton *interface, gpointer data)
{
  const place *where = data;

  if (g_dbus_interface_skeleton_has_connection (interface, where->connection))
    g_dbus_interface_skeleton_unexport_from_connection (interface, where->connection);
}

static void
show (GDBusObjectSkeleton *object, GDBusConnection *connection)
{
  place where = { connection, path_of (object) };

  for_interfaces (object, export_interface, &where);
}

static void
hide (GDBusObjectSkeleton *object, GDBusConnection *connection)
{
  place where = { connection, path_of (object) };

  for_interfaces (object, unexport_interface, &where);
}

MfServiceObjects *
mf_service_objects_new (const char *root)
{
  MfServiceObjects *objects = g_new0 (MfServiceObjects, 1);

  objects->root = g_strdup (root);
  objects->info = g_dbus_node_info_new_for_xml (introspection, NULL);
  objects->objects = g_ptr_array_new_with_free_func (g_object_unref);
  objects->peers = g_array_new (FALSE, FALSE, sizeof (peer));
  return objects;
}

void
mf_service_objects_free (MfServiceObjects *objects)
{
  while (objects->peers->len)
    mf_service_objects_disconnect (objects, g_array_index (objects->peers, peer, 0).connection);
  g_array_unref (objects->peers);
  g_ptr_array_unref (objects->objects);
  g_dbus_node_info_unref (objects->info);
  g_free (objects->root);
  g_free (objects);
}

void
mf_service_objects_add (MfServiceObjects *objects, GDBusObjectSkeleton *object)
{
  g_ptr_array_add (objects->objects, g_object_ref (object));
  for (guint i = 0; i < objects->peers->len; i++)
    show (object, g_array_index (objects->peers, peer, i).connection);
  tell (objects, "InterfacesAdded", object, describe (object));
}

void
mf_service_objects_remove (MfServiceObjects *objects, GDBusObjectSkeleton *object)
{
  g_autoptr (GDBusObjectSkeleton) kept = g_object_ref (object);

  if (!g_ptr_array_remove (objects->objects, object))
    return;
  for (guint i = 0; i < objects->peers->len; i++)
    hide (object, g_array_index (objects->peers, peer, i).connection);
  tell (objects, "InterfacesRemoved", object, interface_names (object));
}

void
mf_service_objects_connect (MfServiceObjects *objects, GDBusConnection *connection)
{
  static const GDBusInterfaceVTable vtable = { .method_call = handle_call };
  g_autoptr (GError) error = NULL;
  peer new = { g_object_ref (connection), 0 };

  new.registration = g_dbus_connection_register_object (connection, objects->root, objects->info->interfaces[0],
                                                        &vtable, objects, NULL, &error);
  if (!new.registration)
    g_warning ("showing the objects: %s", error->message);
  for (guint i = 0; i < objects->objects->len; i++)
    show (objects->objects->pdata[i], connection);
  g_array_append_val (objects->peers, new);
}

void
mf_service_objects_disconnect (MfServiceObjects *objects, GDBusConnection *connection)
{
  for (guint i = 0; i < objects->peers->len; i++) {
    peer gone = g_array_index (objects->peers, peer, i);

    if (gone.connection != connection)
      continue;
    g_array_remove_index_fast (objects->peers, i);
    for (guint n = 0; n < objects->objects->len; n++)
      hide (objects->objects->pdata[n], connection);
    if (gone.registration)
      g_dbus_connection_unregister_object (connection, gone.registration);
    g_object_unref (gone.connection);
    return;
  }
}
