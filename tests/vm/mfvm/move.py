# SPDX-License-Identifier: LGPL-2.1-or-later
"""Follows a `memferry migrate --json`, which prints an object of its job whenever something changes."""

import json
import os
import select
import signal

from .deadline import Deadline, TooLate


class Move:
    """process  from Service.start_migration()
    job      the last object that it printed: "stage", "state", "round", "bytes", ...; empty before the first
    stages   the names of the stages that were seen, in order
    """

    def __init__(self, process):
        self.process = process
        self.job = {}
        self.stages = []
        self._rest = b""

    def wait(self, condition, what, seconds=60):
        """Returns the job as soon as `condition(job)` is true, asked after each line; RuntimeError when the command ends first."""
        deadline = Deadline(seconds, what)
        while not (self.job and condition(self.job)):
            try:
                alive = self.read(deadline.left())
            except TooLate as late:
                raise TooLate(f"{late}; the last of it: {self.job}") from None
            if not alive and not (self.job and condition(self.job)):
                raise RuntimeError(f"memferry migrate ended before {what}: {self.finish()[1] or self.job}")
        return self.job

    def wait_stage(self, stage, seconds=60):
        return self.wait(lambda job: job["stage"] == stage, f"stage {stage}", seconds)

    def finish(self, seconds=120):
        """Waits for the end. Returns (exit status, what was printed on standard error)."""
        deadline = Deadline(seconds, "end of memferry migrate")
        try:
            while self.read(deadline.left()):
                pass
        except TooLate as late:
            self.process.kill()
            raise TooLate(f"{late}; the last of it: {self.job}") from None
        error = self.process.stderr.read().strip()
        self.process.stdout.close()
        self.process.stderr.close()
        return self.process.wait(), error

    def interrupt(self):
        """^C."""
        self.process.send_signal(signal.SIGINT)

    def read(self, seconds):
        """Reads what comes within `seconds`. False: the command has closed its output."""
        output = self.process.stdout.fileno()
        if not select.select([output], [], [], seconds)[0]:
            return True
        data = os.read(output, 65536)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self.job = json.loads(line)
            if not self.stages or self.stages[-1] != self.job["stage"]:
                self.stages.append(self.job["stage"])
        return bool(data)
