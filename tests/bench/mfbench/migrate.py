# SPDX-License-Identifier: LGPL-2.1-or-later
"""Case migrate: a busy guest moves to another host, by QEMU's own means and by memferry."""
import itertools
import time

from mfvm.qemu import build_images, set_capabilities, wait_migration

from . import report
from .guest import REGION, Stage, event_seconds

LINKS = {"1 Gbit/s": "1gbit", "unlimited": None}
PORT = 4444
QEMU_MODES = ("pre-copy", "post-copy", "post-copy + preempt")
OUR_MODES = ("auto", "precopy", "postcopy")
WHATS = {"total_s": ("total s", 2), "stop_to_resume_ms": ("STOP to RESUME ms", 1), "gap_ms": ("longest gap ms", 0),
         "first_second": ("beats in 1st s", 0), "mb": ("MB", 0), "alive": ("alive", 0), "errors": ("errors", 0),
         "round": ("rounds", 0), "faults": ("faults", 0), "fault_p50_usec": ("p50 us", 0), "fault_p99_usec": ("p99 us", 0),
         "failed": ("failed", 0)}


def name_of(who, mode, link):
    return f"{who} {mode}, {link}"


def prepare_qemu(stage, mode):
    """Both QEMUs agree on how; nothing is limited but by the link."""
    post_copy = mode != "pre-copy"
    for monitor in (stage.source.qmp, stage.destination.qmp):
        set_capabilities(monitor, events=True, postcopy_ram=post_copy, postcopy_preempt="preempt" in mode)
        monitor.execute("migrate-set-parameters", {"max-bandwidth": 100 << 30, "max-postcopy-bandwidth": 0})
    address = f"tcp:{stage.hosts.address['b']}:{PORT}"
    stage.destination.qmp.execute("migrate-incoming", {"uri": address})
    return address


def move_by_qemu(stage, mode):
    """Returns the total in seconds and STOP to RESUME in ms."""
    source, destination = stage.source.qmp, stage.destination.qmp
    address = prepare_qemu(stage, mode)
    start = time.monotonic()
    source.execute("migrate", {"uri": address})
    if mode != "pre-copy":
        wait_migration(source, "active")
        source.execute("migrate-start-postcopy")
    stopped = source.wait_event("STOP", 60)
    wait_migration(source, "completed")
    end = time.monotonic()
    resumed = destination.wait_event("RESUME", 60)
    return {"total_s": end - start, "stop_to_resume_ms": (event_seconds(resumed) - event_seconds(stopped)) * 1000}


def qemu_migration(host, mode, link):
    with Stage(host, LINKS[link]) as stage:
        stage.source = stage.start("source", "a")
        stage.wait_busy()
        stage.destination = stage.start("destination", "b", incoming=True)
        stage.destination.qmp.execute("query-status")
        sent = stage.sent_bytes()
        start = time.monotonic()
        measured = move_by_qemu(stage, mode)
        measured["mb"] = (stage.sent_bytes() - sent) / 1e6
        measured.update(stage.judge(start, start + measured["total_s"]))
        return measured


def stop_to_resume(source, destination):
    """In ms. The source's guest may have been stopped and continued for a scan before: the last STOP counts."""
    resumed = destination.wait_event("RESUME", 60)
    source.execute("query-status")
    stopped = [event for event in source.events if event["event"] == "STOP"]
    return (event_seconds(resumed) - event_seconds(stopped[-1])) * 1000


def our_migration(host, mode, link):
    with Stage(host, LINKS[link]) as stage:
        here, there = stage.start_service("a"), stage.start_service("b")
        source = stage.start_managed("source", here)
        stage.wait_busy()
        destination = stage.start_managed("destination", there, incoming=True)
        for guest in (source, destination):
            guest.qmp.execute("query-status")
        sent = stage.sent_bytes()
        start = time.monotonic()
        try:
            job = here.migrate(REGION, "--to", stage.peer("b"), "--mode", mode)
        except RuntimeError as error:
            if host.quick:
                raise
            # Pre-copy may find that it does not come to an end; the other ways are measured all the same.
            print(f"{name_of('memferry', mode, link)}: {error}")
            return {"failed": 1}
        total_s = time.monotonic() - start
        measured = {"total_s": total_s, "stop_to_resume_ms": stop_to_resume(source.qmp, destination.qmp),
                    "mb": (stage.sent_bytes() - sent) / 1e6}
        measured.update(stage.judge(start, start + total_s))
        measured.update({what: job[what] for what in ("round", "faults", "fault_p50_usec", "fault_p99_usec")})
        return measured


def goals(recorder):
    def median(who, mode, link, what):
        return recorder.median(name_of(who, mode, link), what)

    def against(what, mode, link, peer):
        return report.ratio(median("memferry", mode, link, what), median("QEMU", peer, link, what))

    slow, fast = LINKS
    rows = [
        (f"auto, {slow}: longest gap ms", "<=", 60, median("memferry", "auto", slow, "gap_ms")),
        (f"auto, {slow}: total / QEMU post-copy's", "<=", 1.5, against("total_s", "auto", slow, "post-copy")),
        (f"auto, {slow}: bytes / QEMU post-copy's", "<=", 1.5, against("mb", "auto", slow, "post-copy")),
        (f"postcopy, {slow}: total / QEMU's", "<=", 1.05, against("total_s", "postcopy", slow, "post-copy")),
        (f"postcopy, {slow}: bytes / QEMU's", "<=", 1.05, against("mb", "postcopy", slow, "post-copy")),
        (f"postcopy, {slow}: longest gap / QEMU's with preempt", "<=", 0.5,
         against("gap_ms", "postcopy", slow, "post-copy + preempt")),
        (f"auto, {fast}: longest gap ms", "<=", 35, median("memferry", "auto", fast, "gap_ms")),
        (f"auto, {fast}: total / QEMU pre-copy's", "<=", 1, against("total_s", "auto", fast, "pre-copy")),
    ]
    for link, mode in itertools.product(LINKS, OUR_MODES):
        peer = median("QEMU", "post-copy", link, "stop_to_resume_ms")
        if peer is not None:
            rows.append((f"{mode}, {link}: STOP to RESUME ms", "<=", round(peer + 3, 1),
                         median("memferry", mode, link, "stop_to_resume_ms")))
    return rows


def run(host, recorder, runs):
    host.need("qemu-system-x86_64", "ip", "tc", "nsenter")
    build_images()
    report.title("migrate: a guest of 512 MiB that dirties 96 MiB at 82 MB/s, a beat every 20 ms"
                 if not host.quick else "migrate: a small guest")
    links = ["unlimited"] if host.quick else list(LINKS)
    ways = {}
    for link in links:
        for mode in QEMU_MODES:
            ways[name_of("QEMU", mode, link)] = lambda mode=mode, link=link: qemu_migration(host, mode, link)
        for mode in OUR_MODES:
            ways[name_of("memferry", mode, link)] = lambda mode=mode, link=link: our_migration(host, mode, link)
    recorder.alternate(ways, runs)

    report.table(["way"] + [label for label, _ in WHATS.values()],
                 [[way] + [report.spread(recorder.all(way, what), digits) for what, (_, digits) in WHATS.items()]
                  for way in recorder.ways])
    report.goals(goals(recorder))
