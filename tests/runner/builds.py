# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ways in which memferry is built for its tests, and the tests that each build brings along."""
import json
import os
import shutil
import subprocess
from pathlib import Path

# The address space layout of recent kernels has more random bits than the sanitizers of Debian 12 can live with.
FIXED_LAYOUT = ["setarch", "-R"]

BUILDS = {
    "normal": {
        "options": ["-Dwerror=true"],
    },
    "asan": {
        "options": ["-Dwerror=true", "-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dman=disabled"],
        "environment": {
            "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1",
            "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
            "G_SLICE": "always-malloc",
        },
        "slowness": 4,
    },
    "tsan": {
        "options": ["-Dwerror=true", "-Db_sanitize=thread", "-Db_lundef=false", "-Dman=disabled"],
        # GLib's slices pass memory between threads without ThreadSanitizer seeing it.
        "environment": {"TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1", "G_SLICE": "always-malloc"},
        "suite": "threads",
        "slowness": 8,
    },
    "fuzz": {
        "options": ["-Dfuzz=true", "-Dtests=false", "-Dman=disabled", "-Db_lundef=false"],
        "compiler": "clang",
        "suite": "",
    },
}


class BuildFailed(Exception):
    pass


def command_output(command, log, **kwargs):
    with log.open("ab") as out:
        out.write(("$ " + " ".join(map(str, command)) + "\n").encode())
        out.flush()
        return subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, **kwargs).returncode == 0


class Build:
    def __init__(self, name, top, root):
        self.name = name
        self.top = top
        self.folder = root / name
        self.about = BUILDS[name]
        self.log = root / "logs" / f"build-{name}.log"

    def make(self, jobs):
        """Configures and builds, from nothing or from what is there."""
        environment = dict(os.environ)
        if "compiler" in self.about:
            environment["CC"] = self.about["compiler"]
        self.log.unlink(missing_ok=True)
        options = ["--prefix=/usr", "--sysconfdir=/etc"] + self.about["options"]
        configured = (self.folder / "build.ninja").exists()
        command = ["meson", "setup", *(["--reconfigure"] if configured else []), *options, self.folder, self.top]
        if not command_output(command, self.log, env=environment):
            if not configured:
                raise BuildFailed(self.name)
            # An old folder that can't be configured again, of another version perhaps: from the beginning.
            shutil.rmtree(self.folder)
            return self.make(jobs)
        if not command_output(["ninja", "-C", self.folder, f"-j{jobs}"], self.log):
            raise BuildFailed(self.name)

    def environment(self):
        """For whatever runs programs of this build."""
        found = dict(self.about.get("environment", {}))
        suppressions = Path(self.top) / "tests" / f"{self.name}.supp"
        if suppressions.exists():
            variable = self.name.upper() + "_OPTIONS"
            found[variable] = found.get(variable, "") + f":suppressions={suppressions}"
        found["MEMFERRY_BUILD"] = str(self.folder)
        return found

    def wrapper(self):
        return FIXED_LAYOUT if "environment" in self.about and shutil.which("setarch") else []

    def tests(self):
        """What `meson test` would run, as the introspection tells it."""
        text = subprocess.run(["meson", "introspect", "--tests", self.folder], check=True, capture_output=True).stdout
        only = self.about.get("suite")
        for test in json.loads(text):
            suites = [s.split(":")[-1] for s in test["suite"]]
            if only is None or only in suites:
                yield test
