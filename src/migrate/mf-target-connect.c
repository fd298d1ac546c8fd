/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The target's first stage: is what the source wants to send here possible at all? Nothing is changed before everything has been checked.
 */
#include "migrate/mf-fetch.h"
#include "migrate/mf-stage.h"
#include "migrate/mf-target-private.h"
#include "mf-wait.h"

#include <string.h>

#define MAX_REGIONS      64
#define SETTLE_LOOK_USEC (100 * 1000)

/* The line that begins with the same key as `line`, or NULL. */
static const char *
line_of_key (char **lines, const char *line)
{
  const char *equals = strchr (line, '=');
  gsize length = equals != NULL ? (gsize) (equals + 1 - line) : strlen (line);

  for (; *lines != NULL; lines++) {
    if (strncmp (*lines, line, length) == 0)
      return *lines;
  }
  return NULL;
}

/* The first line of `lines` that is not among `others`; NULL: there is none. */
static const char *
first_missing (char **lines, char **others)
{
  for (; *lines != NULL; lines++) {
    if (**lines != '\0' && !g_strv_contains ((const char *const *) others, *lines))
      return *lines;
  }
  return NULL;
}

/* Lines of "key=value": the first that differs is named. It is read at the source. */
gboolean
mf_target_compare_signatures (const char *theirs, const char *ours, GError **error)
{
  g_auto (GStrv) their_lines = g_strsplit (theirs, "\n", -1);
  g_auto (GStrv) our_lines = g_strsplit (ours, "\n", -1);
  const char *their_line = first_missing (their_lines, our_lines);
  const char *our_line =
      their_line != NULL ? line_of_key (our_lines, their_line) : first_missing (our_lines, their_lines);

  if (their_line == NULL && our_line == NULL)
    return TRUE;
  if (their_line != NULL && our_line != NULL)
    g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM, "the two programs differ: the source's has %s, the target's %s",
                 their_line, our_line);
  else
    g_set_error (error, MF_ERROR, MF_ERROR_PROGRAM, "the two programs differ: only the %s has %s",
                 their_line != NULL ? "source's" : "target's", their_line != NULL ? their_line : our_line);
  return FALSE;
}

static gboolean
find_region (mf_target *target, const char *name, guint64 size, guint32 page_bytes, GError **error)
{
  mf_target_region region = { .name = g_strdup (name) };

  region.region = target->is_late ? mf_host_make_region (target->host, name, size, &region.is_new, error)
                                  : mf_host_find_region (target->host, name, error);
  g_array_append_val (target->regions, region);
  if (region.region == NULL)
    return FALSE;
  if (mf_region_get_size (region.region) != size) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
                 "region %s has %" G_GUINT64_FORMAT " bytes on the source and %" G_GUINT64_FORMAT
                 " on the target; they must be equal",
                 name, size, mf_region_get_size (region.region));
    return FALSE;
  }
  if (mf_region_page_bytes (region.region) != page_bytes) {
    g_set_error (error, MF_ERROR, MF_ERROR_INVALID,
                 "region %s has pages of %u bytes on the source and of %u on the target", name, page_bytes,
                 mf_region_page_bytes (region.region));
    return FALSE;
  }
  target->total_bytes += size;
  return TRUE;
}

static gboolean
read_arguments (mf_target *target, GVariant *arguments, GPtrArray *names, GError **error)
{
  g_autoptr (GVariant) regions = g_variant_lookup_value (arguments, "regions", G_VARIANT_TYPE ("a(stu)"));
  guint32 mode = MF_MODE_AUTO, page_bytes;
  GVariantIter iter;
  const char *name;
  guint64 size;

  if (regions == NULL || g_variant_n_children (regions) == 0 || g_variant_n_children (regions) > MAX_REGIONS) {
    g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "the source named no region, or more than %d", MAX_REGIONS);
    return FALSE;
  }
  g_variant_lookup (arguments, "mode", "u", &mode);
  g_variant_lookup (arguments, "bandwidth", "t", &target->record->bandwidth);
  if (!mf_target_read_lanes (target, arguments, error))
    return FALSE;
  if (mode > MF_MODE_POSTCOPY) {
    g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "the source asks for mode %u", mode);
    return FALSE;
  }
  target->mode = (mf_mode) mode;
  g_variant_lookup (arguments, "late", "b", &target->is_late);
  g_variant_lookup (arguments, "program", "s", &target->record->program);
  g_variant_lookup (arguments, "control", "s", &target->record->control);
  g_variant_lookup (arguments, "state", "s", &target->record->state);
  g_variant_iter_init (&iter, regions);
  while (g_variant_iter_next (&iter, "(&stu)", &name, &size, &page_bytes)) {
    if (!find_region (target, name, size, page_bytes, error))
      return FALSE;
    g_ptr_array_add (names, g_strdup (name));
  }
  g_ptr_array_add (names, NULL);
  return TRUE;
}

static gboolean
check_program (mf_target *target, GError **error)
{
  g_autoptr (GPtrArray) objects = g_ptr_array_new ();

  for (guint i = 0; i < target->regions->len; i++) {
    mf_target_region *region = mf_target_region_at (target, i);

    g_ptr_array_add (objects, region->region);
    region->userfault = mf_host_find_attachment (target->host, region->region, error);
    if (region->userfault == NULL)
      return FALSE;
    mf_target_watch (target, region->userfault);
  }
  target->program =
      mf_host_new_program (target->host, (MfRegion *const *) objects->pdata, objects->len, target->record, error);
  if (target->program == NULL ||
      !target->program->ops->check (target->program, FALSE, &target->info, target->interrupt, error))
    return FALSE;
  return mf_target_compare_signatures (target->signature ? target->signature : "",
                                       target->info.signature ? target->info.signature : "", error);
}

/* A service that has just begun doesn't know yet who has its regions mapped: a program hands its memory over again within seconds, if there is one. */
static MfUserfault *
await_attachment (mf_target *target, mf_target_region *region)
{
  gboolean may_come = !region->is_new && mf_host_region_role (target->host, region->name) == MF_REGION_HERE;

  for (;;) {
    gboolean has_settled = mf_host_has_settled (target->host);
    MfUserfault *userfault = mf_host_find_attachment (target->host, region->region, NULL);

    if (userfault != NULL || has_settled || !may_come || g_cancellable_is_cancelled (target->interrupt))
      return userfault;
    mf_wait_fd (-1, 0, mf_deadline_after (SETTLE_LOOK_USEC), target->interrupt, NULL);
  }
}

/* The program is still to come; one that is there is another one, and its memory is not to be emptied (invariant 1). */
static gboolean
check_unused (mf_target *target, GError **error)
{
  for (guint i = 0; i < target->regions->len; i++) {
    mf_target_region *region = mf_target_region_at (target, i);
    g_autoptr (MfUserfault) userfault = await_attachment (target, region);

    if (g_cancellable_set_error_if_cancelled (target->interrupt, error))
      return FALSE;
    if (userfault == NULL)
      continue;
    g_set_error (error, MF_ERROR, MF_ERROR_BUSY,
                 "region %s: process %d has it mapped already: a program of that name runs there", region->name,
                 (int) mf_userfault_pid (userfault));
    return FALSE;
  }
  return TRUE;
}

/* What was asked for here, and nothing else. */
static gboolean
check_asked_for (mf_target *target, GVariant *arguments, GError **error)
{
  g_autoptr (GVariant) regions = g_variant_lookup_value (arguments, "regions", G_VARIANT_TYPE ("a(stu)"));
  const char *const *asked;
  gboolean is_late = FALSE, is_same;

  if (target->fetch == NULL)
    return TRUE;
  asked = mf_migration_get_regions (mf_fetch_migration (target->fetch));
  g_variant_lookup (arguments, "late", "b", &is_late);
  is_same = !is_late && regions != NULL && g_variant_n_children (regions) == g_strv_length ((char **) asked);
  for (guint i = 0; is_same && asked[i] != NULL; i++) {
    const char *name;

    g_variant_get_child (regions, i, "(&stu)", &name, NULL, NULL);
    is_same = g_str_equal (name, asked[i]);
  }
  if (is_same)
    return TRUE;
  g_set_error (error, MF_ERROR, MF_ERROR_PROTOCOL, "the source sends other regions than it was asked for");
  return FALSE;
}

static void
make_migration (mf_target *target)
{
  if (target->fetch != NULL) {
    target->migration = g_object_ref (mf_fetch_migration (target->fetch));
    return;
  }
  target->migration = mf_migration_new (mf_host_context (target->host), (const char *const *) target->record->regions,
                                        target->record->peer, target->mode, FALSE);
  mf_host_announce (target->host, target->migration);
}

gboolean
mf_target_connect (mf_target *target, GVariant *arguments, GVariantDict *results, GError **error)
{
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);

  g_variant_lookup (arguments, "signature", "s", &target->signature);
  if (!check_asked_for (target, arguments, error) || !read_arguments (target, arguments, names, error))
    return FALSE;
  g_strfreev (target->record->regions);
  target->record->regions = g_strdupv ((char **) names->pdata);
  if (target->is_late ? !check_unused (target, error) : !check_program (target, error))
    return FALSE;
  if (!mf_host_claim (target->host, target->record, MF_PHASE_INCOMING, error))
    return FALSE;
  make_migration (target);
  mf_target_heed_cancel (target);
  for (guint i = 0; i < target->regions->len; i++) {
    mf_target_region *region = mf_target_region_at (target, i);

    if (!mf_region_reset (region->region, error))
      return FALSE;
    if (!mf_store_reserve (mf_region_store (region->region), error)) {
      g_prefix_error (error, "region %s: ", region->name);
      return FALSE;
    }
  }
  if (target->is_late) {
    mf_target_accept_late (target);
    g_variant_dict_insert (results, "tells", "b", TRUE);
  }
  return TRUE;
}

void
mf_target_disconnect (mf_target *target)
{
  for (guint i = 0; i < target->regions->len; i++) {
    mf_target_region *region = mf_target_region_at (target, i);

    if (region->region == NULL || target->record->phase == 0)
      continue;
    g_autoptr (GError) error = NULL;

    /* As it was: empty, and nothing is missing. */
    if (!mf_region_reset (region->region, &error))
      g_warning ("region %s: %s", region->name, error->message);
    mf_region_set_all_present (region->region);
    mf_store_release (mf_region_store (region->region));
  }
}
