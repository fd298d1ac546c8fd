# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bytes of the guest's workload, computed once more: vm-images/workload/pattern.h in Python."""

import struct

PAGE_BYTES = 4096
PAGE_WORDS = PAGE_BYTES // 8
POINTS = 8
_MASK = (1 << 64) - 1


def _start(seed, number):
    x = (seed * 0x9E3779B97F4A7C15 + number + 1) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return (x ^ (x >> 31)) or 1


def _next(x):
    x ^= (x << 13) & _MASK
    x ^= x >> 7
    return x ^ ((x << 17) & _MASK)


def page(seed, number):
    """The bytes of page `number` of what mf.fill fills, outside of what mf.dirty dirties."""
    words = []
    value = _start(seed, number)
    for _ in range(PAGE_WORDS):
        words.append(value)
        value = _next(value)
    return struct.pack(f"<{PAGE_WORDS}Q", *words)


def dirtied_page_middle(seed, number):
    """Where in a dirtied page bytes begin that never change, and those bytes: all between the first two points."""
    stride = PAGE_BYTES // POINTS
    return 8, page(seed, number)[8:stride]
