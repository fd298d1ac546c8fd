# SPDX-License-Identifier: LGPL-2.1-or-later
"""memferry run: programs that have a region mapped. The program is tests/unit/attach/scribble, which knows nothing of memferry."""

import os
import signal
import subprocess

from mfcli.check import Skip, contains, equal, fails, true
from mfcli.host import BUILD, MEMFERRY, SECONDS, Host, run, wait_until

SCRIBBLE = BUILD / "tests" / "unit" / "attach" / "scribble"


def started():
    """A service that can have programs, or a skipped test."""
    host = Host().start()
    done = host.run("run", "--region", "probe", "--size", "4K", "true")
    if done.returncode != 0:
        host.__exit__(None, None, None)
        raise Skip(done.stderr.strip())
    host.do("remove", "probe")
    return host


class Program:
    """scribble on a region of 16 pages."""

    def __init__(self, host, name="vm1", options=()):
        self.process = host.begin("run", "--region", name, "--size", "64K", *options, "--", SCRIBBLE, host.stores / name,
                                  "4096", stdin=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def map(self):
        contains(self.say("map 0 16"), "ok")

    def end(self):
        self.process.stdin.close()
        self.process.stdin = None
        return self.process.wait(SECONDS)


def pid_of(host, name="vm1"):
    return host.region(name)["pid"]


def wait_for_pid(host, pid, name="vm1"):
    wait_until(lambda: pid_of(host, name) == pid, SECONDS, f"process {pid} at region {name}")


def test_program_is_attached_and_goes():
    with started() as host, Program(host) as program:
        program.map()
        # The command has become the program.
        wait_for_pid(host, program.process.pid)
        contains(host.do("list"), str(program.process.pid))
        equal(program.say("write 0 16 7"), "ok")
        equal(program.say("check 0 16 7"), "ok")
        equal(host.region("vm1")["allocated_bytes"], 65536)
        program.end()
        wait_for_pid(host, None)
        equal(host.region("vm1")["allocated_bytes"], 65536)


def test_watch_tells_of_programs():
    with started() as host:
        watch = host.begin("watch", "--json")
        with Program(host) as program:
            program.map()
            line = ""
            while f'"pid":{program.process.pid}' not in line:
                line = watch.stdout.readline()
                true(line, "watch has ended")
        while '"pid":null' not in line:
            line = watch.stdout.readline()
            true(line, "watch has ended")
        watch.kill()
        watch.communicate()


def test_region_in_use_is_not_removed():
    with started() as host, Program(host) as program:
        program.map()
        wait_for_pid(host, program.process.pid)
        fails(host.run("remove", "vm1"), "vm1", f"process {program.process.pid}", "--force")
        host.do("remove", "vm1", "--force")
        equal(host.do("list", "--quiet"), "")
        # It has what it had.
        equal(program.say("write 0 16 3"), "ok")
        equal(program.say("check 0 16 3"), "ok")


def test_one_program_a_region():
    with started() as host, Program(host) as program:
        program.map()
        wait_for_pid(host, program.process.pid)
        fails(host.run("run", "--region", "vm1", "true"), "vm1", f"process {program.process.pid} has it mapped")


def test_program_outlives_the_service():
    """Killed, not asked: the program keeps running and its memory, and the next service knows it."""
    with started() as host, Program(host) as program:
        program.map()
        wait_for_pid(host, program.process.pid)
        equal(program.say("write 0 16 1"), "ok")
        for seed in [2, 3]:
            host.kill()
            equal(program.say(f"check 0 16 {seed - 1}"), "ok")
            equal(program.say(f"write 0 16 {seed}"), "ok")
            host.start()
            wait_for_pid(host, program.process.pid)
            equal(program.say(f"check 0 16 {seed}"), "ok")


def test_program_outlives_a_clean_end():
    with started() as host, Program(host) as program:
        program.map()
        wait_for_pid(host, program.process.pid)
        equal(program.say("write 0 16 1"), "ok")
        equal(host.stop(), 0)
        equal(program.say("check 0 16 1"), "ok")
        host.start()
        wait_for_pid(host, program.process.pid)


def test_arguments_environment_and_status():
    with started() as host:
        host.do("create", "vm1", "--size", "64K")
        script = 'echo "$0|$1|$2|$LD_PRELOAD|$MEMFERRY_HANDOVER|$MEMFERRY_REGION_FILE"; exit 42'
        done = run([MEMFERRY, "run", "--region=vm1", "sh", "-c", script, "a b", "--", "-x"],
                   env=host.environment(LD_PRELOAD="libc.so.6", ASAN_OPTIONS="verify_asan_link_order=0"))
        equal(done.returncode, 42)
        equal(done.stderr, "")
        name, first, second, preload, handover, files = done.stdout.strip().split("|")
        equal((name, first, second), ("a b", "--", "-x"))
        equal(preload, f"libc.so.6:{BUILD / 'src/preload/libmemferry-preload.so'}")
        equal(handover, str(host.runtime / "handover.sock"))
        equal(files, str(host.stores / "vm1"))


def test_several_regions():
    with started() as host:
        done = host.run("run", "--region", "a", "--region", "b", "--size", "4K", "--", "sh", "-c",
                        'echo "$MEMFERRY_REGION_FILE"')
        equal(done.stdout, f"{host.stores}/a:{host.stores}/b\n")
        equal(host.do("list", "--quiet"), "a\nb\n")


def test_nothing_is_started_when_something_is_missing():
    with started() as host:
        touched = host.root / "touched"
        host.do("create", "vm1", "--size", "64K")
        fails(host.run("run", "--region", "nope", "touch", touched), "nope", "no such region", "--size")
        fails(host.run("run", "--region", "vm1", "--size", "128K", "touch", touched), "vm1", "65536", "131072")
        fails(host.run("run", "--region", "big", "--size", "900T", "touch", touched), "big", "free")
        fails(host.run("run", "--region", "a/b", "--size", "4K", "touch", touched), "can't be a region's name")
        done = run([MEMFERRY, "run", "--region", "vm1", "touch", touched],
                   env=host.environment(MEMFERRY_PRELOAD="/nonexistent/library.so"))
        fails(done, "/nonexistent/library.so")
        true(not touched.exists(), "it was started")
        equal(host.do("list", "--quiet"), "vm1\n")


def test_program_that_is_not_there():
    with started() as host:
        host.do("create", "vm1", "--size", "64K")
        fails(host.run("run", "--region", "vm1", "no-such-program"), "no-such-program: No such file")
        fails(host.run("run", "--region", "vm1", "/etc/passwd"), "/etc/passwd: Permission denied")


def test_qmp_socket_is_remembered():
    with started() as host:
        host.do("run", "--region", "vm1", "--size", "4K", "--qmp", "/run/vm1.qmp", "true")
        equal(host.region("vm1")["qmp"], "/run/vm1.qmp")
        host.kill()
        host.start()
        equal(host.region("vm1")["qmp"], "/run/vm1.qmp")
        done = run([MEMFERRY, "run", "--region", "vm1", "--qmp", "other.qmp", "true"], env=host.environment(),
                   cwd=host.root)
        equal(done.returncode, 0)
        equal(host.region("vm1")["qmp"], str(host.root.resolve() / "other.qmp"))


def test_program_of_another_user():
    """The region is theirs, and the service still knows them."""
    if os.geteuid() != 0:
        raise Skip("needs root")
    with started() as host:
        config = host.root / "conf"
        config.write_text("[service]\ngroup=nogroup\n")
        host.stop()
        host.start("--config", config)
        command = ["setpriv", "--reuid=1234", "--regid=4321", "--groups=65534"]
        # Not by starting it: that is done with the rights of root still.
        if run([*command, "test", "-r", MEMFERRY]).returncode != 0:
            raise Skip("the build is in a folder that others may not enter")
        process = subprocess.Popen([*command, MEMFERRY, "run", "--region", "vm1", "--size", "64K", SCRIBBLE,
                                    host.stores / "vm1", "4096"], env=host.environment(), text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.stdin.write("map 0 16\n")
        process.stdin.flush()
        contains(process.stdout.readline(), "ok")
        wait_for_pid(host, process.pid)
        process.stdin.close()
        process.wait(SECONDS)
        process.stdout.close()
        wait_for_pid(host, None)


def test_interrupt_goes_to_the_program():
    with started() as host, Program(host) as program:
        program.map()
        program.process.send_signal(signal.SIGINT)
        equal(program.process.wait(SECONDS), -signal.SIGINT)
