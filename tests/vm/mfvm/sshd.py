# SPDX-License-Identifier: LGPL-2.1-or-later
"""An sshd of our own: its port, its host key, one user's key. Nothing of the machine's own ssh is touched but /run/sshd, which it needs as root."""

import getpass
import os
import signal
import socket
import subprocess

from .deadline import wait_until
from .qemu import _die_with_parent

PROGRAM = "/usr/sbin/sshd"


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Sshd:
    """A context manager.

    environment   for a service that is to know the host and its key
    """

    def __init__(self, work):
        self._folder = work.file("sshd")
        self._port = _free_port()
        self._process = None
        self.environment = {"MEMFERRY_SSH_CONFIG": os.path.join(self._folder, "client")}

    def address(self, path):
        """The PEER of the service that listens at `path`."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self._port}{path}"

    def _write(self, name, text):
        path = os.path.join(self._folder, name)
        with open(path, "w", encoding="utf-8") as out:
            out.write(text)
        os.chmod(path, 0o600)
        return path

    def _make_key(self, name):
        path = os.path.join(self._folder, name)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        with open(path + ".pub", encoding="utf-8") as public:
            return public.read()

    def __enter__(self):
        os.makedirs(self._folder)
        host = self._make_key("host")
        self._write("authorized", self._make_key("user"))
        self._write("known", f"[127.0.0.1]:{self._port} {host}")
        self._write(
            "client",
            f"IdentityFile {self._folder}/user\nUserKnownHostsFile {self._folder}/known\n"
            "GlobalKnownHostsFile none\nIdentityAgent none\n",
        )
        config = self._write(
            "config",
            f"Port {self._port}\nListenAddress 127.0.0.1\nHostKey {self._folder}/host\n"
            f"AuthorizedKeysFile {self._folder}/authorized\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n"
            "MaxStartups 100\n",
        )
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)
        self._process = subprocess.Popen(
            [PROGRAM, "-D", "-e", "-f", config],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,
        )
        wait_until(self._answers, 20, "sshd")
        return self

    def __exit__(self, *_):
        self.cut()
        self._process.kill()
        self._process.wait()

    def _answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def logins(self):
        """The processes that serve logins: the listener's children, and theirs."""
        found, looked = [], [self._process.pid]
        while looked:
            pid = looked.pop()
            children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
            found += map(int, children)
            looked += map(int, children)
        return found

    def cut(self):
        """Kills every login: as if the link had broken. Who was logged in may log in again."""
        for pid in self.logins():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
