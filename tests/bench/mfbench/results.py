# SPDX-License-Identifier: LGPL-2.1-or-later
"""All that was measured, in memory and as CSV files that later runs add to.

NAME.csv has a line for each value: peer, the axes of the case, session, run, what, value. A session is one call of the harness; sessions.csv
says when and where it was, and the command. What a call measures takes the place of what earlier ones did for the same way, or is added
to it. Only what is of the same session is ever compared: a machine is not the same an hour later.
"""
import csv
import os
import statistics

from .case import Way, way

SESSIONS = "sessions.csv"


def note_session(folder, session, command, machine):
    path = os.path.join(folder, SESSIONS)
    new = not os.path.exists(path)
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["session", "command", "machine"])
        writer.writerow([session, command, machine])


def sessions(folder):
    """(session, command, machine) of each."""
    path = os.path.join(folder, SESSIONS)
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [tuple(row) for row in list(csv.reader(file))[1:]]


class Recorder:
    """The results of one case. `only` chooses what is measured, `add` keeps what earlier calls did; `axes` belong to the case, which sets them
    before load()."""

    def __init__(self, case, folder, session, host=None, only=(), add=False):
        self.case = case
        self.path = os.path.join(folder, case + ".csv")
        self.session = session
        self.host = host
        self.only = only
        self.adding = add
        self.axes = ()
        self.rows = {}  # way to [(session, run, what, value)]

    @property
    def ways(self):
        return list(self.rows)

    # The file.

    def load(self):
        """Takes in what is there of earlier calls; a file of another shape is left behind."""
        if not os.path.exists(self.path):
            return
        with open(self.path, newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            if next(reader, None) != self.headings():
                return
            for peer, *values, session, run, what, value in reader:
                which = way(peer, **{axis: given for axis, given in zip(self.axes, values) if given})
                self.rows.setdefault(which, []).append((session, int(run), what, float(value)))

    def headings(self):
        return ["peer", *self.axes, "session", "run", "what", "value"]

    def save(self):
        with open(self.path + ".new", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self.headings())
            for which, rows in self.rows.items():
                values = [which.at(axis) or "" for axis in self.axes]
                writer.writerows([which.peer, *values, session, run, what, f"{value:.10g}"]
                                 for session, run, what, value in rows)
        os.replace(self.path + ".new", self.path)

    # Measuring.

    def alternate(self, ways, runs):
        """Runs each of `ways` (Way, or its name, to function) once, then each again, so that what changes meanwhile hits all."""
        for run in range(runs):
            for which, function in ways.items():
                load = os.getloadavg()[0]
                if self.host:
                    self.host.used.clear()
                measured = {**function(), "load": load}
                if self.host:
                    measured.update(self.host.usage())
                self.add(which if isinstance(which, Way) else Way(which, ()), run, measured)

    def add(self, which, run, measured):
        kept = [row for row in self.rows.get(which, []) if self.adding or row[0] == self.session]
        self.rows[which] = kept + [(self.session, run, what, float(value)) for what, value in measured.items()]
        self.save()

    # Asking.

    def all(self, which, what, session=None):
        which = which if isinstance(which, Way) else Way(which, ())
        return [value for of, _, name, value in self.rows.get(which, []) if name == what and session in (None, of)]

    def measured(self, which):
        """The names of all that was."""
        return list(dict.fromkeys(what for _, _, what, _ in self.rows[which]))

    def median(self, which, what, session=None):
        """None when it was not measured."""
        values = self.all(which, what, session)
        return statistics.median(values) if values else None

    def session_of(self, which):
        """The one that it was measured in; None when it wasn't."""
        return self.rows[which][-1][0] if self.rows.get(which) else None

    def ratio(self, above, below, what):
        """Of the medians of a session, and of several sessions the median; None when they never were measured in the same one."""
        found = []
        for session in {row[0] for row in self.rows.get(above, [])} & {row[0] for row in self.rows.get(below, [])}:
            one, other = self.median(above, what, session), self.median(below, what, session)
            if one is not None and other:
                found.append(one / other)
        return statistics.median(found) if found else None
