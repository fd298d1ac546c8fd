# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs the tests of a folder, one after the other: every executable but `run`. Their results become one list, each with its
test's name before it. A test has 600 seconds.
"""

import os
import re
import signal
import subprocess
import sys

SECONDS = 600
_RESULT = re.compile(r"(ok|not ok) \d+ - (.*)$")
_SKIPPED = re.compile(r"1\.\.0 # SKIP (.*)$")
_PLAN = re.compile(r"1\.\.\d+$")


class Results:
    """One list of what several programs have found."""

    def __init__(self):
        self.count = 0
        self.failed = 0

    def add(self, passed, text):
        self.count += 1
        self.failed += not passed
        print(f"{'ok' if passed else 'not ok'} {self.count} - {text}", flush=True)

    def finish(self):
        """Prints the plan; returns the exit status."""
        print(f"1..{self.count}", flush=True)
        return 1 if self.failed or not self.count else 0


def _too_late(*_):
    raise TimeoutError


def run_test(command, name, results):
    """Runs a program that prints TAP, and adds its results with `name` before them."""
    signal.signal(signal.SIGALRM, _too_late)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    # From here, for a test that hangs without a word: reading its output would wait for it.
    signal.alarm(SECONDS)
    finished = False
    failed_before = results.failed
    try:
        for line in process.stdout:
            result, skipped = _RESULT.match(line), _SKIPPED.match(line)
            if result:
                results.add(result[1] == "ok", f"{name}: {result[2]}")
            elif skipped:
                results.add(True, f"{name} # SKIP {skipped[1]}")
            elif not _PLAN.match(line):
                print(line, end="", flush=True)
            finished = finished or bool(skipped or _PLAN.match(line))
    except TimeoutError:
        process.terminate()
        results.add(False, f"{name}: not done within {SECONDS} s")
        process.communicate()
    finally:
        signal.alarm(0)
    if process.wait() not in (0, 77) and results.failed == failed_before:
        results.add(False, f"{name}: ended with status {process.returncode}")
    elif not finished and results.failed == failed_before:
        results.add(False, f"{name}: ended without a plan")


def tests_of(folder):
    """The names of its tests."""
    return sorted(
        name
        for name in os.listdir(folder)
        if name != "run" and os.path.isfile(os.path.join(folder, name)) and os.access(os.path.join(folder, name), os.X_OK)
    )


def run(folder, names):
    """Runs the tests of `folder`, or those called `names`; returns the exit status."""
    tests = tests_of(folder)
    unknown = set(names) - set(tests)
    if unknown:
        sys.exit(f"{folder}/run: no test {', '.join(sorted(unknown))}; there are {', '.join(tests)}")
    results = Results()
    for name in tests:
        if not names or name in names:
            run_test([os.path.join(folder, name)], name, results)
    return results.finish()
