# SPDX-License-Identifier: LGPL-2.1-or-later
"""The clients of others against memferry serve."""

import json
import os
import shutil
import signal
import subprocess

from nbdlab import (MEMFERRY, PAGE, Failed, allocated, check, data_ranges, free_port, make_file, memferry_serve, removed, run,
                    same, server, stores, unix_uri, wait_until)

SIZE = (24 << 20) + 5 * PAGE + 512


def case_nbdinfo(folder):
    """nbdinfo sees size, flags, name and contexts"""
    source = os.path.join(folder, "a.img")
    make_file(source, SIZE)
    with memferry_serve(f"file:{source}", folder, "--name", "disk one") as uri:
        listed = json.loads(run("nbdinfo", "--json", "--list", uri))
        check(len(listed["exports"]) == 1, f"exports: {listed}")
        export = listed["exports"][0]
        check(export["export-name"] == "disk one", f"name: {export}")
        check(export["description"] == f"file:{source}", f"description: {export}")
        check(export["export-size"] == SIZE, f"size: {export}")
        check(export["contexts"] == ["base:allocation", "memferry:dirty"], f"contexts: {export}")
        for flag in ("can_multi_conn", "can_flush", "can_fua", "can_df", "can_trim", "can_zero"):
            check(export[flag] is True, f"{flag}: {export}")
        check(export["is_read_only"] is False, f"is_read_only: {export}")
        check("TLS" in listed and listed["TLS"] is False, f"TLS: {listed}")


def case_map(folder):
    """nbdinfo --map and qemu-img map see data and holes where they are"""
    for path in stores(folder):
        with removed(path) as source:
            make_file(source, SIZE)
            with memferry_serve(f"file:{source}", folder) as uri:
                nbd = [(e["offset"], e["length"]) for e in json.loads(run("nbdinfo", "--json", "--map", uri)) if e["type"] == 0]
                qemu = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", uri))
            check(nbd == data_ranges(source), f"nbdinfo: {nbd}\nthe file: {data_ranges(source)}")
            # qemu-img goes by sectors.
            whole = [(e["start"], e["length"]) for e in qemu if e["data"]]
            check(whole[0] == nbd[0] and len(whole) == len(nbd), f"qemu-img: {whole}\nnbdinfo: {nbd}")


def case_map_dirty(folder):
    """nbdinfo --map=memferry:dirty sees every page as dirty"""
    source = os.path.join(folder, "a.img")
    make_file(source, SIZE)
    with memferry_serve(f"file:{source}", folder) as uri:
        dirty = json.loads(run("nbdinfo", "--json", "--map=memferry:dirty", uri))
    check(dirty == [{"offset": 0, "length": SIZE, "type": 1}] or
          [(e["offset"], e["length"], e["type"]) for e in dirty] == [(0, SIZE, 1)], f"{dirty}")


def case_nbdcopy_out(folder):
    """nbdcopy reads every byte, from tmpfs and from disk, on one connection and on four"""
    for path in stores(folder):
        with removed(path) as source:
            make_file(source, SIZE)
            before = allocated(source)
            with memferry_serve(f"file:{source}", folder) as uri:
                for connections in (1, 4):
                    copy = os.path.join(folder, f"copy{connections}")
                    run("nbdcopy", f"--connections={connections}", uri, copy)
                    same(source, copy)
                    check(allocated(copy) <= before + 64 * PAGE, f"{allocated(copy)} bytes of {before} allocated")
            check(allocated(source) == before, "reading has allocated holes of the source")


def case_nbdcopy_small(folder):
    """nbdcopy with requests of all sizes reads every byte"""
    source = os.path.join(folder, "a.img")
    make_file(source, 3 << 20)
    with memferry_serve(f"file:{source}", folder) as uri:
        for size in (4096, 65536, 131072, 32 << 20):
            copy = os.path.join(folder, "copy")
            run("nbdcopy", f"--request-size={size}", "--synchronous", uri, copy)
            same(source, copy)


def case_nbdcopy_in(folder):
    """nbdcopy writes every byte, and holes stay holes"""
    source = os.path.join(folder, "a.img")
    make_file(source, SIZE)
    for path in stores(folder):
        with removed(path) as target:
            with open(target, "wb") as file:
                file.write(os.urandom(SIZE))
            with memferry_serve(f"file:{target}", folder) as uri:
                run("nbdcopy", "--flush", source, uri)
            same(source, target)
            check(allocated(target) <= allocated(source) + 64 * PAGE, "zeroes were written where holes could be")


def case_nbdcopy_memory(folder):
    """nbdcopy writes into memory: and reads the same again"""
    source, copy = os.path.join(folder, "a.img"), os.path.join(folder, "copy")
    make_file(source, 16 << 20)
    with memferry_serve("memory:16M", folder) as uri:
        run("nbdcopy", source, uri)
        run("nbdcopy", uri, copy)
    same(source, copy)


def case_nbdcopy_between(folder):
    """nbdcopy copies from one memferry to another"""
    source, target = os.path.join(folder, "a.img"), os.path.join(folder, "b.img")
    make_file(source, SIZE)
    with open(target, "wb") as file:
        file.truncate(SIZE)
    other = os.path.join(folder, "other.sock")
    with memferry_serve(f"file:{source}", folder, "--read-only") as uri:
        with server([MEMFERRY, "serve", f"file:{target}", "--at", unix_uri(other)], other):
            run("nbdcopy", uri, unix_uri(other))
    same(source, target)


def case_qemu_img(folder):
    """qemu-img info, convert both ways, and compare"""
    source = os.path.join(folder, "a.img")
    # qemu-img counts in sectors.
    make_file(source, 24 << 20)
    with removed(next(stores(folder))) as target:
        with open(target, "wb") as file:
            file.truncate(24 << 20)
        with memferry_serve(f"file:{target}", folder) as uri:
            info = json.loads(run("qemu-img", "info", "--output=json", uri))
            check(info["virtual-size"] == 24 << 20, f"{info}")
            run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, uri)
            run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, uri)
            for options in ([], ["-m", "16", "-W"]):
                copy = os.path.join(folder, "copy")
                run("qemu-img", "convert", "-f", "raw", "-O", "raw", *options, uri, copy)
                same(source, copy)
        same(source, target)


def case_qemu_io(folder):
    """qemu-io writes, discards and zeroes, and reads what it should"""
    with memferry_serve("memory:8M", folder) as uri:
        text = run("qemu-io", "-f", "raw", uri,
                   "-c", "write -P 0xab 0 2M", "-c", "write -P 0xcd -f 1000k 4k", "-c", "read -P 0xab 0 1000k",
                   "-c", "read -P 0xcd 1000k 4k", "-c", "read -P 0xab 1004k 1044k", "-c", "read -P 0 2M 6M",
                   "-c", "write -z 512k 64k", "-c", "read -P 0 512k 64k", "-c", "write -z -u 640k 128k",
                   "-c", "read -P 0 640k 128k", "-c", "discard 1M 512k", "-c", "read -P 0 1M 512k", "-c", "flush",
                   "-c", "read -P 0xab 0 512k")
        check("Pattern verification failed" not in text, text)
        check(text.count("ops;") == 13, text)


def case_tcp(folder):
    """nbdcopy and qemu-img over TCP"""
    source, copy = os.path.join(folder, "a.img"), os.path.join(folder, "copy")
    make_file(source, 8 << 20)
    for host in ("127.0.0.1", "localhost"):
        port = free_port()
        uri = f"nbd://{host}:{port}/x"
        with server([MEMFERRY, "serve", f"file:{source}", "--at", uri], ("127.0.0.1", port)):
            run("nbdcopy", uri, copy)
            same(source, copy)
            run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, uri)


def case_read_only(folder):
    """a read-only export is not written by anybody"""
    source, before = os.path.join(folder, "a.img"), os.path.join(folder, "before")
    make_file(source, 4 << 20)
    run("cp", source, before)
    with memferry_serve(f"file:{source}", folder, "--read-only") as uri:
        export = json.loads(run("nbdinfo", "--json", uri))["exports"][0]
        check(export["is_read_only"] is True, f"{export}")
        for command in (["nbdcopy", before, uri], ["qemu-io", "-f", "raw", uri, "-c", "write 0 4k"]):
            check(subprocess.run(command, capture_output=True).returncode != 0, f"{command[0]} could write")
    same(source, before)


def case_wrong_name(folder):
    """a client that asks for another export is refused"""
    with memferry_serve("memory:1M", folder, export="right"):
        for name in ("", "wrong"):
            done = subprocess.run(["nbdinfo", unix_uri(f"{folder}/ours.sock", name)], capture_output=True)
            check(done.returncode != 0, f"'{name}' was served")
        check(run("nbdinfo", "--size", unix_uri(f"{folder}/ours.sock", "right")) == "1048576\n", "the right one")


def case_file_cut_short(folder):
    """of a file that somebody has cut short, what is gone is an error, and the server goes on"""
    for number, store in enumerate(stores(folder)):
        with removed(store):
            make_file(store, SIZE, seed=number)
            whole = os.path.join(folder, "whole.img")
            shutil.copyfile(store, whole)
            with memferry_serve(f"file:{store}", folder) as uri:
                run("nbdcopy", uri, "null:")
                # Also in the middle of a page, and where there was a hole.
                for size in (SIZE - PAGE // 2, SIZE // 2, PAGE, 100):
                    os.truncate(store, size)
                    for command in (["nbdcopy", uri, "null:"], ["nbdcopy", "--request-size=4096", uri, "null:"]):
                        done = subprocess.run(command, capture_output=True, text=True, check=False)
                        check(done.returncode != 0, f"{size} bytes of {SIZE} were copied as if they were all")
                # What it was in the meantime doesn't matter when it is there again.
                shutil.copyfile(whole, store)
                again = os.path.join(folder, "again.img")
                run("nbdcopy", uri, again)
                same(whole, again)


def case_file_cut_short_again_and_again(folder):
    """a file that is cut short while clients read it does not end the server"""
    store = next(iter(stores(folder)))
    with removed(store):
        with open(store, "wb") as file:
            file.write(os.urandom(SIZE))
        with memferry_serve(f"file:{store}", folder) as uri:
            clients = [subprocess.Popen(["sh", "-c", f"for i in $(seq 20); do nbdcopy '{uri}' null:; done"],
                                        stderr=subprocess.DEVNULL) for _ in range(2)]
            while any(client.poll() is None for client in clients):
                os.truncate(store, PAGE)
                with open(store, "r+b") as file:
                    file.write(os.urandom(SIZE))
            check(run("nbdinfo", "--size", uri) == f"{SIZE}\n", "the server answers")


def case_no_room_for_memory(folder):
    """memory that the machine doesn't have is refused at once"""
    path = os.path.join(folder, "ours.sock")
    done = subprocess.run([MEMFERRY, "serve", "memory:512T", "--at", unix_uri(path)], capture_output=True, text=True, check=False)
    check(done.returncode == 1 and done.stderr.count("\n") == 1 and "missing" in done.stderr, done.stderr)


def case_ends_under_load(folder):
    """a server that is ended while clients copy ends at once, and they notice"""
    image = os.path.join(folder, "large.img")
    with open(image, "wb") as file:
        file.truncate(8 << 30)
    for number in (signal.SIGTERM, signal.SIGINT):
        path = os.path.join(folder, "ours.sock")
        with server([MEMFERRY, "serve", f"file:{image}", "--at", unix_uri(path)], path) as process:
            # Two million requests each, one after the other.
            clients = [subprocess.Popen(["nbdcopy", "--request-size=4096", "--synchronous", unix_uri(path), "null:"],
                                        stderr=subprocess.DEVNULL) for _ in range(2)]
            # Besides main, GLib's and the listener.
            wait_until(lambda: len(os.listdir(f"/proc/{process.pid}/task")) >= 5, "clients connecting")
            process.send_signal(number)
            wait_until(lambda: process.poll() is not None, "the end")
            check(process.returncode == 0, f"status {process.returncode}")
            if any(client.wait(timeout=30) == 0 for client in clients):
                raise Failed("a client did not notice")
        check(not os.path.exists(path), "the socket is still there")
