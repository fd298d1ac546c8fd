/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Something that listens at a UNIX socket and says, for its one connection, what the test wants: a QEMU that doesn't exist.
 */
#include <glib.h>

/* One step of a script. */
typedef struct {
  const char *hears; /* waits for a line that contains this; NULL: doesn't wait */
  const char *says;  /* then sends this; every @ becomes the id of the command that was heard last */
} MonitorStep;

typedef struct _Monitor Monitor;

#define GREETING                                                                                                       \
  "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 1, \"minor\": 99, \"major\": 42}, \"package\": \"\"}, "              \
  "\"capabilities\": []}}\r\n"
#define OK "{\"return\": {}, \"id\": @}\r\n"
/* The greeting and the negotiation. */
#define HELLO                                                                                                          \
  { NULL, GREETING },                                                                                                  \
  {                                                                                                                    \
    "qmp_capabilities", OK                                                                                             \
  }

/* Follows the script (ended by { NULL, NULL }), then closes the connection if `closes`, or keeps silent until monitor_free(). A step that
 * isn't reached before monitor_free() fails the test. */
Monitor *monitor_new (const MonitorStep *script, gboolean closes);
const char *monitor_path (Monitor *monitor);
/* Waits until the script was followed to its end. */
void monitor_await_script (Monitor *monitor);
/* After that: says something more. */
void monitor_say (Monitor *monitor, const char *text);
/* ... Whether the client closes its end within `timeout_usec`. */
gboolean monitor_await_client_end (Monitor *monitor, gint64 timeout_usec);
void monitor_free (Monitor *monitor);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (Monitor, monitor_free)
