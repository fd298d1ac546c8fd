# SPDX-License-Identifier: LGPL-2.1-or-later
"""Drives the migration of two bare QEMUs as libvirt drives that of its own: it sets their capabilities, has the target listen at a
UNIX socket and the source connect to one, answers pre-switchover at once, and lets the guest run on the target when both have ended.
"""

from . import pair, qemu
from .deadline import Deadline, wait_until

ENDED = ("completed", "failed", "cancelled")


class Guided:
    """guests   a Pair whose target's QEMU is started with -S, as libvirt does
    here, there  the sockets that the source's QEMU connects to, and at which the target's listens
    """

    def __init__(self, work, guests, number=0):
        self._guests = guests
        self.here = work.file(f"state-here-{number}")
        self.there = work.file(f"state-there-{number}")

    def move(self, *options):
        """Begins `memferry migrate`; the target's QEMU is not needed yet, but where its monitor will be is."""
        return self._guests.move(
            "--program", "libvirt", "--state-socket", self.here, "--peer-state-socket", self.there, *options
        )

    def listen(self):
        """The target's QEMU is there: it is told to wait."""
        target = self._guests.target.qmp
        qemu.set_capabilities(target, events=True, return_path=True)
        target.execute("migrate-incoming", {"uri": f"unix:{self.there}"})
        self.wait_armed()

    def wait_armed(self):
        """The source leaves the guest's memory out of what it sends, for the target's QEMU has mapped its own."""
        wait_until(lambda: "x-ignore-shared" in pair.capabilities(self._guests.source), 60, "source with x-ignore-shared")

    def begin(self):
        """The source's QEMU is told to migrate."""
        source = self._guests.source.qmp
        qemu.set_capabilities(source, events=True, return_path=True, pause_before_switchover=True)
        source.events.clear()
        source.execute("migrate", {"uri": f"unix:{self.here}"})

    def carry(self, seconds=60):
        """Answers pre-switchover as soon as it comes; returns when the source's migration has ended, and how."""
        source = self._guests.source.qmp
        deadline = Deadline(seconds, "end of QEMU's migration")
        while True:
            status = source.wait_event("MIGRATION", deadline.left())["data"]["status"]
            if status == "pre-switchover":
                source.execute("migrate-continue", {"state": "pre-switchover"})
            elif status in ENDED:
                return status

    def go_back(self):
        """The guest may run at the source again. QEMU says that its migration has ended a moment before it takes this."""
        source = self._guests.source
        wait_until(lambda: source.status() != "finish-migrate", 60, "end of finish-migrate")
        source.qmp.execute("cont")

    def finish(self):
        """The guest may run on the target."""
        self._guests.target.qmp.execute("cont")

    def clear(self):
        """What libvirt's two QEMUs don't keep after a migration: those here may be used again."""
        for guest in (self._guests.source, self._guests.target):
            qemu.set_capabilities(guest.qmp, return_path=False, pause_before_switchover=False)
