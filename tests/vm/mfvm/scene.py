# SPDX-License-Identifier: LGPL-2.1-or-later
"""A domain that `memferry domain migrate` moves between two hosts, and what has to be true of it afterwards."""

import os

from . import domain, move, ramfile
from .deadline import wait_until

FILL = 96 << 20


class Scene:
    """results  the Tap
    hosts    the libvirt.Hosts, entered
    reader   the heartbeat.Reader

    here, there  the names of the host that the domain runs on, and of the other one
    services     by host
    """

    def __init__(self, results, work, hosts, reader, **options):
        """Starts the services, with service.Service's options, and the domain, and waits until its guest is at work."""
        self.results, self.hosts, self.reader = results, hosts, reader
        self.here, self.there = "a", "b"
        serial = work.file("serial")
        reader.listen(serial)
        self.services = hosts.start_services(**options)
        self.source.define(domain.definition(hosts, serial))
        self.source.memferry("domain", "enable", "vm")
        self.source.virsh("start", "vm")
        reader.wait_ready()
        reader.wait_beats(5)

    @property
    def source(self):
        return self.hosts.host[self.here]

    @property
    def target(self):
        return self.hosts.host[self.there]

    def begin(self, *options, uri=None):
        """memferry domain migrate; follow it as a move.Move."""
        return move.Move(self.source.start_memferry("domain", "migrate", "--json", *options, "vm", uri or self.target.uri))

    def succeed(self, what, *options, uri=None):
        running = self.begin(*options, uri=uri)
        status = running.finish()
        if not self.results.equal(status, (0, ""), f"{what}: it succeeds"):
            raise RuntimeError(f"{what}: the domain has not moved")
        states = (self.source.state("vm"), self.target.state("vm"))
        self.results.ok(states[0] in ("shut off", "") and states[1] == "running", f"{what}: it runs there only", states)
        self.results.note(f"{what}: downtime {running.job['downtime_usec'] / 1000:.1f} ms, {running.job['bytes'] >> 20} MiB")
        wait_until(lambda: not self.services[self.here].regions(), 20, "no region on the source")
        self.here, self.there = self.there, self.here
        self.reader.wait_beats(5)

    def fail(self, what, running, *words):
        status, error = running.finish()
        self.results.note(error)
        good = status == 1 and error and "\n" not in error and all(word in error for word in words)
        self.results.ok(good, f"{what}: one line says what went wrong", f"status {status}: {error}")
        self.unharmed(what)

    def unharmed(self, what):
        wait_until(lambda: self.services[self.here].show("vm")["state"] == "here", 60, "rollback")
        self.source.wait_state("vm", "running")
        first = self.reader.last()
        self.reader.wait(lambda c: c.beats[-1].n >= first.n + 5, 30, "beats")
        wait_until(lambda: self.target.state("vm") in ("", "shut off"), 30, "no domain on the target")
        wait_until(lambda: not self.services[self.there].regions(), 30, "no region on the target")
        self.results.ok(True, f"{what}: it runs where it was, and only there")

    def savable(self, what):
        """Nothing may be left that keeps the memory out of a saved image."""
        path = "/var/lib/libvirt/images/vm.save"
        self.source.virsh("save", "vm", path)
        size = os.stat(self.source.outside(path)).st_size
        self.results.ok(size > FILL, f"{what}: its memory is in a saved image", f"{size} bytes")
        self.source.virsh("restore", path)
        self.reader.wait_beats(5)

    def whole(self, what):
        goal = self.reader.last().verified + FILL // ramfile.PAGE_BYTES
        self.reader.wait(lambda c: c.beats[-1].verified > goal, 120, "a check of all memory")
        report = self.reader.report()
        self.results.equal((report["errors"], report["trouble"]), (0, []), f"{what}: the guest saw no error")
        self.results.ok(report["consecutive"], f"{what}: no beat is lost or comes twice", report)
