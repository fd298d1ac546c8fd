# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two hosts on one machine: network namespaces, joined by a veth pair. Needs root."""

import itertools
import json
import os
import signal
import subprocess

_numbers = itertools.count()


class HostPair:
    """Hosts "a" and "b". A context manager; leaving it ends every process that still runs in them and removes them.

    prefix[host]   words to put before a command so that it runs on that host; the file system is shared
    address[host]  its IPv4 address on the link
    """

    def __init__(self, name="mfvm"):
        stem = f"{name}-{os.getpid()}-{next(_numbers)}"
        self.names = {"a": f"{stem}a", "b": f"{stem}b"}
        self.address = {"a": "192.0.2.1", "b": "192.0.2.2"}
        self.prefix = {host: ["nsenter", f"--net=/run/netns/{ns}"] for host, ns in self.names.items()}

    def __enter__(self):
        try:
            for name in self.names.values():
                _run("ip", "netns", "add", name)
            a, b = self.names["a"], self.names["b"]
            _run("ip", "link", "add", "link0", "netns", a, "type", "veth", "peer", "name", "link0", "netns", b)
            for host in self.names:
                # Not `ip -n`: that mounts, and fails where / is no mount point, as in a chroot.
                _run(*self.prefix[host], "ip", "addr", "add", f"{self.address[host]}/24", "dev", "link0")
                _run(*self.prefix[host], "ip", "link", "set", "link0", "up")
                _run(*self.prefix[host], "ip", "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def shape(self, rate="1gbit"):
        """Limits the link to `rate` (as tc takes it) each way."""
        self._queue("tbf", "rate", rate, "burst", "256k", "latency", "50ms")

    def unshape(self):
        for prefix in self.prefix.values():
            _run(*prefix, "tc", "qdisc", "del", "dev", "link0", "root")

    def cut(self):
        """From now on everything sent is lost, and nobody is told, as when a cable is pulled far away. Taking the interface
        down would be noticed at once. The link is unshaped after mend()."""
        self._queue("bfifo", "limit", "0")

    def mend(self):
        self.unshape()

    def _queue(self, *words):
        for prefix in self.prefix.values():
            _run(*prefix, "tc", "qdisc", "replace", "dev", "link0", "root", *words)

    def sent_bytes(self, host):
        """What `host` has sent over the link, headers included."""
        command = [*self.prefix[host], "ip", "-json", "-stats", "link", "show", "dev", "link0"]
        output = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(output.stdout)[0]["stats64"]["tx"]["bytes"]

    def close(self):
        for name in self.names.values():
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
            for pid in pids.stdout.split():
                _kill(int(pid))
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
