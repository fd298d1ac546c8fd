# SPDX-License-Identifier: LGPL-2.1-or-later
"""A memferryd on a host, and the command that talks to it."""

import contextlib
import json
import os
import signal
import subprocess

from .deadline import wait_until
from .qemu import Guest, _die_with_parent

BUILD = os.environ.get("MEMFERRY_BUILD", os.path.join(os.path.dirname(__file__), "../../../build"))


def program(name):
    """The path of "memferryd" or "memferry" in the build."""
    return os.path.join(BUILD, "src", {"memferryd": "service", "memferry": "cli"}[name], name)


class Service:
    """memferryd. A context manager; leaving it ends the service.

    work     the Workspace for its sockets, log and stores
    name     of the host: names the files
    prefix   words before each command: a HostPair's prefix
    listen   peers' addresses to listen at beside its UNIX socket
    store    folder for its regions, when not one of `work`

    `environment` is added to memferryd's own at each start.
    """

    def __init__(self, work, name, *, prefix=(), listen=(), store=None, debug=False):
        self.name = name
        self.runtime = work.file(f"run-{name}")
        self.store = store or work.ram_file(f"store-{name}")
        self.log_path = work.file(f"memferryd-{name}.log")
        self.peer = f"unix:{self.runtime}/peer.sock"
        self.prefix = list(prefix)
        self._listen = listen
        self.environment = {"G_MESSAGES_DEBUG": "memferry"} if debug else {}
        self.process = None

    def __enter__(self):
        os.makedirs(self.store, exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Ends it as an administrator does. RuntimeError when it does not."""
        if self.process.poll() is not None:
            return
        # One that stands still (SIGSTOP) would not take notice.
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"memferryd on host {self.name} did not end within 20 s of SIGTERM") from None
        if self.process.returncode != 0:
            raise RuntimeError(f"memferryd on host {self.name} ended with {self.process.returncode}: {self.log()[-500:]}")

    def start(self):
        """Starts it (again) and waits until it answers."""
        command = [program("memferryd"), "--runtime-dir", self.runtime, "--store-dir", self.store]
        for address in self._listen:
            command += ["--listen", address]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                preexec_fn=_die_with_parent,
            )

        def answers():
            if self.process.poll() is not None:
                raise RuntimeError(f"memferryd ended with {self.process.returncode}: {self.log()[-500:]}")
            return self.call("list").returncode == 0

        wait_until(answers, 20, "answer from memferryd", interval=0.05)

    def kill(self):
        """SIGKILL: it has no chance to clean up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def is_stopped(self):
        """Whether it stands still (SIGSTOP)."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "T"

    @contextlib.contextmanager
    def standing_still(self):
        """It is stopped (SIGSTOP) meanwhile."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def region_path(self, region):
        return os.path.join(self.store, region)

    # The command.

    def command(self, verb, *words):
        return [*self.prefix, program("memferry"), verb, "--socket", f"{self.runtime}/memferry.sock", *words]

    def call(self, verb, *words, seconds=120):
        """Runs `memferry VERB WORD...` and returns what subprocess.run() does."""
        return subprocess.run(
            self.command(verb, *words), capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL
        )

    def start_migration(self, *words):
        """Starts `memferry migrate WORD... --json`; its output is a pipe. move.Move follows it."""
        return subprocess.Popen(
            self.command("migrate", "--json", *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_die_with_parent,
        )

    def migrate(self, *words, seconds=120):
        """Moves regions; returns the last JSON object. RuntimeError with the command's own line when it fails."""
        process = self.start_migration(*words)
        out, err = process.communicate(timeout=seconds)
        if process.returncode != 0:
            raise RuntimeError(err.strip() or f"memferry migrate ended with {process.returncode}")
        return json.loads(out.strip().splitlines()[-1])

    def show(self, region):
        """The region's properties."""
        done = self.call("show", "--json", region)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip())
        return json.loads(done.stdout)

    # Guests.

    def wait_mapped(self, regions, guest, seconds=20):
        """Waits until the service knows that the Guest has all of `regions` mapped. RuntimeError when it ends first."""

        def mapped():
            if guest.process.poll() is not None:
                raise RuntimeError(f"QEMU on host {self.name} ended: {guest.output().strip()[-500:]}")
            pids = self._pids()
            return all(pids.get(name) == guest.process.pid for name in regions)

        wait_until(mapped, seconds, f"guest on host {self.name} with {', '.join(regions)}", interval=0.05)

    def wait_unmapped(self, regions, seconds=20):
        """Waits until the service has noticed that nobody has `regions` mapped any more."""
        wait_until(lambda: not any(map(self._pids().get, regions)), seconds, "end of the mappings", interval=0.05)

    def _pids(self):
        """Who has the regions mapped, by region."""
        listed = map(json.loads, self.call("list", "--json").stdout.splitlines())
        return {region["name"]: region["pid"] for region in listed}

    def guest(self, region, command, qmp, size=None, log=None, wrapper=()):
        """A Guest whose `command` (from qemu.guest_arguments(), its RAM the region's file) runs under `memferry run`.

        region   a name, or a list of names
        qmp      the monitor that the service is told of
        size     of each region, if it isn't there yet
        wrapper  words between `memferry run --` and the command
        """
        words = [word for name in ([region] if isinstance(region, str) else region) for word in ("--region", name)]
        words += ["--qmp", qmp, *(["--size", size] if size else []), "--", *wrapper]
        return Guest(command, prefix=self.command("run", *words), log=log)
