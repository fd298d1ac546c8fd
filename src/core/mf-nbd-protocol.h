/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The NBD protocol's numbers and fixed messages, after the public specification (NetworkBlockDevice/nbd,
 * doc/proto.md). Codecs only: bytes in, struct out, no I/O. Everything on the wire is big-endian.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The dirty context's name. Extent flags: MF_NBD_DIRTY when the page is dirty in this session; bits 4 to 7 its heat,
 * 0 (not written in any of the latest scans) to 15 (written in each). */
#define MF_NBD_CONTEXT_DIRTY "memferry:dirty"
#define MF_NBD_DIRTY         (1u << 0)
#define MF_NBD_HEAT_SHIFT    4
#define MF_NBD_HEAT_MAX      15u
