# SPDX-License-Identifier: LGPL-2.1-or-later
"""memferryd under a service manager: sockets that outlive it, and signs of life."""

import os
import socket
import stat

from mfcli.check import Skip, contains, equal, needs_root, true
from mfcli.host import MEMFERRY, SECONDS, run
from mfcli.manager import UNITS, Manager
from test_run import Program, wait_for_pid
from test_service import listening_ports


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def stop(host):
    equal(host.stop(), 0)


def knock(port):
    """A stranger: who is served is shown out at once, who waits in the queue isn't."""
    stranger = socket.create_connection(("127.0.0.1", port), SECONDS)
    stranger.sendall(b"This is no preface, and long enough for one. " * 2)
    return stranger


def is_shown_out(stranger):
    try:
        return stranger.recv(1) == b""
    except ConnectionResetError:
        return True


def test_activated_sockets_are_used():
    with Manager() as host:
        files = {name: os.stat(host.runtime / name) for name in UNITS}
        # It comes before the service does.
        early = host.begin("create", "vm1", "--size", "1M")
        host.start()
        equal(early.wait(SECONDS), 0, "a command that was given before the service was there")
        early.communicate()
        equal(host.do("list", "--quiet"), "vm1\n")
        true(is_shown_out_at(host.runtime / "peer.sock"), "nobody at peer.sock")
        true(is_shown_out_at(host.runtime / "handover.sock"), "nobody at handover.sock")
        stop(host)
        for name, before in files.items():
            after = os.stat(host.runtime / name)
            equal((after.st_ino, stat.S_IMODE(after.st_mode)), (before.st_ino, UNITS[name][0]), name)
        equal(sorted(os.listdir(host.runtime)), sorted(UNITS), "what is in the runtime folder")


def is_shown_out_at(path):
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(SECONDS)
        stranger.connect(str(path))
        stranger.sendall(b"This is neither a preface nor a line of JSON.\n" * 2)
        # A refusal may come first.
        while True:
            try:
                if not stranger.recv(4096):
                    return True
            except ConnectionResetError:
                return True


def test_nobody_notices_a_restart():
    """Commands that come while there is no service wait for the next one."""
    with Manager() as host:
        host.start()
        host.do("create", "vm1", "--size", "1M")
        stop(host)
        waiting = [host.begin("list", "--quiet") for _ in range(3)]
        host.start()
        for command in waiting:
            output, errors = command.communicate(timeout=SECONDS)
            equal((command.returncode, output, errors), (0, "vm1\n", ""))


def test_programs_survive_an_upgrade():
    with Manager() as host:
        host.start()
        done = host.run("run", "--region", "probe", "--size", "4K", "true")
        if done.returncode != 0:
            raise Skip(done.stderr.strip())
        with Program(host) as program:
            program.map()
            wait_for_pid(host, program.process.pid)
            equal(program.say("write 0 16 1"), "ok")
            for seed in [2, 3]:
                host.restart()
                # Not "comes back some time": it was in the queue already.
                wait_for_pid(host, program.process.pid)
                equal(program.say(f"check 0 16 {seed - 1}"), "ok")
                equal(program.say(f"write 0 16 {seed}"), "ok")
            program.end()
            wait_for_pid(host, None)


def test_group_is_that_of_the_socket():
    needs_root()
    with Manager() as host:
        os.chown(host.socket, 0, 65534)
        host.start()
        member = ["setpriv", "--reuid=1234", "--regid=4321", "--groups=65534", MEMFERRY, "list"]
        stranger = ["setpriv", "--reuid=1234", "--regid=4321", "--clear-groups", MEMFERRY, "list"]
        host.socket.chmod(0o666)
        equal(run(member, env=host.environment()).returncode, 0)
        contains(run(stranger, env=host.environment()).stderr, "refused")
        # The other services' socket is for the same people.
        equal((host.runtime / "peer.sock").stat().st_gid, 65534)


def test_tcp_is_kept():
    with Manager() as host:
        port = free_port()
        host.start("--listen", f"tcp://127.0.0.1:{port}")
        equal(list(host.store), [f"memferry-127.0.0.1-{port}"])
        true(is_shown_out(knock(port)), "nobody is there")
        # Killed, not asked.
        host.kill()
        waiting = knock(port)
        host.start("--listen", f"tcp://127.0.0.1:{port}")
        true(is_shown_out(waiting), "who has waited is not served")
        equal(listening_ports(host.process.pid), [port])
        true(not any("FDSTORE=1" in lines for lines in host.heard), "what is in the store already is stored again")


def test_tcp_is_kept_with_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
            port = free.getsockname()[1]
    except OSError as error:
        raise Skip(f"no IPv6: {error}") from error
    with Manager() as host:
        host.start("--listen", f"tcp://[::1]:{port}")
        equal(list(host.store), [f"memferry-__1-{port}"])
        host.restart("--listen", f"tcp://[::1]:{port}")
        equal(listening_ports(host.process.pid), [port])
        equal(list(host.store), [f"memferry-__1-{port}"])


def test_address_that_is_configured_no_more():
    with Manager() as host:
        old, new = free_port(), free_port()
        host.start("--listen", f"tcp://127.0.0.1:{old}")
        host.restart("--listen", f"tcp://127.0.0.1:{new}")
        equal(list(host.store), [f"memferry-127.0.0.1-{new}"])
        equal(listening_ports(host.process.pid), [new])
        try:
            socket.create_connection(("127.0.0.1", old)).close()
            raise AssertionError("somebody still listens at the old address")
        except ConnectionRefusedError:
            pass


def test_start_that_fails_forgets_nothing():
    with Manager() as host:
        port = free_port()
        host.start("--listen", f"tcp://127.0.0.1:{port}")
        stop(host)
        try:
            host.start("--listen", "nonsense")
        except RuntimeError as error:
            contains(str(error), "nonsense")
        else:
            raise AssertionError("it listens at nonsense")
        host.process = None
        true(not any("FDSTOREREMOVE=1" in lines for lines in host.heard), "it forgets what the next start needs")
        host.start("--listen", f"tcp://127.0.0.1:{port}")
        true(is_shown_out(knock(port)), "nobody is there")


def test_sockets_that_are_for_nobody():
    with Manager() as host, socket.socket(socket.AF_UNIX) as other, open(os.devnull, "rb") as file:
        other.bind(str(host.root / "elsewhere.sock"))
        other.listen()
        host.start(also=[("other.socket", other.fileno()), ("file", file.fileno())])
        text = host.log.read_text()
        contains(text, f"{host.root}/elsewhere.sock", "other.socket", "(file) of the service manager is no listening")
        equal(host.do("list", "--quiet"), "")


def test_signs_of_life():
    with Manager() as host:
        host.start(watchdog_usec=100000)
        host.wait_heard("WATCHDOG=1", times=5)


def test_it_tells_that_it_ends():
    with Manager() as host:
        host.start()
        stop(host)
        host.hear_all()
        equal(host.heard[-1], ["STOPPING=1"])
