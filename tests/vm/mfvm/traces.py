# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a migration may leave behind in a service: descriptors, threads, files, room that is taken."""

import collections
import os
import re

from . import ramfile
from .deadline import TooLate, wait_until


def of(service):
    """Everything that has to be the same after a migration that came to nothing as before it."""
    pid = service.process.pid
    found = {f"files in {os.path.basename(folder)}": sorted(os.listdir(folder)) for folder in (service.runtime, service.store)}
    found["descriptors"] = _descriptors(pid)
    found["threads"] = _threads(pid)
    return found


def settled(service, seconds=20):
    """The same, once it changes no more: who has asked the service something just now is not gone at once."""
    last = []

    def calm():
        last.append(of(service))
        return len(last) > 4 and all(each == last[-1] for each in last[-5:-1])

    wait_until(calm, seconds, "calm service", interval=0.05)
    return last[-1]


def await_same(service, before, seconds=20):
    """Waits until the service has no other traces than `before`. Returns the differences that stay, a line each: none is good.
    What ends does not end in the moment in which the command is told of it."""

    def same():
        return of(service) == before

    try:
        wait_until(same, seconds, "clean service", interval=0.05)
    except TooLate:
        after = of(service)
        return [line for what in before if before[what] != after[what] for line in _differences(what, before[what], after[what])]
    return []


def _differences(what, before, after):
    """Counts are told one by one, lists as what is in one of them only."""
    if isinstance(before, dict):
        for kind in sorted({*before, *after}):
            if before.get(kind, 0) != after.get(kind, 0):
                yield f"{what}: {kind}: {before.get(kind, 0)} before, {after.get(kind, 0)} after"
    else:
        gone, new = collections.Counter(before), collections.Counter(after)
        yield f"{what}: gone {list((gone - new).elements())}, new {list((new - gone).elements())}"


def await_empty(service, region, seconds=20):
    """Waits until nothing is allocated for the region, and returns whether that is so."""
    try:
        return wait_until(lambda: ramfile.allocated_bytes(service.region_path(region)) == 0, seconds, "empty store")
    except TooLate:
        return False


def _descriptors(pid):
    """How many of each kind: numbers of sockets and such don't count, nor do the command's own connections, which
    come and go with whoever asks."""
    kinds = collections.Counter()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            kinds[re.sub(r"[0-9]+", "", os.readlink(f"/proc/{pid}/fd/{entry}"))] += 1
        except FileNotFoundError:
            continue
    return dict(kinds)


def _threads(pid):
    """Ours; GLib's own pools grow and shrink as they like."""
    names = []
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/comm", encoding="ascii") as comm:
                names.append(comm.read().strip())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sorted(name for name in names if name.startswith("mf-"))
