/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * One direction of one connection: bytes that are on their way, in order, each to come out at its time.
 *
 * As TCP has it, a flow has a window: what was put in and not acknowledged yet is never more, and an acknowledgement takes the way back. So a
 * long link with a small window is slow.
 *
 * Times are given; nothing here blocks. One thread.
 */
#include "relay-link.h"

/* A time that never comes. */
#define RELAY_NEVER UINT64_MAX

typedef struct relay_flow relay_flow;

/* `link` is shared with other flows and outlives this one. An acknowledgement takes `return_nsec`; nothing enters before
 * `open_nsec`, when the connection stands. Ends the program without memory. */
relay_flow *relay_flow_new (relay_link *link, size_t window_bytes, uint64_t return_nsec, uint64_t open_nsec);
void relay_flow_free (relay_flow *flow);

/* Where the next bytes are to be put, and how many at most: 0 when window or link are full. */
size_t relay_flow_offer (relay_flow *flow, uint64_t now_nsec, uint8_t **at);

/* So many bytes are there now: they enter the link. */
void relay_flow_push (relay_flow *flow, uint64_t now_nsec, size_t length_bytes);

/* No more bytes will come; the end travels behind the last of them. */
void relay_flow_push_end (relay_flow *flow, uint64_t now_nsec);

/* Bytes that are through, as many as lie side by side; 0: none yet. */
size_t relay_flow_due (const relay_flow *flow, uint64_t now_nsec, const uint8_t **at);

/* When the first byte of these was to come out. */
uint64_t relay_flow_due_nsec (const relay_flow *flow);

/* So many of them were taken out. */
void relay_flow_pop (relay_flow *flow, uint64_t now_nsec, size_t length_bytes);

/* Whether everything has come out, the end too. */
bool relay_flow_ended (const relay_flow *flow, uint64_t now_nsec);

/* When there is something to do: bytes or the end come out (not asked for while who is to get them is `blocked`), or, with `full`, something may be
 * put in again. That may be before `now_nsec`. */
uint64_t relay_flow_next (const relay_flow *flow, uint64_t now_nsec, bool blocked, bool full);
