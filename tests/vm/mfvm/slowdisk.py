# SPDX-License-Identifier: LGPL-2.1-or-later
"""A disk whose answers take time, as storage across a network has it.

QEMU can open it with O_DIRECT (disk_options="cache=none,aio=threads"): reads are then under way for that long with the guest's
pages pinned, and land in them without the guest's, or QEMU's, doing. An NBD disk that QEMU itself speaks to is no
substitute: there QEMU's own thread writes the pages. Needs root, for the mount.
"""

import os
import subprocess

from .deadline import wait_until
from .nbdkit import Nbdkit


class SlowDisk:
    """`image`, each read of which takes `delay` ("600ms"), as the file `path`. A context manager. `folder` takes its sockets."""

    def __init__(self, folder, image, delay):
        self.path = os.path.join(folder, "slow-disk")
        self._server = Nbdkit(
            os.path.join(folder, "slow-disk.sock"), "--filter=delay", "file", image, f"rdelay={delay}", "-t", "64"
        )
        self._fuse = None

    def __enter__(self):
        with open(self.path, "wb"):
            pass
        self._server.__enter__()
        try:
            self._fuse = subprocess.Popen(["nbdfuse", self.path, self._server.uri], stdin=subprocess.DEVNULL)
            wait_until(self._mounted, 20, f"disk at {self.path}")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Whoever has the disk open must have ended."""
        if self._fuse:
            subprocess.run(["umount", "--lazy", self.path], stderr=subprocess.DEVNULL, check=False)
            self._fuse.terminate()
            self._fuse.wait()
        self._server.close()

    def _mounted(self):
        if self._fuse.poll() is not None:
            raise RuntimeError(f"nbdfuse {self.path}: exited with {self._fuse.returncode}")
        return os.stat(self.path).st_size > 0
