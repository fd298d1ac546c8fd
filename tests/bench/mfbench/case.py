# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a case is: peers, measured at the same points, in turn.

A way is a peer ("nbdcopy", "memferry") at a point, which axes name (link="tcp", connections=2). What a way measures are numbers by name.
Everything else follows: the order of the runs, the table, the CSV file, the plots, the goals.
"""
import fnmatch
from typing import Callable, NamedTuple

from . import report
from .host import BenchError


class Way(NamedTuple):
    """`point` is a tuple of (axis, value), sorted. Make it with way()."""
    peer: str
    point: tuple

    def at(self, axis):
        """Its value there; None when it has none."""
        return dict(self.point).get(axis)

    def __str__(self):
        return ", ".join([self.peer] + [f"{axis} {value}" for axis, value in self.point])


def way(peer, **point):
    """The values are text from here on, as a CSV file has them; None: does not apply."""
    return Way(peer, tuple(sorted((axis, str(value)) for axis, value in point.items() if value is not None)))


def is_chosen(which, only):
    """Whether all of `only`, "AXIS=PATTERN[,PATTERN]..." each, say so; the axis "peer" is the peer."""
    for condition in only:
        axis, equals, patterns = condition.partition("=")
        if not equals:
            raise BenchError(f"--only {condition}: not AXIS=PATTERN[,PATTERN]...")
        value = which.peer if axis == "peer" else which.at(axis)
        if value is None or not any(fnmatch.fnmatchcase(value, pattern) for pattern in patterns.split(",")):
            return False
    return True


class Plot(NamedTuple):
    """A picture of one thing measured, a line a peer, over one axis. `where` fixes the other axes: "AXIS=PATTERN" each; peers that
    don't have the axis are level lines."""
    name: str
    title: str
    what: str
    x: str
    x_label: str
    y_label: str
    where: tuple = ()
    log_x: bool = False
    log_y: bool = False


class Case(NamedTuple):
    """
    title     what it is, on a line; a function of the host
    axes      their names, in the order of the columns
    measures  name to (heading, digits after the point): the columns of the table, where there is anything to show
    ways      a function of the host: (Way, function that measures it) in their order
    goals     a function of the results: rows for report.goals()
    plots     Plots
    needs     the programs that have to be installed
    """
    name: str
    title: Callable
    axes: tuple
    measures: dict
    ways: Callable
    goals: Callable = lambda results: []
    plots: tuple = ()
    needs: tuple = ()

    def run(self, host, recorder, runs):
        """Measures the chosen ways `runs` times, 0 not at all, and shows all that is known."""
        recorder.axes = self.axes
        recorder.load()
        if runs > 0:
            host.need(*self.needs)
            chosen = {which: function for which, function in self.ways(host) if is_chosen(which, recorder.only)}
            if not chosen:
                raise BenchError(f"{self.name}: nothing is {' and '.join(recorder.only)}")
            try:
                recorder.alternate(chosen, runs)
            finally:
                host.clear()
        self.show(host, recorder)

    def show(self, host, recorder):
        report.title(f"{self.name}: {self.title(host)}")
        wanted = [(what, label, digits) for what, (label, digits) in self.measures.items()
                  if any(recorder.all(which, what) for which in recorder.ways)]
        axes = [axis for axis in self.axes if any(which.at(axis) for which in recorder.ways)]
        report.table(["peer", *axes, *(label for _, label, _ in wanted)],
                     [[which.peer, *(which.at(axis) or "" for axis in axes),
                       *(report.spread(recorder.all(which, what), digits) for what, _, digits in wanted)]
                      for which in recorder.ways])
        show_processes(recorder, axes)
        rows = self.goals(recorder)
        if rows:
            report.goals(rows)


def show_processes(recorder, axes):
    """What every process of every way used."""
    rows = []
    for which in recorder.ways:
        used = [what[len("cpu_s "):] for what in recorder.measured(which) if what.startswith("cpu_s ")]
        rows += [[which.peer, *(which.at(axis) or "" for axis in axes), name,
                  report.spread(recorder.all(which, f"cpu_s {name}"), 3), report.spread(recorder.all(which, f"peak_mb {name}"), 1)]
                 for name in used]
    if rows:
        report.detail("processes", ["peer", *axes, "process", "CPU s", "peak MB"], rows)
