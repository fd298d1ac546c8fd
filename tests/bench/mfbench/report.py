# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables and goals: printed, and kept for the page that a case becomes."""
import statistics

# Lines of Markdown since the last take().
_page = []


def spread(values, digits=2):
    """`median (least-most)`, the median alone when there is one value, "-" when there is none."""
    if not values:
        return "-"
    median = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return median
    return f"{median} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _keep(headings, rows):
    _page.extend(["", "| " + " | ".join(map(str, headings)) + " |", "|---" * len(headings) + "|"])
    _page.extend("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)


def table(headings, rows):
    """Prints rows of strings in columns, the first to the left."""
    _keep(headings, rows)
    widths = [max(len(str(row[i])) for row in [headings] + rows) for i in range(len(headings))]
    for row in [headings] + rows:
        cells = [str(cell).rjust(width) for cell, width in zip(row, widths)]
        cells[0] = str(row[0]).ljust(widths[0])
        print("  ".join(cells).rstrip())


def detail(name, headings, rows):
    """A table for the page only."""
    _page.extend(["", f"<details><summary>{name}</summary>"])
    _keep(headings, rows)
    _page.extend(["", "</details>"])


def title(text):
    _page.extend([f"# {text}"])
    print(f"\n== {text}")


def text(line):
    keep("", line)
    print(line)


def keep(*lines):
    """For the page only."""
    _page.extend(lines)


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


def take():
    """The page so far, which begins anew."""
    lines = list(_page)
    _page.clear()
    return lines
