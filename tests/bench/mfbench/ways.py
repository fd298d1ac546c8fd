# SPDX-License-Identifier: LGPL-2.1-or-later
"""Case ways: what the kernel's ways to send, receive and place cost, to choose the engine's by."""
import itertools
import os

from . import report
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


def run(host, recorder, runs):
    size = GIB // 16 if host.quick else GIB
    report.title(f"ways: {size >> 20} MiB from a file on tmpfs, warm, into a fresh one; s, and s of processor time")
    source = host.random_file("source", size)
    ways = {}
    for group, name, link, connections, options in plans():
        ways[f"{group}: {name}, {link} x{connections}"] = (
            lambda link=link, connections=connections, options=options:
            copy_or_drop(host, source, link, connections, options))
    recorder.alternate(ways, runs)
    os.unlink(source)

    printed = None
    rows = []
    for group, name, link, connections, _ in list(plans()) + [(None,) * 5]:
        if group != printed:
            if rows:
                print(f"\n{printed}")
                report.table(["way", "link", "s", "GB/s", "sender cpu", "receiver cpu"], rows)
            printed, rows = group, []
        if group is None:
            break
        way = f"{group}: {name}, {link} x{connections}"
        rows.append([name, f"{link} x{connections}", report.spread(recorder.all(way, "seconds"), 3),
                     f"{size / recorder.median(way, 'seconds') / 1e9:.2f}",
                     f"{recorder.median(way, 'sender_cpu'):.2f}", f"{recorder.median(way, 'receiver_cpu'):.2f}"])


def copy_or_drop(host, source, link, connections, options):
    if "null" not in options:
        return plain(host, source, link, connections, *options)
    target = host.fresh("target")
    measured = host.measure("bench-copy", "--link", link, "--connections", connections, *options, source, target)
    os.unlink(target)
    return measured
