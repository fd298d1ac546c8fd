# SPDX-License-Identifier: LGPL-2.1-or-later
"""Case copy: random bytes from a file on tmpfs into a fresh file on tmpfs, by connections, by size and by delay of the link."""
import itertools
import os
import re
import time

from .case import Case, Plot, way
from .link import Relay, place
from .nbd import Nbdkit
from .ours import Ferry, Serve

GIB = 1 << 30
MIB = 1 << 20
LINKS = ("unix", "tcp")
# Full and quick.
CONNECTIONS = {False: (1, 2, 4), True: (2,)}
SIZES_MIB = {False: (256, 4096, 8192, 16384), True: ()}
RTTS_MS = {False: (1, 10, 50), True: (1,)}
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
# The one that goes along where size or delay vary: nobody asks, so a delay costs it nothing.
PLAIN_ONE = "userfault 256K"
SOCKET_BUFFERS = {"": 0, ", 1M socket buffer": 1 << 20}


class Through:
    """Where a link with a delay is wanted, what connects goes through a Relay; use as a context manager."""

    def __init__(self, host, link, rtt_ms, target):
        self.listen = place(host, link, "relay")
        self.relay = Relay(host, [(self.listen, target)], rtt_ms) if rtt_ms else None
        self.target = target

    def __enter__(self):
        if self.relay:
            self.relay.__enter__()
        return self

    def __exit__(self, *_):
        if self.relay:
            self.relay.__exit__()

    def uri(self, uri):
        """The same NBD URI, but through the link."""
        if not self.relay:
            return uri
        kind, _, where = self.listen.partition(":")
        return f"nbd+unix:///?socket={where}" if kind == "unix" else f"nbd://{where}"

    def pair(self, link):
        """As the programs of this folder name it."""
        return f"{self.target},{self.listen}" if self.relay else link


def address_of(uri):
    """As bench-relay names it."""
    found = re.match(r"nbd\+unix:///\?socket=(.*)|nbd://([0-9.:]+)", uri)
    return f"unix:{found[1]}" if found[1] else f"tcp:{found[2]}"


def checked(host, source, target, measured):
    """Compares every byte."""
    host.same(source, target)
    os.unlink(target)
    return {**measured, "gb_per_s": os.path.getsize(source) / measured["seconds"] / 1e9}


def plain(host, source, link, connections, *options, rtt_ms=0):
    target = host.fresh("target")
    host.prime(os.path.getsize(source))
    with Through(host, link, rtt_ms, place(host, link, "plain")) as through:
        measured = host.measure("bench-copy", "--link", through.pair(link), "--connections", connections, *options, source, target)
    return checked(host, source, target, measured)


def nbdcopy(host, source, link, connections, rtt_ms=0):
    target = host.fresh("target")
    with Nbdkit(host, link, "file", source) as server, Through(host, link, rtt_ms, address_of(server.uri)) as through:
        host.prime(os.path.getsize(source))
        start = time.monotonic()
        # Without --threads it would use fewer connections than asked for on a machine of fewer processors.
        host.output("nbdcopy", f"--connections={connections}", f"--threads={connections}", through.uri(server.uri), target)
        seconds = time.monotonic() - start
    return checked(host, source, target, {"seconds": seconds})


def ours(host, source, link, connections, rtt_ms=0):
    """As pre-copy does it: through the mapping of a program that stands still."""
    target = host.fresh("target")
    host.prime(os.path.getsize(source))
    with Through(host, link, rtt_ms, place(host, link, "ours")) as through:
        with Ferry(host, through.pair(link), connections, source, target, precopy=True) as ferry:
            ferry.touch(0)
            measured = ferry.measured()
    return checked(host, source, target, measured)


def ours_unmapped(host, source, link, connections, rtt_ms=0):
    """The same where no program maps the store."""
    target = host.fresh("target")
    host.prime(os.path.getsize(source))
    with Serve(host, link, source) as server, Through(host, link, rtt_ms, address_of(server.uri)) as through:
        measured = host.measure("mf-pull", through.uri(server.uri), target, connections)
    # Its own counts have other names than what all have.
    measured.pop("bytes")
    return checked(host, source, target, measured)


PEERS = {"nbdcopy": nbdcopy, "memferry": ours, "memferry unmapped": ours_unmapped}


def plain_peer(name, buffer=""):
    return f"plain: {name}{buffer}".replace(",", " with")


class Sources:
    """Files of random bytes, one at a time: memory is short."""

    def __init__(self, host):
        self.host = host
        self.path = None

    def get(self, size_mib):
        if self.path is None or os.path.getsize(self.path) != size_mib * MIB:
            if self.path is not None:
                os.unlink(self.path)
            self.path = self.host.random_file("source", size_mib * MIB)
        return self.path


def available_bytes():
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))


def ways(host):
    sources, usual = Sources(host), 64 if host.quick else 1024
    for link, connections in itertools.product(LINKS, CONNECTIONS[host.quick]):
        point = {"link": link, "connections": connections, "size_mib": usual, "rtt_ms": 0}
        for (name, options), (buffer, length) in itertools.product(PLAIN.items(), SOCKET_BUFFERS.items()):
            yield (way(plain_peer(name, buffer), **point),
                   lambda link=link, connections=connections, options=options, length=length:
                   plain(host, sources.get(usual), link, connections, *options, "--socket-buffer", length))
        for peer, function in PEERS.items():
            yield (way(peer, **point), lambda link=link, connections=connections, function=function:
                   function(host, sources.get(usual), link, connections))
    points = [(size, 0) for size in SIZES_MIB[host.quick] if available_bytes() > 2.3 * size * MIB]
    points += [(usual, rtt) for rtt in RTTS_MS[host.quick]]
    for size, rtt in points:
        point = {"link": "tcp", "connections": 2, "size_mib": size, "rtt_ms": rtt}
        yield (way(plain_peer(PLAIN_ONE), **point), lambda size=size, rtt=rtt:
               plain(host, sources.get(size), "tcp", 2, *PLAIN[PLAIN_ONE], rtt_ms=rtt))
        for peer, function in PEERS.items():
            yield (way(peer, **point),
                   lambda size=size, rtt=rtt, function=function: function(host, sources.get(size), "tcp", 2, rtt_ms=rtt))


def goals(results):
    rows = []
    for own in [which for which in results.ways if which.peer == "memferry"]:
        where = f"{own.at('link')} x{own.at('connections')}, {own.at('size_mib')} MiB, {own.at('rtt_ms')} ms"
        others = [which for which in results.ways if which.point == own.point and which.peer.startswith("plain")]
        rows.append((f"speed / nbdcopy's, {where}", ">=", 1.5, results.ratio(own, own._replace(peer="nbdcopy"), "gb_per_s")))
        ratios = [ratio for ratio in (results.ratio(own, other, "gb_per_s") for other in others) if ratio is not None]
        rows.append((f"speed / the fastest plain copy's, {where}", ">=", 0.85, min(ratios, default=None)))
    return rows


CASE = Case(
    name="copy",
    title=lambda host: "random bytes into a fresh file on tmpfs, every one compared",
    axes=("link", "connections", "size_mib", "rtt_ms"),
    measures={"seconds": ("s", 3), "gb_per_s": ("GB/s", 2)},
    ways=ways,
    goals=goals,
    plots=(Plot("connections", "1 GiB over TCP on one machine, by connections", "gb_per_s", "connections", "connections", "GB/s",
                ("link=tcp", "size_mib=1024", "rtt_ms=0", "peer=memferry*,nbdcopy,plain: userfault 256K,plain: splice")),
           Plot("size", "Over TCP on one machine, 2 connections, by size", "gb_per_s", "size_mib", "MiB", "GB/s",
                ("link=tcp", "connections=2", "rtt_ms=0", "peer=memferry*,nbdcopy,plain: userfault 256K"), log_x=True),
           Plot("rtt", "1 GiB, 2 connections, by the time there and back", "gb_per_s", "rtt_ms", "ms there and back", "GB/s",
                ("link=tcp", "connections=2", "size_mib=1024", "peer=memferry*,nbdcopy,plain: userfault 256K"))),
    needs=("nbdkit", "nbdcopy", "nbdinfo", "cmp"),
)
