# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two hosts, a guest, and three moves."""

import contextlib
import os
import time
from typing import NamedTuple

from mfvm import heartbeat, netns, qemu, ramfile
from mfvm.deadline import Deadline
from mfvm.move import Move
from mfvm.service import Service

from . import display

LEFT, RIGHT = "left", "right"
# (from, to, mode, more options). Pre-copy has to come to an end on slow machines too; the others have post-copy for that.
MOVES = (
    (LEFT, RIGHT, "precopy", ("--max-downtime", "300")),
    (RIGHT, LEFT, "postcopy", ()),
    (LEFT, RIGHT, "auto", ("--max-downtime", "30")),
)
MOVE_SECONDS = 600
# What belongs to a move begins a little before it, and ends when the guest has had time to stumble over what is missing.
BEFORE_SECONDS, AFTER_SECONDS = 0.2, 1.0
REST_BEATS = 100
BEAT_MSEC = 20


class Failed(Exception):
    """The show is over; the text says why."""


class Moved(NamedTuple):
    mode: str
    job: dict  # the last that memferry migrate --json printed
    gap_ms: float  # the longest silence of the guest
    errors: int  # what it saw meanwhile


class Story:
    """A context manager; leaving it ends and removes everything.

    size_mib   of the guest
    rate_mb    what it writes a second
    logs       folder where logs are kept, or None
    """

    def __init__(self, size_mib, rate_mb, logs, screen):
        self._size, self._rate, self._logs, self._screen = size_mib, rate_mb, logs, screen
        # What its kernel needs is not much more for a large guest.
        self._fill_mib = min(size_mib * 3 // 4, size_mib - 80)
        self._stack = contextlib.ExitStack()
        self._guests = {}
        self._starts = 0

    def __enter__(self):
        try:
            self._work = self._stack.enter_context(qemu.Workspace(self._logs))
            self._reader = self._stack.enter_context(heartbeat.Reader(self._work.file("beats.log")))
            self._reader.listen(self._work.file("serial"))
            self._make_hosts()
            self._stack.callback(self._end_guests)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _make_hosts(self):
        if os.geteuid() == 0:
            pair = self._stack.enter_context(netns.HostPair("demo"))
            addresses = dict(zip((LEFT, RIGHT), (f"tcp://{address}" for address in pair.address.values())))
            prefixes = dict(zip((LEFT, RIGHT), pair.prefix.values()))
            self._services = {
                host: Service(self._work, host, prefix=prefixes[host], listen=[addresses[host]]) for host in (LEFT, RIGHT)
            }
            self._peers = addresses
        else:
            self._services = {host: Service(self._work, host) for host in (LEFT, RIGHT)}
            self._peers = {host: service.peer for host, service in self._services.items()}
        for service in self._services.values():
            self._stack.enter_context(service)

    def introduction(self):
        how = "joined by a cable" if os.geteuid() == 0 else "two services on this machine"
        return f"Two hosts, left ({self._peers[LEFT]}) and right ({self._peers[RIGHT]}), {how}."

    # Guests.

    def _start(self, host, incoming):
        """Starts a QEMU, and ends the one that was there before."""
        if host in self._guests:
            self._guests.pop(host).kill()
        self._starts += 1
        service = self._services[host]
        monitor = self._work.file(f"qmp-{self._starts}")
        command = qemu.guest_arguments(
            service.region_path("guest"),
            f"{self._size}M",
            f"connect:{self._work.file('serial')}",
            monitor,
            workload=[
                f"mf.fill={self._fill_mib}M",
                f"mf.dirty={self._size // 8}M",
                f"mf.rate={self._rate * 1000000}",
                "mf.verify=64M",
                f"mf.heartbeat={BEAT_MSEC}",
            ],
            incoming=incoming,
        )
        log = self._work.file(f"qemu-{host}-{self._starts}.log")
        guest = service.guest("guest", command, monitor, size=f"{self._size}M", log=log)
        self._guests[host] = guest.__enter__()
        service.wait_mapped(["guest"], guest)

    def _end_guests(self):
        for guest in self._guests.values():
            guest.kill()

    def boot(self):
        """Returns when the guest has filled its memory and is at work; says how long the longest silence is when nothing moves."""
        self._start(LEFT, incoming=False)
        self._start(RIGHT, incoming=True)
        self._reader.wait_ready(300)
        first = self._reader.wait_beats(10)
        self._reader.wait_beats(REST_BEATS)
        return self._reader.report(first.at)["longest_gap_ms"]

    # Moving.

    def move(self, source, target, mode, options):
        """Moves the guest and returns what it cost."""
        self._screen.begin()
        errors = self._reader.last().errors
        began = time.monotonic()
        words = ("guest", "--to", self._peers[target], "--mode", mode, *options)
        job = self._follow(Move(self._services[source].start_migration(*words)), f"{source} to {target} by {mode}")
        ended = time.monotonic()
        last = self._reader.wait(
            lambda c: c.beats[-1] if c.beats[-1].at > ended + AFTER_SECONDS else None, 60, "beats after the move"
        )
        gap = self._reader.report(began - BEFORE_SECONDS, last.at)["longest_gap_ms"]
        return Moved(mode, job, gap, last.errors - errors)

    def _follow(self, move, what):
        deadline = Deadline(MOVE_SECONDS, f"end of the move, {what}")
        while move.read(deadline.left()):
            if move.job.get("state") == "running":
                self._screen.pass_by(display.progress(move.job))
        status, error = move.finish()
        if status != 0:
            raise Failed(f"the move {what} failed: {error.removeprefix('memferry: ')}")
        return move.job

    def wait_for_next(self, host):
        """The guest has left `host`: what was its QEMU ends, another one waits for it to come back."""
        self._start(host, incoming=True)

    def check_everything(self):
        """Until the guest has read and compared all of its memory once more; returns the judgement of all that it printed."""
        goal = self._reader.last().verified + (self._fill_mib << 20) // ramfile.PAGE_BYTES
        self._reader.wait(lambda c: c.beats[-1].verified > goal, 300, "a check of all memory")
        return self._reader.report()
