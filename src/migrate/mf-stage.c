/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "migrate/mf-stage.h"

const mf_stage mf_stages[MF_N_STAGES] = {
  { "connect", mf_source_connect, mf_target_connect, mf_source_disconnect, mf_target_disconnect },
  { "prepare", mf_source_prepare, mf_target_prepare, mf_source_unprepare, mf_target_unprepare },
  { "pre-copy", mf_source_precopy, mf_target_precopy, NULL, NULL },
  /* The source's record is written at the end of this row. From there on only the target may run the program; what
   * the rollbacks undo is what came before that. */
  { "switchover", mf_source_switchover, mf_target_switchover, mf_source_unswitch, mf_target_unswitch },
  { "post-copy", mf_source_postcopy, NULL, NULL, NULL },
  { "done", mf_source_done, NULL, NULL, NULL },
};

int
mf_stage_find (const char *name)
{
  for (int i = 0; i < MF_N_STAGES; i++) {
    if (g_str_equal (mf_stages[i].name, name))
      return i;
  }
  return -1;
}
