# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our client, lane-copy, against the servers of others."""

import os
import subprocess

from nbdlab import LANE_COPY, PAGE, check, data_ranges, listens, make_file, run, same, server, unix_uri, wait_until

BANNER = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
while True:
    client = listener.accept()[0]
    try:
        client.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\\r\\n" * 4)
    except OSError:
        pass
    client.close()
"""
SIZE = (12 << 20) + 3 * PAGE + 100


def nbdkit(folder, *words):
    path = os.path.join(folder, "theirs.sock")
    return server(["nbdkit", "-f", "--exit-with-parent", "-U", path, *words], path), unix_uri(path)


def copy_and_compare(folder, source, uri):
    """The page counts of holes, with and without structured replies."""
    copy = os.path.join(folder, "copy")
    counts = []
    for options in ([], ["--simple"]):
        text = run(LANE_COPY, *options, uri, copy)
        same(source, copy)
        counts.append(int(text.split()[2]))
    return counts


def extents(uri, context="base:allocation"):
    return [tuple(map(int, line.split())) for line in run(LANE_COPY, "--map", context, uri).splitlines()]


def case_nbdkit_file(folder):
    """nbdkit file: every byte, and where data is"""
    source = os.path.join(folder, "a.img")
    make_file(source, SIZE)
    process, uri = nbdkit(folder, "file", source)
    with process:
        copy_and_compare(folder, source, uri)
        found = extents(uri)
    check([(e[0], e[1]) for e in found if e[2] == 0] == data_ranges(source), f"{found}\n{data_ranges(source)}")
    check(sum(e[1] for e in found) == SIZE, f"{found}")


def case_nbdkit_memory(folder):
    """nbdkit memory: what nbdcopy put there"""
    source = os.path.join(folder, "a.img")
    make_file(source, SIZE)
    process, uri = nbdkit(folder, "memory", str(SIZE))
    with process:
        run("nbdcopy", source, uri)
        copy_and_compare(folder, source, uri)


def case_nbdkit_no_structured(folder):
    """nbdkit --no-sr: no structured replies, so no block status"""
    source = os.path.join(folder, "a.img")
    make_file(source, SIZE)
    process, uri = nbdkit(folder, "--no-sr", "file", source)
    with process:
        check(copy_and_compare(folder, source, uri) == [0, 0], "holes without structured replies")
        text = run(LANE_COPY, "--map", "base:allocation", uri, status=1)
        check("base:allocation" in text, text)


def case_nbdkit_delay(folder):
    """nbdkit with 20 ms of delay: requests wait together, not one after the other"""
    source = os.path.join(folder, "a.img")
    make_file(source, 8 << 20)
    process, uri = nbdkit(folder, "--threads=16", "--filter=delay", "file", source, "delay-read=20ms")
    with process:
        copy_and_compare(folder, source, uri)


def case_nbdkit_errors(folder):
    """nbdkit that fails to read: an error, not bytes"""
    process, uri = nbdkit(folder, "--filter=error", "memory", "4M", "error-pread=EIO", "error-pread-rate=100%")
    with process:
        for options in ([], ["--simple"]):
            text = run(LANE_COPY, *options, uri, os.path.join(folder, "copy"), status=1)
            check("Input/output error" in text, text)


def case_nbdkit_dies(folder):
    """nbdkit killed while requests wait: an error, at once"""
    path = os.path.join(folder, "theirs.sock")
    nbd = subprocess.Popen(["nbdkit", "-f", "-U", path, "--filter=delay", "memory", "64M", "delay-read=30"])
    try:
        wait_until(lambda: listens(path), "nbdkit")
        client = subprocess.Popen([LANE_COPY, unix_uri(path), os.path.join(folder, "copy")], stderr=subprocess.PIPE, text=True)
        wait_until(lambda: os.path.exists(os.path.join(folder, "copy")), "the copy's beginning")
        nbd.kill()
        _, text = client.communicate(timeout=10)
        check(client.returncode == 1 and "NBD connection lost" in text, f"status {client.returncode}: {text}")
    finally:
        nbd.kill()
        nbd.wait()


def case_nbdkit_no_tracking(folder):
    """memferry:dirty of a server that hasn't got it"""
    process, uri = nbdkit(folder, "memory", "1M")
    with process:
        text = run(LANE_COPY, "--map", "memferry:dirty", uri, status=1)
        check("memferry:dirty" in text and "track" in text, text)


def case_qemu_nbd(folder):
    """qemu-nbd: every byte, and where data is"""
    source, path = os.path.join(folder, "a.img"), os.path.join(folder, "theirs.sock")
    make_file(source, 12 << 20)
    with server(["qemu-nbd", "-f", "raw", "-t", "-e", "4", "-k", path, source], path):
        copy_and_compare(folder, source, unix_uri(path))
        found = extents(unix_uri(path))
    check(sum(e[1] for e in found) == 12 << 20, f"{found}")
    data = [(e[0], e[1]) for e in found if e[2] == 0]
    check(data == data_ranges(source), f"{data}\n{data_ranges(source)}")


def case_wrong_protocol(folder):
    """something that doesn't speak NBD: an error that says so"""
    path = os.path.join(folder, "theirs.sock")
    with server(["python3", "-c", BANNER, path], path, status=-15):
        text = run(LANE_COPY, unix_uri(path), os.path.join(folder, "copy"), status=1)
        check(text.startswith("lane-copy: nbd+unix://"), text)
