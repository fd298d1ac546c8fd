# SPDX-License-Identifier: LGPL-2.1-or-later
"""A client of QEMU's monitor protocol: a few lines, one thread, every message stamped when it came."""

import json
import socket
import time

from .deadline import Deadline, wait_until


class QmpError(Exception):
    """QEMU refused a command or closed the connection."""


class Qmp:
    """One connection. `events` holds what came and was not yet waited for; each event is QEMU's object with "at" added: the
    host's monotonic time in seconds at which it was read."""

    def __init__(self, path, seconds=20):
        """Connects as soon as QEMU listens at `path`."""
        self.events = []
        self._buffer = b""
        self._socket = wait_until(lambda: _connect(path), seconds, f"QEMU monitor at {path}")
        self._receive(Deadline(seconds, "QMP greeting"))
        self.execute("qmp_capabilities")

    def close(self):
        self._socket.close()

    def execute(self, command, arguments=None, seconds=30):
        """Sends `command` and returns its result. Events that come before it are kept."""
        self.send(command, arguments)
        return self.reply(command, seconds)

    def send(self, command, arguments=None):
        """Only sends; reply() must follow."""
        message = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        self._socket.settimeout(None)
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def reply(self, command, seconds=30):
        deadline = Deadline(seconds, f"answer to {command}")
        while True:
            message = self._receive(deadline)
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise QmpError(f"{command}: {message['error']['desc']}")
            else:
                return message["return"]

    def wait_event(self, name, seconds=30, match=lambda data: True):
        """Takes the first event `name` whose data `match`es, also one that has come already, and returns it."""
        deadline = Deadline(seconds, f"event {name}")
        while True:
            for event in self.events:
                if event["event"] == name and match(event.get("data", {})):
                    self.events.remove(event)
                    return event
            message = self._receive(deadline)
            if "event" in message:
                self.events.append(message)

    def _receive(self, deadline):
        while b"\n" not in self._buffer:
            self._socket.settimeout(deadline.left())
            try:
                data = self._socket.recv(65536)
            except socket.timeout:
                continue
            except ConnectionResetError:
                data = b""
            if not data:
                raise QmpError(f"QEMU closed its monitor while {deadline.what} was waited for")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        message = json.loads(line)
        if "event" in message:
            message["at"] = time.monotonic()
        return message


def _connect(path):
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    return connection
