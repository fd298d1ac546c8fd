# SPDX-License-Identifier: LGPL-2.1-or-later
"""Case scan: what it costs to find the dirty pages, and what the writer pays."""
import os

from . import report

GIB = 1 << 30
WHATS = {
    "clean_ms_per_gib": "scan, clean, ms/GiB",
    "sparse_ms_per_gib": "scan, every 100th page dirty, ms/GiB",
    "alternate_ms_per_gib": "scan, every 2nd page dirty, ms/GiB",
    "all_ms_per_gib": "scan, all dirty, ms/GiB",
    "untracked_write_us": "write to a page, not tracked, us",
    "first_write_us": "first write after a scan, us",
    "later_write_us": "later writes, us",
}
BARE = "bare PAGEMAP_SCAN"
OURS = "memferry"


def scan(host, who, size):
    path = host.fresh("scanned")
    host.prime(size)
    with open(path, "wb") as file:
        file.truncate(size)
    measured = host.measure("bench-scan", who, path)
    os.unlink(path)
    return measured


def run(host, recorder, runs):
    size = GIB // 8 if host.quick else GIB
    report.title(f"scan: dirty pages of a mapped file of {size >> 20} MiB")
    recorder.alternate({BARE: lambda: scan(host, "bare", size), OURS: lambda: scan(host, "memferry", size)}, runs)

    rows = [[label] + [report.spread(recorder.all(way, what), 3) for way in recorder.ways]
            for what, label in WHATS.items()]
    report.table([""] + recorder.ways, rows)
    report.goals([
        ("clean scan, ms/GiB", "<=", 1, recorder.median(OURS, "clean_ms_per_gib")),
        ("later writes / untracked writes", "<=", 1.1,
         report.ratio(recorder.median(OURS, "later_write_us"), recorder.median(OURS, "untracked_write_us"))),
    ])
