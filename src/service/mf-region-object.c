/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "service/mf-region-object.h"

#include "service/mf-service-bus.h"

/*
 * The skeleton keeps the values of its properties and hands them out. Present and Allocated change all the time, so they are
 * looked up when somebody asks.
 */
typedef struct {
  MfDbusRegion1Skeleton parent;
  MfRegion *region;
} MfRegionSkeleton;

typedef MfDbusRegion1SkeletonClass MfRegionSkeletonClass;

GType mf_region_skeleton_get_type (void);
G_DEFINE_TYPE (MfRegionSkeleton, mf_region_skeleton, MF_DBUS_TYPE_REGION1_SKELETON)

static guint64
present_bytes (MfRegion *region)
{
  guint64 bytes = mf_page_map_count (mf_region_map (region), MF_PAGE_PRESENT) * mf_region_page_bytes (region);

  /* The last page may be a part of one. */
  return MIN (bytes, mf_region_get_size (region));
}

static void
mf_region_skeleton_get_property (GObject *object, guint id, GValue *value, GParamSpec *spec)
{
  MfRegionSkeleton *self = (MfRegionSkeleton *) object;

  if (g_str_equal (spec->name, "present"))
    g_value_set_uint64 (value, present_bytes (self->region));
  else if (g_str_equal (spec->name, "allocated"))
    g_value_set_uint64 (value, mf_store_allocated (mf_region_store (self->region)));
  else
    G_OBJECT_CLASS (mf_region_skeleton_parent_class)->get_property (object, id, value, spec);
}

static void
mf_region_skeleton_finalize (GObject *object)
{
  MfRegionSkeleton *self = (MfRegionSkeleton *) object;

  g_clear_object (&self->region);
  G_OBJECT_CLASS (mf_region_skeleton_parent_class)->finalize (object);
}

static void
mf_region_skeleton_class_init (MfRegionSkeletonClass *class)
{
  GObjectClass *object_class = G_OBJECT_CLASS (class);

  /* GObject gives neither of them on by itself. */
  object_class->set_property = G_OBJECT_CLASS (mf_region_skeleton_parent_class)->set_property;
  object_class->get_property = mf_region_skeleton_get_property;
  object_class->finalize = mf_region_skeleton_finalize;
  /* Numbered as the parent does it, which gets the numbers passed on. */
  mf_dbus_region1_override_properties (object_class, 1);
}

static void
mf_region_skeleton_init (MfRegionSkeleton *self)
{
}

char *
mf_region_object_path (const char *name)
{
  g_autofree char *escaped = g_dbus_escape_object_path (name);

  return g_strconcat (MF_SERVICE_PATH "/region/", escaped, NULL);
}

MfDbusObjectSkeleton *
mf_region_object_new (MfRegion *region)
{
  g_autofree char *path = mf_region_object_path (mf_region_get_name (region));
  MfRegionSkeleton *skeleton = g_object_new (mf_region_skeleton_get_type (), NULL);
  g_autoptr (MfDbusRegion1) interface = MF_DBUS_REGION1 (skeleton);
  MfDbusObjectSkeleton *object = mf_dbus_object_skeleton_new (path);

  skeleton->region = g_object_ref (region);
  mf_dbus_region1_set_name (interface, mf_region_get_name (region));
  mf_dbus_region1_set_size (interface, mf_region_get_size (region));
  mf_dbus_region1_set_path (interface, mf_store_path (mf_region_store (region)));
  mf_dbus_region1_set_state (interface, "");
  mf_dbus_region1_set_control (interface, "");
  mf_dbus_region1_set_job (interface, "/");
  mf_dbus_object_skeleton_set_region1 (object, interface);
  return object;
}

void
mf_region_object_update (MfDbusObjectSkeleton *object, const mf_region_facts *facts)
{
  g_autoptr (MfDbusRegion1) interface = mf_dbus_object_get_region1 (MF_DBUS_OBJECT (object));

  mf_dbus_region1_set_state (interface, facts->state);
  mf_dbus_region1_set_pid (interface, (guint) facts->pid);
  mf_dbus_region1_set_control (interface, facts->control ? facts->control : "");
  mf_dbus_region1_set_job (interface, facts->job ? facts->job : "/");
}
