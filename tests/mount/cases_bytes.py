# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads, writes, mappings and holes over every kind of backend, compared with a model."""

import errno
import os
import re
import subprocess

from mountlab import Model, Mount, check, expect_errno, nbdkit, qemu_nbd, read_file, wait_until, write_file
from nbdlab import make_file

SIZE = 5 << 20


def image_at(folder, size=SIZE, seed=1):
    path = os.path.join(folder, "image")
    make_file(path, size, seed)
    return path, read_file(path)


def follow_model(folder, backend, image, steps, *options, seed=2):
    """Returns the bytes that have to be at the remote when the mount has ended."""
    with Mount(folder, backend, *options) as mount:
        model = Model(mount.path, image, seed)
        for _ in range(steps):
            model.step()
        model.sync()
        model.same(0, read_file(mount.path), "all of it")
        model.close()
    return bytes(model.bytes)


def case_nbdkit(folder):
    """nbdkit, managed: all at random, and the remote has it all after the end"""
    path, image = image_at(folder, SIZE + 1234)
    with nbdkit(folder, "file", path) as server:
        expected = follow_model(folder, server.uri, image, 400, "--push-interval", "0.05")
    check(read_file(path) == expected, "the remote differs")


def case_nbdkit_direct(folder):
    """nbdkit, direct: the same"""
    path, image = image_at(folder)
    with nbdkit(folder, "file", path) as server:
        expected = follow_model(folder, server.uri, image, 400, "--direct")
    check(read_file(path) == expected, "the remote differs")


def case_qemu_nbd(folder):
    """qemu-nbd, managed: the same"""
    path, image = image_at(folder)
    with qemu_nbd(folder, path) as server:
        expected = follow_model(folder, server.uri, image, 400)
    check(read_file(path) == expected, "the remote differs")


def case_fixed_blocks(folder):
    """a server with blocks of 64 KiB that refuses everything else: managed and direct"""
    path, image = image_at(folder)
    words = ["--filter=blocksize-policy", "file", path, "blocksize-minimum=65536", "blocksize-preferred=65536",
             "blocksize-maximum=524288", "blocksize-error-policy=error"]
    with nbdkit(folder, *words) as server:
        expected = follow_model(folder, server.uri, image, 200)
        check(read_file(path) == expected, "the remote differs")
        expected = follow_model(folder, server.uri, expected, 200, "--direct", seed=3)
    check(read_file(path) == expected, "the remote differs")


def case_folder(folder):
    """dir: a folder with a file a chunk; what is missing is zeroes"""
    backend = f"dir:{folder}/chunks,size={SIZE + 100},chunk=16K"
    expected = follow_model(folder, backend, bytes(SIZE + 100), 300)
    with Mount(folder, f"dir:{folder}/chunks", "--read-only") as mount:
        check(read_file(mount.path) == expected, "it differs when it is mounted again")


def case_file_and_nbdkit_child(folder):
    """file: and nbdkit: as a child, which ends with the mount"""
    path, image = image_at(folder)
    expected = follow_model(folder, f"file:{path}", image, 200)
    check(read_file(path) == expected, "the file differs")
    with Mount(folder, f"nbdkit:file,{path}") as mount:
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(mount.process.pid)], capture_output=True, text=True).stdout.split()
        check(len(children) == 1, f"children: {children}")
        check(read_file(mount.path) == expected, "the child serves something else")
    check(not os.path.exists(f"/proc/{children[0]}"), "nbdkit still runs")


def case_sync(folder):
    """fsync and msync are a promise: the remote has it when they return; only what changed is sent"""
    path, image = image_at(folder)
    log = os.path.join(folder, "log")
    with nbdkit(folder, "--filter=log", "file", path, f"logfile={log}") as server, \
            Mount(folder, server.uri, "--push-interval", "0") as mount:
        model = Model(mount.path, image, 4)
        for _ in range(20):
            model.write()
            model.write_map()
            model.sync()
            check(read_file(path) == bytes(model.bytes), "the remote differs after fsync")
        model.close()
        before = len(re.findall(r" Write | Zero ", read_file(log).decode()))
        os.pwrite(model_fd := os.open(mount.path, os.O_RDWR), b"x", 4096)
        os.fsync(model_fd)
        os.close(model_fd)
        text = read_file(log).decode()
    writes = re.findall(r" (?:Write|Zero) .*?offset=(0x[0-9a-f]+) count=(0x[0-9a-f]+)", text)
    check(len(re.findall(r" Write | Zero ", text)) == before + 1, f"more than one write: {writes[before:]}")
    check((int(writes[-1][0], 16), int(writes[-1][1], 16)) == (4096, 4096), f"{writes[-1]}")


def case_push_in_the_background(folder):
    """what was written goes out without anybody asking"""
    path, _ = image_at(folder)
    with nbdkit(folder, "file", path) as server, Mount(folder, server.uri, "--push-interval", "0.1") as mount:
        with open(mount.path, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"memferry", 12345)
        wait_until(lambda: read_file(path)[12345:12353] == b"memferry", "the push")


def case_pull_first(folder):
    """--pull-first: that comes before the rest, in the order given"""
    path, image = image_at(folder, 8 << 20)
    log = os.path.join(folder, "log")
    with nbdkit(folder, "--filter=log", "file", path, f"logfile={log}") as server:
        with Mount(folder, server.uri, "--pull-first", "6M+512K", "--pull-first", "3M+512K") as mount:
            check(read_file(mount.path) == image, "it differs")
    reads = [int(at, 16) for at in re.findall(r" Read .*?offset=(0x[0-9a-f]+)", read_file(log).decode())]
    check(6 << 20 <= reads[0] < 6.5 * (1 << 20), f"the first read is at {reads[0]}")
    first = [at for at in reads if 6 << 20 <= at < 6.5 * (1 << 20)]
    second = [at for at in reads if 3 << 20 <= at < 3.5 * (1 << 20)]
    check(reads.index(first[0]) < reads.index(second[0]), f"{reads}")


def case_read_only(folder):
    """--read-only, and a server that only lets read"""
    path, image = image_at(folder)
    with nbdkit(folder, "file", path) as server, Mount(folder, server.uri, "--read-only") as mount:
        check(read_file(mount.path) == image, "it differs")
        expect_errno([errno.EROFS], os.open, mount.path, os.O_RDWR)
    with nbdkit(folder, "-r", "file", path) as server, Mount(folder, server.uri) as mount:
        check(read_file(mount.path) == image, "it differs")
        expect_errno([errno.EROFS], os.open, mount.path, os.O_RDWR)


def case_fixed_size(folder):
    """the file can't be made longer or shorter, and nothing is written past its end"""
    path, image = image_at(folder)
    with Mount(folder, f"file:{path}") as mount:
        expect_errno([errno.EPERM], os.truncate, mount.path, 100)
        expect_errno([errno.EPERM], os.truncate, mount.path, SIZE + 1)
        with open(mount.path, "r+b", buffering=0) as file:
            expect_errno([errno.ENOSPC], os.pwrite, file.fileno(), b"x", SIZE)
            check(os.pwrite(file.fileno(), b"abc", SIZE - 2) == 2, "written past the end")
            check(os.pread(file.fileno(), 10, SIZE - 1) == b"b", "read past the end")
    check(read_file(path) == image[:-2] + b"ab", "it differs")


def case_unmounted_by_hand(folder):
    """umount ends it as a signal does: all is written first"""
    path, image = image_at(folder)
    with nbdkit(folder, "file", path) as server, Mount(folder, server.uri, "--push-interval", "0") as mount:
        with open(mount.path, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"bye", 1)
        check(subprocess.run(["umount", mount.path]).returncode == 0, "umount")
        check(mount.wait() == 0, mount.said)
        check(read_file(path) == image[:1] + b"bye" + image[4:], "the remote differs")
        check(not os.path.exists(mount.path), "the file that was mounted over is still there")


def case_placeholder(folder):
    """an empty file that was there stays there"""
    path, _ = image_at(folder)
    write_file(os.path.join(folder, "mounted"), b"")
    with Mount(folder, f"file:{path}"):
        pass
    check(os.path.getsize(os.path.join(folder, "mounted")) == 0, "it is not empty")
