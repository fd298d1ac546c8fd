/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Tells the service manager how it goes: systemd's notification protocol, a datagram to $NOTIFY_SOCKET. Nothing happens when nobody
 * wants to know. From any thread.
 */
#include <glib.h>

G_BEGIN_DECLS

/* "READY=1", "STOPPING=1". */
void mf_notify (const char *state);
/* With a descriptor that the manager gets a copy of: "FDSTORE=1\nFDNAME=...". */
void mf_notify_fd (const char *state, int fd);

/* Within which time, again and again, the manager wants to hear "WATCHDOG=1"; after that it takes this process for hung. 0: it doesn't. */
guint64 mf_notify_watchdog_usec (void);

G_END_DECLS
