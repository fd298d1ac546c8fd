# SPDX-License-Identifier: LGPL-2.1-or-later
"""A cache that survives: the mount is killed, the remote is away, the map is not what it should be."""

import os
import re
import shutil

from cases_bad_input import refuse
from cases_bytes import SIZE, image_at
from mountlab import Model, Mount, check, nbdkit, read_file, wait_until, write_file

PAGE = 4096
HEADER = 4096


def bits_of(cache, size=SIZE):
    """The pages that the map calls present, and dirty."""
    data = read_file(cache + ".map")
    pages = (size + PAGE - 1) // PAGE
    words = (pages + 63) // 64 * 8
    check(len(data) == HEADER + 2 * words, f"the map has {len(data)} bytes")
    return [{n for n in range(pages) if data[at + n // 8] >> n % 8 & 1} for at in (HEADER, HEADER + words)]


def case_nothing_is_pulled_twice(folder):
    """the second mount asks the remote for nothing that is here"""
    path, image = image_at(folder)
    cache, log = os.path.join(folder, "cache"), os.path.join(folder, "log")
    with nbdkit(folder, "file", path) as server, Mount(folder, server.uri, "--cache", cache) as mount:
        check(read_file(mount.path) == image, "it differs")
    check(read_file(cache) == image, "the cache differs")
    check(bits_of(cache) == [set(range(SIZE // PAGE)), set()], "the map")
    with nbdkit(folder, "--filter=log", "file", path, f"logfile={log}") as server, Mount(folder, server.uri, "--cache", cache) as mount:
        check(read_file(mount.path) == image, "it differs when it is mounted again")
    check(not re.search(r" Read ", read_file(log).decode()), read_file(log).decode())


def case_killed(folder):
    """kill -9 in the middle, again and again: what was written is there, and goes to the remote at the next start"""
    path, image = image_at(folder)
    cache = os.path.join(folder, "cache")
    expected = image
    with nbdkit(folder, "--filter=delay", "file", path, "delay-read=2ms", "delay-write=5ms") as server:
        for seed in range(6):
            mount = Mount(folder, server.uri, "--cache", cache, "--push-interval", "0.03" if seed % 2 else "0")
            mount.__enter__()
            model = Model(mount.path, expected, 20 + seed)
            for step in range(25):
                model.write()
                model.read()
                if step == 15 and seed > 3:
                    os.fsync(model.fd)
            mount.kill()
            model.close()
            expected = bytes(model.bytes)
            present, dirty = bits_of(cache)
            local = read_file(cache)
            changed = {n for n in range(SIZE // PAGE) if local[n * PAGE:(n + 1) * PAGE] != read_file(path)[n * PAGE:(n + 1) * PAGE]}
            check(all(local[n * PAGE:(n + 1) * PAGE] == expected[n * PAGE:(n + 1) * PAGE] for n in present), "a page that is present is wrong")
            check(changed & present <= dirty, f"changed and not known to be dirty: {sorted(changed & present - dirty)}")
        with Mount(folder, server.uri, "--cache", cache, "--push-interval", "0") as mount:
            wait_until(lambda: read_file(path) == expected, "what is left of the last time")
            check(read_file(mount.path) == expected, "it differs")
    check(bits_of(cache)[1] == set(), "dirty at the end")


def case_work_goes_on(folder):
    """the remote is away: what is here is read and written, fsync is well, and it goes out when the remote is back, or at the next start"""
    path, image = image_at(folder)
    cache = os.path.join(folder, "cache")
    with nbdkit(folder, "file", path) as server:
        with Mount(folder, server.uri, "--cache", cache, "--push-interval", "0.05", "--timeout", "20") as mount:
            with open(mount.path, "r+b", buffering=0) as file:
                check(read_file(mount.path) == image, "it differs")
                server.kill()
                wait_until(lambda: os.fsync(file.fileno()) is None, "fsync")
                os.pwrite(file.fileno(), b"offline", 5)
                os.fsync(file.fileno())
                check(0 in bits_of(cache)[1], "it is not known to be dirty")
                server.start()
                wait_until(lambda: read_file(path)[5:12] == b"offline", "the push")
    with nbdkit(folder, "file", path) as server:
        with Mount(folder, server.uri, "--cache", cache, "--push-interval", "0", "--timeout", "0.3", status=1) as mount:
            server.kill()
            with open(mount.path, "r+b", buffering=0) as file:
                os.pwrite(file.fileno(), b"later", 1 << 20)
        check("sent at the next start" in mount.said, mount.said)
        server.start()
        with Mount(folder, server.uri, "--cache", cache):
            wait_until(lambda: read_file(path)[1 << 20:(1 << 20) + 5] == b"later", "what is left of the last time")


def case_refused(folder):
    """a cache of something else, half written, damaged, or in use"""
    path, _ = image_at(folder)
    backend, cache, words = f"file:{path}", os.path.join(folder, "cache"), ["--cache", os.path.join(folder, "cache")]
    with Mount(folder, backend, *words):
        refuse(folder, backend, "in use by another mount", *words, name="second")
    good, good_map = read_file(cache), read_file(cache + ".map")
    shutil.copy(path, path + "2")
    refuse(folder, f"file:{path}2", f"it is one of file:{path}", *words)
    cases = [(good, good_map[:-1], "half written"), (good, good_map + b"x", "half written"), (good[:-1], good_map, "another size"),
             (good, b"x" + good_map[1:], "no map of memferry's"), (good, b"", "half written"), (b"", good_map, "empty"),
             (good, None, "no .map beside it"), (None, good_map, "not the file itself")]
    for data, data_map, part in cases:
        for name, content in ((cache, data), (cache + ".map", data_map)):
            if os.path.exists(name):
                os.unlink(name)
            if content is not None:
                write_file(name, content)
        refuse(folder, backend, part, *words)
        for name, content in ((cache, data), (cache + ".map", data_map)):
            check((read_file(name) if os.path.exists(name) else None) == content, f"{name} was changed")
    refuse(folder, backend, "--cache", *words, "--direct")
    refuse(folder, backend, "nowhere", "--cache", os.path.join(folder, "nowhere", "cache"))


def case_host_went_down(folder):
    """another boot: what was not closed is not trusted, and not thrown away if it has what was never sent"""
    path, image = image_at(folder)
    cache = os.path.join(folder, "cache")
    words = ["--cache", cache, "--push-interval", "0"]
    with nbdkit(folder, "file", path) as server:
        for write in (False, True):
            mount = Mount(folder, server.uri, *words)
            mount.__enter__()
            check(read_file(mount.path) == image, "it differs")
            if write:
                with open(mount.path, "r+b", buffering=0) as file:
                    os.pwrite(file.fileno(), b"never sent", 0)
            mount.kill()
            data = bytearray(read_file(cache + ".map"))
            with open("/proc/sys/kernel/random/boot_id", "rb") as boot:
                at = data.index(boot.read().strip())
            data[at] ^= 1
            write_file(cache + ".map", bytes(data))
            if not write:
                write_file(cache, bytes(SIZE))
        refuse(folder, server.uri, "the host went down", *words, name="other")
        check(read_file(cache)[:10] == b"never sent", "it was thrown away")
