# SPDX-License-Identifier: LGPL-2.1-or-later
"""A service of our own, with folders of its own, and the command that talks to it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(TOP / "tests" / "vm"))
from mfvm.deadline import TooLate, wait_until  # noqa: E402,F401

BUILD = Path(os.environ.get("MEMFERRY_BUILD", TOP / "build"))
MEMFERRY = BUILD / "src" / "cli" / "memferry"
MEMFERRYD = BUILD / "src" / "service" / "memferryd"
# The same service over a host whose migrations move nothing and end as the peer's name says.
SCRIPTED = BUILD / "tests" / "unit" / "service" / "memferryd-scripted"
# Sanitizers make everything slow, and so does a machine with other work to do.
SECONDS = 30


def run(command, **kwargs):
    """Runs to the end; stdout and stderr as text."""
    return subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=SECONDS, **kwargs)


class Host:
    """Use as a context. `program`: MEMFERRYD or SCRIPTED."""

    def __init__(self, program=MEMFERRYD):
        self.program = program
        self.root = Path(tempfile.mkdtemp(prefix="mfh-"))
        # Regions are memory.
        self.stores = Path(tempfile.mkdtemp(prefix="mfh-", dir="/dev/shm"))
        self.stores.chmod(0o711)
        self.root.chmod(0o755)
        self.runtime = self.root / "run"
        self.socket = self.runtime / "memferry.sock"
        self.log = self.root / "log"
        self.process = None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.kill()
        if error and self.log.exists():
            print("# the service said:")
            for line in self.log.read_text(errors="replace").splitlines():
                print("#   " + line)
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.rmtree(self.stores, ignore_errors=True)

    def command(self, *options):
        return [str(self.program), "--runtime-dir", str(self.runtime), "--store-dir", str(self.stores), *options]

    def start(self, *options):
        """Starts the service and waits until it says that it is ready, as a service manager does."""
        ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = self.root / "notify"
        path.unlink(missing_ok=True)
        ready.bind(str(path))
        path.chmod(0o666)
        ready.settimeout(SECONDS)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(*options), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, "NOTIFY_SOCKET": str(path)})
        # It may end instead.
        ready.settimeout(0.05)

        def is_ready():
            if self.process.poll() is not None:
                raise RuntimeError("the service ended: " + self.log.read_text(errors="replace").strip())
            try:
                return ready.recv(100) == b"READY=1"
            except socket.timeout:
                return False

        try:
            wait_until(is_ready, SECONDS, "service that is ready", interval=0)
        finally:
            ready.close()
        return self

    def stop(self):
        """Ends it as a service manager does; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(SECONDS)
        self.process = None
        return status

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def environment(self, **more):
        return {**os.environ, "MEMFERRY_SOCKET": str(self.socket), "LC_ALL": "C", **more}

    def run(self, *words, **kwargs):
        """memferry WORDS."""
        return run([MEMFERRY, *words], env=self.environment(), **kwargs)

    def begin(self, *words, **kwargs):
        """memferry WORDS, not waited for."""
        kwargs.setdefault("stdout", subprocess.PIPE)
        kwargs.setdefault("stderr", subprocess.PIPE)
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen([str(MEMFERRY), *map(str, words)], text=True,
                                env=self.environment(), **kwargs)

    def do(self, *words):
        """memferry WORDS, which must go well: its output."""
        done = self.run(*words)
        if done.returncode != 0:
            raise AssertionError(f"memferry {' '.join(map(str, words))}: {done.stderr.strip()}")
        return done.stdout

    def json(self, *words):
        """The objects that memferry WORDS --json prints."""
        return [json.loads(line) for line in self.do(*words, "--json").splitlines()]

    def region(self, name):
        return self.json("show", name)[0]

    def job(self, number):
        return next(j for j in self.json("jobs") if j["id"] == number)
