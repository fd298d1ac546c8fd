# SPDX-License-Identifier: LGPL-2.1-or-later
"""Follows what the test guest prints, wherever it runs, and judges it.

A guest that moves goes on printing through another QEMU, in the middle of a line if it has to. So all sources together are
one stream of bytes, in the order in which they come; when several have something at the same moment, the one that spoke
last is read first, because that guest was stopped before the other could go on.

A beat's time is when the host read the end of its line: seconds of the monotonic clock, which all processes of the host
share. Stamps are only as good as the reader's chance to run: for figures, follow in a process of its own
(vm-images/heartbeat), not in a thread of a busy one.

Console   bytes to beats and other lines
Reader    follows files and sockets in a thread, into a Console
load()    a Console again from what another one has recorded
report()  judges beats
"""

import ctypes
import os
import re
import selectors
import socket
import threading
import time
from typing import NamedTuple

from .deadline import Deadline, TooLate, wait_until

_BEAT = re.compile(
    r"HB (\d+) t=(\d+) pass=(\d+) pages=(\d+) verified=(\d+) disk=(\d+) errors=(\d+)$"
)
# What a guest prints when it is not well; the workload's own ERR and FATAL among them.
_TROUBLE = re.compile(
    r"^(ERR|FATAL) |Kernel panic|Oops|BUG:|general protection|segfault|unable to handle|soft lockup|rcu.*stall|I/O error"
)
# QEMU's console adds carriage returns; a firmware and a kernel before the workload print what they like.
_LINE_LIMIT = 4096


class Beat(NamedTuple):
    at: float  # host, seconds
    source: str
    n: int
    t_ms: int  # guest, milliseconds
    passes: int
    pages: int
    verified: int
    disk: int
    errors: int


class Console:
    """Takes bytes with the time and source they came by, keeps what they say. Not locked."""

    def __init__(self, record=None):
        self.beats = []
        self.lines = []  # (at, source, text) of everything that is not a beat
        self.ready_at = None
        self._partial = b""
        self._record = record

    def feed(self, data, at, source):
        """Returns True when a whole line came."""
        parts = (self._partial + data).split(b"\n")
        self._partial = parts.pop()[-_LINE_LIMIT:]
        for part in parts:
            self.add_line(part.decode("ascii", "replace").strip("\r\x00 "), at, source)
        return bool(parts)

    def add_line(self, text, at, source):
        if self._record:
            self._record.write(f"{at:.6f} {source} {text}\n")
            self._record.flush()
        match = _BEAT.match(text)
        if match:
            self.beats.append(Beat(at, source, *map(int, match.groups())))
            return
        if text.startswith("READY ") and self.ready_at is None:
            self.ready_at = at
        if text:
            self.lines.append((at, source, text))

    def trouble(self, since=0.0):
        """The lines that tell of something wrong, a beat that can't be read among them, from host time `since` on: a guest that was
        killed leaves half a line."""
        return [text for at, _, text in self.lines if at >= since and (_TROUBLE.search(text) or text.startswith("HB "))]


class Reader:
    """Follows any number of sources. A context manager: the thread runs inside of it.

    Take `lock` to look at `console` while it runs; the methods here do.
    """

    def __init__(self, record_path=None):
        self._record = open(record_path, "w", encoding="ascii") if record_path else None
        self.console = Console(self._record)
        self.lock = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._files = {}  # inotify descriptor -> _File
        self._current = None
        self._stop_reading, self._stop = os.pipe()
        self._selector.register(self._stop_reading, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._follow, daemon=True)

    # Sources. Add them before or while it runs.

    def listen(self, path):
        """Listens at UNIX socket `path`: every QEMU that connects is a source named PATH#1, PATH#2, ... in turn. Nothing that
        a guest prints is missed, and a destination needs no other address than the source."""
        if os.path.exists(path):
            os.unlink(path)
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen()
        self._selector.register(server, selectors.EVENT_READ, _Server(server, path))

    def connect(self, path, seconds=20):
        """Connects to UNIX socket `path`, on which QEMU listens."""
        connection = socket.socket(socket.AF_UNIX)

        def attempt():
            try:
                connection.connect(path)
                return True
            except (FileNotFoundError, ConnectionRefusedError):
                return False

        wait_until(attempt, seconds, f"serial console at {path}")
        self._selector.register(connection, selectors.EVENT_READ, _Connection(connection, path))

    def follow_file(self, path):
        """Follows log file `path` from its beginning; it is made if it isn't there yet."""
        file = _File(path)
        self._read(file)  # what was there before the watch raises no event
        self._selector.register(file.inotify, selectors.EVENT_READ, file)

    # Waiting and judging.

    def wait(self, condition, seconds, what):
        """Waits until `condition(console)` is true, asked after each line, and returns its value."""
        deadline = Deadline(seconds, what)
        with self.lock:
            while True:
                value = condition(self.console)
                if value:
                    return value
                try:
                    self.lock.wait(deadline.left())
                except TooLate as late:
                    raise TooLate(f"{late}; the guest's last lines: {self._last_lines()}") from None

    def wait_ready(self, seconds=120):
        """Waits for the guest's READY; what it says of trouble ends the wait as well."""

        def ready_or_trouble(console):
            return console.ready_at or console.trouble()

        self.wait(ready_or_trouble, seconds, "READY from the guest")
        if self.console.ready_at is None:
            raise RuntimeError(f"the guest did not become ready: {self.console.trouble()[0]}")

    def wait_beats(self, count, seconds=60):
        """Waits for `count` beats more than there are now and returns the last one."""
        with self.lock:
            goal = len(self.console.beats) + count
        return self.wait(lambda c: c.beats[-1] if len(c.beats) >= goal else None, seconds, f"{count} beats")

    def wait_pass(self, passes=1, seconds=60):
        """Waits until the guest has gone `passes` whole times more over what it dirties. All of it was then verified at
        least passes - 1 times."""
        first = self.wait(lambda c: c.beats[-1] if c.beats else None, seconds, "beat")
        return self.wait(
            lambda c: c.beats[-1] if c.beats[-1].passes >= first.passes + passes + 1 else None,
            seconds,
            f"{passes} passes",
        )

    def last(self):
        """The last beat or None."""
        with self.lock:
            return self.console.beats[-1] if self.console.beats else None

    def report(self, start=None, end=None):
        with self.lock:
            return report(self.console, start, end)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        os.write(self._stop, b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            if key.data:
                key.data.close()
        self._selector.close()
        os.close(self._stop)
        os.close(self._stop_reading)
        if self._record:
            self._record.close()

    def _last_lines(self):
        return [text for _, _, text in self.console.lines[-3:]] + [f"HB {b.n}" for b in self.console.beats[-1:]]

    def _follow(self):
        while True:
            ready = [key.data for key, _ in self._selector.select()]
            if None in ready:
                return
            ready.sort(key=lambda source: source is not self._current)
            for source in ready:
                self._read(source)

    def _read(self, source):
        if isinstance(source, _Server):
            connection = source.accept()
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
            return
        data = source.read()
        at = time.monotonic()
        if data is None:
            self._selector.unregister(source.socket)
            source.close()
        elif data:
            self._current = source
            with self.lock:
                if self.console.feed(data, at, source.name):
                    self.lock.notify_all()


class _Server:
    def __init__(self, listening, path):
        self.socket = listening
        self._path = path
        self._count = 0

    def accept(self):
        connection, _ = self.socket.accept()
        self._count += 1
        return _Connection(connection, f"{self._path}#{self._count}")

    def close(self):
        self.socket.close()
        if os.path.exists(self._path):
            os.unlink(self._path)


class _Connection:
    def __init__(self, connection, name):
        self.socket = connection
        self.name = name

    def read(self):
        """None: the other end is gone."""
        try:
            return self.socket.recv(65536) or None
        except ConnectionResetError:
            return None

    def close(self):
        self.socket.close()


class _File:
    """A log that grows, watched by inotify: polling would blur the stamps or burn the CPU that the guest needs."""

    _IN_MODIFY = 2

    def __init__(self, path):
        libc = ctypes.CDLL(None, use_errno=True)
        self.name = path
        self._file = open(path, "a+b", buffering=0)
        self._offset = 0
        self.inotify = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.inotify < 0 or libc.inotify_add_watch(self.inotify, os.fsencode(path), self._IN_MODIFY) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)

    def read(self):
        try:
            os.read(self.inotify, 65536)
        except BlockingIOError:
            pass
        if os.fstat(self._file.fileno()).st_size < self._offset:
            self._offset = 0  # a new QEMU has emptied it
        data = os.pread(self._file.fileno(), 1 << 20, self._offset)
        self._offset += len(data)
        return data

    def close(self):
        os.close(self.inotify)
        self._file.close()


def load(path):
    """The Console that was recorded at `path`, perhaps while that goes on."""
    console = Console()
    with open(path, encoding="ascii", errors="replace") as record:
        for line in record:
            fields = line.rstrip("\n").split(" ", 2)
            if line.endswith("\n") and len(fields) == 3:
                console.add_line(fields[2], float(fields[0]), fields[1])
    return console


def report(console, start=None, end=None):
    """Judges the beats between host times `start` and `end` (seconds; all that there are when left out):

    beats, beats_per_second   how many came
    longest_gap_ms            the longest time without a beat that touches the window, in full; silence at its end counts
    longest_gap_at            when that began
    first_second              beats within a second of the end of the longest gap, that beat not counted
    missing, repeated         beat numbers that never came; that came again, or after a higher one. In all, not in the window.
    consecutive               neither was there
    errors                    the highest count the guest ever reported
    trouble                   lines of errors, oopses, panics and beats that can't be read, the first eight
    sources                   who printed beats in the window, in order
    last                      the last beat of the window
    """
    beats = console.beats
    if start is None:
        start = beats[0].at if beats else 0.0
    if end is None:
        end = beats[-1].at if beats else start
    inside = [beat for beat in beats if start <= beat.at <= end]
    gap, gap_at, gap_end = _longest_gap(beats, start, end)
    missing, repeated = _broken_numbers(beats)
    return {
        "start": start,
        "end": end,
        "beats": len(inside),
        "beats_per_second": round(len(inside) / (end - start), 2) if end > start else None,
        "longest_gap_ms": round(gap * 1000, 1),
        "longest_gap_at": gap_at,
        "first_second": sum(1 for beat in beats if gap_end < beat.at <= gap_end + 1),
        "missing": missing,
        "repeated": repeated,
        "consecutive": missing == 0 and repeated == 0,
        "errors": max((beat.errors for beat in beats), default=0),
        "trouble": console.trouble()[:8],
        "sources": list(dict.fromkeys(beat.source for beat in inside)),
        "last": inside[-1]._asdict() if inside else None,
    }


def _longest_gap(beats, start, end):
    """(length, begin, end) of the longest silence that touches [start, end]; without any beat that is the whole window."""
    longest = (0.0, start, start)
    previous = None
    for beat in beats:
        if previous is not None and beat.at > start and previous.at < end:
            longest = max(longest, (beat.at - previous.at, previous.at, beat.at))
        previous = beat
    if previous is None:
        return end - start, start, end
    if previous.at < end:
        longest = max(longest, (end - previous.at, previous.at, end))
    return longest


def _broken_numbers(beats):
    numbers = [beat.n for beat in beats]
    highest = 0
    repeated = 0
    for number in numbers:
        if number <= highest:
            repeated += 1
        highest = max(highest, number)
    if not numbers:
        return 0, 0
    return max(numbers) - min(numbers) + 1 - len(set(numbers)), repeated
