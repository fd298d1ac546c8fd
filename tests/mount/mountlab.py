# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the cases share: mounts, servers that can be killed and started again, and a model of the bytes."""

import ctypes
import errno
import mmap
import os
import random
import signal
import subprocess

from nbdlab import MEMFERRY, SECONDS, Failed, check, listens, unix_uri, wait_until

LIBC = ctypes.CDLL(None, use_errno=True)
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE = 1, 2, 16


def why_not():
    """Why nothing can be mounted here, or None."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    commands = subprocess.run([MEMFERRY, "--help"], capture_output=True, text=True).stdout
    return None if "mount" in commands else "built without FUSE"


def mounted_at(path):
    with open("/proc/self/mountinfo") as mounts:
        return any(line.split()[4] == path for line in mounts)


def is_alive(path):
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        return False
    return mounted_at(path)


def unmount_all(folder):
    """What a failed case has left behind."""
    with open("/proc/self/mountinfo") as mounts:
        for path in [line.split()[4] for line in mounts if line.split()[4].startswith(folder)]:
            subprocess.run(["umount", "-l", path], capture_output=True)


class Mount:
    """A memferry mount, that runs while the block does and has ended well after it."""

    def __init__(self, folder, backend, *options, status=0, name="mounted"):
        self.path = os.path.join(folder, name)
        self.command = [MEMFERRY, "mount", backend, self.path, *options]
        self.status = status
        self.said = ""

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_until(lambda: self.process.poll() is not None or is_alive(self.path), "the mount")
        if self.process.poll() is not None:
            raise Failed(f"{' '.join(self.command)} ended: {self.process.stdout.read()}")
        return self

    def wait(self):
        try:
            self.said, _ = self.process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.said, _ = self.process.communicate()
            raise Failed(f"{' '.join(self.command)} did not end: {self.said}") from None
        return self.process.returncode

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __exit__(self, kind, value, trace):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.wait()
        if kind is None and status != self.status:
            raise Failed(f"{' '.join(self.command)}: status {status}, not {self.status}: {self.said}")


class Server:
    """An NBD server at a socket, that can be killed and started again."""

    def __init__(self, folder, *command):
        self.socket = os.path.join(folder, "server.sock")
        self.command = [word.replace("SOCKET", self.socket) for word in command]
        self.process = None

    @property
    def uri(self):
        return unix_uri(self.socket)

    def start(self):
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: self.process.poll() is not None or listens(self.socket), f"{self.command[0]}")
        if self.process.poll() is not None:
            raise Failed(f"{' '.join(self.command)} ended: {self.process.stderr.read()}")

    def come_back_later(self):
        """It is away for a moment, and comes back whatever this process does: who waits for a page of a mapping has Python's lock."""
        self.kill()
        script = 'sleep 0.2; rm -f "$0"; exec "$@"'
        self.process = subprocess.Popen(["sh", "-c", script, self.socket, *self.command], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *unused):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
        self.kill()


def nbdkit(folder, *words):
    return Server(folder, "nbdkit", "-f", "-U", "SOCKET", *words)


def qemu_nbd(folder, image):
    return Server(folder, "qemu-nbd", "-f", "raw", "-t", "-e", "16", "-k", "SOCKET", image)


def fallocate(fd, mode, offset, length):
    if LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Model:
    """A file under test and the bytes that it has to have. Each step does something to both, or compares."""

    def __init__(self, path, image, seed):
        self.chance = random.Random(seed)
        self.bytes = bytearray(image)
        self.fd = os.open(path, os.O_RDWR)
        self.direct = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.page = mmap.mmap(-1, 1 << 20)
        self.map = mmap.mmap(self.fd, len(image))

    def close(self):
        self.map.close()
        os.close(self.fd)
        os.close(self.direct)

    def place(self, granule=1, most=300000):
        size = len(self.bytes)
        offset = self.chance.randrange(size // granule) * granule
        return offset, max(min(self.chance.choice([1, 100, 4096, 5000, most]), size - offset) // granule, 1) * granule

    def same(self, offset, found, how):
        expected = self.bytes[offset:offset + len(found)]
        if found != expected:
            at = next(i for i in range(len(found)) if found[i] != expected[i])
            raise Failed(f"{how}: byte {offset + at} is {found[at]}, not {expected[at]}")

    def step(self):
        how = self.chance.choice([self.read, self.write, self.read_map, self.write_map, self.punch, self.read_direct, self.write_direct])
        how()

    def read(self):
        offset, length = self.place()
        found = os.pread(self.fd, length, offset)
        check(len(found) == length, f"{len(found)} bytes at {offset}, not {length}")
        self.same(offset, found, "read")

    def write(self):
        offset, length = self.place()
        data = self.chance.randbytes(length)
        check(os.pwrite(self.fd, data, offset) == length, "a short write")
        self.bytes[offset:offset + length] = data

    def read_map(self):
        offset, length = self.place()
        self.same(offset, self.map[offset:offset + length], "map")

    def write_map(self):
        offset, length = self.place(most=20000)
        data = self.chance.randbytes(length)
        self.map[offset:offset + length] = data
        self.bytes[offset:offset + length] = data

    def punch(self):
        offset, length = self.place()
        mode = self.chance.choice([FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE]) | FALLOC_FL_KEEP_SIZE
        fallocate(self.fd, mode, offset, length)
        self.bytes[offset:offset + length] = bytes(length)

    def read_direct(self):
        offset, length = self.place(granule=4096)
        # What was written through the map has to be written down before somebody goes past the page cache.
        self.map.flush()
        view = memoryview(self.page)[:length]
        check(os.preadv(self.direct, [view], offset) == length, "a short direct read")
        self.same(offset, bytes(view), "direct read")

    def write_direct(self):
        offset, length = self.place(granule=4096)
        data = self.chance.randbytes(length)
        self.map.flush()
        self.page[:length] = data
        check(os.pwritev(self.direct, [memoryview(self.page)[:length]], offset) == length, "a short direct write")
        self.bytes[offset:offset + length] = data

    def sync(self):
        self.map.flush()
        os.fsync(self.fd)


def read_file(path):
    with open(path, "rb") as file:
        return file.read()


def write_file(path, data):
    with open(path, "wb") as file:
        file.write(data)


def expect_errno(wanted, function, *args):
    try:
        function(*args)
    except OSError as error:
        names = [errno.errorcode[number] for number in wanted]
        check(error.errno in wanted, f"{errno.errorcode[error.errno]}, not {' or '.join(names)}")
        return
    raise Failed(f"{function.__name__}{args}: no error")
