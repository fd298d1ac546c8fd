# SPDX-License-Identifier: LGPL-2.1-or-later
"""Case memory: what the two services use for themselves while a guest moves, and what becomes of pages without content."""
import os
import threading
import time

from mfvm import ramfile
from mfvm.qemu import build_images

from . import report
from .case import Case, Plot, way
from .guest import REGION, Stage
from .host import BenchError

MIB = 1 << 20
# Of the region: what the guest fills and how it goes on, where zeroes are written before it starts, and how many.
FILL = {False: ("mf.fill=400M", "mf.dirty=96M", "mf.rate=82000000", "mf.heartbeat=20"),
        True: ("mf.fill=64M", "mf.dirty=16M", "mf.rate=16000000", "mf.heartbeat=20")}
ZEROES_MIB = {False: (256, 640), True: (64, 160)}
USUAL_MIB = {False: 1024, True: 256}
SIZES_MIB = {False: (4096, 16384), True: ()}
UNLIMITED = "unlimited"
PERIOD_SECONDS = 0.02
SIDES = ("source", "target")
WHATS = {"peak_mb": "peak", "anonymous_mb": "of it anonymous", "tables_mb": "page tables", "after_mb": "after"}
PAGES = {"content_mb": "with content", "zero_mb": "zeroes", "hole_mb": "untouched", "sent_mb": "sent",
         "allocated_mb": "allocated there", "errors": "errors", "alive": "alive"}
ZERO_PAGE = bytes(ramfile.PAGE_BYTES)


def fields(path):
    """The lines "Name: N kB" of a file under /proc, in bytes."""
    found = {}
    with open(path, encoding="ascii") as file:
        for line in file:
            words = line.split()
            if len(words) == 3 and words[2] == "kB":
                found[words[0].rstrip(":")] = int(words[1]) * 1024
    return found


class Use:
    """Samples what a process uses for itself; a context manager, `peak` and `after` are in bytes.

    Its own are its anonymous pages and page tables, its share of the files that it runs from, and no tmpfs pages: those are
    the region's.
    """

    def __init__(self, pid):
        self.pid = pid
        self.peak = {"own": 0, "anonymous": 0, "tables": 0}
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.sample)

    def now(self):
        status = fields(f"/proc/{self.pid}/status")
        # Looking up the share of files walks the whole region, which would be seen in the times: it hardly changes.
        return {"own": status["RssAnon"] + status["VmPTE"] + self.files, "anonymous": status["RssAnon"],
                "tables": status["VmPTE"]}

    def look_up_files(self):
        self.files = fields(f"/proc/{self.pid}/smaps_rollup")["Pss_File"]

    def sample(self):
        while not self.stop.wait(PERIOD_SECONDS):
            self.peak = max(self.peak, self.now(), key=lambda use: use["own"])

    def __enter__(self):
        self.look_up_files()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self.look_up_files()
        self.after = self.now()


def content_bytes(path):
    """How much of a file is (pages with content, pages of zeroes, holes)."""
    content = zero = 0
    with open(path, "rb") as file:
        for start, end in ramfile.data_ranges(file.fileno()):
            for offset in range(start, end, MIB):
                chunk = os.pread(file.fileno(), min(MIB, end - offset), offset)
                pages = [chunk[at:at + ramfile.PAGE_BYTES] for at in range(0, len(chunk), ramfile.PAGE_BYTES)]
                zero += pages.count(ZERO_PAGE) * ramfile.PAGE_BYTES
                content += (len(pages) - pages.count(ZERO_PAGE)) * ramfile.PAGE_BYTES
        return content, zero, os.fstat(file.fileno()).st_size - content - zero


def write_zeroes(path, zeroes_mib, at_mib):
    with open(path, "r+b") as file:
        file.seek(at_mib * MIB)
        for _ in range(zeroes_mib):
            file.write(bytes(MIB))


def own_use(side, use):
    peak = {f"{side}_{what}": bytes_used / 1e6 for what, bytes_used in zip(("peak_mb", "anonymous_mb", "tables_mb"),
                                                                           use.peak.values())}
    return {**peak, f"{side}_after_mb": use.after["own"] / 1e6}


def start_guest(stage, here, zeroes_mib, at_mib):
    created = here.call("create", REGION, "--size", stage.size)
    if created.returncode != 0:
        raise BenchError(created.stderr.strip())
    write_zeroes(here.region_path(REGION), zeroes_mib, at_mib)
    stage.start_managed("source", here)
    stage.wait_busy()


def measure(host, mode, rate, size_mib):
    zeroes_mib, at_mib = ZEROES_MIB[host.quick]
    with Stage(host, f"{rate}mbit" if rate != UNLIMITED else None, (f"{size_mib}M", FILL[host.quick])) as stage:
        here, there = stage.start_service("a"), stage.start_service("b")
        start_guest(stage, here, zeroes_mib, at_mib)
        stage.start_managed("destination", there, incoming=True).qmp.execute("query-status")
        sent = stage.sent_bytes()
        stage.begin()
        start = time.monotonic()
        with Use(here.process.pid) as source, Use(there.process.pid) as target:
            here.migrate(REGION, "--to", stage.peer("b"), "--mode", mode)
        end = time.monotonic()
        stage.end()
        measured = {"sent_mb": (stage.sent_bytes() - sent) / 1e6,
                    "allocated_mb": ramfile.allocated_bytes(there.region_path(REGION)) / 1e6}
        for what, found in zip(("content_mb", "zero_mb", "hole_mb"), content_bytes(here.region_path(REGION))):
            measured[what] = found / 1e6
        measured.update(own_use("source", source))
        measured.update(own_use("target", target))
        measured.update(stage.judge(start, end))
        return measured


def ways(host):
    build_images()
    usual = USUAL_MIB[host.quick]
    points = [("auto", UNLIMITED, usual)] + [("auto", UNLIMITED, size) for size in SIZES_MIB[host.quick]]
    if not host.quick:
        points += [("auto", "1000", usual), ("postcopy", "1000", usual)]
    for mode, rate, size in points:
        yield (way(f"memferry {mode}", rate_mbit=rate, size_mib=size),
               lambda mode=mode, rate=rate, size=size: measure(host, mode, rate, size))


def goals(results):
    rows = []
    for which in results.ways:
        size_mib = int(which.at("size_mib"))
        limit_mb = round(0.002 * size_mib * MIB / 1e6 + 20, 1)
        where = f"{which.peer}, {which.at('rate_mbit')} Mbit/s, {size_mib} MiB"
        content = results.median(which, "content_mb")
        rows += [(f"{where}: {side}'s own MB, {what}", "<=", limit_mb, results.median(which, f"{side}_{key}"))
                 for side in SIDES for key, what in (("peak_mb", "peak"), ("after_mb", "after"))]
        rows.append((f"{where}: allocated there / pages with content", "<=", 1.01,
                     report.ratio(results.median(which, "allocated_mb"), content)))
        if "postcopy" in which.peer:
            # The other modes send again what is written meanwhile.
            rows.append((f"{where}: sent / pages with content", "<=", 1.05, report.ratio(results.median(which, "sent_mb"), content)))
    return rows


CASE = Case(
    name="memory",
    title=lambda host: "a guest moves; what the services use beside it, MB, and what became of its pages",
    axes=("rate_mbit", "size_mib"),
    measures={**{f"{side}_{what}": (f"{side}: {label}", 1) for side in SIDES for what, label in WHATS.items()},
              **{what: (label, 0) for what, label in PAGES.items()}},
    ways=ways,
    goals=goals,
    plots=(Plot("source", "What the source's service uses for itself at most, by size of the region", "source_peak_mb", "size_mib", "MiB", "MB",
                ("rate_mbit=unlimited",), log_x=True),
           Plot("target", "What the target's service uses for itself at most, by size of the region", "target_peak_mb", "size_mib", "MiB", "MB",
                ("rate_mbit=unlimited",), log_x=True)),
    needs=("qemu-system-x86_64", "ip", "tc", "nsenter"),
)
