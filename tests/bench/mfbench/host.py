# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine that is measured on: programs, scratch folders, processes that must not outlive the run."""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

from . import TREE


class BenchError(Exception):
    """What keeps a case from being measured, in one line."""


class Host:
    def __init__(self, build=None, quick=False):
        self.quick = quick
        self.build = os.path.abspath(build or os.path.join(TREE, "build"))
        self.processes = []
        self.scratch = self.store = None

    def __enter__(self):
        if not os.path.exists(os.path.join(self.build, "tests", "bench", "bench-copy")):
            raise BenchError(f"nothing built in {self.build}: meson setup build && ninja -C build")
        self.scratch = tempfile.mkdtemp(prefix="mf-bench.")
        # What is copied lies on tmpfs at both ends.
        self.store = tempfile.mkdtemp(prefix="mf-bench.", dir="/dev/shm")
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            self.stop(process)
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.rmtree(self.store, ignore_errors=True)

    def describe(self):
        load = " ".join(f"{value:.1f}" for value in os.getloadavg())
        return f"# Linux {os.uname().release}, {os.cpu_count()} processors, load {load}, {time.strftime('%F %T')}"

    def program(self, name):
        """A measuring program of this folder."""
        return os.path.join(self.build, "tests", "bench", name)

    def need(self, *names):
        missing = [name for name in names if shutil.which(name) is None]
        if missing:
            raise BenchError(f"not installed: {', '.join(missing)}")

    def output(self, *command, timeout=120, environment=None):
        """Runs a program to its end and returns what it printed; a failure is an error."""
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout,
                                  env=environment)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{os.path.basename(command[0])}: not done after {timeout} s") from None
        if done.returncode != 0:
            raise BenchError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def measure(self, name, *arguments, timeout=120):
        """Runs one of our measuring programs, which print one JSON object."""
        return json.loads(self.output(self.program(name), *map(str, arguments), timeout=timeout))

    def start(self, *command, **options):
        """Starts a program that is stopped at the end of the run at the latest."""
        process = subprocess.Popen(command, **options)
        self.processes.append(process)
        return process

    def stop(self, process):
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process in self.processes:
            self.processes.remove(process)

    def prime(self, length_bytes):
        """Makes the next `length_bytes` of memory cheap to get; see bench-prime.c for why."""
        self.output(self.program("bench-prime"), str(length_bytes + length_bytes // 4))

    def random_file(self, name, length_bytes):
        """A file of random bytes on tmpfs."""
        path = os.path.join(self.store, name)
        with open(path, "wb") as file:
            for done in range(0, length_bytes, 1 << 20):
                file.write(os.urandom(min(1 << 20, length_bytes - done)))
        return path

    def fresh(self, name):
        """The path of a file on tmpfs that isn't there."""
        path = os.path.join(self.store, name)
        if os.path.exists(path):
            os.unlink(path)
        return path

    def same(self, one, other):
        """Compares every byte of two files."""
        self.output("cmp", one, other)
