# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two hosts with a memferryd each, and a guest that moves between them."""

import contextlib

from . import qemu
from .move import Move
from .service import Service

# Each page of all memory is checked every few seconds, and a third of it is being written.
WORKLOAD = ("mf.fill=96M", "mf.dirty=32M", "mf.rate=40M", "mf.verify=24M")
_OURS = ("x-ignore-shared", "pause-before-switchover", "events", "switchover-ack")


class Pair:
    """A context manager: the services run inside of it, and everything that was started ends with it.

    work      the Workspace
    reader    a heartbeat.Reader, or None
    size      of the guest
    regions   names: one, or a NUMA node for each
    hosts     a HostPair, entered: they talk over TCP; None: over UNIX sockets
    listen    with hosts: those at which the other one's service may dial in
    wrapper   words between `memferry run --` and QEMU
    guest     more for qemu.guest_arguments()

    here, there     the names ("a", "b") of the host where the guest runs, and of the one where another QEMU waits
    services        by host
    guests          by host: the Guest that was last started there
    monitors        by host: the socket of the monitor that memferry steers it by; Guest.qmp is another one, since a monitor
                    serves one client
    """

    def __init__(
        self,
        work,
        reader,
        *,
        size="192M",
        regions=("vm",),
        workload=WORKLOAD,
        hosts=None,
        listen=("a", "b"),
        wrapper=(),
        stores=None,
        **guest,
    ):
        self.here, self.there = "a", "b"
        self.regions = list(regions)
        self.guests = {}
        self.monitors = {}
        self._work, self._size, self._wrapper = work, size, wrapper
        self._arguments = {"workload": workload, **guest}
        self._number = 0
        self._stack = contextlib.ExitStack()
        self._serial = work.file("serial")
        self._reader = reader
        self.services = {
            host: Service(
                work,
                host,
                prefix=hosts.prefix[host] if hosts else (),
                listen=[f"tcp://{hosts.address[host]}"] if hosts and host in listen else (),
                store=(stores or {}).get(host),
            )
            for host in ("a", "b")
        }
        self.peers = {
            host: f"tcp://{hosts.address[host]}" if hosts else service.peer for host, service in self.services.items()
        }

    def __enter__(self):
        if self._reader:
            self._reader.listen(self._serial)
        try:
            for service in self.services.values():
                self._stack.enter_context(service)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_):
        for guest in self.guests.values():
            guest.kill()
        self._stack.close()

    @property
    def source(self):
        return self.guests[self.here]

    @property
    def target(self):
        return self.guests[self.there]

    def boot(self, waiting=True, **changes):
        """Starts the guest, and a QEMU that waits for it; returns when the guest is at work."""
        self.start(self.here)
        if waiting:
            self.start(self.there, incoming=True, **changes)
        self._reader.wait_ready()
        self._reader.wait_beats(5)

    def start(self, host, *, size=None, sized=True, **changes):
        """Starts a QEMU, after the end of the one that was started on `host` before; `changes` are for
        qemu.guest_arguments(). Returns when its memory is known to the service. Without `sized` the region must be there, and may
        be larger than `size`."""
        self.end(host)
        self._number += 1
        service, number = self.services[host], self._number
        files = [service.region_path(name) for name in self.regions]
        spied = self._work.file(f"qmp-{number}")
        steered = f"{spied}-memferry"
        arguments = {**self._arguments, **changes}
        arguments["more"] = [*arguments.get("more", ()), "-qmp", f"unix:{steered},server=on,wait=off"]
        size = size or self._size
        command = qemu.guest_arguments(
            files if len(files) > 1 else files[0], size, f"connect:{self._serial}", spied, **arguments
        )
        guest = service.guest(
            self.regions,
            command,
            steered,
            size=f"{int(size[:-1]) // len(files)}{size[-1]}" if sized else None,
            log=self._work.file(f"guest-{host}-{number}.log"),
            wrapper=self._wrapper,
        )
        self.monitors[host] = steered
        self.guests[host] = guest.__enter__()
        service.wait_mapped(self.regions, guest)
        return guest

    def next_monitor(self):
        """Where memferry will steer the QEMU that is started next."""
        return self._work.file(f"qmp-{self._number + 1}-memferry")

    def end(self, host):
        """Ends the QEMU on `host`, if there is one."""
        if host in self.guests:
            self.guests.pop(host).kill()

    def move(self, *options, to=None):
        """Begins to move the guest to the other host; `options` are those of memferry migrate."""
        service = self.services[self.here]
        return Move(service.start_migration(*self.regions, "--to", to or self.peers[self.there], *options))

    def fetch(self, *options, of=None, regions=None):
        """The same, begun on the other host, which dials."""
        service = self.services[self.there]
        return Move(service.start_migration(*(regions or self.regions), "--from", of or self.peers[self.here], *options))

    def turn(self):
        """The guest has moved: here is there from now on."""
        self.here, self.there = self.there, self.here

    def restart(self, host, **environment):
        """Ends the service on `host`, unless it is dead, and starts another one with this in its environment."""
        service = self.services[host]
        service.end()
        service.environment = environment
        service.start()
        if host in self.guests and self.guests[host].process.poll() is None:
            service.wait_mapped(self.regions, self.guests[host])

    def states(self):
        """What the services say of the (first) region: (here, there)."""
        return tuple(self.services[host].show(self.regions[0])["state"] for host in (self.here, self.there))

    def files(self, region=None):
        """The region's files: (here, there)."""
        name = region or self.regions[0]
        return tuple(self.services[host].region_path(name) for host in (self.here, self.there))


def capabilities(guest):
    """Those of QEMU's migration capabilities that are on and that memferry uses."""
    found = guest.qmp.execute("query-migrate-capabilities")
    return [entry["capability"] for entry in found if entry["state"] and entry["capability"] in _OURS]
