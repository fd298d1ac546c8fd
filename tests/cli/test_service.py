# SPDX-License-Identifier: LGPL-2.1-or-later
"""memferryd: folders, locks, configuration, and who may use it."""

import os
import pwd
import signal
import socket
import stat

from mfcli.check import Skip, contains, equal, fails, needs_root, true
from mfcli.host import MEMFERRY, MEMFERRYD, Host, run


def without_service_name(done):
    """memferryd fails like the command does."""
    fails(done)
    contains(done.stderr, "memferryd: ")
    return done.stderr


def test_two_services_at_once():
    with Host() as first, Host() as second:
        first.start()
        second.start()
        first.do("create", "vm1", "--size", "1M")
        second.do("create", "vm1", "--size", "2M")
        second.do("create", "vm2", "--size", "2M")
        equal(first.do("list", "--quiet"), "vm1\n")
        equal(second.do("list", "--quiet"), "vm1\nvm2\n")
        equal(first.region("vm1")["size_bytes"], 1 << 20)


def test_one_service_for_a_runtime_folder():
    with Host() as host:
        host.start()
        text = without_service_name(run([MEMFERRYD, "--runtime-dir", host.runtime, "--store-dir", host.root / "other"]))
        contains(text, f"pid {host.process.pid}", str(host.runtime), "--runtime-dir")
        equal(host.do("list", "--quiet"), "")


def test_one_service_for_a_store_folder():
    with Host() as host:
        host.start()
        text = without_service_name(run([MEMFERRYD, "--runtime-dir", host.root / "other", "--store-dir", host.stores]))
        contains(text, f"pid {host.process.pid}", str(host.stores), "--store-dir")


def test_end_leaves_nothing():
    for number in [signal.SIGTERM, signal.SIGINT]:
        with Host() as host:
            host.start()
            host.process.send_signal(number)
            equal(host.process.wait(30), 0)
            host.process = None
            equal(os.listdir(host.runtime), [])
            equal(os.listdir(host.stores), [])


def test_start_after_kill():
    """Stale sockets and locks are no obstacle."""
    with Host() as host:
        host.start().kill()
        true(host.socket.exists(), "no stale socket: the test proves nothing")
        host.start()
        equal(host.do("list", "--quiet"), "")


def test_socket_modes():
    with Host() as host:
        host.start()
        equal(stat.S_IMODE(host.socket.stat().st_mode), 0o660)
        equal(stat.S_IMODE((host.runtime / "peer.sock").stat().st_mode) & 0o007, 0, "peer.sock for others")
        equal(stat.S_IMODE(host.runtime.stat().st_mode), 0o755)


def test_members_of_the_group():
    needs_root()
    with Host() as host:
        config = host.root / "conf"
        config.write_text("[service]\ngroup=nogroup\n")
        host.start("--config", config)
        member = ["setpriv", "--reuid=1234", "--regid=4321", "--groups=65534", MEMFERRY, "list"]
        stranger = ["setpriv", "--reuid=1234", "--regid=4321", "--clear-groups", MEMFERRY, "list"]
        equal(run(member, env=host.environment()).returncode, 0)
        fails(run(stranger, env=host.environment()), "no permission")
        # Also when the socket's mode lets them pass.
        host.socket.chmod(0o666)
        fails(run(stranger, env=host.environment()), "refused")
        equal(run(member, env=host.environment()).returncode, 0)


def test_region_belongs_to_who_made_it():
    needs_root()
    with Host() as host:
        config = host.root / "conf"
        config.write_text("[service]\ngroup=nogroup\n")
        host.start("--config", config)
        done = run(["setpriv", "--reuid=1234", "--regid=4321", "--groups=65534", MEMFERRY, "create", "vm1", "--size",
                    "1M"], env=host.environment())
        equal((done.returncode, done.stderr), (0, ""))
        equal((host.stores / "vm1").stat().st_uid, 1234)


def test_without_root():
    needs_root()
    with Host() as host:
        nobody = pwd.getpwnam("nobody")
        os.chown(host.root, nobody.pw_uid, nobody.pw_gid)
        os.chown(host.stores, nobody.pw_uid, nobody.pw_gid)
        true(os.access(MEMFERRYD, os.X_OK), "")
        command = host.command
        host.command = lambda *o: ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}",
                                   "--clear-groups", *command(*o)]
        reachable = run(["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups",
                         MEMFERRYD, "--version"])
        if reachable.returncode != 0:
            raise Skip("the build is in a folder that others may not enter")
        host.start()
        host.do("create", "vm1", "--size", "1M")
        equal((host.stores / "vm1").stat().st_uid, nobody.pw_uid)


def test_tcp_is_off_unless_named():
    with Host() as host:
        host.start()
        equal(listening_ports(host.process.pid), [])
        host.stop()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        host.start("--listen", f"tcp://127.0.0.1:{port}")
        equal(listening_ports(host.process.pid), [port])
        host.stop()
        config = host.root / "conf"
        config.write_text(f"[listen]\naddresses=tcp://127.0.0.1:{port};unix:{host.root}/extra.sock\n")
        host.start("--config", config)
        equal(listening_ports(host.process.pid), [port])
        true((host.root / "extra.sock").is_socket(), "no extra.sock")


def listening_ports(pid):
    """TCP ports at which the process listens."""
    inodes = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            inodes.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            pass
    ports = []
    for table in ["tcp", "tcp6"]:
        with open(f"/proc/{pid}/net/{table}") as lines:
            for line in list(lines)[1:]:
                words = line.split()
                if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
                    ports.append(int(words[1].rsplit(":", 1)[1], 16))
    return sorted(ports)


def test_address_that_can_not_be():
    with Host() as host:
        for peer in ["nonsense", "tcp://", "http://x", "unix:", "tcp://127.0.0.1:99999"]:
            without_service_name(run(host.command("--listen", peer)))
            equal(os.listdir(host.runtime), [])


def test_address_that_is_taken():
    with Host() as host, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        contains(without_service_name(run(host.command("--listen", f"tcp://127.0.0.1:{port}"))), str(port))


def test_configuration_that_is_wrong():
    with Host() as host:
        config = host.root / "conf"
        config.write_text("[listen]\nadresses=tcp://10.0.0.1\n")
        contains(without_service_name(run(host.command("--config", str(config)))), "adresses", str(config))
        contains(without_service_name(run(host.command("--config", str(host.root / "none")))), "none")
        config.write_text("[service]\ngroup=no-such-group\n")
        contains(without_service_name(run(host.command("--config", str(config)))), "no-such-group")


def test_words_that_are_wrong():
    with Host() as host:
        contains(without_service_name(run(host.command("--frobnicate"))), "--frobnicate", "--help")
        contains(without_service_name(run(host.command("start"))), "start")


def test_runtime_folder_that_is_too_long():
    with Host() as host:
        text = without_service_name(run([MEMFERRYD, "--runtime-dir", host.root / ("x" * 100), "--store-dir",
                                         host.stores]))
        contains(text, "too long")


def test_version():
    for program in [MEMFERRY, MEMFERRYD]:
        done = run([program, "--version"])
        equal(done.returncode, 0)
        true(done.stdout.startswith(f"{program.name} ") and done.stdout[len(program.name) + 1].isdigit(), done.stdout)
