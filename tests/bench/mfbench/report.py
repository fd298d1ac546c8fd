# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables, CSV files, goals."""
import csv
import os
import statistics


def spread(values, digits=2):
    """`median (least-most)`, the median alone when there is one value, "-" when there is none."""
    if not values:
        return "-"
    median = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return median
    return f"{median} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def table(headings, rows):
    """Prints rows of strings in columns, the first to the left."""
    widths = [max(len(str(row[i])) for row in [headings] + rows) for i in range(len(headings))]
    for row in [headings] + rows:
        cells = [str(cell).rjust(width) for cell, width in zip(row, widths)]
        cells[0] = str(row[0]).ljust(widths[0])
        print("  ".join(cells).rstrip())


class Recorder:
    """Collects what the runs of one case measured and writes each value as a CSV line: case,way,run,what,value."""

    def __init__(self, case, path):
        self.case = case
        self.path = path
        self.values = {}
        self.ways = []

    def __enter__(self):
        self.file = open(self.path, "w", newline="", encoding="ascii")
        self.writer = csv.writer(self.file)
        self.writer.writerow(["case", "way", "run", "what", "value"])
        return self

    def __exit__(self, *_):
        self.file.close()

    def add(self, way, run, measured):
        if way not in self.ways:
            self.ways.append(way)
        for what, value in measured.items():
            self.values.setdefault((way, what), []).append(value)
            self.writer.writerow([self.case, way, run, what, value])
        self.file.flush()

    def alternate(self, ways, runs):
        """Runs each of `ways` (name to function) once, then each again, so that what changes meanwhile hits all."""
        for run in range(runs):
            for way, function in ways.items():
                load = os.getloadavg()[0]
                self.add(way, run, {**function(), "load": load})

    def all(self, way, what):
        return self.values.get((way, what), [])

    def median(self, way, what):
        """None when it was not measured."""
        values = self.all(way, what)
        return statistics.median(values) if values else None


def title(text):
    print(f"\n== {text}")


def goals(rows):
    """Prints (what, relation "<=" or ">=", goal, measured or None) beside whether each is met."""
    printed = []
    for what, relation, goal, measured in rows:
        if measured is None:
            printed.append([what, f"{relation} {goal:g}", "not measured", "-"])
            continue
        met = measured <= goal if relation == "<=" else measured >= goal
        printed.append([what, f"{relation} {goal:g}", f"{measured:.3g}", "yes" if met else "NO"])
    print()
    table(["goal", "wanted", "measured", "met"], printed)


def ratio(above, below):
    """None when one of them was not measured."""
    return above / below if above is not None and below else None
