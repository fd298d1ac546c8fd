/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <sched.h>
#include <sys/mount.h>

/* A tmpfs on `folder` that nobody else sees, so that nobody else changes its room: in a mount namespace of this process, which must have
 * one thread only. FALSE: the machine does not allow it. */
static inline gboolean
mount_own_tmpfs (const char *folder, const char *options)
{
  /* As root a mount namespace is enough; anybody else needs a user namespace around it. */
  if (unshare (CLONE_NEWNS) < 0 && unshare (CLONE_NEWUSER | CLONE_NEWNS) < 0)
    return FALSE;
  return mount (NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 && mount ("tmpfs", folder, "tmpfs", 0, options) == 0;
}
