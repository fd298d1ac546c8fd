# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the cases share: programs, servers that are waited for, files with holes, and comparing."""

import contextlib
import filecmp
import os
import random
import signal
import socket
import subprocess
import time

BUILD = os.environ.get("MEMFERRY_BUILD", os.path.join(os.path.dirname(__file__), "..", "..", "build"))
MEMFERRY = os.path.join(BUILD, "src", "cli", "memferry")
LANE_COPY = os.path.join(BUILD, "tests", "interop", "lane-copy")
SECONDS = 60
PAGE = 4096


class Failed(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failed(text)


def run(*command, status=0, **kwargs):
    """The output of `command`, which has to end with `status`."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=SECONDS, **kwargs)
    if done.returncode != status:
        raise Failed(f"{' '.join(command)}: status {done.returncode}, not {status}\n{done.stdout}{done.stderr}")
    return done.stdout if status == 0 else done.stderr


def refused(*command, **kwargs):
    """The one line that a memferry that refuses has to say."""
    text = run(*command, status=1, stdin=subprocess.DEVNULL, **kwargs)
    check(text.count("\n") == 1 and text.endswith("\n"), f"not one line: {text!r}")
    return text


def wait_until(condition, what):
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {SECONDS} s")
        time.sleep(0.01)


def listens(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as probe:
        try:
            probe.connect(address)
            return True
        except OSError:
            return False


def unix_uri(path, export=""):
    return f"nbd+unix:///{export}?socket={path}"


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def server(command, address, status=0):
    """A server that runs while the block does, and has ended well after it."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_until(lambda: process.poll() is not None or listens(address), f"{command[0]} listening")
        if process.poll() is not None:
            raise Failed(f"{' '.join(command)} ended: {process.stdout.read()}")
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            raise Failed(f"{' '.join(command)} did not end on SIGTERM: {output}") from None
    if process.returncode != status:
        raise Failed(f"{' '.join(command)}: status {process.returncode}, not {status}: {output}")


@contextlib.contextmanager
def memferry_serve(backend, folder, *options, export=""):
    """Yields the URI of a `memferry serve`."""
    path = os.path.join(folder, "ours.sock")
    with server([MEMFERRY, "serve", backend, "--at", unix_uri(path, export), *options], path):
        yield unix_uri(path, export)
    check(not os.path.exists(path), "the socket is still there")


def make_file(path, size, seed=1):
    """Data, holes and written zeroes in turn, of 1 to 400 pages; the last page is not whole if `size` says so."""
    chance = random.Random(seed)
    with open(path, "wb") as file:
        file.truncate(size)
        offset = 0
        kinds = []
        while offset < size:
            length = min(chance.randint(1, 400) * PAGE, size - offset)
            kind = chance.choice(["data", "hole", "zeroes"])
            if kind == "data":
                os.pwrite(file.fileno(), chance.randbytes(length), offset)
            elif kind == "zeroes":
                os.pwrite(file.fileno(), bytes(length), offset)
            kinds.append((offset, length, kind))
            offset += length
    return kinds


def data_ranges(path):
    """(offset, length) of what SEEK_DATA calls data."""
    found = []
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        offset = 0
        while offset < size:
            try:
                data = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:
                break
            offset = min(os.lseek(file.fileno(), data, os.SEEK_HOLE), size)
            found.append((data, offset - data))
    return found


def same(a, b):
    filecmp.clear_cache()
    check(os.path.getsize(a) == os.path.getsize(b), f"{a} has {os.path.getsize(a)} bytes, {b} {os.path.getsize(b)}")
    check(filecmp.cmp(a, b, shallow=False), f"{a} and {b} differ")


def allocated(path):
    return os.stat(path).st_blocks * 512


# A file on tmpfs and one on disk go through the server in different ways.
def stores(folder):
    yield os.path.join("/dev/shm", f"{os.path.basename(folder)}.img")
    yield os.path.join("/var/tmp", f"{os.path.basename(folder)}.img")


@contextlib.contextmanager
def removed(path):
    try:
        yield path
    finally:
        if os.path.exists(path):
            os.unlink(path)
