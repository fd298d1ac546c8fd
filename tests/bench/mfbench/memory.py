# SPDX-License-Identifier: LGPL-2.1-or-later
"""Case memory: what the two services use for themselves while a guest moves, and what becomes of pages without content."""
import os
import threading
import time

from mfvm import ramfile
from mfvm.qemu import build_images

from . import report
from .guest import REGION, Stage
from .host import BenchError

MIB = 1 << 20
# Size of the region, of the zeroes written into it before the guest starts, from where on, and the guest's workload.
GUESTS = {False: (1024, 256, 640, ("mf.fill=400M", "mf.dirty=96M", "mf.rate=82000000", "mf.heartbeat=20")),
          True: (256, 64, 160, ("mf.fill=64M", "mf.dirty=16M", "mf.rate=16000000", "mf.heartbeat=20"))}
WAYS = {"auto, 1 Gbit/s": ("auto", "1gbit"), "postcopy, 1 Gbit/s": ("postcopy", "1gbit"), "auto, unlimited": ("auto", None)}
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


def measure(host, mode, rate):
    size_mib, zeroes_mib, at_mib, workload = GUESTS[host.quick]
    with Stage(host, rate, (f"{size_mib}M", workload)) as stage:
        here, there = stage.start_service("a"), stage.start_service("b")
        start_guest(stage, here, zeroes_mib, at_mib)
        stage.start_managed("destination", there, incoming=True).qmp.execute("query-status")
        sent = stage.sent_bytes()
        start = time.monotonic()
        with Use(here.process.pid) as source, Use(there.process.pid) as target:
            here.migrate(REGION, "--to", stage.peer("b"), "--mode", mode)
        end = time.monotonic()
        measured = {"sent_mb": (stage.sent_bytes() - sent) / 1e6,
                    "allocated_mb": ramfile.allocated_bytes(there.region_path(REGION)) / 1e6}
        for what, found in zip(("content_mb", "zero_mb", "hole_mb"), content_bytes(here.region_path(REGION))):
            measured[what] = found / 1e6
        measured.update(own_use("source", source))
        measured.update(own_use("target", target))
        measured.update(stage.judge(start, end))
        return measured


def goals(recorder, limit_mb):
    rows = []
    for way in recorder.ways:
        content = recorder.median(way, "content_mb")
        rows += [(f"{way}: {side}'s own MB, {what}", "<=", limit_mb, recorder.median(way, f"{side}_{key}"))
                 for side in SIDES for key, what in (("peak_mb", "peak"), ("after_mb", "after"))]
        rows.append((f"{way}: allocated there / pages with content", "<=", 1.01,
                     report.ratio(recorder.median(way, "allocated_mb"), content)))
        if way.startswith("postcopy"):
            # The other modes send again what is written meanwhile.
            rows.append((f"{way}: sent / pages with content", "<=", 1.05,
                         report.ratio(recorder.median(way, "sent_mb"), content)))
    return rows


def run(host, recorder, runs):
    host.need("qemu-system-x86_64", "ip", "tc", "nsenter")
    build_images()
    size_mib = GUESTS[host.quick][0]
    report.title(f"memory: a guest of {size_mib} MiB moves; what the services use beside it, MB")
    ways = {way: lambda mode=mode, rate=rate: measure(host, mode, rate) for way, (mode, rate) in WAYS.items()}
    recorder.alternate(dict(list(ways.items())[-1:]) if host.quick else ways, runs)

    report.table(["services"] + [f"{side}: {label}" for side in SIDES for label in WHATS.values()],
                 [[way] + [report.spread(recorder.all(way, f"{side}_{what}"), 1) for side in SIDES for what in WHATS]
                  for way in recorder.ways])
    print()
    report.table(["pages, MB"] + list(PAGES.values()),
                 [[way] + [report.spread(recorder.all(way, what), 0) for what in PAGES] for way in recorder.ways])
    report.goals(goals(recorder, round(0.002 * size_mib * MIB / 1e6 + 20, 1)))
