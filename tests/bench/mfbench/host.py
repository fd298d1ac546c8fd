# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine that is measured on: programs, scratch folders, processes that must not outlive the run."""
import json
import os
import select
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
        # What the processes of the way that is being measured have used: name to [processor seconds, peak bytes].
        self.used = {}
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

    def clear(self):
        """Removes what a case left on tmpfs."""
        for name in os.listdir(self.store):
            os.unlink(os.path.join(self.store, name))

    def describe(self):
        load = " ".join(f"{value:.1f}" for value in os.getloadavg())
        return f"Linux {os.uname().release}, {processor()}, {os.cpu_count()} processors, {memory_gib():.0f} GiB, load {load}"

    def program(self, name):
        """A measuring program of this folder."""
        return os.path.join(self.build, "tests", "bench", name)

    def need(self, *names):
        missing = [name for name in names if shutil.which(name) is None]
        if missing:
            raise BenchError(f"not installed: {', '.join(missing)}")

    def output(self, *command, timeout=120, environment=None, started=None):
        """Runs a program to its end and returns what it printed; a failure is an error. `started` is called with its pid."""
        name = name_of(command)
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(command, stdout=out, stderr=errors, env=environment)
            if started:
                started(process.pid)
            if not self.reap(process, name, timeout):
                process.kill()
                process.wait()
                raise BenchError(f"{name}: not done after {timeout} s")
            out.seek(0)
            errors.seek(0)
            if process.returncode != 0:
                raise BenchError(f"{' '.join(command)}: exit {process.returncode}: {errors.read().strip()}")
            return out.read()

    def measure(self, name, *arguments, timeout=120):
        """Runs one of our measuring programs, which print one JSON object."""
        return json.loads(self.output(self.program(name), *map(str, arguments), timeout=timeout))

    def start(self, *command, **options):
        """Starts a program that is stopped at the end of the run at the latest."""
        process = subprocess.Popen(command, **options)
        self.processes.append(process)
        return process

    def stop(self, process):
        if process.returncode is None:
            name = name_of(process.args)
            self.note_use(name, 0, peak_bytes(process.pid))
            # Not send_signal(), which would take away from reap() what has ended just now.
            os.kill(process.pid, signal.SIGTERM)
            if not self.reap(process, name, 10):
                process.kill()
                process.wait()
        if process in self.processes:
            self.processes.remove(process)

    # What processes use.

    def reap(self, process, name, seconds):
        """Waits for a process to end and takes down what it, and those that it waited for, have used. False: it did not end."""
        pidfd = os.pidfd_open(process.pid)
        ended = select.select([pidfd], [], [], seconds)[0]
        os.close(pidfd)
        if not ended:
            return False
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        # Where a process was less than this one, from which it was forked, the kernel tells of this one.
        peak = usage.ru_maxrss * 1024
        self.note_use(name, usage.ru_utime + usage.ru_stime, peak if peak > peak_bytes(os.getpid()) else 0)
        return True

    def note_use(self, name, seconds, peak):
        """Several of a name count as one: their time together, the peak of the largest, in bytes; 0: not known."""
        used = self.used.setdefault(name, [0, 0])
        used[0] += seconds
        used[1] = max(used[1], peak)

    def usage(self):
        """As values of a way; what primes memory is no part of it."""
        found = {}
        for name, (seconds, peak) in self.used.items():
            if name not in ("bench-prime", "cmp", "nbdinfo", "heartbeat"):
                found[f"cpu_s {name}"] = seconds
                if peak > 0:
                    found[f"peak_mb {name}"] = peak / 1e6
        return found

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


def name_of(command):
    """The program of a command, without what chooses its host."""
    return os.path.basename(next(word for word in command if word != "nsenter" and not word.startswith("--net")))


def processor():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), os.uname().machine)


def memory_gib():
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)


def processor_seconds(pid):
    """Of a process that runs."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_bytes(pid):
    """Of a process, files that it maps included; 0 when it has ended."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")), 0)
