# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads the Test Anything Protocol.

A program that dies, that announces more tests than it runs, or that runs none at all has failed, whatever else it says.
"""
import re
from dataclasses import dataclass, field

LINE = re.compile(r"(not )?ok\b\s*(\d+)?\s*(?:-\s*)?([^#]*)(?:#\s*(\w+)\S*\s*(.*))?")
PLAN = re.compile(r"1\.\.(\d+)\s*(?:#\s*skip\S*\s*(.*))?$", re.IGNORECASE)


@dataclass
class Outcome:
    passed: int = 0
    failed: list = field(default_factory=list)
    skipped: list = field(default_factory=list)


def read(text, status, timed_out=False):
    """The outcome of a program that printed `text` and ended with `status` (negative: the signal that killed it)."""
    out = Outcome()
    plan = None
    seen = 0
    for line in text.splitlines():
        match = PLAN.match(line)
        if match:
            plan = int(match[1])
            if plan == 0:
                out.skipped.append(match[2] or "no reason given")
            continue
        if line.startswith("Bail out!"):
            out.failed.append(line.strip())
            continue
        match = LINE.match(line)
        if not match:
            continue
        seen += 1
        name = match[3].strip() or f"test {match[2] or seen}"
        directive = (match[4] or "").lower()
        if directive.startswith("skip"):
            out.skipped.append(f"{name}: {match[5] or 'no reason given'}")
        elif match[1] is None:
            out.passed += 1
        else:
            out.failed.append(name)
    if timed_out:
        out.failed.append(f"timed out after test {seen}")
    elif plan is None:
        out.failed.append(f"ended without a plan (status {status})")
    elif seen < plan:
        out.failed.append(f"ended after {seen} of {plan} tests (status {status})")
    elif status != 0 and not out.failed and not (status == 77 and out.skipped):
        out.failed.append(f"all tests passed, but the status was {status}")
    return out
