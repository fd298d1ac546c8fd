/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Objects of the service as JSON, one object a line. The manual pages list the keys: names are lower case with underscores and end in their unit.
 */
#include "mf-dbus.h"

G_BEGIN_DECLS

/* One line, without the line's end. (transfer full) */
char *mf_cli_json_region (MfDbusRegion1 *region);
char *mf_cli_json_job (MfDbusJob1 *job);

/* The same object in an envelope: {"event": EVENT, KIND: {...}}. */
char *mf_cli_json_region_event (const char *event, MfDbusRegion1 *region);
char *mf_cli_json_job_event (const char *event, MfDbusJob1 *job);

G_END_DECLS
