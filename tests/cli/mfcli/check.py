# SPDX-License-Identifier: LGPL-2.1-or-later
"""Statements that tests make. A false one is an AssertionError that says what was found."""

import os


class Skip(Exception):
    """The test can't run here; the text says why."""


def equal(found, expected, what=""):
    if found != expected:
        raise AssertionError(f"{what}{': ' if what else ''}found {found!r}, expected {expected!r}")


def contains(text, *parts):
    for part in parts:
        if part not in text:
            raise AssertionError(f"{part!r} is not in {text!r}")


def true(value, what):
    if not value:
        raise AssertionError(what)


def fails(done, *parts):
    """The command failed as commands do: status 1, nothing on standard output, one line that says who speaks and what."""
    equal(done.returncode, 1, f"status ({done.stderr!r})")
    equal(done.stdout, "", "standard output")
    equal(done.stderr.count("\n"), 1, f"lines on standard error ({done.stderr!r})")
    true(done.stderr.startswith("memferry"), f"who speaks? {done.stderr!r}")
    contains(done.stderr, *parts)


def needs_root():
    if os.geteuid() != 0:
        raise Skip("needs root")
