# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two hosts with a link, and a busy guest on the first: what every migration that is measured starts from."""
import os
import signal
import time

from mfvm import heartbeat, netns, qemu, service
from mfvm.deadline import TooLate, wait_until

from . import TREE
from .host import BenchError, peak_bytes, processor_seconds
from .link import Relay

HEARTBEAT = os.path.join(TREE, "vm-images", "heartbeat")
# 400 MiB of random bytes, of which 96 MiB are dirtied at 82 MB/s; a beat every 20 ms.
SIZES = {False: ("512M", ("mf.fill=400M", "mf.dirty=96M", "mf.rate=82000000", "mf.heartbeat=20")),
         True: ("256M", ("mf.fill=64M", "mf.dirty=16M", "mf.rate=16000000", "mf.heartbeat=20"))}
AFTER_SECONDS = 2.5
BEAT_SECONDS = 0.02
# The guest's work is looked at so long from the beginning of a migration.
LOST_SECONDS = {False: 10, True: 2}
RELAY_PORTS = 1000

REGION = "vm"


class Stage:
    """A context manager: two hosts, `hosts`, and a link between them. start() and start_managed() start a guest on one of
    them, start_service() a memferryd; all end with the stage."""

    def __init__(self, host, rate, guest=None):
        """`rate` limits the link, None doesn't; `guest` is (size, workload), otherwise the one that every migration moves."""
        self.host = host
        self.rate = rate
        self.size, self.workload = guest or SIZES[host.quick]
        self.space = qemu.Workspace()
        self.hosts = netns.HostPair("mfbench")
        self.open = []
        self.watched = {}
        self.used_before = {}

    def __enter__(self):
        try:
            self.enter(self.space)
            self.enter(self.hosts)
            self.follow()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for part in reversed(self.open):
            part.__exit__(None, None, None)
        self.open.clear()

    def follow(self):
        """Shapes the link, and listens for the guest's heartbeat."""
        if self.rate:
            self.hosts.shape(self.rate)
        self.record = self.space.file("beats")
        serial = self.space.file("serial")
        # In a process of its own: its stamps are the measure.
        self.follower = self.host.start(HEARTBEAT, "follow", "--record", self.record, f"listen:{serial}",
                                        stdout=open(self.space.file("report"), "wb"))
        wait_until(lambda: os.path.exists(serial), 10, "heartbeat")

    def through(self, port, rtt_ms, rate_mbit):
        """Puts a Relay before a port of host "b", and returns the port at which it listens there."""
        address = self.hosts.address["b"]
        self.enter(Relay(self.host, [(f"tcp:{address}:{port + RELAY_PORTS}", f"tcp:{address}:{port}")], rtt_ms, rate_mbit,
                         self.hosts.prefix["b"]))
        return port + RELAY_PORTS

    def command(self, name, ram, incoming, more=()):
        return qemu.guest_arguments(ram, self.size, "connect:" + self.space.file("serial"), self.space.file(name + ".qmp"),
                                    workload=self.workload, incoming=incoming, more=more)

    def enter(self, part):
        part.__enter__()
        self.open.append(part)
        return part

    def watch(self, name, part):
        """Enters a part whose process is to be in what is used between begin() and end()."""
        self.watched[name] = self.enter(part)
        return part

    def begin(self):
        self.used_before = {name: processor_seconds(part.process.pid) for name, part in self.watched.items()}

    def end(self):
        for name, part in self.watched.items():
            if part.process.poll() is None:
                pid = part.process.pid
                self.host.note_use(name, processor_seconds(pid) - self.used_before.get(name, 0), peak_bytes(pid))

    def start(self, name, where, incoming=False):
        """Starts a QEMU on host `where`."""
        return self.watch(f"QEMU {name}", qemu.Guest(self.command(name, self.space.ram_file(name), incoming),
                                     prefix=self.hosts.prefix[where], log=self.space.file(name + ".log")))

    def peer(self, where):
        """The address at which the memferryd of host `where` is reached."""
        return f"tcp://{self.hosts.address[where]}"

    def start_service(self, where):
        service.BUILD = self.host.build
        return self.watch(f"memferryd {where}", service.Service(self.space, where, prefix=self.hosts.prefix[where], listen=[self.peer(where)]))

    def start_managed(self, name, daemon, incoming=False):
        """Starts a QEMU whose memory memferryd `daemon` can move. It has two monitors: one for the service, one to watch."""
        control = self.space.file(name + ".control")
        command = self.command(name, daemon.region_path(REGION), incoming, ("-qmp", f"unix:{control},server=on,wait=off"))
        return self.watch(f"QEMU {name}", daemon.guest(REGION, command, control, size=self.size, log=self.space.file(name + ".log")))

    def beats(self):
        return heartbeat.load(self.record) if os.path.exists(self.record) else heartbeat.Console()

    def wait_busy(self):
        """Until the guest is ready and has dirtied all that it dirties once."""
        def busy():
            console = self.beats()
            if console.trouble():
                raise BenchError(f"the guest: {console.trouble()[0]}")
            return console.beats and console.beats[-1].passes >= 1

        wait_until(busy, 120, "whole pass of the guest", 0.1)

    def sent_bytes(self):
        return self.hosts.sent_bytes("a") + self.hosts.sent_bytes("b")

    def judge(self, start, end):
        """What the guest felt of a migration between two times of the host, once it ran long enough after it."""
        window = LOST_SECONDS[self.host.quick]

        def settled():
            console = self.beats()
            inside = [beat for beat in console.beats if beat.at > end]
            # Two passes begun: everything that it dirties was checked once.
            return console.trouble() or (time.monotonic() > max(end + AFTER_SECONDS, start + window) and inside and
                                         inside[-1].passes >= inside[0].passes + 2)

        try:
            wait_until(settled, max(AFTER_SECONDS, start + window - end) + 15, "guest", 0.1)
            alive = True
        except TooLate:
            alive = False
        console = self.beats()
        found = heartbeat.report(console, start, end + AFTER_SECONDS)
        return {"gap_ms": found["longest_gap_ms"], "first_second": found["first_second"],
                "alive": int(alive and found["consecutive"] and not found["trouble"]), "errors": found["errors"],
                **lost_work(console.beats, start, window)}

    def stop_follower(self):
        self.follower.send_signal(signal.SIGTERM)
        self.follower.wait()


def event_seconds(event):
    """QEMU's own stamp of an event, finer than when it was read here; both QEMUs share the clock."""
    return event["timestamp"]["seconds"] + event["timestamp"]["microseconds"] / 1e6


def lost_work(beats, start, window):
    """Of `window` seconds from `start` on: the area between the curve of the beats, or of the pages dirtied, and what it would have been
    had nothing happened; in seconds of the guest's work."""
    before = [beat for beat in beats if start - 2 <= beat.at <= start]
    inside = [beat for beat in beats if start < beat.at <= start + window]
    if len(before) < 2:
        return {}
    found = {"lost_beats_s": max(0, window - len(inside) * BEAT_SECONDS)}
    rate = (before[-1].pages - before[0].pages) / (before[-1].at - before[0].at)
    if rate > 1000:
        done = inside[-1].pages - before[-1].pages if inside else 0
        found.update(lost_work_s=max(0, window - done / rate), dirtied_mb_per_s=rate * 4096 / 1e6)
    return found
