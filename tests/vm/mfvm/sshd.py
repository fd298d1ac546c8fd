# SPDX-License-Identifier: LGPL-2.1-or-later
"""sshd of our own: its port, its host key, one user's key. Nothing of the machine's own ssh is touched but /run/sshd, which it needs as root."""

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


class Keys:
    """A host key, the same for all hosts, and a user's, both made at their first use.

    config        of a client that knows the hosts called `names`, and has the user's key
    environment   for a service that is to be such a client
    """

    def __init__(self, folder, names):
        self.folder = folder
        self._names = names
        self.config = os.path.join(folder, "client")
        self.environment = {"MEMFERRY_SSH_CONFIG": self.config}

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as out:
            out.write(text)
        os.chmod(path, 0o600)
        return path

    def _make_key(self, name):
        path = os.path.join(self.folder, name)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        with open(path + ".pub", encoding="utf-8") as public:
            return public.read()

    def make(self):
        if os.path.isdir(self.folder):
            return
        os.makedirs(self.folder)
        host = self._make_key("host")
        self.write("authorized", self._make_key("user"))
        self.write("known", "".join(f"{name} {host}" for name in self._names))
        self.write(
            "client",
            f"IdentityFile {self.folder}/user\nUserKnownHostsFile {self.folder}/known\n"
            "GlobalKnownHostsFile none\nIdentityAgent none\n",
        )


class Sshd:
    """A context manager: one on this machine's loopback, or (with `prefix`, which puts a command there) on another host, at its port 22.

    environment   for a service that is to know the host and its key
    """

    def __init__(self, work, *, keys=None, prefix=(), address="127.0.0.1"):
        self._address = address
        self._port = 22 if prefix else _free_port()
        self._keys = keys or Keys(work.file("sshd"), [f"[{address}]:{self._port}"])
        self._prefix = list(prefix)
        self._process = None
        self.environment = self._keys.environment

    def address(self, path):
        """The PEER of the service that listens at `path`."""
        return f"ssh://{getpass.getuser()}@{self._address}:{self._port}{path}"

    def __enter__(self):
        self._keys.make()
        folder = self._keys.folder
        config = self._keys.write(
            f"config-{self._address}",
            f"Port {self._port}\nListenAddress {self._address}\nHostKey {folder}/host\n"
            f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n"
            "MaxStartups 100\n",
        )
        if os.geteuid() == 0:
            subprocess.run([*self._prefix, "mkdir", "-p", "/run/sshd"], check=True)
        self._process = subprocess.Popen(
            [*self._prefix, PROGRAM, "-D", "-e", "-f", config],
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
        look = f"exec 3<>/dev/tcp/{self._address}/{self._port}"
        return subprocess.run([*self._prefix, "bash", "-c", look], capture_output=True, check=False).returncode == 0

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
