# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds memferry in build-demo/, and the guest. Where MEMFERRY_BUILD names a build, that one is shown."""

import os
import signal
import subprocess
import time


class BuildFailed(Exception):
    pass


def build(top, say):
    """Sets MEMFERRY_BUILD. `say` is given a line before each thing that takes time."""
    begin = time.monotonic()
    if "MEMFERRY_BUILD" not in os.environ:
        say("building memferry in build-demo/")
        os.environ["MEMFERRY_BUILD"] = _build_memferry(top)
    say("building the guest")
    _run([os.path.join(top, "vm-images", "build")])
    say(f"built in {time.monotonic() - begin:.0f} s")


def _build_memferry(top):
    folder = os.path.join(top, "build-demo")
    if not os.path.exists(os.path.join(folder, "build.ninja")):
        options = ["--buildtype=release", "-Dtests=false", "-Dman=disabled"]
        _run(["meson", "setup", *options, folder, top])
    _run(["ninja", "-C", folder])
    return folder


def _run(command):
    """BuildFailed with the end of what it said. Nothing of it is left when this is interrupted."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    if process.returncode != 0:
        end = "\n".join(output.strip().splitlines()[-30:])
        raise BuildFailed(f"{end}\n{' '.join(command)}: failed")
