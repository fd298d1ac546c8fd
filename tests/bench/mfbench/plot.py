# SPDX-License-Identifier: LGPL-2.1-or-later
"""Draws what was measured: gnuplot makes the SVG."""
import os
import shutil
import subprocess

from .case import is_chosen

_TERMINAL = "set terminal svg size 860,480 dynamic background rgb 'white' font 'sans,13'"
_STYLE = """set title "{title}"
set xlabel "{x_label}"
set ylabel "{y_label}"
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
"""


def available():
    return shutil.which("gnuplot") is not None


def _number(text):
    try:
        return float(text)
    except ValueError:
        return None


def lines(plot, results):
    """Peer to its [(x, median, least, most)], x a number or a text; a peer without the axis has one with x None."""
    found = {}
    for which in results.ways:
        values = results.all(which, plot.what)
        level = which.at(plot.x) is None
        if values and is_chosen(which, [c for c in plot.where if not level or which.at(c.partition("=")[0]) or c.startswith("peer")]):
            found.setdefault(which.peer, []).append((which.at(plot.x), results.median(which, plot.what), min(values), max(values)))
    return found


def _quoted(text):
    return text.replace("\\", "").replace('"', "'")


def script(plot, results):
    """What gnuplot is told; None when there is no line to draw."""
    drawn = lines(plot, results)
    xs = list(dict.fromkeys(x for points in drawn.values() for x, *_ in points if x is not None))
    if len(xs) < 2:
        return None
    numeric = all(_number(x) is not None for x in xs)
    parts = [_TERMINAL, _STYLE.format(title=_quoted(plot.title), x_label=_quoted(plot.x_label), y_label=_quoted(plot.y_label))]
    # Nothing on a logarithmic axis is 0: what is, stands at its left.
    positive = [_number(x) for x in xs if numeric and _number(x) > 0]
    least = min(positive) / 4 if positive else 1
    places = {x: (_number(x) if not plot.log_x or _number(x) > 0 else least) if numeric else n for n, x in enumerate(xs)}
    if plot.log_x or not numeric:
        parts.append("set xtics (" + ", ".join(f'"{_quoted(x)}" {place}' for x, place in places.items()) + ")")
    if plot.log_x:
        parts.append("set logscale x")
    span = max(places.values()) - min(places.values()) or 1
    if not plot.log_x:
        parts.append(f"set xrange [{min(places.values()) - span * 0.05}:{max(places.values()) + span * 0.05}]")
    parts.append("set logscale y" if plot.log_y else "set yrange [0:*]")
    data, drawings = [], []
    for n, (peer, points) in enumerate(drawn.items()):
        rows = []
        for x, *values in points:
            rows += [[places[x], *values]] if x is not None else [[place, *values] for place in places.values()]
        rows.sort()
        data.append(f"$data{n} << EOD\n" + "\n".join(" ".join(f"{value:g}" for value in row) for row in rows) + "\nEOD")
        ours = peer.startswith("memferry")
        drawings.append(f'$data{n} with yerrorlines lw {2.5 if ours else 1.2} pt 7 ps 0.5 dt {1 if ours else 2} title "{_quoted(peer)}"')
    return "\n".join(parts + data + ["plot " + ", \\\n  ".join(drawings)]) + "\n"


def draw(plot, results, folder, case):
    """Returns the name of the SVG file, None when there is nothing to draw."""
    name = f"{case}-{plot.name}.svg"
    text = script(plot, results)
    if text is None:
        return None
    drawn = subprocess.run(["gnuplot"], input=text, text=True, check=True, capture_output=True).stdout
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        file.write("\n".join(line.rstrip() for line in drawn.splitlines()) + "\n")
    return name
