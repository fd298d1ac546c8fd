# SPDX-License-Identifier: LGPL-2.1-or-later
"""The remote is lost and comes back, or doesn't; the mount is killed. Never zeroes, never old bytes, nobody hangs for good."""

import errno
import os
import signal
import subprocess
import sys

from cases_bytes import SIZE, image_at
from mountlab import Model, Mount, check, expect_errno, nbdkit, qemu_nbd, read_file, wait_until

LOST = [errno.ETIMEDOUT, errno.EIO]


def slowly(folder, path):
    """A server that takes its time, so that it can be killed in between."""
    return nbdkit(folder, "--filter=delay", "file", path, "delay-read=20ms")


def case_remote_comes_back(folder):
    """nbdkit is killed in the middle of everything, again and again: all goes on where it was"""
    path, image = image_at(folder)
    with slowly(folder, path) as server:
        with Mount(folder, server.uri, "--push-interval", "0.02") as mount:
            model = Model(mount.path, image, 5)
            for number in range(120):
                if number in (3, 40, 80):
                    server.come_back_later()
                model.step()
            model.sync()
            model.same(0, read_file(mount.path), "all of it")
            model.close()
        check("was lost" in mount.said and "is back" in mount.said, mount.said)
    check(read_file(path) == bytes(model.bytes), "the remote differs")


def case_direct_remote_comes_back(folder):
    """the same with a direct mount and qemu-nbd: what was not flushed when it died is told once"""
    path, image = image_at(folder)
    with qemu_nbd(folder, path) as server, Mount(folder, server.uri, "--direct", status=0) as mount:
        with open(mount.path, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"one", 0)
            server.kill()
            server.start()
            check(os.pread(file.fileno(), 3, 4 << 20) == image[4 << 20:(4 << 20) + 3], "it differs")
            expect_errno([errno.EIO], os.fsync, file.fileno())
            os.pwrite(file.fileno(), b"two", 0)
            os.fsync(file.fileno())
    check(read_file(path) == b"two" + image[3:], "the remote differs")


def case_remote_stays_away(folder):
    """--timeout: an error, not zeroes; what is here can still be read and written; then it comes back"""
    path, image = image_at(folder)
    with slowly(folder, path) as server, Mount(folder, server.uri, "--timeout", "0.5", "--pull-first", "0+64K", "--push-interval", "0.1") as mount:
        with open(mount.path, "r+b", buffering=0) as file:
            first = os.pread(file.fileno(), 4096, 0)
            server.kill()
            expect_errno(LOST, os.pread, file.fileno(), 100000, SIZE - 100000)
            check(os.pread(file.fileno(), 4096, 0) == first == image[:4096], "it differs")
            os.pwrite(file.fileno(), b"offline", 5)
            check(os.pread(file.fileno(), 7, 5) == b"offline", "it differs")
            expect_errno(LOST, os.fsync, file.fileno())
            server.start()
            wait_until(lambda: fsync_works(file.fileno()), "a remote that is back")
            check(read_file(path)[5:12] == b"offline", "the remote differs")
            check(os.pread(file.fileno(), 100000, SIZE - 100000) == image[SIZE - 100000:], "it differs")


def fsync_works(fd):
    try:
        os.fsync(fd)
        return True
    except OSError:
        return False


def case_ends_without_remote(folder):
    """the end says what could not be written"""
    path, _ = image_at(folder)
    with nbdkit(folder, "file", path) as server, Mount(folder, server.uri, "--timeout", "0.5", "--push-interval", "0", status=1) as mount:
        with open(mount.path, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"x" * 5000, 0)
        server.kill()
    check("8192 bytes that were changed could not be written" in mount.said, mount.said)


def case_second_signal(folder):
    """a second signal doesn't wait for the remote"""
    path, _ = image_at(folder)
    with nbdkit(folder, "file", path) as server, Mount(folder, server.uri, "--timeout", "0", "--push-interval", "0", status=1) as mount:
        with open(mount.path, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"x", 0)
        server.kill()
        mount.process.send_signal(signal.SIGINT)
        wait_until(lambda: not os.path.ismount(mount.path) and not os.path.exists(mount.path), "the end of the mount")
        mount.process.send_signal(signal.SIGINT)
        check(mount.wait() == 1, mount.said)
    check("4096 bytes" in mount.said, mount.said)


def case_reader_is_killed(folder):
    """who waits for a remote that hangs can be killed"""
    path, _ = image_at(folder)
    with nbdkit(folder, "file", path) as server, Mount(folder, server.uri, "--direct", "--timeout", "0") as mount:
        os.kill(server.process.pid, signal.SIGSTOP)
        script = "import os, sys; print('ready', flush=True); os.pread(os.open(sys.argv[1], os.O_RDONLY), 100, 0)"
        reader = subprocess.Popen([sys.executable, "-c", script, mount.path], stdout=subprocess.PIPE, text=True)
        check(reader.stdout.readline() == "ready\n", "the reader")
        state = f"/proc/{reader.pid}/stat"
        wait_until(lambda: read_file(state).decode().rsplit(")", 1)[1].split()[0] in "SD", "the reader waiting")
        reader.kill()
        check(reader.wait(timeout=60) == -signal.SIGKILL, "the reader")
        os.kill(server.process.pid, signal.SIGCONT)


def case_mount_is_killed(folder):
    """kill -9 of the mount: what was synced is at the remote, and the same place can be mounted at again"""
    path, image = image_at(folder)
    with nbdkit(folder, "file", path) as server:
        mount = Mount(folder, server.uri, "--push-interval", "0")
        mount.__enter__()
        model = Model(mount.path, image, 6)
        for _ in range(60):
            model.write()
        model.sync()
        mount.kill()
        expect_errno([errno.ENOTCONN], os.open, mount.path, os.O_RDONLY)
        check(read_file(path) == bytes(model.bytes), "the remote differs")
        model.close()
        with Mount(folder, server.uri) as again:
            check(read_file(again.path) == bytes(model.bytes), "it differs")
        check(not os.path.exists(mount.path), "the file that was mounted over is still there")


def case_remote_refuses(folder):
    """a remote that fails to write: fsync says so, and the end; nothing is forgotten"""
    path, image = image_at(folder)
    trigger = os.path.join(folder, "fail")
    words = ["--filter=error", "file", path, "error-pwrite=ENOSPC", "error-pwrite-rate=100%", f"error-pwrite-file={trigger}"]
    with nbdkit(folder, *words) as server, Mount(folder, server.uri, "--push-interval", "0.05") as mount:
        with open(mount.path, "r+b", buffering=0) as file:
            with open(trigger, "w"):
                pass
            os.pwrite(file.fileno(), b"kept", 7)
            expect_errno([errno.ENOSPC], os.fsync, file.fileno())
            os.unlink(trigger)
            os.fsync(file.fileno())
        check(read_file(path) == image[:7] + b"kept" + image[11:], "the remote differs")


def case_remote_fails_to_read(folder):
    """a remote that fails to read: an error, no zeroes, and it is right when it is asked again"""
    path, image = image_at(folder)
    trigger = os.path.join(folder, "fail")
    with open(trigger, "w"):
        pass
    words = ["--filter=error", "file", path, "error-pread=EIO", "error-pread-rate=100%", f"error-pread-file={trigger}"]
    with nbdkit(folder, *words) as server, Mount(folder, server.uri, "--timeout", "20") as mount:
        with open(mount.path, "rb", buffering=0) as file:
            expect_errno([errno.EIO], os.pread, file.fileno(), 100, 4 << 20)
            os.unlink(trigger)
            check(os.pread(file.fileno(), 100, 4 << 20) == image[4 << 20:(4 << 20) + 100], "it differs")
        check(read_file(mount.path) == image, "it differs")
