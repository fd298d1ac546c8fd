/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The stages of a migration, in order: what each side does, and how it is undone.
 *
 * The source walks the table in its thread. Where a stage needs the target it asks for it by name (Peer1.Stage), once or, for the rounds
 * of pre-copy, several times; the target does the row's `target` part in its own thread and answers. When something fails, both sides undo what they have begun, from the
 * row they were in back to the first.
 */
#include "migrate/mf-source.h"
#include "migrate/mf-target.h"

G_BEGIN_DECLS

typedef struct {
  const char *name;
  gboolean (*source) (mf_source *source, GError **error);
  /* `results` is filled for the source. */
  gboolean (*target) (mf_target *target, GVariant *arguments, GVariantDict *results, GError **error);
  void (*source_rollback) (mf_source *source);
  void (*target_rollback) (mf_target *target);
} mf_stage;

#define MF_N_STAGES 6
extern const mf_stage mf_stages[MF_N_STAGES];

/* The row of that name, or -1. */
int mf_stage_find (const char *name);

G_END_DECLS
