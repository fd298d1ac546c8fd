# SPDX-License-Identifier: LGPL-2.1-or-later
"""What goes wrong is one line that says what, where, and what to do."""

import os
import socket
import threading

from mfcli.check import contains, equal, fails, needs_root
from mfcli.host import MEMFERRY, SCRIPTED, Host, run

ALL = [
    ["list"],
    ["show", "vm1"],
    ["create", "vm1", "--size", "1M"],
    ["remove", "vm1"],
    ["jobs"],
    ["cancel", "1"],
    ["watch"],
    ["migrate", "vm1", "--to", "tcp://b"],
    ["run", "--region", "vm1", "true"],
]


def test_no_service():
    for words in ALL:
        with Host() as host:
            fails(host.run(*words), f"memferry {words[0]}: ", str(host.socket), "memferryd", "--socket")


def test_service_that_was_killed():
    with Host(SCRIPTED) as host:
        host.start().kill()
        fails(host.run("list"), str(host.socket), "start memferryd")


def test_folder_that_is_not_there():
    fails(run([MEMFERRY, "list", "--runtime-dir", "/nonexistent"]), "/nonexistent/memferry.sock")


def test_socket_path_that_is_too_long():
    fails(run([MEMFERRY, "list", "--socket", "/" + "x" * 200]), "too long")


def test_socket_without_permission():
    needs_root()
    with Host(SCRIPTED) as host:
        host.start()
        done = run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", MEMFERRY, "list"],
                   env=host.environment())
        fails(done, str(host.socket), "no permission", "group")


def test_something_else_at_the_socket():
    with Host() as host:
        host.runtime.mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(host.socket))
            listener.listen()

            def answer():
                stream, _ = listener.accept()
                stream.sendall(b"220 welcome to something else\r\n")
                stream.close()

            thread = threading.Thread(target=answer)
            thread.start()
            fails(host.run("list"), str(host.socket))
            thread.join()


def test_no_command():
    fails(run([MEMFERRY]), "command is missing", "--help")


def test_unknown_command():
    fails(run([MEMFERRY, "frobnicate"]), "frobnicate", "--help")


def test_unknown_option():
    for words in ALL:
        fails(run([MEMFERRY, words[0], "--frobnicate"]), f"memferry {words[0]}: ", "--frobnicate", "--help")
    fails(run([MEMFERRY, "--frobnicate", "list"]), "memferry: ", "--frobnicate")


def test_missing_words():
    for words, missing in [
        (["show"], "REGION"),
        (["remove"], "REGION"),
        (["create", "--size", "1M"], "REGION"),
        (["create", "vm1"], "--size"),
        (["cancel"], "JOB"),
        (["migrate", "--to", "tcp://b"], "REGION"),
        (["migrate", "vm1"], "--to"),
        (["run", "true"], "--region"),
        (["run", "--region", "vm1"], "PROGRAM"),
        (["run", "--region", "vm1", "--"], "PROGRAM"),
    ]:
        fails(run([MEMFERRY, *words]), missing, "missing", "--help")


def test_one_of_the_hosts_is_this_one():
    fails(run([MEMFERRY, "migrate", "vm1", "--to", "tcp://a", "--from", "tcp://b"]), "--to and --from")
    fails(run([MEMFERRY, "migrate", "vm1", "--from", "tcp://b", "--program", "libvirt"]), "--from", "libvirt")


def test_too_many_words():
    for words in [["list", "x"], ["show", "a", "b"], ["create", "a", "b", "--size", "1M"], ["jobs", "1"],
                  ["cancel", "1", "2"], ["watch", "vm1"]]:
        fails(run([MEMFERRY, *words]), "too many words")


def test_impossible_values():
    for words, parts in [
        (["create", "vm1", "--size", "0"], ["0 is not a size", "K, M, G"]),
        (["create", "vm1", "--size", "1X"], ["1X is not a size"]),
        (["create", "vm1", "--size", "99999999999T"], ["is not a size"]),
        (["run", "--region", "vm1", "--size", "many", "true"], ["many is not a size"]),
        (["migrate", "vm1", "--to", "tcp://b", "--mode", "fast"], ["--mode", "fast", "auto, precopy or postcopy"]),
        (["migrate", "vm1", "--to", "tcp://b", "--max-downtime", "soon"], ["--max-downtime", "soon", "milliseconds"]),
        (["migrate", "vm1", "--to", "tcp://b", "--max-downtime", "0"], ["--max-downtime"]),
        (["migrate", "vm1", "--to", "tcp://b", "--max-pause", "-5"], ["--max-pause"]),
        (["migrate", "vm1", "--to", "tcp://b", "--max-pauses", "-1"], ["--max-pauses"]),
        (["migrate", "vm1", "--to", "tcp://b", "--bandwidth", "1Gbit"], ["--bandwidth", "1Gbit is not a rate"]),
        (["migrate", "vm1", "--to", "tcp://b", "--peer-qmp", "relative"], ["--peer-qmp", "full path"]),
        (["run", *["--region=x"] * 9, "true"], ["at most 8"]),
    ]:
        fails(run([MEMFERRY, *words]), *parts)


def test_unknown_region():
    with Host(SCRIPTED) as host:
        host.start()
        for words in [["show", "vm1"], ["remove", "vm1"], ["migrate", "vm1", "--to", "tcp://b"],
                      ["run", "--region", "vm1", "true"]]:
            fails(host.run(*words), "vm1: there is no such region")


def test_unknown_job():
    with Host(SCRIPTED) as host:
        host.start()
        fails(host.run("cancel", "77"), "77: there is no such job", "memferry jobs")
        for number in ["x", "-1", "0", "1x", "99999999999"]:
            fails(host.run("cancel", "--", number), "is not a job")


def test_output_that_can_not_be_written():
    with Host(SCRIPTED) as host:
        host.start()
        with open("/dev/full", "w") as full:
            process = host.begin("list", stdout=full)
            _, errors = process.communicate()
        equal(process.returncode, 1)
        contains(errors, "memferry list: standard output: No space left")


def test_line_breaks_stay_out_of_errors():
    fails(run([MEMFERRY, "create", "vm1", "--size", "1\n2"]), "1 2 is not a size")


def test_other_language():
    """Messages are ours, in one language: a translated half would be of no use to anybody."""
    environment = {**os.environ, "LC_ALL": "de_DE.UTF-8", "LANGUAGE": "de"}
    fails(run([MEMFERRY, "list", "--frobnicate"], env=environment), "Unknown option")
