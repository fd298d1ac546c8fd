# SPDX-License-Identifier: LGPL-2.1-or-later
"""Case migrate: a busy guest moves to another host, by QEMU's own means and by memferry; by link, and by how busy it is."""
import itertools
import time

from mfvm.deadline import TooLate
from mfvm.qemu import build_images, set_capabilities, wait_migration

from .case import Case, Plot, way
from .guest import REGION, Stage, event_seconds

# A guest of 512 MiB, 400 of them random bytes, of which 96 are written again and again.
SIZE, FILL = "512M", ("mf.fill=400M", "mf.heartbeat=20")
QUICK_SIZE, QUICK_FILL = "256M", ("mf.fill=64M", "mf.heartbeat=20")
DIRTY = {"0": ("mf.dirty=16K", "mf.rate=16K"), "20": ("mf.dirty=96M", "mf.rate=20000000"), "80": ("mf.dirty=96M", "mf.rate=80000000"),
         "400": ("mf.dirty=96M", "mf.rate=400000000")}
QUICK_DIRTY = {"16": ("mf.dirty=16M", "mf.rate=16000000")}
UNLIMITED = "unlimited"
RATES_MBIT = (UNLIMITED, "1000", "100")
RTTS_MS = ("0", "10", "50")
PORT = 4444
PEER_PORT = 10810
QEMU_MODES = ("pre-copy", "multifd", "post-copy", "post-copy + preempt")
QUICK_QEMU_MODES = ("pre-copy", "multifd", "post-copy + preempt")
OUR_MODES = ("auto", "precopy", "postcopy")
MULTIFD_CHANNELS = 4
# At 100 Mbit/s memory takes 40 s; a pre-copy that is not done by then will never be.
LIMIT_SECONDS = 60
MEASURES = {"total_s": ("total s", 2), "stop_to_resume_ms": ("STOP to RESUME ms", 1), "gap_ms": ("longest gap ms", 0),
            "lost_beats_s": ("beats lost in 10 s, s", 2), "lost_work_s": ("work lost in 10 s, s", 2),
            "first_second": ("beats in 1st s", 0), "mb": ("MB", 0), "dirtied_mb_per_s": ("dirtied MB/s", 0), "alive": ("alive", 0),
            "errors": ("errors", 0), "round": ("rounds", 0), "faults": ("faults", 0), "fault_p50_usec": ("fault p50 us", 0),
            "fault_p99_usec": ("p99 us", 0), "failed": ("failed", 0)}


def stage_of(host, rate, rtt, dirty):
    """Bandwidth alone is the kernel's (tbf); with a delay, both are bench-relay's."""
    guest = (QUICK_SIZE, (*QUICK_FILL, *QUICK_DIRTY[dirty])) if host.quick else (SIZE, (*FILL, *DIRTY[dirty]))
    return Stage(host, f"{rate}mbit" if rtt == "0" and rate != UNLIMITED else None, guest)


def port_of(stage, port, rate, rtt):
    """Where to connect to for a port of host "b"."""
    return port if rtt == "0" else stage.through(port, float(rtt), None if rate == UNLIMITED else rate)


def prepare_qemu(stage, mode):
    """Both QEMUs agree on how; nothing is limited but by the link."""
    for monitor in (stage.source.qmp, stage.destination.qmp):
        set_capabilities(monitor, events=True, postcopy_ram="post-copy" in mode, postcopy_preempt="preempt" in mode,
                         multifd=mode == "multifd")
        parameters = {"max-bandwidth": 100 << 30, "max-postcopy-bandwidth": 0}
        if mode == "multifd":
            parameters["multifd-channels"] = MULTIFD_CHANNELS
        monitor.execute("migrate-set-parameters", parameters)
    stage.destination.qmp.execute("migrate-incoming", {"uri": f"tcp:{stage.hosts.address['b']}:{PORT}"})


def move_by_qemu(stage, mode, port):
    """Returns the total in seconds and STOP to RESUME in ms."""
    source, destination = stage.source.qmp, stage.destination.qmp
    start = time.monotonic()
    source.execute("migrate", {"uri": f"tcp:{stage.hosts.address['b']}:{port}"})
    if "post-copy" in mode:
        wait_migration(source, "active")
        source.execute("migrate-start-postcopy")
    stopped = source.wait_event("STOP", LIMIT_SECONDS)
    wait_migration(source, "completed", LIMIT_SECONDS)
    end = time.monotonic()
    resumed = destination.wait_event("RESUME", 60)
    return {"total_s": end - start, "stop_to_resume_ms": (event_seconds(resumed) - event_seconds(stopped)) * 1000}


def qemu_migration(host, mode, rate, rtt, dirty):
    with stage_of(host, rate, rtt, dirty) as stage:
        stage.source = stage.start("source", "a")
        stage.wait_busy()
        stage.destination = stage.start("destination", "b", incoming=True)
        prepare_qemu(stage, mode)
        port = port_of(stage, PORT, rate, rtt)
        sent = stage.sent_bytes()
        stage.begin()
        start = time.monotonic()
        try:
            measured = move_by_qemu(stage, mode, port)
        except TooLate:
            print(f"QEMU {mode}: no end after {LIMIT_SECONDS} s")
            return {"failed": 1}
        stage.end()
        measured["mb"] = (stage.sent_bytes() - sent) / 1e6
        measured.update(stage.judge(start, start + measured["total_s"]))
        return measured


def stop_to_resume(source, destination):
    """In ms. The source's guest may have been stopped and continued for a scan before: the last STOP counts."""
    resumed = destination.wait_event("RESUME", 60)
    source.execute("query-status")
    stopped = [event for event in source.events if event["event"] == "STOP"]
    return (event_seconds(resumed) - event_seconds(stopped[-1])) * 1000


def our_migration(host, mode, rate, rtt, dirty):
    with stage_of(host, rate, rtt, dirty) as stage:
        here, there = stage.start_service("a"), stage.start_service("b")
        source = stage.start_managed("source", here)
        stage.wait_busy()
        destination = stage.start_managed("destination", there, incoming=True)
        for guest in (source, destination):
            guest.qmp.execute("query-status")
        address = f"tcp://{stage.hosts.address['b']}:{port_of(stage, PEER_PORT, rate, rtt)}"
        sent = stage.sent_bytes()
        stage.begin()
        start = time.monotonic()
        try:
            job = here.migrate(REGION, "--to", address, "--mode", mode)
        except RuntimeError as error:
            if host.quick:
                raise
            # Pre-copy may find that it does not come to an end; the other ways are measured all the same.
            print(f"memferry {mode}: {error}")
            return {"failed": 1}
        total_s = time.monotonic() - start
        stage.end()
        measured = {"total_s": total_s, "stop_to_resume_ms": stop_to_resume(source.qmp, destination.qmp),
                    "mb": (stage.sent_bytes() - sent) / 1e6}
        measured.update(stage.judge(start, start + total_s))
        measured.update({what: job[what] for what in ("round", "faults", "fault_p50_usec", "fault_p99_usec")})
        return measured


def ways(host):
    build_images()
    points = [("0", UNLIMITED, "16")] if host.quick else itertools.product(RTTS_MS, RATES_MBIT, DIRTY)
    for rtt, rate, dirty in points:
        point = {"rate_mbit": rate, "rtt_ms": rtt, "dirty_mb_per_s": dirty}
        for mode in QUICK_QEMU_MODES if host.quick else QEMU_MODES:
            yield (way(f"QEMU {mode}", **point),
                   lambda mode=mode, rate=rate, rtt=rtt, dirty=dirty: qemu_migration(host, mode, rate, rtt, dirty))
        for mode in OUR_MODES:
            yield (way(f"memferry {mode}", **point),
                   lambda mode=mode, rate=rate, rtt=rtt, dirty=dirty: our_migration(host, mode, rate, rtt, dirty))


def goals(results):
    """At each link and load, for the modes beside QEMU's own."""
    rows = []
    for own in [which for which in results.ways if which.peer.startswith("memferry")]:
        mode = own.peer.removeprefix("memferry ")
        where = f"{mode}, {own.at('rate_mbit')} Mbit/s, {own.at('rtt_ms')} ms, {own.at('dirty_mb_per_s')} MB/s dirtied"

        def against(what, peer, own=own):
            return results.ratio(own, own._replace(peer=f"QEMU {peer}"), what)

        if mode == "auto":
            rows += [(f"{where}: longest gap / QEMU post-copy's with preempt", "<=", 0.5, against("gap_ms", "post-copy + preempt")),
                     (f"{where}: total / QEMU pre-copy's", "<=", 1, against("total_s", "pre-copy")),
                     (f"{where}: total / QEMU post-copy's", "<=", 1.5, against("total_s", "post-copy")),
                     (f"{where}: bytes / QEMU post-copy's", "<=", 1.5, against("mb", "post-copy")),
                     (f"{where}: work lost / QEMU post-copy's", "<=", 1, against("lost_beats_s", "post-copy"))]
        if mode == "postcopy":
            rows += [(f"{where}: total / QEMU's", "<=", 1.05, against("total_s", "post-copy")),
                     (f"{where}: bytes / QEMU's", "<=", 1.05, against("mb", "post-copy")),
                     (f"{where}: longest gap / QEMU's with preempt", "<=", 0.5, against("gap_ms", "post-copy + preempt"))]
    return [row for row in rows if row[3] is not None]


def plots():
    for rate, rtt in (("1000", "0"), ("1000", "10"), (UNLIMITED, "0")):
        where = (f"rate_mbit={rate}", f"rtt_ms={rtt}")
        link = f"{rate} Mbit/s, {rtt} ms there and back"
        for what, label in (("gap_ms", "longest silence of the guest, ms"), ("total_s", "total, s"), ("lost_beats_s", "lost of the first 10 s, s")):
            yield Plot(f"{what}-{rate}-{rtt}", f"A guest moves over {link}", what, "dirty_mb_per_s", "the guest dirties, MB/s", label, where,
                       log_y=what == "gap_ms")


CASE = Case(
    name="migrate",
    title=lambda host: "a guest of 512 MiB, 400 of them random bytes, of which 96 are dirtied; a beat every 20 ms",
    axes=("rate_mbit", "rtt_ms", "dirty_mb_per_s"),
    measures=MEASURES,
    ways=ways,
    goals=goals,
    plots=tuple(plots()),
    needs=("qemu-system-x86_64", "ip", "tc", "nsenter"),
)
