# SPDX-License-Identifier: LGPL-2.1-or-later
"""Case domain: a domain of libvirt moves to another host, by virsh migrate alone and by memferry; by link, and by how busy it is."""
import itertools
import os
import re
import subprocess
import time

from mfvm import domain, libvirt, qemu, service
from mfvm.deadline import wait_until

from .case import Case, way
from .guest import Stage

SIZE_MIB = 1024
FILL = ("mf.fill=800M", "mf.heartbeat=20")
QUICK_SIZE_MIB = 192
QUICK_FILL = ("mf.fill=64M", "mf.heartbeat=20")
DIRTY = {"0": ("mf.dirty=16K", "mf.rate=16K"), "80": ("mf.dirty=96M", "mf.rate=80000000")}
QUICK_DIRTY = {"16": ("mf.dirty=16M", "mf.rate=16000000")}
UNLIMITED = "unlimited"
RATES_MBIT = (UNLIMITED, "1000")
OUR_MODES = ("auto", "precopy", "postcopy")
VIRSH_OPTIONS = {"pre-copy": (), "post-copy": ("--postcopy", "--postcopy-after-precopy")}
# What libvirt and QEMU need for themselves.
SHARED = "virsh, memory shared"
# More than the infrastructure.
DOWNTIME_MS = 6
MEASURES = {"total_s": ("total s", 2), "stop_to_resume_ms": ("STOP to RESUME ms", 1), "gap_ms": ("longest gap ms", 0),
            "lost_beats_s": ("beats lost in 10 s, s", 2), "mb": ("MB", 0), "alive": ("alive", 0), "errors": ("errors", 0),
            "failed": ("failed", 0)}
MONITOR = "/var/lib/libvirt/qemu/bench.qmp"
HOOK = f"""#!/usr/bin/python3
import socket, sys
if sys.argv[2:4] == ["started", "begin"]:
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.connect("{MONITOR}")
        lines = monitor.makefile("rw")
        for command in ('"qmp_capabilities"', '"migrate-set-capabilities", "arguments": {{"capabilities": [{{"capability": '
                        '"x-ignore-shared", "state": true}}]}}'):
            lines.readline()
            lines.write('{{"execute": %s}}\\n' % command)
            lines.flush()
        lines.readline()
"""
EVENT = re.compile(r"event (STOP|RESUME) at (\d+\.\d+) for domain")


class SharedMemory:
    """A folder in memory that both hosts have; what is in /dev/shm is each one's own."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        os.makedirs(self.folder)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", self.folder], check=True)
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "--lazy", self.folder], check=True)


class DomainStage(Stage):
    """Two hosts with a libvirtd each, and the guest as a domain on the first. `shared`: its memory is a file of both."""

    def __init__(self, host, rate, dirty, shared=False):
        self.size_mib, fill, load = (QUICK_SIZE_MIB, QUICK_FILL, QUICK_DIRTY) if host.quick else (SIZE_MIB, FILL, DIRTY)
        super().__init__(host, None if rate == UNLIMITED else f"{rate}mbit", (f"{self.size_mib}M", (*fill, *load[dirty])))
        service.BUILD = host.build
        self.shared = shared
        self.watchers = {}

    def make_hosts(self):
        conf = "plain"
        if self.shared:
            conf, folder = "shared", self.enter(SharedMemory(self.space.file("shared"))).folder
            libvirt.QEMU_CONF[conf] = libvirt.QEMU_CONF["plain"] + f'memory_backing_dir = "{folder}"\n'
        return libvirt.Hosts(self.space, conf)

    def __enter__(self):
        try:
            self.enter(self.space)
            self.libvirt = self.enter(self.make_hosts())
            self.hosts = self.libvirt.network
            self.follow()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for watcher in self.watchers.values():
            self.host.stop(watcher)
        self.watchers.clear()
        super().__exit__()

    def boot(self, change=None):
        source = self.libvirt.host["a"]
        xml = domain.definition(self.libvirt, self.space.file("serial"), size=self.size_mib, workload=self.workload)
        source.define(change(xml) if change else xml)
        for name, host in self.libvirt.host.items():
            with open(self.space.file(f"events-{name}"), "wb") as events:
                self.watchers[name] = self.host.start(*host.prefix, "stdbuf", "-oL", "virsh", "--quiet", "qemu-monitor-event", "--loop",
                                                      "--regex", "--event", "^(STOP|RESUME)$", stdout=events)
        return source, self.libvirt.host["b"]

    def events(self, name, wanted):
        """The times of the domain's events on a host, in seconds."""
        with open(self.space.file(f"events-{name}"), encoding="ascii") as file:
            return [float(at) for kind, at in EVENT.findall(file.read()) if kind == wanted]

    def stop_to_resume(self):
        wait_until(lambda: self.events("b", "RESUME") and self.events("a", "STOP"), 20, "events")
        resumed = self.events("b", "RESUME")[-1]
        return (resumed - max(at for at in self.events("a", "STOP") if at < resumed)) * 1000

    def measure(self, source, *command):
        sent, start = self.sent_bytes(), time.monotonic()
        done = subprocess.run([*source.prefix, *command], capture_output=True, text=True, timeout=300, check=False)
        end = time.monotonic()
        if done.returncode != 0:
            print(f"{' '.join(command)}: {done.stderr.strip()}")
            return {"failed": 1}
        measured = {"total_s": end - start, "stop_to_resume_ms": self.stop_to_resume(), "mb": (self.sent_bytes() - sent) / 1e6}
        measured.update(self.judge(start, end))
        return measured


def by_virsh(host, options, rate, dirty, shared=False):
    with DomainStage(host, rate, dirty, shared) as stage:
        if shared:
            leave_memory_out(stage)
        source, target = stage.boot(share if shared else None)
        source.virsh("start", "vm")
        stage.wait_busy()
        return stage.measure(source, "virsh", "--quiet", "migrate", "--live", *options, "vm", target.uri)


def leave_memory_out(stage):
    """By a hook, as soon as a QEMU is there: the capability that libvirt does not know."""
    for host in stage.libvirt.host.values():
        folder = host.outside("/etc/libvirt/hooks/qemu.d")
        os.makedirs(folder, exist_ok=True)
        with open(os.open(os.path.join(folder, "bench"), os.O_WRONLY | os.O_CREAT, 0o755), "w", encoding="ascii") as hook:
            hook.write(HOOK)
        host.stop_libvirtd()
        host.start_libvirtd()


def share(xml):
    """The memory in a file of both hosts: what is left is what libvirt and QEMU need for themselves."""
    xml = xml.replace("<domain type='qemu'>", "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>")
    xml = xml.replace("  <vcpu>", "  <memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>\n  <vcpu>", 1)
    return xml.replace("</domain>", "  <qemu:commandline><qemu:arg value='-qmp'/>"
                                    f"<qemu:arg value='unix:{MONITOR},server=on,wait=off'/></qemu:commandline>\n</domain>")


def by_memferry(host, mode, rate, dirty):
    with DomainStage(host, rate, dirty) as stage:
        source, target = stage.boot()
        stage.libvirt.start_services()
        source.memferry("domain", "enable", "vm")
        source.virsh("start", "vm")
        stage.wait_busy()
        return stage.measure(source, source.command, "domain", "migrate", "--mode", mode, "vm", target.uri)


def ways(host):
    qemu.build_images()
    for dirty, rate in [("16", UNLIMITED)] if host.quick else itertools.product(DIRTY, RATES_MBIT):
        point = {"rate_mbit": rate, "dirty_mb_per_s": dirty}
        yield way(SHARED, **point), lambda rate=rate, dirty=dirty: by_virsh(host, (), rate, dirty, shared=True)
        for name, options in VIRSH_OPTIONS.items():
            yield (way(f"virsh {name}", **point),
                   lambda options=options, rate=rate, dirty=dirty: by_virsh(host, options, rate, dirty))
        for mode in OUR_MODES:
            yield way(f"memferry {mode}", **point), lambda mode=mode, rate=rate, dirty=dirty: by_memferry(host, mode, rate, dirty)


def goals(results):
    rows = []
    for own in [which for which in results.ways if which.peer.startswith("memferry")]:
        mode = own.peer.removeprefix("memferry ")
        where = f"{mode}, {own.at('rate_mbit')} Mbit/s, {own.at('dirty_mb_per_s')} MB/s dirtied"

        def against(what, peer, own=own):
            return results.ratio(own, own._replace(peer=peer), what)

        session = results.session_of(own)
        alone = results.median(own._replace(peer=SHARED), "stop_to_resume_ms", session)
        if alone is not None:
            rows.append((f"{where}: STOP to RESUME ms", "<=", round(alone + DOWNTIME_MS, 1), results.median(own, "stop_to_resume_ms", session)))
        rows.append((f"{where}: STOP to RESUME / virsh pre-copy's", "<=", 0.2, against("stop_to_resume_ms", "virsh pre-copy")))
        if mode == "auto":
            rows += [(f"{where}: total / virsh pre-copy's", "<=", 1, against("total_s", "virsh pre-copy")),
                     (f"{where}: bytes / virsh pre-copy's", "<=", 1, against("mb", "virsh pre-copy")),
                     (f"{where}: longest gap / virsh post-copy's", "<=", 0.5, against("gap_ms", "virsh post-copy"))]
    return [row for row in rows if row[3] is not None]


def title(host):
    if host.quick:
        return "a small domain of libvirt moves to another host"
    return f"a domain of libvirt of {SIZE_MIB} MiB, 800 of them random bytes, moves to another host; a beat every 20 ms"


CASE = Case(
    name="domain",
    title=title,
    axes=("rate_mbit", "dirty_mb_per_s"),
    measures=MEASURES,
    ways=ways,
    goals=goals,
    needs=("qemu-system-x86_64", "libvirtd", "virsh", "ip", "tc", "nsenter", "stdbuf"),
)
