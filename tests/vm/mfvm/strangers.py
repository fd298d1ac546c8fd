# SPDX-License-Identifier: LGPL-2.1-or-later
"""Servers that are not what their clients expect."""

import json
import os
import socket
import struct
import threading

_PREFACE = struct.Struct(">8s4I16s2I")


class Stranger:
    """Listens at a TCP port of 127.0.0.1, or at the UNIX socket `path`, and gives each connection to `talk(connection)` in a thread
    of its own. A context manager. `peer` is what memferry migrate --to takes."""

    def __init__(self, talk, path=None):
        self._talk = talk
        self._path = path
        self._server = None
        self._connections = []

    def __enter__(self):
        if self._path:
            self._server = socket.socket(socket.AF_UNIX)
            self._server.bind(self._path)
            self._server.listen()
            self.peer = f"unix:{self._path}"
        else:
            self._server = socket.create_server(("127.0.0.1", 0))
            self.peer = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        # Closing alone does not wake up who waits in accept() or recv().
        for end in (self._server, *self._connections):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()
        if self._path:
            os.unlink(self._path)

    def _serve(self):
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection):
        try:
            self._talk(connection)
        except OSError:
            pass  # the client has left, or the test has ended


def greet(text):
    """Says something first and then listens, as a mail or SSH server."""

    def talk(connection):
        connection.sendall(text)
        while connection.recv(4096):
            pass

    return talk


def answer(text):
    """Answers once and closes, as an HTTP server."""

    def talk(connection):
        connection.recv(4096)
        connection.sendall(text)
        connection.close()

    return talk


def hang_up(connection):
    connection.close()


def stay_silent(connection):
    while connection.recv(4096):
        pass


def of_version(version):
    """A service of another version, which can't talk to any older one."""

    def talk(connection):
        preface = b""
        while len(preface) < _PREFACE.size:
            preface += connection.recv(_PREFACE.size - len(preface))
        magic, _, _, kind, _, session, index, lane = _PREFACE.unpack(preface)
        # Flags 4: "version", the status by which the acceptor refuses.
        connection.sendall(_PREFACE.pack(magic, version, version, kind, 4, session, index, lane))
        while connection.recv(4096):
            pass

    return talk


def refusing_monitor(connection):
    """QEMU's monitor, as far as its greeting."""
    _send(connection, {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": ""}, "capabilities": []}})
    buffer = b""
    while data := connection.recv(4096):
        *lines, buffer = (buffer + data).split(b"\n")
        for line in filter(bytes.strip, lines):
            message = json.loads(line)
            answer_ = {"error": {"class": "GenericError", "desc": "not today"}}
            if message["execute"] == "qmp_capabilities":
                answer_ = {"return": {}}
            if "id" in message:
                answer_["id"] = message["id"]
            _send(connection, answer_)


def _send(connection, message):
    connection.sendall(json.dumps(message).encode() + b"\r\n")
