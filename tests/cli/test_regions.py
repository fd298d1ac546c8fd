# SPDX-License-Identifier: LGPL-2.1-or-later
"""Regions are made, shown, found again and removed."""

import os

from mfcli.check import contains, equal, fails, true
from mfcli.host import Host, wait_until


def test_life_of_a_region():
    with Host() as host:
        host.start()
        equal(host.do("list", "--quiet"), "")
        equal(host.do("create", "vm1", "--size", "64M", "--qmp", "/run/vm1.qmp"), "")
        equal(host.region("vm1"), {
            "name": "vm1", "size_bytes": 64 << 20, "path": str(host.stores / "vm1"), "state": "here",
            "present_bytes": 64 << 20, "allocated_bytes": 0, "pid": None, "qmp": "/run/vm1.qmp", "job": None})
        equal((host.stores / "vm1").stat().st_size, 64 << 20)
        equal((host.stores / "vm1").stat().st_mode & 0o777, 0o600)
        host.do("remove", "vm1")
        equal(host.do("list", "--quiet"), "")
        equal(sorted(p.name for p in host.stores.iterdir()), [".memferryd.lock"], "files left")


def test_list_is_a_table():
    with Host() as host:
        host.start()
        for name, size in [("game", "3M"), ("a-very-long-name.of_a-region", "1M"), ("vm1", "1536K")]:
            host.do("create", name, "--size", size)
        lines = host.do("list").splitlines()
        equal(lines[0].split(), ["NAME", "SIZE", "STATE", "PRESENT", "ALLOCATED", "PROGRAM", "JOB"])
        equal([line.split()[0] for line in lines[1:]], ["a-very-long-name.of_a-region", "game", "vm1"], "sorted")
        equal([line.split()[1] for line in lines[1:]], ["1M", "3M", "1.50M"])
        # Columns stand below each other: numbers to the right, text to the left.
        column = lines[0].index("STATE")
        true(all(line[column:column + 4] == "here" and line[column - 1] == " " for line in lines[1:]), lines)
        equal(len({len(line) for line in lines}), 1, "lengths of the lines")


def test_allocated_is_what_was_written():
    with Host() as host:
        host.start()
        host.do("create", "vm1", "--size", "1M")
        with open(host.stores / "vm1", "r+b") as region:
            region.seek(12 * 4096)
            region.write(b"x")
        equal(host.region("vm1")["allocated_bytes"], 4096)


def test_odd_size():
    with Host() as host:
        host.start()
        host.do("create", "vm1", "--size", "4097")
        equal(host.region("vm1")["size_bytes"], 4097)
        equal(host.region("vm1")["present_bytes"], 4097)


def test_name_that_is_taken():
    with Host() as host:
        host.start()
        host.do("create", "vm1", "--size", "1M")
        fails(host.run("create", "vm1", "--size", "2M"), "vm1", "there already")
        equal(host.region("vm1")["size_bytes"], 1 << 20)


def test_name_of_a_stray_file():
    """Whatever it is, it is not ours to overwrite."""
    with Host() as host:
        host.start()
        (host.stores / "vm1").write_bytes(b"precious")
        fails(host.run("create", "vm1", "--size", "1M"), "vm1")
        equal((host.stores / "vm1").read_bytes(), b"precious")


def test_impossible_names():
    with Host() as host:
        host.start()
        for name in [".hidden", "", "a/b", "..", "../up", "a b", "x" * 65, "ä", "vm1.state", "vm1.region", "a\nb",
                     "vm1.state.tmp"]:
            fails(host.run("create", name, "--size", "1M"), "can't be a region's name")
        for name in ["x" * 64, "A-Z_0.9", "-dash", "0"]:
            host.do("create", "--size", "4K", "--", name)
        equal(len(host.json("list")), 4)


def test_no_room():
    with Host() as host:
        host.start()
        fails(host.run("create", "vm1", "--size", "1000T"), "vm1", "free")
        equal(host.do("list", "--quiet"), "")
        true(not (host.stores / "vm1").exists(), "a file was left")


def test_room_is_promised_once():
    """Two regions that fit one by one, but not both."""
    with Host() as host:
        host.start()
        room = os.statvfs(host.stores)
        size = room.f_bavail * room.f_frsize * 6 // 10 & ~4095
        first = host.run("create", "first", "--size", str(size))
        if first.returncode != 0:
            fails(first, "free")  # Less memory is free than its tmpfs promises: refused as well.
            return
        fails(host.run("create", "second", "--size", str(size)), "second")
        host.do("remove", "first")
        host.do("create", "second", "--size", str(size))


def test_unknown_bytes_survive_kill():
    with Host() as host:
        host.start()
        host.do("create", "vm1", "--size", "1M", "--qmp", "/run/vm1.qmp")
        host.do("create", "vm2", "--size", "2M")
        content = os.urandom(1 << 20)
        (host.stores / "vm1").open("r+b").write(content)
        before = host.json("list")
        host.kill()
        host.start()
        after = host.json("list")
        for region in before + after:
            region.pop("allocated_bytes")
        equal(after, before)
        equal((host.stores / "vm1").read_bytes(), content, "bytes")


def test_restart_after_a_clean_end():
    with Host() as host:
        host.start()
        host.do("create", "vm1", "--size", "1M")
        equal(host.stop(), 0)
        host.start()
        equal(host.do("list", "--quiet"), "vm1\n")


def test_other_files_are_left_alone():
    with Host() as host:
        (host.stores / "vm1").write_bytes(bytes(8192))
        (host.stores / "vm1.state").write_text("not a region")
        (host.stores / "vm1.region").write_text("[program]\ncontrol=/q\n")
        (host.stores / "vm1.region.A1B2C3").write_text("half written")
        (host.stores / ".hidden").write_text("x")
        (host.stores / "with space").write_text("x")
        (host.stores / "empty").write_text("")
        (host.stores / "folder").mkdir()
        (host.stores / "link").symlink_to("/etc/passwd")
        os.mkfifo(host.stores / "fifo")
        before = sorted(os.listdir(host.stores))
        host.start()
        names = host.do("list", "--quiet").split()
        true("vm1" in names, names)
        equal([n for n in names if n != "vm1"], [], "what is no region")
        equal(host.region("vm1")["qmp"], "/q")
        host.stop()
        equal(sorted(os.listdir(host.stores)), before)


def test_remove_takes_several():
    with Host() as host:
        host.start()
        for name in ["a", "b", "c"]:
            host.do("create", name, "--size", "4K")
        host.do("remove", "a", "b")
        fails(host.run("remove", "c", "nope"), "nope: there is no such region")
        equal(host.do("list", "--quiet"), "")


def test_memory_is_free_after_removal():
    """The kernel frees a file when nobody has it open or mapped any more."""
    with Host() as host:
        host.start()
        host.do("create", "vm1", "--size", "64M")
        path = str(host.stores / "vm1")
        true(path in held(host.process.pid), "the service has no hold of the file: the test proves nothing")
        host.do("remove", "vm1")
        wait_until(lambda: path not in held(host.process.pid), 30, "file that nobody holds")


def held(pid):
    """The files that a process has open or mapped."""
    with open(f"/proc/{pid}/maps") as maps:
        found = {line.split(maxsplit=5)[5] for line in maps if len(line.split()) > 5}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            pass
    return {name.strip().removesuffix(" (deleted)") for name in found}


def test_watch_tells_of_regions():
    with Host() as host:
        host.start()
        host.do("create", "vm1", "--size", "1M")
        watch = host.begin("watch", "--json")
        contains(watch.stdout.readline(), '"present"', '"vm1"')
        host.do("create", "vm2", "--size", "1M")
        contains(watch.stdout.readline(), '"added"', '"vm2"')
        host.do("remove", "vm1")
        contains(watch.stdout.readline(), '"removed"', '"vm1"')
        host.kill()
        _, errors = watch.communicate(timeout=30)
        equal(watch.returncode, 1)
        contains(errors, "memferry watch: the service has ended")
