# SPDX-License-Identifier: LGPL-2.1-or-later
"""What memferry serve says when it can't."""

import os
import socket

from nbdlab import MEMFERRY, check, free_port, memferry_serve, refused, run, server, unix_uri


def said(text, *words):
    for word in words:
        check(word in text, f"no '{word}' in: {text}")


def case_missing_file(folder):
    """a file that isn't there"""
    said(refused(MEMFERRY, "serve", f"file:{folder}/none", "--at", unix_uri(f"{folder}/s")), f"{folder}/none", "No such file")
    check(not os.path.exists(f"{folder}/s"), "a socket was left behind")


def case_permission(folder):
    """a file that may not be read"""
    with open(f"{folder}/a", "wb") as file:
        file.truncate(4096)
    os.chmod(f"{folder}/a", 0)
    command = [MEMFERRY, "serve", f"file:{folder}/a", "--at", unix_uri(f"{folder}/s")]
    if os.getuid() == 0:
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    said(refused(*command), f"{folder}/a", "Permission denied")


def case_not_a_file(folder):
    """a folder, a FIFO and an empty file"""
    os.mkfifo(f"{folder}/fifo")
    open(f"{folder}/empty", "wb").close()
    for name in (".", "fifo", "empty"):
        said(refused(MEMFERRY, "serve", f"file:{folder}/{name}", "--at", unix_uri(f"{folder}/s")), folder)


def case_bad_backend(folder):
    """backends that make no sense"""
    for backend, word in (("memory:", "size"), ("memory:0", "0"), ("memory:-1", "-1"), ("memory:12Q", "12Q"),
                          ("memory:99999999999T", "99999999999T"), ("memory:8388607T", ""), ("a.img", "file:PATH"),
                          ("tape:0", "file:PATH")):
        said(refused(MEMFERRY, "serve", backend, "--at", unix_uri(f"{folder}/s")), word)


def case_bad_uri(folder):
    """URIs that make no sense"""
    for uri in ("", "nbd", "nbd:", "nbd://", "nbd:///", "nbd://127.0.0.1:0/", "nbd://127.0.0.1:65536/", "nbd://127.0.0.1:x/",
                "http://127.0.0.1/", "nbds://127.0.0.1/", "nbd+unix://", "nbd+unix:///", "nbd+unix:///?socket=",
                "nbd+unix://host/?socket=/tmp/x", f"nbd+unix:///?socket=/tmp/{'x' * 120}", "nbd://u@127.0.0.1/",
                "nbd://127.0.0.1/?socket=/tmp/x", "nbd://host.invalid/", "nbd://192.0.2.1:10999/"):
        refused(MEMFERRY, "serve", "memory:1M", "--at", uri)
    said(refused(MEMFERRY, "serve", "memory:1M"), "--at")
    said(refused(MEMFERRY, "serve", "--at", unix_uri(f"{folder}/s")), "BACKEND")
    said(refused(MEMFERRY, "serve", "memory:1M", "--name", "a", "--at", unix_uri(f"{folder}/s", "b")), "--name")


def case_port_in_use(folder):
    """a port that somebody listens at"""
    port = free_port()
    with server([MEMFERRY, "serve", "memory:1M", "--at", f"nbd://127.0.0.1:{port}/"], ("127.0.0.1", port)):
        said(refused(MEMFERRY, "serve", "memory:1M", "--at", f"nbd://127.0.0.1:{port}/"), str(port), "in use")


def case_socket_in_use(folder):
    """a socket that somebody listens at stays his"""
    with memferry_serve("memory:1M", folder) as uri:
        said(refused(MEMFERRY, "serve", "memory:2M", "--at", uri), "ours.sock")
        check(run("nbdinfo", "--size", uri) == "1048576\n", "the first one is gone")


def case_stale_socket(folder):
    """a socket that a dead server left behind is replaced"""
    left = socket.socket(socket.AF_UNIX)
    left.bind(f"{folder}/ours.sock")
    left.close()
    with memferry_serve("memory:1M", folder) as uri:
        check(run("nbdinfo", "--size", uri) == "1048576\n", "size")


def case_file_in_the_way(folder):
    """a file where the socket should be is left alone"""
    with open(f"{folder}/ours.sock", "w", encoding="ascii") as file:
        file.write("precious")
    said(refused(MEMFERRY, "serve", "memory:1M", "--at", unix_uri(f"{folder}/ours.sock")), "not a socket")
    check(open(f"{folder}/ours.sock", encoding="ascii").read() == "precious", "it was overwritten")


def case_no_such_folder(folder):
    """a socket in a folder that isn't there"""
    said(refused(MEMFERRY, "serve", "memory:1M", "--at", unix_uri(f"{folder}/no/s")), "No such file")


def case_help(folder):
    """--help, and words too many"""
    check("--read-only" in run(MEMFERRY, "serve", "--help"), "--help")
    said(refused(MEMFERRY, "serve", "memory:1M", "b", "--at", "nbd://h/"), "too many")
    check("serve" in run(MEMFERRY, "--help"), "memferry --help does not name it")


def case_quiet(folder):
    """nothing is said on a pipe"""
    path = os.path.join(folder, "s")
    with server([MEMFERRY, "serve", "memory:1M", "--at", unix_uri(path)], path) as process:
        run("nbdinfo", unix_uri(path))
        process.terminate()
        check(process.stdout.read() == "", "something was said")
