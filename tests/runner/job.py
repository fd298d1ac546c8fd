# SPDX-License-Identifier: LGPL-2.1-or-later
"""One program that is run and judged by its TAP, in a process group and a temporary folder of its own."""
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import tap


@dataclass
class Job:
    name: str  # "normal/region"
    command: list
    environment: dict = field(default_factory=dict)
    folder: str = None
    timeout: float = 60  # seconds
    alone: bool = False  # nothing else may run meanwhile
    skip: str = None  # why it is not run at all


@dataclass
class Result:
    job: Job
    outcome: tap.Outcome
    seconds: float
    log: Path = None


def log_path(logs, job):
    return logs / (job.name.replace("/", "-") + ".log")


def end_group(process):
    """What a test left running must not disturb the next one."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def run(job, logs):
    if job.skip:
        return Result(job, tap.Outcome(skipped=[job.skip]), 0)
    log = log_path(logs, job)
    # Short: the paths of sockets have room for 107 bytes.
    scratch = tempfile.mkdtemp(prefix="mft-")
    # Tests run programs as other users.
    os.chmod(scratch, 0o755)
    environment = dict(os.environ, **job.environment, TMPDIR=scratch)
    begin = time.monotonic()
    timed_out = False
    try:
        with log.open("wb") as errors, open(str(log) + ".tap", "wb") as output:
            process = subprocess.Popen(job.command, cwd=job.folder, env=environment, stdin=subprocess.DEVNULL,
                                       stdout=output, stderr=errors, start_new_session=True)
            try:
                status = process.wait(job.timeout)
            except subprocess.TimeoutExpired:
                timed_out = True
                # A chance to clean up (network namespaces, guests) before the end.
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    status = process.wait(20)
                except subprocess.TimeoutExpired:
                    end_group(process)
                    status = process.wait()
            finally:
                end_group(process)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    text = Path(str(log) + ".tap").read_text(errors="replace")
    return Result(job, tap.read(text, status, timed_out), time.monotonic() - begin, log)
