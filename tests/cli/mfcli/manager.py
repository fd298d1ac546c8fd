# SPDX-License-Identifier: LGPL-2.1-or-later
"""What systemd does with memferryd, as far as memferryd sees it: makes its sockets, hears its notifications, keeps its descriptors."""

import os
import signal
import socket
import stat
import subprocess
import sys

from .host import SECONDS, Host, wait_until

# The sockets of the .socket units, their modes, and the units' names.
UNITS = {
    "memferry.sock": (0o660, "memferryd.socket"),
    "peer.sock": (0o660, "memferryd.socket"),
    "handover.sock": (0o666, "memferryd-handover.socket"),
}
# Puts the descriptors named in its first word to 3, 4, ..., and becomes the rest. By way of numbers that are in nobody's way.
_BECOME = """
import fcntl, os, sys
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD_CLOEXEC, 200) for fd in sys.argv[1].split(",")]
for number, fd in enumerate(high, 3):
    os.dup2(fd, number)
os.closerange(3 + len(high), 200)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


def listen(path, mode):
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(path))
    path.chmod(mode)
    made.listen(64)
    return made


class Manager(Host):
    """A host whose memferryd is started as its units say. Use as a context.

    activated  the .socket units' sockets, by file name
    store      what memferryd lets us keep: name -> descriptor
    heard      its notifications so far, a list of lines each
    """

    def __init__(self):
        super().__init__()
        self.runtime.mkdir()
        self.activated = {name: listen(self.runtime / name, mode) for name, (mode, _) in UNITS.items()}
        self.store = {}
        self.heard = []
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(self.root / "manager"))
        self._notify.settimeout(0.05)

    def __exit__(self, *failure):
        super().__exit__(*failure)
        for made in [*self.activated.values(), self._notify]:
            made.close()
        for fd in self.store.values():
            os.close(fd)

    def start(self, *options, watchdog_usec=None, also=()):
        """`also`: pairs of a name and a descriptor that are passed besides."""
        passed = [(UNITS[name][1], made.fileno()) for name, made in self.activated.items()] + list(self.store.items()) + list(also)
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(self.root / "manager"),
            "LISTEN_FDS": str(len(passed)),
            "LISTEN_FDNAMES": ":".join(name for name, _ in passed),
        }
        if watchdog_usec:
            environment["WATCHDOG_USEC"] = str(watchdog_usec)
        fds = [fd for _, fd in passed]
        command = [sys.executable, "-c", _BECOME, ",".join(map(str, fds)), *self.command(*options)]
        self.heard = []
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=fds, env=environment)
        self.wait_heard("READY=1")
        return self

    def _hear(self):
        """The next notification. False: none came within a moment."""
        try:
            data, fds, _, _ = socket.recv_fds(self._notify, 4096, 4)
        except socket.timeout:
            return False
        lines = data.decode().splitlines()
        self.heard.append(lines)
        names = [line.partition("=")[2] for line in lines if line.startswith("FDNAME=")]
        if "FDSTORE=1" in lines:
            for fd in fds:
                if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                    raise AssertionError(f"{names}: not a socket")
                self.store[names[0]] = fd
        if "FDSTOREREMOVE=1" in lines:
            os.close(self.store.pop(names[0]))
        return True

    def hear_all(self):
        """What a process that has ended said before."""
        while self._hear():
            pass

    def wait_heard(self, line, times=1):
        def is_heard():
            if self.process.poll() is not None:
                raise RuntimeError("the service ended: " + self.log.read_text(errors="replace").strip())
            self._hear()
            return sum(line in lines for lines in self.heard) >= times

        wait_until(is_heard, SECONDS, f"{line} from the service", interval=0)

    def restart(self, *options):
        """What an upgrade does."""
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(SECONDS) != 0:
            raise AssertionError("it did not end well")
        return self.start(*options)
