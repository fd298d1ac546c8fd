# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small Debian with systemd that is booted in a container: as little of a machine as a service's packages can be tried on."""

import itertools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../vm"))
from mfvm.deadline import Deadline, TooLate, wait_until  # noqa: E402

MIRROR = "http://deb.debian.org/debian"
BOOT_SECONDS = 60

_numbers = itertools.count()


class CanNot(Exception):
    """This machine can't boot another one; the text says why."""


def make_root(folder, suite, packages):
    """Debian `suite` with systemd and `packages` in `folder`. Needs the network."""
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(['systemd', 'systemd-sysv', *packages])}", suite, folder, MIRROR]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-500:]}{done.stderr[-500:]}")
    # Packages are fetched once; the resolver is that of the host, whose network it shares.
    shutil.copy("/etc/resolv.conf", f"{folder}/etc/resolv.conf")


class _ControlGroup:
    """A cgroup of a machine's own, for hosts without systemd. With one, systemd-nspawn asks it for that."""

    # Version 2; or both, as systemd has them side by side: its part of version 2, and its own of version 1.
    _HIERARCHIES = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")

    def __init__(self):
        self._paths = []
        if os.path.isdir("/run/systemd/system"):
            return
        name = f"mfp-{os.getpid()}-{next(_numbers)}"
        self._paths = [f"{root}/{name}" for root in self._HIERARCHIES if os.path.exists(f"{root}/cgroup.procs")]
        if not self._paths:
            raise CanNot("there is neither systemd nor a cgroup hierarchy for it")
        for path in self._paths:
            os.mkdir(path)

    def options(self):
        return ["--keep-unit"] if self._paths else []

    def join(self):
        """In the process that is to be in it."""
        for path in self._paths:
            with open(f"{path}/cgroup.procs", "w", encoding="ascii") as processes:
                processes.write(str(os.getpid()))

    def remove(self):
        for path in self._paths:
            wait_until(lambda path=path: self._is_removed(path), 30, f"end of the processes in {path}", interval=0.1)

    @staticmethod
    def _is_removed(path):
        """What has just ended may keep it for a moment."""
        try:
            for folder, _, _ in os.walk(path, topdown=False):
                os.rmdir(folder)
        except OSError:
            return False
        return True


class Machine:
    """Booted from `folder`, with the host's kernel, and its network or that of a namespace. A context manager; leaving it ends all that
    runs in it.

    namespace  path of a network namespace, or None: the host's
    """

    def __init__(self, folder, log, namespace=None):
        self.folder, self._log, self._namespace = folder, log, namespace
        self._container = self._init = self._group = None

    def __enter__(self):
        self._group = _ControlGroup()
        options = ["--register=no", "--capability=all", "--resolv-conf=off", "--bind=/dev/userfaultfd", *self._group.options()]
        if self._namespace:
            options.append(f"--network-namespace-path={self._namespace}")
        with open(self._log, "wb") as log:
            self._container = subprocess.Popen(
                ["systemd-nspawn", "--quiet", f"--directory={self.folder}", *options, "--boot"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, preexec_fn=self._group.join,
            )  # fmt: skip
        try:
            self._init = wait_until(self._find_init, BOOT_SECONDS, "first process", interval=0.05)
            wait_until(self._is_up, BOOT_SECONDS, "systemd that is up", interval=0.2)
        except (TooLate, CanNot) as error:
            self.__exit__()
            with open(self._log, encoding="utf-8", errors="replace") as log:
                raise CanNot(f"systemd-nspawn boots no systemd here: {error}: {log.read()[-300:]!r}") from error
        return self

    def _children(self, pid):
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
            return children.read().split()

    def _find_init(self):
        if self._container.poll() is not None:
            raise CanNot(f"status {self._container.returncode}")
        # The container's own process, then the one that becomes systemd in a namespace of its own.
        for pid in self._children(self._container.pid):
            with open(f"/proc/{pid}/comm", encoding="ascii") as comm:
                if comm.read().strip() == "systemd":
                    return pid
        return None

    def _is_up(self):
        if self._container.poll() is not None:
            raise CanNot(f"status {self._container.returncode}")
        return self.run("systemctl is-system-running").stdout.strip() in ("running", "degraded")

    def _inside(self, command):
        return ["nsenter", f"--target={self._init}", "--all", "--wdns=/", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
                "DEBIAN_FRONTEND=noninteractive", "sh", "-c", command]

    def run(self, command, seconds=120):
        """Runs a line of shell as root; what subprocess.run() returns."""
        return subprocess.run(self._inside(command), capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL, check=False)

    def do(self, command, seconds=120):
        """The same, which must go well: its output."""
        done = self.run(command, seconds)
        if done.returncode != 0:
            raise RuntimeError(f"{command}: status {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
        return done.stdout.strip()

    def begin(self, *words):
        """Starts a program, its input and output pipes."""
        return subprocess.Popen(self._inside("exec " + shlex.join(words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __exit__(self, *_):
        if self._init:
            # systemd's "power off".
            self._signal(int(self._init), signal.SIGRTMIN + 4)
            deadline = Deadline(30, "end of the machine")
            try:
                while self._container.poll() is None and deadline.left():
                    time.sleep(0.05)
            except TooLate:
                self._signal(int(self._init), signal.SIGKILL)
        if self._container.poll() is None:
            self._signal(self._container.pid, signal.SIGKILL)
        self._container.wait()
        self._group.remove()

    @staticmethod
    def _signal(pid, number):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
