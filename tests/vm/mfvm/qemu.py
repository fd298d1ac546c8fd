# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starts the test guest in QEMU, and moves its device state by QEMU's own means."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile

from .deadline import wait_until
from .qmp import Qmp

IMAGES = os.environ.get("MF_VM_IMAGES", os.path.join(os.path.dirname(__file__), "../../../vm-images/out"))

# Every word is worth milliseconds of an emulated boot: no audit, no self-tests of ciphers, no waiting for RCU, entropy from
# the CPU. panic and reboot, with -no-reboot, make a guest that dies end its QEMU.
KERNEL_WORDS = (
    "console=ttyS0 quiet panic=-1 reboot=t audit=0 cryptomgr.notests rcupdate.rcu_expedited=1 random.trust_cpu=on"
)

_PR_SET_PDEATHSIG = 1


def build_images():
    """Makes the kernel and initramfs unless they are there and new; quick then. RuntimeError says what it lacks."""
    script = os.path.join(os.path.dirname(__file__), "../../../vm-images/build")
    done = subprocess.run([script, IMAGES], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or "vm-images/build failed")


def make_disk(path, size, seed=1):
    """Writes the disk that mf.disk=/dev/vda mf.seed=SEED reads. `size` as mkdisk takes it: "64M"."""
    subprocess.run([os.path.join(IMAGES, "mkdisk"), path, size, str(seed)], check=True)


def guest_arguments(
    ram,
    size,
    serial,
    qmp,
    *,
    workload=(),
    disk=None,
    disk_options="",
    incoming=False,
    paused=False,
    machine="q35",
    vga=False,
    net=False,
    share=True,
    more=(),
    binary="qemu-system-x86_64",
):
    """The command that starts the test guest. A guest can move between two that differ in ram, serial, qmp, incoming only.

    ram           file of the guest's memory; QEMU makes it when it isn't there. A list: a NUMA node for each, of equal size
    size          "512M"
    serial        file:PATH, listen:PATH (QEMU listens at that UNIX socket) or connect:PATH (somebody else does, as
                  heartbeat.Reader.listen())
    qmp           QEMU's monitor listens at this UNIX socket
    workload      words for the kernel's command line: "mf.fill=400M", ...
    disk          file name or block device of QEMU's -drive file=; raw; read only
    disk_options  more of -drive, as "cache=none,aio=native"
    incoming      waits for migrate-incoming
    paused        does not start the CPU by itself, also not after an incoming migration
    machine       pins a version, as "pc-q35-7.2"
    vga, net      add the devices whose state is big: display; network card (not connected)
    share         share=on, as anything that moves the memory of a file needs
    more          more words for QEMU
    """
    kind, _, path = serial.partition(":")
    chardev = {
        "file": f"file,id=serial,path={path}",
        "listen": f"socket,id=serial,path={path},server=on,wait=off",
        "connect": f"socket,id=serial,path={path}",
    }[kind]
    command = [binary, "-nodefaults", "-display", "none", "-no-reboot", "-no-user-config"]
    # One thread emulates one CPU; the default cache of translated code is as large as a small guest.
    command += ["-accel", "tcg,tb-size=64", "-cpu", "qemu64", "-smp", "1", "-m", size]
    command += _memory_arguments([ram] if isinstance(ram, str) else ram, size, machine, share)
    command += ["-kernel", os.path.join(IMAGES, "vmlinuz"), "-initrd", os.path.join(IMAGES, "initrd.img")]
    command += ["-append", " ".join((KERNEL_WORDS, *workload))]
    command += ["-chardev", chardev, "-serial", "chardev:serial"]
    command += ["-qmp", f"unix:{qmp},server=on,wait=off"]
    if disk:
        options = f",{disk_options}" if disk_options else ""
        command += ["-drive", f"file={disk},format=raw,if=none,id=disk0,readonly=on{options}"]
        command += ["-device", "virtio-blk-pci,drive=disk0"]
    if vga:
        command += ["-vga", "std"]
    if net:
        command += ["-netdev", "user,id=net0,restrict=on", "-device", "virtio-net-pci,netdev=net0"]
    if incoming:
        command += ["-incoming", "defer"]
    if paused:
        command += ["-S"]
    return command + list(more)


def _memory_arguments(files, size, machine, share):
    count = len(files)
    each = f"{int(size[:-1]) // count}{size[-1]}"
    backend = f"memory-backend-file,size={each},share={'on' if share else 'off'}"
    if count == 1:
        return ["-machine", f"{machine},memory-backend=mem", "-object", f"{backend},id=mem,mem-path={files[0]}"]
    words = ["-machine", machine]
    for n, file in enumerate(files):
        words += ["-object", f"{backend},id=mem{n},mem-path={file}", "-numa", f"node,nodeid={n},memdev=mem{n}"]
    return words


class Guest:
    """A QEMU process. A context manager; leaving it kills QEMU.

    command   from guest_arguments()
    prefix    words before it: a HostPair's prefix, or ["memferry", "run", "--region", NAME, "--"]
    log       file that takes QEMU's standard output and error

    QEMU is killed when the thread that started it ends, so that an interrupted test leaves none behind: start it in the
    main thread.
    """

    def __init__(self, command, *, prefix=(), environment=None, log=None):
        self.command = [*prefix, *command]
        self._qmp_path = command[command.index("-qmp") + 1].split(":", 1)[1].split(",")[0]
        self._log_path = log or os.devnull
        self._environment = {**os.environ, **(environment or {})}
        self.process = None
        self._qmp = None

    def __enter__(self):
        with open(self._log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                preexec_fn=_die_with_parent,
            )
        return self

    def __exit__(self, *_):
        self.kill()

    @property
    def qmp(self):
        """The monitor, connected at the first use."""
        if self._qmp is None:
            self._qmp = Qmp(self._qmp_path)
        return self._qmp

    def kill(self):
        """SIGKILL: what is left of the guest is its RAM file."""
        if self._qmp:
            self._qmp.close()
            self._qmp = None
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def wait_exit(self, seconds=20):
        """Waits until QEMU has ended by itself and returns its status."""
        return self.process.wait(seconds)

    def output(self):
        """What QEMU, and what started it, have printed."""
        with open(self._log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def status(self):
        return self.qmp.execute("query-status")["status"]


class Workspace:
    """A folder for sockets and logs, `path`, and one on tmpfs for RAM files, `ram`. A context manager; both go away in the end,
    but logs are kept: in `logs`, or, without it, where MEMFERRY_LOGS says, in a folder named after the test."""

    def __init__(self, logs=None):
        self._logs = logs
        if not logs and "MEMFERRY_LOGS" in os.environ:
            self._logs = os.path.join(os.environ["MEMFERRY_LOGS"], os.path.basename(sys.argv[0]))

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="mfvm-")
        # Of the same name, so that one finds the other.
        self.ram = os.path.join("/dev/shm", os.path.basename(self.path))
        os.mkdir(self.ram, 0o700)
        return self

    def __exit__(self, *_):
        if self._logs:
            os.makedirs(self._logs, exist_ok=True)
            for entry in os.scandir(self.path):
                if entry.is_file(follow_symlinks=False):
                    shutil.copy(entry.path, self._logs)
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.rmtree(self.ram, ignore_errors=True)

    def file(self, name):
        return os.path.join(self.path, name)

    def ram_file(self, name):
        return os.path.join(self.ram, name)


# Moving the device state between two QEMUs whose RAM is the caller's business.


def set_capabilities(qmp, **capabilities):
    """set_capabilities(qmp, x_ignore_shared=True, events=True)"""
    states = [{"capability": name.replace("_", "-"), "state": state} for name, state in capabilities.items()]
    qmp.execute("migrate-set-capabilities", {"capabilities": states})


def await_incoming(destination, uri):
    """The destination listens at `uri`, RAM not included."""
    set_capabilities(destination, x_ignore_shared=True, events=True)
    destination.execute("migrate-incoming", {"uri": uri})


def stop_for_switchover(source, uri, seconds=60):
    """Connects the source to `uri` and stops its guest: when this returns, its RAM changes no more. Returns the STOP event,
    None for a guest that was stopped already."""
    running = source.execute("query-status")["running"]
    set_capabilities(source, x_ignore_shared=True, events=True, pause_before_switchover=True)
    source.execute("migrate", {"uri": uri})
    wait_migration(source, "pre-switchover", seconds)
    return source.wait_event("STOP", seconds) if running else None


def switch_over(source, destination, seconds=60):
    """Sends the device state. Returns once the destination has it; it runs by then or in a moment (event RESUME), unless
    it or the source was stopped."""
    source.execute("migrate-continue", {"state": "pre-switchover"})
    wait_migration(source, "completed", seconds)
    wait_migration(destination, "completed", seconds)


def wait_migration(qmp, status, seconds=60):
    """Takes migration events until one has `status`; RuntimeError when one tells of the end first."""
    while True:
        found = qmp.wait_event("MIGRATION", seconds)["data"]["status"]
        if found == status:
            return
        if found in ("failed", "cancelled", "completed"):
            reason = qmp.execute("query-migrate").get("error-desc", "no reason given")
            raise RuntimeError(f"migration {found} while {status} was waited for: {reason}")


def wait_status(qmp, status, seconds=20):
    wait_until(lambda: qmp.execute("query-status")["status"] == status, seconds, f"guest {status}")


def _die_with_parent():
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
