/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A region on D-Bus: org.memferry.Region1. In the thread of the main context.
 */
#include "region/mf-region.h"
#include "mf-dbus.h"

G_BEGIN_DECLS

/* What of it changes. */
typedef struct {
  const char *state;   /* mf_region_role_name() */
  pid_t pid;           /* 0: no program has it mapped */
  const char *control; /* may be NULL */
  const char *job;     /* path of the migration that has it; NULL: none */
} mf_region_facts;

/* The object for `region`, at its path. (transfer full) */
MfDbusObjectSkeleton *mf_region_object_new (MfRegion *region);
/* The path of the object of the region called `name`. (transfer full) */
char *mf_region_object_path (const char *name);
/* Signals what has changed. */
void mf_region_object_update (MfDbusObjectSkeleton *object, const mf_region_facts *facts);

G_END_DECLS
