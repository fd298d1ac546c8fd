# SPDX-License-Identifier: LGPL-2.1-or-later
"""Case scan: what it costs to find the dirty pages, and what the writer pays."""
import os

from . import report
from .case import Case, Plot, way

MIB = 1 << 20
SIZES_MIB = {False: (256, 1024, 4096), True: (128,)}
PATTERNS = ("clean", "sparse", "runs", "alternate", "all")
PEERS = {"bare PAGEMAP_SCAN": "bare", "memferry": "memferry"}


def scan(host, who, pattern, size_mib):
    path = host.fresh("scanned")
    host.prime(size_mib * MIB)
    with open(path, "wb") as file:
        file.truncate(size_mib * MIB)
    measured = host.measure("bench-scan", who, pattern, path)
    os.unlink(path)
    # A writer that writes now and then, and is scanned each second.
    if measured["untracked_us"] > 0:
        measured["slowdown"] = measured["first_us"] / measured["untracked_us"]
    return measured


def ways(host):
    for size in SIZES_MIB[host.quick]:
        for pattern in PATTERNS:
            for peer, who in PEERS.items():
                yield (way(peer, pattern=pattern, size_mib=size),
                       lambda who=who, pattern=pattern, size=size: scan(host, who, pattern, size))


def goals(results):
    rows = []
    for which in results.ways:
        where = f"{which.at('pattern')}, {which.at('size_mib')} MiB"
        if which.peer == "memferry" and which.at("pattern") == "clean":
            rows.append((f"{where}: scan, ms/GiB", "<=", 1, results.median(which, "scan_ms_per_gib")))
        elif which.peer == "memferry":
            rows.append((f"{where}: later writes / untracked writes", "<=", 1.1,
                         report.ratio(results.median(which, "later_us"), results.median(which, "untracked_us"))))
    return rows


CASE = Case(
    name="scan",
    title=lambda host: "dirty pages of a mapped file: every 100th, in runs of 64 with as many between, every 2nd, all",
    axes=("pattern", "size_mib"),
    measures={"scan_ms_per_gib": ("scan ms/GiB", 3), "scan_ms": ("scan ms", 3), "untracked_us": ("write, not tracked, us a page", 3),
              "first_us": ("first write after a scan", 3), "later_us": ("later writes", 3), "slowdown": ("first / not tracked", 1)},
    ways=ways,
    goals=goals,
    plots=(Plot("size", "A scan of a region, every 2nd page dirty", "scan_ms", "size_mib", "region, MiB", "ms", ("pattern=alternate",),
                log_x=True, log_y=True),
           Plot("pattern", "A scan, 1 GiB", "scan_ms_per_gib", "pattern", "pages written", "ms", ("size_mib=1024",))),
)
