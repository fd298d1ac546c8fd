# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting on a condition, with a deadline."""

import time


class TooLate(Exception):
    """What was waited for did not come in time."""


class Deadline:
    def __init__(self, seconds, what):
        self._end = time.monotonic() + seconds
        self._seconds = seconds
        self.what = what

    def left(self):
        """Seconds that remain, above 0. TooLate when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TooLate(f"no {self.what} within {self._seconds:g} s")
        return left


def wait_until(condition, seconds, what, interval=0.01):
    """Returns the first true value of `condition()`, asking every `interval` seconds; TooLate, naming `what`, otherwise."""
    deadline = Deadline(seconds, what)
    while True:
        value = condition()
        if value:
            return value
        time.sleep(min(interval, deadline.left()))
