# SPDX-License-Identifier: LGPL-2.1-or-later
"""memferry's own ways of moving bytes, without the service around them."""
import json
import os
import subprocess

from mfvm.deadline import wait_until

from .host import BenchError
from .nbd import free_port
from .stages import PROGRAM


class Ferry:
    """bench-serve: an NBD server that has file `source`, and what serves the program that maps `region` from it; both on one
    side of `connections` bulk connections and one for faults. Use as a context manager."""

    def __init__(self, host, link, connections, source, region, precopy=False):
        self.host = host
        self.region = region
        self.socket = os.path.join(host.scratch, "handover")
        self.command = [host.program("bench-serve"), *["--precopy"] * precopy, link, str(connections), source, region,
                        self.socket]

    def __enter__(self):
        self.process = self.host.start(*self.command, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            raise BenchError(f"{' '.join(self.command)}: did not get ready")
        return self

    def __exit__(self, *_):
        self.process.stdout.close()
        self.host.stop(self.process)

    def touch(self, touches, *options, parts=None):
        """Runs the program that maps the region, and returns what it measured; None when it was only to map it. `parts` gets its pid."""
        environment = {**os.environ, "LD_PRELOAD": os.path.join(self.host.build, "src/preload/libmemferry-preload.so"),
                       "MEMFERRY_HANDOVER": self.socket, "MEMFERRY_REGION_FILE": self.region}
        printed = self.host.output(self.host.program("bench-touch"), "--touches", str(touches), *map(str, options),
                                   self.region, environment=environment,
                                   started=(lambda pid: parts.update({pid: PROGRAM})) if parts is not None else None)
        return json.loads(printed) if touches else None

    def measured(self):
        """What the ferry itself has measured, once its program has ended."""
        return json.loads(self.process.stdout.readline())


class Serve:
    """`memferry serve` of a file; use as a context manager, `uri` is where it is."""

    def __init__(self, host, link, path):
        self.host = host
        self.link = link
        self.path = path

    def __enter__(self):
        socket = os.path.join(self.host.scratch, "serve.sock")
        self.uri = f"nbd+unix:///?socket={socket}" if self.link == "unix" else f"nbd://127.0.0.1:{free_port()}/"
        self.process = self.host.start(os.path.join(self.host.build, "src/cli/memferry"), "serve",
                                       f"file:{self.path}", "--at", self.uri)
        wait_until(self.answers, 10, "memferry serve")
        return self

    def answers(self):
        if self.process.poll() is not None:
            raise BenchError(f"memferry serve ended with {self.process.returncode}")
        return subprocess.run(["nbdinfo", "--size", self.uri], capture_output=True, check=False).returncode == 0

    def __exit__(self, *_):
        self.host.stop(self.process)
