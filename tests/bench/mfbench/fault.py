# SPDX-License-Identifier: LGPL-2.1-or-later
"""Case fault: the first touch of random pages that somebody else has to bring, by how busy things are and by delay of the link."""
import os
import subprocess

from mfvm.deadline import wait_until

from . import report
from .case import Case, Plot, way
from .copy import Through, address_of
from .link import place
from .nbd import Nbdkit
from .ours import Ferry

LINKS = ("unix", "tcp")
PAGE_BYTES = 4096
# How handler and server wait: asleep, or polling first, keeping the processor or yielding it.
WAITS = {"sleeping": (), "polling 50 us": ("--poll", 50), "yielding 50 us": ("--poll", 50, "--yield")}
# As post-copy has them (and one for faults).
BULK_CONNECTIONS = 2
# So many times the pages that are touched otherwise are there to be pulled beside the touches.
LARGE = 4
# A touch now and then, as of a guest that has most of its memory.
PAUSE_USEC = 1000
RTTS_MS = {False: (1, 10, 50), True: (1,)}
IN_MEMORY, ALONE, EXCHANGE = "page in memory", "exchange alone", "exchange"
IN_A_ROW, NOW_AND_THEN, BULK = "in a row", "now and then", "bulk load"


def touches_of(host, rtt_ms=0, load=IN_A_ROW):
    """So many that each way takes a few seconds at the most."""
    usual = (500 if host.quick else 20000) // (10 if load == NOW_AND_THEN else 1)
    return min(usual, int((300 if host.quick else 5000) / rtt_ms)) if rtt_ms else usual


def pages_of(host):
    return 8192 if host.quick else 65536


def bare(host, what, load, wait, link, rtt_ms=0, near=False):
    options = [*WAITS[wait], *(("--place", "near") if near else ()), *(("--bulk",) if load == BULK else ())]
    if load == NOW_AND_THEN:
        options += ["--pause", PAUSE_USEC]
    with Through(host, link or "unix", rtt_ms, place(host, link or "unix", "bare")) as through:
        if link:
            options += ["--exchange", through.pair(link), *(("--only",) if what == ALONE else ())]
        return host.measure("bench-fault", "--touches", touches_of(host, rtt_ms, load), *options)


def bare_way(wait, what, load=IN_A_ROW, link=None, rtt_ms=0, near=False):
    return way(f"bare: {what}", wait=wait + (" near" if near else ""), load=load, link=link, rtt_ms=rtt_ms if link else None)


def bare_ways(host):
    """The bare handler, the exchange alone, and both together: in a row, now and then, under bulk load."""
    for wait in ("sleeping",) if host.quick else WAITS:
        for what, link in [(IN_MEMORY, None)] + [(what, link) for link in LINKS for what in (ALONE, EXCHANGE)]:
            for load, near in ((IN_A_ROW, False), (IN_A_ROW, True), (NOW_AND_THEN, False), (BULK, False)):
                if (what, load) != (ALONE, BULK):
                    yield (bare_way(wait, what, load, link, near=near), lambda wait=wait, what=what, link=link, load=load, near=near:
                           bare(host, what, load, wait, link, near=near))
    for rtt in RTTS_MS[host.quick]:
        yield (bare_way("sleeping", EXCHANGE, link="tcp", rtt_ms=rtt),
               lambda rtt=rtt: bare(host, EXCHANGE, IN_A_ROW, "sleeping", "tcp", rtt))


class Nbdfuse:
    """A file of nbdkit's, mounted by nbdfuse; use as a context manager, which gives the file's path."""

    def __init__(self, host, link, source, rtt_ms):
        self.host = host
        self.link = link
        self.rtt_ms = rtt_ms
        self.server = Nbdkit(host, link, "file", source)

    def __enter__(self):
        self.server.__enter__()
        self.through = Through(self.host, self.link, self.rtt_ms, address_of(self.server.uri))
        self.through.__enter__()
        self.folder = os.path.join(self.host.scratch, "fuse")
        os.makedirs(self.folder, exist_ok=True)
        path = os.path.join(self.folder, "ram")
        self.process = self.host.start("nbdfuse", path, self.through.uri(self.server.uri))
        wait_until(lambda: os.path.exists(path), 10, "nbdfuse")
        return path

    def __exit__(self, *_):
        subprocess.run(["umount", self.folder], check=False)
        self.host.stop(self.process)
        self.through.__exit__()
        self.server.__exit__()


def nbdfuse(host, source, link, rtt_ms, *options):
    with Nbdfuse(host, link, source, rtt_ms) as path:
        return host.measure("bench-touch", "--touches", touches_of(host, rtt_ms), *options, path)


def ours(host, source, link, load, rtt_ms=0):
    """The program's touches of pages that were missing. Under bulk load all of `source` comes meanwhile, so the region is
    large enough to last."""
    region = host.fresh("region")
    host.prime(os.path.getsize(source))
    with Through(host, link, rtt_ms, place(host, link, "ours")) as through:
        with Ferry(host, through.pair(link), BULK_CONNECTIONS if load == BULK else 0, source, region) as ferry:
            measured = ferry.touch(touches_of(host, rtt_ms, load), *(("--pause", PAUSE_USEC) if load == NOW_AND_THEN else ()))
            served = ferry.measured()
    os.unlink(region)
    return {**measured, **{"served_" + what: value for what, value in served.items()}}


def our_way(link, load=IN_A_ROW, rtt_ms=0):
    return way("memferry", load=load, link=link, rtt_ms=rtt_ms)


def make_pattern(host, name, pages):
    path = os.path.join(host.store, name)
    if not os.path.exists(path):
        host.output(host.program("bench-touch"), "--make", str(pages * PAGE_BYTES), path)
    return path


def ways(host):
    def pattern():
        return make_pattern(host, "pattern", pages_of(host))

    def large():
        return make_pattern(host, "large", LARGE * pages_of(host))

    yield from bare_ways(host)
    for link, rtt in [("unix", 0)] + [("tcp", rtt) for rtt in (0, *RTTS_MS[host.quick])]:
        yield (way("nbdfuse mapped", load=IN_A_ROW, link=link, rtt_ms=rtt),
               lambda link=link, rtt=rtt: nbdfuse(host, pattern(), link, rtt))
    yield way("nbdfuse pread", load=IN_A_ROW, link="unix", rtt_ms=0), lambda: nbdfuse(host, pattern(), "unix", 0, "--pread")
    for link in LINKS:
        for load in (IN_A_ROW, NOW_AND_THEN, BULK):
            yield our_way(link, load), lambda link=link, load=load: ours(host, large(), link, load)
    for rtt in RTTS_MS[host.quick]:
        for load in (IN_A_ROW, BULK):
            yield our_way("tcp", load, rtt), lambda rtt=rtt, load=load: ours(host, large(), "tcp", load, rtt)


def floor(results, link, session):
    """The smallest sum of a bare fault and an exchange, each at its median of p50, both sides waiting alike."""
    sums = []
    for wait in WAITS:
        parts = [results.median(bare_way(wait, IN_MEMORY), "p50", session),
                 results.median(bare_way(wait, ALONE, link=link), "p50", session)]
        if None not in parts:
            sums.append(sum(parts))
    return min(sums, default=None)


def goals(results):
    rows = []
    for link in LINKS:
        alone = our_way(link)
        least = floor(results, link, results.session_of(alone))
        if least is not None:
            rows.append((f"p50 / (bare fault + exchange, {least:.1f} us), {link}", "<=", 1.3,
                         report.ratio(results.median(alone, "p50"), least)))
        rows.append((f"p99 under bulk load / without, {link}", "<=", 3, results.ratio(our_way(link, BULK), alone, "p99")))
    rtts = sorted({float(which.at("rtt_ms")) for which in results.ways if which.at("rtt_ms") not in (None, "0")})
    for rtt in rtts:
        rtt = int(rtt) if rtt == int(rtt) else rtt
        rows.append((f"p50 / (time there and back), {rtt} ms", "<=", 1.1,
                     report.ratio(results.median(our_way("tcp", rtt_ms=rtt), "p50"), rtt * 1000)))
        rows.append((f"p50 under bulk load / without, {rtt} ms", "<=", 1.5,
                     results.ratio(our_way("tcp", BULK, rtt), our_way("tcp", rtt_ms=rtt), "p50")))
    return rows


CASE = Case(
    name="fault",
    title=lambda host: f"first touch of random pages of {pages_of(host) * PAGE_BYTES >> 20} MiB and more, us",
    axes=("link", "rtt_ms", "load", "wait"),
    measures={"p50": ("p50", 1), "p90": ("p90", 1), "p99": ("p99", 1), "p999": ("p99.9", 1), "n": ("touches", 0)},
    ways=ways,
    goals=goals,
    plots=(Plot("rtt", "First touch of a page, p50, by the time there and back", "p50", "rtt_ms", "ms there and back", "us",
                ("link=tcp", "load=in a row", "peer=memferry,nbdfuse mapped"), log_x=True, log_y=True),
           Plot("tail", "First touch of a page, p99, by the time there and back", "p99", "rtt_ms", "ms there and back", "us",
                ("link=tcp", "load=in a row", "peer=memferry,nbdfuse mapped"), log_x=True, log_y=True),
           Plot("bulk", "First touch of a page while all the rest comes, p50", "p50", "rtt_ms", "ms there and back", "us",
                ("link=tcp", "load=bulk load", "peer=memferry"), log_x=True, log_y=True)),
    needs=("nbdkit", "nbdfuse"),
)
