# SPDX-License-Identifier: LGPL-2.1-or-later
"""Case ways: what the kernel's ways to send, receive and place cost, to choose the engine's by."""
import itertools
import os

from .case import Case, way
from .copy import GIB, plain

SENDERS = ("write", "faulting", "populate", "pread", "sendfile", "splice", "zerocopy")
RECEIVERS = ("null", "mmap", "populate", "fallocate", "pwrite", "userfault", "splice")
LINKS = ("unix", "tcp")
MIB = 1 << 20


def plans():
    """Yields (group, name, link, connections, options)."""
    for sender, receiver, link in itertools.product(SENDERS, ("null", "userfault"), LINKS):
        if (sender, link) != ("zerocopy", "unix"):
            yield ("senders", f"{sender} to {receiver}", link, 1,
                   ("--sender", sender, "--receiver", receiver, "--socket-buffer", MIB))
    for receiver, buffer, link, connections in itertools.product(RECEIVERS, (0, MIB), LINKS, (1, 2, 4)):
        label = "default" if buffer == 0 else f"{buffer >> 20}M"
        yield ("receivers, 256K granule", f"{receiver}, {label} socket buffer", link, connections,
               ("--receiver", receiver, "--socket-buffer", buffer))
    for receiver, granule, link, connections in itertools.product(
            ("userfault", "pwrite", "mmap"), (16, 64, 256, 1024, 2048), LINKS, (1, 2)):
        yield ("granules, 1M socket buffer", f"{receiver} {granule}K", link, connections,
               ("--receiver", receiver, "--granule", granule << 10, "--socket-buffer", MIB))
    for receiver, request, window, link, connections in itertools.product(
            ("userfault",), (64, 128, 256, 1024), (1, 2, 4, 16), LINKS, (1, 2)):
        yield ("requests and answers, 1M socket buffer", f"{receiver}, {request}K, {window} under way", link, connections,
               ("--receiver", receiver, "--request", request << 10, "--window", window, "--socket-buffer", MIB, "--granule",
                request << 10, "--send", request << 10))


def copy_or_drop(host, source, link, connections, options):
    if "null" not in options:
        return plain(host, source, link, connections, *options)
    target = host.fresh("target")
    measured = host.measure("bench-copy", "--link", link, "--connections", connections, *options, source, target)
    os.unlink(target)
    return {**measured, "gb_per_s": os.path.getsize(source) / measured["seconds"] / 1e9}


def ways(host):
    source = host.random_file("source", GIB // 16 if host.quick else GIB)
    for group, name, link, connections, options in plans():
        yield (way(name, group=group, link=link, connections=connections),
               lambda link=link, connections=connections, options=options:
               copy_or_drop(host, source, link, connections, options))


CASE = Case(
    name="ways",
    title=lambda host: "from a file on tmpfs, warm, into a fresh one; s, and s of processor time",
    axes=("group", "link", "connections"),
    measures={"seconds": ("s", 3), "gb_per_s": ("GB/s", 2), "sender_cpu": ("sender cpu", 2), "receiver_cpu": ("receiver cpu", 2)},
    ways=ways,
)
