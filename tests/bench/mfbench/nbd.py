# SPDX-License-Identifier: LGPL-2.1-or-later
"""An NBD server of somebody else's, to compare with."""
import os
import socket

from mfvm.deadline import wait_until


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Nbdkit:
    """nbdkit with one plugin, on a UNIX socket or on the loopback; use as a context manager, `uri` is where it is."""

    def __init__(self, host, link, *plugin):
        self.host = host
        self.link = link
        self.plugin = plugin

    def __enter__(self):
        pid_file = os.path.join(self.host.scratch, "nbdkit.pid")
        self.leavings = [pid_file]
        if self.link == "unix":
            path = os.path.join(self.host.scratch, "nbdkit.sock")
            where, self.uri = ["--unix", path], f"nbd+unix:///?socket={path}"
            self.leavings.append(path)
        else:
            port = free_port()
            where, self.uri = ["--ip-addr", "127.0.0.1", "--port", str(port)], f"nbd://127.0.0.1:{port}"
        # It writes its process id when it listens.
        self.process = self.host.start("nbdkit", "--foreground", "--pidfile", pid_file, *where, *self.plugin)
        wait_until(lambda: os.path.exists(pid_file), 10, "nbdkit")
        return self

    def __exit__(self, *_):
        self.host.stop(self.process)
        for path in self.leavings:
            if os.path.exists(path):
                os.unlink(path)
