# SPDX-License-Identifier: LGPL-2.1-or-later
"""Case copy: 1 GiB of random bytes from a file on tmpfs into a fresh file on tmpfs."""
import itertools
import os
import time

from . import report
from .nbd import Nbdkit
from .ours import Ferry, Serve

GIB = 1 << 30
LINKS = ("unix", "tcp")
# Full and quick.
CONNECTIONS = {False: (1, 2, 4), True: (2,)}
# The plain copies of which the fastest is the floor: what case `ways` found to be near the front. Over tcp, asking for
# little at a time wins: what is under way stays in the processor's cache.
PLAIN = {
    "userfault 64K": ("--receiver", "userfault", "--granule", 64 << 10),
    "userfault 256K": ("--receiver", "userfault", "--granule", 256 << 10),
    "pwrite 256K": ("--receiver", "pwrite", "--granule", 256 << 10),
    "splice": ("--receiver", "splice", "--granule", 256 << 10),
    "userfault, 2 requests of 256K": ("--receiver", "userfault", "--granule", 256 << 10, "--request", 256 << 10,
                                      "--window", 2),
}
SOCKET_BUFFERS = {"": 0, ", 1M socket buffer": 1 << 20}


def plain(host, source, link, connections, *options):
    """One plain copy, compared byte for byte."""
    target = host.fresh("target")
    host.prime(os.path.getsize(source))
    measured = host.measure("bench-copy", "--link", link, "--connections", connections, *options, source, target)
    host.same(source, target)
    os.unlink(target)
    measured["gb_per_s"] = os.path.getsize(source) / measured["seconds"] / 1e9
    return measured


def nbdcopy(host, source, link, connections):
    target = host.fresh("target")
    with Nbdkit(host, link, "file", source) as server:
        host.prime(os.path.getsize(source))
        start = time.monotonic()
        # Without --threads it would use fewer connections than asked for on a machine of fewer processors.
        host.output("nbdcopy", f"--connections={connections}", f"--threads={connections}", server.uri, target)
        seconds = time.monotonic() - start
    host.same(source, target)
    os.unlink(target)
    return {"seconds": seconds, "gb_per_s": os.path.getsize(source) / seconds / 1e9}


def ours(host, source, link, connections):
    """As pre-copy does it: through the mapping of a program that stands still."""
    target = host.fresh("target")
    host.prime(os.path.getsize(source))
    with Ferry(host, link, connections, source, target, precopy=True) as ferry:
        ferry.touch(0)
        measured = ferry.measured()
    host.same(source, target)
    os.unlink(target)
    measured["gb_per_s"] = os.path.getsize(source) / measured["seconds"] / 1e9
    return measured


def ours_unmapped(host, source, link, connections):
    """The same where no program maps the store."""
    target = host.fresh("target")
    host.prime(os.path.getsize(source))
    with Serve(host, link, source) as server:
        measured = host.measure("mf-pull", server.uri, target, connections)
    host.same(source, target)
    os.unlink(target)
    measured["gb_per_s"] = os.path.getsize(source) / measured["seconds"] / 1e9
    return measured


def plain_name(name, link, connections, buffer):
    return f"plain, {name}{buffer}, {link} x{connections}"


def nbdcopy_name(link, connections):
    return f"nbdcopy, {link} x{connections}"


def our_name(link, connections):
    return f"memferry, {link} x{connections}"


def unmapped_name(link, connections):
    return f"memferry, nothing mapped, {link} x{connections}"


def fastest_plain(recorder, link, connections):
    names = [plain_name(name, link, connections, buffer) for name, buffer in itertools.product(PLAIN, SOCKET_BUFFERS)]
    return min(names, key=lambda name: recorder.median(name, "seconds"))


def all_ways(host, source):
    ways = {}
    for link, connections in itertools.product(LINKS, CONNECTIONS[host.quick]):
        for (name, options), (buffer, length) in itertools.product(PLAIN.items(), SOCKET_BUFFERS.items()):
            ways[plain_name(name, link, connections, buffer)] = (
                lambda link=link, connections=connections, options=options, length=length:
                plain(host, source, link, connections, *options, "--socket-buffer", length))
        ways[nbdcopy_name(link, connections)] = (
            lambda link=link, connections=connections: nbdcopy(host, source, link, connections))
        ways[our_name(link, connections)] = (
            lambda link=link, connections=connections: ours(host, source, link, connections))
        ways[unmapped_name(link, connections)] = (
            lambda link=link, connections=connections: ours_unmapped(host, source, link, connections))
    return ways


def run(host, recorder, runs):
    host.need("nbdkit", "nbdcopy", "nbdinfo", "cmp")
    size = GIB // 16 if host.quick else GIB
    report.title(f"copy: {size >> 20} MiB of random bytes into a fresh file on tmpfs")
    source = host.random_file("source", size)
    recorder.alternate(all_ways(host, source), runs)
    os.unlink(source)

    rows, goals = [], []
    for link, connections in itertools.product(LINKS, CONNECTIONS[host.quick]):
        floor, peer, own = (fastest_plain(recorder, link, connections), nbdcopy_name(link, connections),
                            our_name(link, connections))
        for way in (floor, peer, own, unmapped_name(link, connections)):
            rows.append([way, report.spread(recorder.all(way, "seconds"), 3),
                         f"{size / recorder.median(way, 'seconds') / 1e9:.2f}"])
        speed = recorder.median(own, "gb_per_s")
        goals += [(f"speed / nbdcopy's, {link} x{connections}", ">=", 1.5,
                   report.ratio(speed, recorder.median(peer, "gb_per_s"))),
                  (f"speed / the plain copy's, {link} x{connections}", ">=", 0.85,
                   report.ratio(speed, recorder.median(floor, "gb_per_s")))]
    report.table(["way (of the plain ones the fastest)", "s", "GB/s"], rows)
    report.goals(goals)
