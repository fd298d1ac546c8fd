# SPDX-License-Identifier: LGPL-2.1-or-later
"""Judges what becomes of a guest when its migration is disturbed: it runs on one host, on one only, and on the right one."""

import os

from . import ramfile
from .deadline import TooLate, wait_until
from .qmp import QmpError


class Trial:
    """results  the Tap
    guests   the Pair, booted
    reader   the heartbeat.Reader
    """

    def __init__(self, results, guests, reader):
        self._results, self._guests, self._reader = results, guests, reader

    def failed(self, what, move, *words):
        """The command has failed with one line that has all of `words` in it."""
        status, error = move.finish()
        good = status == 1 and error and "\n" not in error and all(word in error for word in words)
        self._results.ok(good, f"{what}: one line says what went wrong", f"status {status}: {error}")

    def succeeded(self, what, move):
        self._results.equal(move.finish(), (0, ""), f"{what}: the migration succeeds")

    def settle(self, what, moved, seconds=60):
        """Waits until the services agree that the guest has moved, or that it has not (None: either), and makes sure that it runs
        there and nowhere else. Afterwards another QEMU waits on the other host. RuntimeError when all is lost."""
        expected = {True: [("away", "here")], False: [("here", "here")], None: [("away", "here"), ("here", "here")]}[moved]
        try:
            states = wait_until(lambda: (s := self._guests.states()) in expected and s, seconds, "agreement", interval=0.05)
        except TooLate:
            self._results.ok(False, f"{what}: the services agree on who has it", self._guests.states())
            raise RuntimeError(f"{what}: the services say {self._guests.states()}, expected {expected}") from None
        self._results.ok(True, f"{what}: the services agree on who has it")
        if states == ("away", "here"):
            self._guests.turn()
        self._runs_alone(what)
        self._guests.start(self._guests.there, incoming=True)

    def _runs_alone(self, what):
        self._reader.wait_beats(5)
        self._results.equal(self._guests.source.status(), "running", f"{what}: the guest runs there")
        other = self._guests.guests.get(self._guests.there)
        status = None
        if other and other.process.poll() is None:
            try:
                status = other.status()
            except QmpError:
                pass  # it has ended just now
        self._results.ok(status != "running", f"{what}: and only there", status)
        report = self._reader.report()
        self._results.ok(report["consecutive"], f"{what}: no beat is lost or printed twice", report)

    def whole(self, fill_bytes):
        """Waits until the guest has read all of its memory once more: nothing of it is wrong."""
        goal = self._reader.last().verified + fill_bytes // ramfile.PAGE_BYTES
        self._reader.wait(lambda c: c.beats[-1].verified > goal, 120, "a check of all memory")
        report = self._reader.report()
        self._results.equal((report["errors"], report["trouble"]), (0, []), "the guest saw no error in all of it")


def waits_for_memory(guest):
    """Whether a thread of the Guest's QEMU waits for a page that is missing."""
    return "handle_userfault" in _stacks(guest.process.pid)


def _stacks(pid):
    text = ""
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/stack", encoding="ascii") as stack:
                text += stack.read()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return text
