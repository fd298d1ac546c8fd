# SPDX-License-Identifier: LGPL-2.1-or-later
"""An nbdkit server on a UNIX socket."""

import os
import subprocess

from .deadline import wait_until


class Nbdkit:
    """Runs `nbdkit WORDS...` in the foreground, listening at `socket`. A context manager; `uri` is what clients dial."""

    def __init__(self, socket, *words, log=None, prefix=()):
        self.socket = socket
        self.uri = f"nbd+unix:///?socket={socket}"
        self._output = open(log, "ab") if log else subprocess.DEVNULL
        self._command = [*prefix, "nbdkit", "--foreground", "--exit-with-parent", "-U", socket, *words]
        self.process = None

    def __enter__(self):
        self.process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output
        )
        try:
            wait_until(self._listening, 20, f"nbdkit at {self.socket}")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.process.kill()
        self.process.wait()
        # It removes its socket when it ends by itself only.
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        if self._output is not subprocess.DEVNULL:
            self._output.close()

    def _listening(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"{' '.join(self._command)}: exited with {self.process.returncode}")
        return os.path.exists(self.socket)
