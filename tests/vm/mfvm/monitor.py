# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stands between memferry and QEMU's monitor, lets everything through, and can refuse a command or keep it back."""

import array
import json
import mmap
import os
import select
import socket
import threading

from .deadline import Deadline


class Monitor:
    """A context manager. Listens at `path` for one client after the other, and connects to QEMU's monitor `upstream` for each.

    memory   the guest's memory file. Whoever serves a monitor is taken for the guest, and must have it mapped
    refused  the commands that get an error instead of being executed
    held     the commands that are kept back, from wait_held() on until let_go()
    """

    def __init__(self, path, upstream, memory, *, refused=(), held=()):
        self._path, self._upstream = path, upstream
        self._refused, self._held = set(refused), set(held)
        self._memory = memory
        self._mapping = None
        self._server = None
        self._ends = []
        self._client = None
        self._changed = threading.Condition()
        self._waiting = None
        self._free = False

    def __enter__(self):
        with open(self._memory, "r+b") as file:
            # Mapped, but never touched: that would allocate pages.
            self._mapping = mmap.mmap(file.fileno(), 0)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self._path)
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.let_go()
        for end in (self._server, *self._ends):
            _shut(end)
        os.unlink(self._path)
        self._mapping.close()

    def wait_held(self, seconds=60):
        """Waits until a command is kept back and returns its name."""
        deadline = Deadline(seconds, f"command {' or '.join(sorted(self._held))}")
        with self._changed:
            while not self._waiting:
                self._changed.wait(deadline.left())
            return self._waiting

    def wait_more(self, seconds=60):
        """Waits until the client has sent something after the command that is kept back: it waits for that one no more."""
        deadline = Deadline(seconds, "command after the one that is kept back")
        while not select.select([self._client], [], [], deadline.left())[0]:
            pass

    def let_go(self):
        """Lets through what is kept back, and what comes from now on."""
        with self._changed:
            self._free = True
            self._changed.notify_all()

    def _serve(self):
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            qemu = socket.socket(socket.AF_UNIX)
            self._ends += [client, qemu]
            self._client = client
            try:
                qemu.connect(self._upstream)
                back = threading.Thread(target=self._answers, args=(qemu, client), daemon=True)
                back.start()
                self._commands(client, qemu)
            except OSError:
                pass
            _shut(qemu)
            _shut(client)

    def _answers(self, qemu, client):
        try:
            while data := qemu.recv(65536):
                client.sendall(data)
        except OSError:
            pass
        _shut(client)

    def _commands(self, client, qemu):
        buffer = ""
        while True:
            data, ancillary, _, _ = client.recvmsg(65536, socket.CMSG_SPACE(64))
            if not data:
                return
            descriptors = _descriptors(ancillary)
            buffer += data.decode()
            while buffer.strip():
                try:
                    message, end = json.JSONDecoder().raw_decode(buffer.lstrip())
                except ValueError:
                    break  # only the beginning of it so far
                buffer = buffer.lstrip()[end:]
                self._command(message, descriptors, client, qemu)
                descriptors = []

    def _command(self, message, descriptors, client, qemu):
        name = message.get("execute")
        if name in self._refused:
            answer = {"error": {"class": "GenericError", "desc": f"{name} is refused by the test"}}
            if "id" in message:
                answer["id"] = message["id"]
            client.sendall(json.dumps(answer).encode() + b"\r\n")
        else:
            if name in self._held:
                self._keep_back(name)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
            qemu.sendmsg([json.dumps(message).encode() + b"\n"], rights)
        for descriptor in descriptors:
            os.close(descriptor)

    def _keep_back(self, name):
        with self._changed:
            self._waiting = name
            self._changed.notify_all()
            while not self._free:
                self._changed.wait()


def _descriptors(ancillary):
    found = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def _shut(end):
    """Also wakes up who waits for it in another thread."""
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    end.close()
