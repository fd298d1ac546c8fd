/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Tells the service manager how it goes: systemd's notification protocol, a datagram to $NOTIFY_SOCKET.
 */

/* "READY=1", "STOPPING=1". Nothing happens when nobody wants to know. */
void mf_service_notify (const char *state);
