# SPDX-License-Identifier: LGPL-2.1-or-later
"""Collects what there is to run: the tests of every build, and every executable tests/NAME/run.

A tests/NAME/run prints TAP. Lines "# suite: WORD[=VALUE]" near its top say how it wants to be run:

    # suite: alone              nothing else runs meanwhile: it measures time or boots guests
    # suite: timeout=600        seconds (default 300)
    # suite: packages=spin,gcc  Debian packages that it needs besides those of tests/run
    # suite: build=normal,asan  runs once for each of these builds (default normal)
    # suite: manual             only run when it is named
    # suite: matrix             only run with --matrix, or when it is named: it needs the network, for other Debian systems

It runs in the source folder with MEMFERRY_BUILD (the build's folder), MEMFERRY_LOGS (a folder for logs that are kept) and
TMPDIR (an own folder, removed afterwards).
"""
import os
import shutil
import subprocess

from .job import Job


def header_of(path):
    words = {}
    with path.open(errors="replace") as lines:
        for _, line in zip(range(40), lines):
            if line.startswith("# suite:"):
                word, _, value = line[len("# suite:"):].strip().partition("=")
                words[word] = value
    return words


def installed(package):
    found = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package], capture_output=True, text=True)
    return found.stdout == "installed"


def missing_packages(words):
    if not shutil.which("dpkg-query"):
        return []
    return [p for p in words.get("packages", "").split(",") if p and not installed(p)]


def folders(top):
    return [run for run in sorted((top / "tests").glob("*/run")) if os.access(run, os.X_OK) and run.is_file()]


def builds_of(run):
    return header_of(run).get("build", "normal").split(",")


def name_of(run, build):
    """One that runs several times has its build in its name."""
    return run.parent.name if len(builds_of(run)) == 1 else f"{build}/{run.parent.name}"


def of_folder(run, build, logs):
    words = header_of(run)
    name = name_of(run, build.name)
    kept = logs / name.replace("/", "-")
    kept.mkdir(parents=True, exist_ok=True)
    missing = missing_packages(words)
    return Job(
        name=name,
        command=[str(run)],
        environment={**build.environment(), "MEMFERRY_LOGS": str(kept)},
        folder=str(build.top),
        timeout=float(words.get("timeout", 300)) * build.about.get("slowness", 1),
        alone="alone" in words,
        skip="missing packages: " + " ".join(missing) if missing else None)


def of_build(build):
    slowness = build.about.get("slowness", 1)
    for test in build.tests():
        yield Job(
            name=f"{build.name}/{test['name']}",
            command=build.wrapper() + test["cmd"],
            environment={**test["env"], **build.environment()},
            folder=test["workdir"] or str(build.folder),
            timeout=test["timeout"] * slowness,
            alone=not test["is_parallel"])


def style(top):
    return Job(name="style", command=[str(top / "tests" / "style")], folder=str(top), timeout=300)
