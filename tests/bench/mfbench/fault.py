# SPDX-License-Identifier: LGPL-2.1-or-later
"""Case fault: the first touch of random pages that somebody else has to bring."""
import os
import subprocess

from mfvm.deadline import wait_until

from . import report
from .nbd import Nbdkit
from .ours import Ferry

QUANTILES = ("p50", "p90", "p99", "p999")
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


def bare(host, touches, *options):
    return host.measure("bench-fault", "--touches", touches, *options)


def bare_name(wait, what, manner=""):
    return f"bare {wait}, {what}{manner}"


def bare_ways(host, touches):
    """The bare handler, the exchange alone, and both together: in a row, now and then, under bulk load."""
    ways = {}
    for wait, manner in WAITS.items():
        whats = {"page in memory": ()}
        for link in LINKS:
            whats[f"exchange alone {link}"] = ("--exchange", link, "--only")
            whats[f"exchange {link}"] = ("--exchange", link)
        for what, options in whats.items():
            options = (*options, *manner)
            ways[bare_name(wait, what)] = lambda options=options: bare(host, touches, *options)
            ways[bare_name(wait, what, ", near")] = (
                lambda options=options: bare(host, touches, *options, "--place", "near"))
            ways[bare_name(wait, what, ", now and then")] = (
                lambda options=options: bare(host, touches // 10, *options, "--pause", PAUSE_USEC))
            if "alone" not in what:
                ways[bare_name(wait, what, ", bulk load")] = (
                    lambda options=options: bare(host, touches, *options, "--bulk"))
    return ways


class Nbdfuse:
    """A file of nbdkit's, mounted by nbdfuse; use as a context manager, which gives the file's path."""

    def __init__(self, host, source):
        self.host = host
        self.server = Nbdkit(host, "unix", "file", source)

    def __enter__(self):
        self.server.__enter__()
        self.folder = os.path.join(self.host.scratch, "fuse")
        os.makedirs(self.folder, exist_ok=True)
        path = os.path.join(self.folder, "ram")
        self.process = self.host.start("nbdfuse", path, self.server.uri)
        wait_until(lambda: os.path.exists(path), 10, "nbdfuse")
        return path

    def __exit__(self, *_):
        subprocess.run(["umount", self.folder], check=False)
        self.host.stop(self.process)
        self.server.__exit__()


def nbdfuse(host, source, touches, *options):
    with Nbdfuse(host, source) as path:
        return host.measure("bench-touch", "--touches", touches, *options, path)


def quantile_row(recorder, way):
    return ([way] + [report.spread(recorder.all(way, quantile), 1) for quantile in QUANTILES] +
            [f"{recorder.median(way, 'n'):.0f}"])


def floor(recorder, link):
    """The smallest sum of a bare fault and an exchange, each at its median of p50, both sides waiting alike."""
    return min(recorder.median(bare_name(wait, "page in memory"), "p50") +
               recorder.median(bare_name(wait, f"exchange alone {link}"), "p50") for wait in WAITS)


def ours(host, source, link, connections, touches, *options):
    """The program's touches of pages that were missing. With bulk connections all of `source` comes meanwhile, so the region is
    large enough to last."""
    region = host.fresh("region")
    host.prime(os.path.getsize(source))
    with Ferry(host, link, connections, source, region) as ferry:
        measured = ferry.touch(touches, *options)
        served = ferry.measured()
    os.unlink(region)
    return {**measured, **{"served_" + what: value for what, value in served.items()}}


def our_name(link, load=""):
    return f"memferry {link}{load}"


def our_ways(host, source, touches):
    ways = {}
    for link in LINKS:
        ways[our_name(link)] = lambda link=link: ours(host, source, link, 0, touches)
        ways[our_name(link, ", now and then")] = (
            lambda link=link: ours(host, source, link, 0, touches // 10, "--pause", PAUSE_USEC))
        ways[our_name(link, ", bulk load")] = lambda link=link: ours(host, source, link, BULK_CONNECTIONS, touches)
    return ways


def make_pattern(host, name, pages):
    path = host.fresh(name)
    host.output(host.program("bench-touch"), "--make", str(pages * PAGE_BYTES), path)
    return path


def run(host, recorder, runs):
    host.need("nbdkit", "nbdfuse")
    touches, pages = (500, 8192) if host.quick else (20000, 65536)
    report.title(f"fault: first touch of {touches} random pages of {pages * PAGE_BYTES >> 20} MiB, us")
    source, large = make_pattern(host, "pattern", pages), make_pattern(host, "large", LARGE * pages)
    ways = bare_ways(host, touches)
    ways["nbdfuse, mapped"] = lambda: nbdfuse(host, source, touches)
    ways["nbdfuse, pread"] = lambda: nbdfuse(host, source, touches, "--pread")
    ways.update(our_ways(host, large, touches))
    recorder.alternate(ways, runs)
    os.unlink(source)
    os.unlink(large)

    report.table(["way"] + list(QUANTILES) + ["touches"], [quantile_row(recorder, way) for way in recorder.ways])
    goals = []
    for link in LINKS:
        alone, loaded = our_name(link), our_name(link, ", bulk load")
        goals += [(f"p50 / (bare fault + exchange, {floor(recorder, link):.1f} us), {link}", "<=", 1.3,
                   report.ratio(recorder.median(alone, "p50"), floor(recorder, link))),
                  (f"p99 under bulk load / without, {link}", "<=", 3,
                   report.ratio(recorder.median(loaded, "p99"), recorder.median(alone, "p99")))]
    report.goals(goals)
