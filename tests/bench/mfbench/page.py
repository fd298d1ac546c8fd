# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page of a case: what was printed, as Markdown, with its plots and the commands that made it."""
import os

from . import plot, report
from .results import sessions


def write(recorder, folder, plots):
    """Into NAME.md and NAME-PLOT.svg of the folder."""
    lines = report.take()
    if plot.available():
        names = [plot.draw(each, recorder, folder, recorder.case) for each in plots]
        lines += ["", *(f"![{name}]({name})" for name in names if name)]
    used = {row[0] for rows in recorder.rows.values() for row in rows}
    lines += ["", "Made by:", ""]
    lines += [f"- {session}: `{command}` on {machine}" for session, command, machine in sessions(folder) if session in used]
    with open(os.path.join(folder, recorder.case + ".md"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
