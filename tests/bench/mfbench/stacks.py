# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where processes are, again and again: samples of their stacks, by perf."""
import os
import re
import signal
import subprocess
from typing import NamedTuple

from .host import BenchError

HERTZ = 1999
_FRAME = re.compile(r"\s+([0-9a-f]+) (.+?)(?: \(([^()]*(?:\([^()]*\))?[^()]*)\))?$")
_HEADER = re.compile(r"(.+?)\s+(\d+)/(\d+)\s+(\d+)")
# What is below every thread, or was made of a function by the compiler.
_BELOW = {"start_thread", "clone3", "__clone3", "[unknown]", "_start", "__libc_start_main", "__libc_start_call_main",
          "entry_SYSCALL_64_after_hwframe", "__libc_start_main_impl"}
_SUFFIX = re.compile(r"(\.(isra|part|constprop|cold)\.?\d*)+$|\+0x[0-9a-f]+$")


class Frame(NamedTuple):
    function: str
    kind: str  # "kernel", "memferry" or "library"


class Sample(NamedTuple):
    pid: int
    thread: str
    seconds: float
    frames: tuple  # from the outermost in


class Sampler:
    """Samples everything that runs on this machine while it is entered; samples() are those of chosen processes."""

    def __init__(self, host):
        self.host = host
        self.path = os.path.join(host.scratch, "perf.data")

    def __enter__(self):
        # Of the clock: where counters of the processor are hidden from a virtual machine, nothing else is there.
        self.process = subprocess.Popen(["perf", "record", "--quiet", "--all-cpus", "--event", "cpu-clock", "--freq", str(HERTZ),
                                         "--call-graph", "dwarf,8192", "--output", self.path, "--control",
                                         f"fifo:{self.fifo('control')},{self.fifo('ack')}", "--delay=-1"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.tell("enable")
        return self

    def fifo(self, name):
        path = os.path.join(self.host.scratch, "perf." + name)
        if not os.path.exists(path):
            os.mkfifo(path)
        return path

    def tell(self, command):
        """Returns when perf has done it: nothing of what follows is missed."""
        with open(self.fifo("control"), "w", encoding="ascii") as control:
            control.write(command + "\n")
        with open(self.fifo("ack"), encoding="ascii") as ack:
            ack.readline()

    def __exit__(self, *_):
        self.tell("disable")
        self.process.send_signal(signal.SIGINT)
        errors = self.process.communicate(timeout=60)[1]
        if not os.path.exists(self.path):
            raise BenchError(f"perf: {errors.strip()}")

    def samples(self, pids):
        command = ["perf", "script", "--input", self.path, "--fields", "comm,pid,tid,period,ip,sym,dso", "--pid",
                   ",".join(map(str, pids))]
        text = subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stdout
        return [sample for sample in parse(text) if sample.pid in pids]


def works():
    """Whether perf is there and may sample."""
    try:
        return subprocess.run(["perf", "record", "--quiet", "--all-cpus", "--event", "cpu-clock", "--output", "/dev/null", "true"],
                              capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def parse(text):
    """What `perf script` printed: a header line and a line a frame, from the innermost, an empty line after each."""
    for block in text.split("\n\n"):
        lines = block.strip("\n").split("\n")
        header = _HEADER.match(lines[0])
        if not header:
            continue
        frames = [frame for frame in map(frame_of, lines[1:]) if frame]
        yield Sample(int(header[2]), header[1].strip(), int(header[4]) / 1e9, tuple(reversed(frames)))


def frame_of(line):
    match = _FRAME.match(line)
    if not match:
        return None
    name, place = match[2], match[3] or ""
    if name.startswith(("__libc_", "__GI_")):
        kind = "library"
    elif place == "inlined":
        kind = "memferry"
    elif "kernel" in place:
        kind = "kernel"
    else:
        kind = "library" if re.search(r"/lib(c|glib|nbd|m|gio|gobject|pthread)\b|ld-linux|vdso", place) else "memferry"
    name = _SUFFIX.sub("", name.replace(" (inlined)", ""))
    return None if name in _BELOW else Frame(name, kind)
