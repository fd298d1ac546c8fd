# SPDX-License-Identifier: LGPL-2.1-or-later
"""Prints results in the Test Anything Protocol."""

import os
import signal
import sys
import traceback


class Skip(Exception):
    """The test can't run here; the text says why."""


class Tap:
    def __init__(self):
        self._count = 0
        self._failed = 0

    def ok(self, passed, what, detail=""):
        """Prints one result and returns whether it passed; `detail` is shown when it did not."""
        self._count += 1
        print(f"{'ok' if passed else 'not ok'} {self._count} - {what}", flush=True)
        if not passed:
            self._failed += 1
            for line in str(detail).splitlines():
                self.note(line)
        return passed

    def equal(self, found, expected, what):
        return self.ok(found == expected, what, f"found {found!r}, expected {expected!r}")

    def skip(self, what, reason):
        """A part of the test that can't run here."""
        self._count += 1
        print(f"ok {self._count} - {what} # SKIP {' '.join(str(reason).split())}", flush=True)

    def note(self, text):
        print(f"# {text}", flush=True)

    def finish(self):
        print(f"1..{self._count}", flush=True)
        return 1 if self._failed or not self._count else 0


def run(test):
    """Calls `test(tap)` and exits. An exception is a failed result, Skip a skipped test. SIGTERM ends it as ^C does, so that
    guests, files and namespaces go away."""
    tap = Tap()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        test(tap)
    except Skip as reason:
        print(f"1..0 # SKIP {reason}", flush=True)
        sys.exit(77)
    except Exception as error:
        tap.ok(False, f"{type(error).__name__}: {error}", traceback.format_exc())
    sys.exit(tap.finish())


def need(*commands):
    """Skips the test unless every one of `commands` can be run."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep) + ["/usr/sbin", "/sbin"]
    for command in commands:
        if not any(os.access(os.path.join(folder, command), os.X_OK) for folder in folders):
            raise Skip(f"{command} is not installed")


def need_root():
    if os.geteuid() != 0:
        raise Skip("needs root")
