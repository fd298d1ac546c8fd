/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Connected pairs of stream sockets for the measuring programs, and whole reads and writes on them. These programs measure one
 * thing and stop: what fails here ends the program with a message on standard error (err.h).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* Makes a connected pair. `link` is "unix", "tcp" (127.0.0.1, no delay), or "LISTEN,CONNECT" for a pair through somebody who listens at CONNECT and
 * leads to LISTEN, as bench-relay does, both as relay-address.h has it. `buffer_bytes` sets both sockets' send and receive buffers, 0 leaves
 * them as the system has them. */
void bench_link_pair (const char *link, int buffer_bytes, int fds[2]);

/* All bytes or none: ends the program on an error or, when reading, at an early end. */
void bench_link_write (int fd, const void *bytes, size_t length_bytes);
void bench_link_read (int fd, void *bytes, size_t length_bytes);

/* How to wait: polling for up to `poll_nsec` (0: not at all), and then asleep. With `yield` a poller lets others have its
 * processor in between; without, it keeps what it waits for from running when both are on the same one. */
typedef struct {
  uint64_t poll_nsec;
  bool yield;
} bench_wait;

/* Like bench_link_read() but false when the peer has closed before the first byte. */
bool bench_link_read_or_end (int fd, void *bytes, size_t length_bytes, bench_wait wait);

/* One poll that found nothing is over: true when the next one is due, false when it is time to sleep. */
bool bench_wait_poll_again (bench_wait wait, uint64_t begin_nsec);

/* Scatter and gather; `parts` is used up. */
void bench_link_write_parts (int fd, struct iovec *parts, int count);
void bench_link_read_parts (int fd, struct iovec *parts, int count);
